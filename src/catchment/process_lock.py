"""A file that one process at a time holds. The kernel lets go of it with the process: a killed one stops nobody."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Self


class Taken(Exception):
    """Another live process holds the lock.

    pid: its process id; None when it has not written it. note: what it wrote beside.
    """

    def __init__(self, path: Path, pid: int | None, note: str) -> None:
        super().__init__(f"{path} is held by process {pid or 'unknown'}")
        self.pid = pid
        self.note = note


class ProcessLock:
    """A lock that this process holds until `release`, or until it dies."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, note: str = "") -> Self:
        """Hold the file, and write the process id into it, and the note, for whoever comes meanwhile.

        Raises `Taken` while another process has it, OSError when the file cannot be opened or written.
        """
        # Close-on-exec is Python's default: a child process must not keep the lock alive.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, path)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {note}".rstrip().encode() + b"\n", 0)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Let go; may be called twice. The file stays: deleting it would let two processes lock two files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def holder(path: Path) -> int | None:
    """The process id of the live holder; None when there is none."""
    if not path.exists():
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)[0]
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int, path: Path) -> None:
    """With a moment's patience: `holder` looks by locking for an instant."""
    for _ in range(10):
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
    raise Taken(path, *_read(descriptor))


def _read(descriptor: int) -> tuple[int | None, str]:
    """Process id and note."""
    pid, _, note = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip().partition(" ")
    return int(pid) if pid.isdigit() else None, note
