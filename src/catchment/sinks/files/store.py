"""Where objects are kept: four verbs that a local directory and an object store both have."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from catchment.errors import LeaseHeld, SinkRefused, SinkUnavailable


class Store(Protocol):
    """Objects by path (`a/b/c`). What a method has done is durable when it returns."""

    scratch: Path
    """A local directory for what need not survive; it is emptied by `hold`."""

    def hold(self) -> None:
        """Become the only writer. Raises `LeaseHeld` when there is another."""
        ...

    def release(self) -> None:
        """Let the next writer in."""
        ...

    def get(self, path: str) -> bytes | None:
        """The object; None when there is none."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Store the object, at once and whole, in place of any other."""
        ...

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Store the object unless there is one; False when there is."""
        ...

    def create(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Write a large object; it is there, whole, after the `with` block, and not at all after an error."""
        ...

    def list(self, directory: str) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def delete(self, path: str) -> None:
        """Remove the object, if it is there."""
        ...


class LocalStore:
    """A directory. Everything is written beside its place, fsynced, renamed, and the directory fsynced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._control = root / "_catchment"
        self.scratch = self._control / "scratch"
        self._lock: int | None = None
        self._temporary = 0

    def hold(self) -> None:
        with translated(self._root):
            self._make_directory(self._control)
            lock = os.open(self._control / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take(lock)
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        with translated(self.scratch):
            # Of a killed process: nobody else can be writing there now.
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._make_directory(self.scratch)

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise _translation(error, self._root) from error
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise LeaseHeld(
                f"Another process (pid {holder}) writes to {self._root}. Stop it, or give this sink a "
                "directory of its own."
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        if self._lock is None:
            return
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def get(self, path: str) -> bytes | None:
        with translated(self._root / path):
            try:
                return (self._root / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put(self, path: str, data: bytes) -> None:
        with self.create(path) as file:
            file.write(data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        # Only the holder of the lock writes here, so that looking first is as good as an atomic test,
        # and works where hard links do not.
        if (self._root / path).exists():
            return False
        self.put(path, data)
        return True

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        if self._lock is None:
            raise RuntimeError("The store is written to without its lock: call hold() first.")
        target = self._root / path
        self._temporary += 1
        temporary = self.scratch / f"object-{self._temporary}"
        with translated(target):
            try:
                with temporary.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                self._make_directory(target.parent)
                temporary.replace(target)
                _sync_directory(target.parent)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise

    def list(self, directory: str) -> list[str]:
        with translated(self._root / directory):
            try:
                return sorted(entry.name for entry in (self._root / directory).iterdir())
            except FileNotFoundError:
                return []

    def delete(self, path: str) -> None:
        with translated(self._root / path):
            (self._root / path).unlink(missing_ok=True)

    def _make_directory(self, directory: Path) -> None:
        """Make a directory and those above it; each is named durably in the one above."""
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """What the operating system says, in our own errors."""
    try:
        yield
    except OSError as error:
        raise _translation(error, path) from error


def _translation(error: OSError, path: Path) -> SinkUnavailable | SinkRefused:
    reason = error.strerror or type(error).__name__
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR):
        return SinkRefused(f"Cannot write {path}: {reason}. Make it a directory that this user may write.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SinkUnavailable(f"Cannot write {path}: {reason}. Make room; nothing is lost until then.")
    return SinkUnavailable(f"Cannot write {path}: {reason}.")
