"""Where objects are kept: the verbs that a local directory and an object store both have."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from catchment.durable import make_durable
from catchment.errors import LeaseHeld, SinkRefused, SinkUnavailable
from catchment.process_lock import ProcessLock, Taken

_THE_ONLY_VERSION = "there"
"""Under the lock nobody else replaces anything."""


class Store(Protocol):
    """Objects by path (`a/b/c`). What a method has done is durable when it returns."""

    scratch: Path
    """A local directory for what need not survive; it is emptied by `hold`."""
    place: str
    """What people call it: a directory, or an address."""
    exclusive: bool
    """Nothing that an earlier holder did can still arrive, once `hold` has returned."""

    @property
    def writer(self) -> str:
        """A name that no other holder has or had."""
        ...

    def hold(self) -> None:
        """Become the only writer. Raises `LeaseHeld` when there is another."""
        ...

    def release(self) -> None:
        """Let the next writer in."""
        ...

    def get(self, path: str) -> bytes | None:
        """The object; None when there is none."""
        ...

    def read(self, path: str) -> tuple[bytes, str] | None:
        """The object, and which version of it that is; None when there is none."""
        ...

    def replace(self, path: str, data: bytes, replaced: str | None) -> str | None:
        """Store the object, at once and whole, in place of that version (None: of nothing), and say its version.

        None, and nothing is done, when another is there.
        """
        ...

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Store the object unless there is one; False when there is."""
        ...

    def adopt(self, paths: Iterable[str]) -> None:
        """What is there now under these paths, `create` may take the place of."""
        ...

    def create(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Write a large object; it is there, whole, after the `with` block, and not at all after an error.

        Raises `SinkUnavailable` when there is one that was not adopted, where others could have written it.
        """
        ...

    def list(self, directory: str) -> list[str]:
        """The names in a directory, sorted."""
        ...

    def delete(self, path: str) -> None:
        """Remove the object, if it is there."""
        ...


class LocalStore:
    """A directory. Everything is written beside its place, fsynced, renamed, and the directory fsynced."""

    exclusive = True
    """The lock is the kernel's: a dead process has written its last, and a live one keeps the lock."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.place = str(root)
        self._control = root / "_catchment"
        self.scratch = self._control / "scratch"
        self._lock: ProcessLock | None = None
        self._temporary = 0

    @property
    def writer(self) -> str:
        return f"process {os.getpid()}"

    def hold(self) -> None:
        with translated(self._root):
            self._make_directory(self._control)
            self._lock = self._taken()
        with translated(self.scratch):
            # Of a killed process: nobody else can be writing there now.
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._make_directory(self.scratch)

    def _taken(self) -> ProcessLock:
        try:
            return ProcessLock.take(self._control / "lock")
        except Taken as taken:
            raise LeaseHeld(
                f"Another process (pid {taken.pid or 'unknown'}) writes to {self._root}. Stop it, or give this sink a "
                "directory of its own."
            ) from None

    def release(self) -> None:
        if self._lock is None:
            return
        shutil.rmtree(self.scratch, ignore_errors=True)
        self._lock.release()
        self._lock = None

    def get(self, path: str) -> bytes | None:
        with translated(self._root / path):
            try:
                return (self._root / path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, path: str) -> tuple[bytes, str] | None:
        data = self.get(path)
        return None if data is None else (data, _THE_ONLY_VERSION)

    def replace(self, path: str, data: bytes, replaced: str | None) -> str | None:
        with self.create(path) as file:
            file.write(data)
        return _THE_ONLY_VERSION

    def put_if_absent(self, path: str, data: bytes) -> bool:
        # Only the holder of the lock writes here, so that looking first is as good as an atomic test,
        # and works where hard links do not.
        if (self._root / path).exists():
            return False
        self.replace(path, data, None)
        return True

    def adopt(self, paths: Iterable[str]) -> None:
        """Nobody else writes here."""

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
                make_durable(target.parent)
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
        make_durable(directory.parent)


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
