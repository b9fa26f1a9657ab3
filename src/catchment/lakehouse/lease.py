"""One writer a pipeline: a lock that a dead process cannot keep, and an epoch that a late one cannot forge.

The lock is `flock` on a local file: the kernel drops it with the process, so a killed one is replaced at
once. The epoch is a row in the operations data, counted up by every new holder and checked inside the
transaction that moves the tables: a process that lost the lease without noticing (another machine, a
suspended laptop) cannot commit any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import CatchmentError, LeaseHeld, SinkUnavailable

if TYPE_CHECKING:
    from catchment.lakehouse.ops import OpsStore


_BRIEFLY = " briefly"
"""Stands after the process id in the lock's file."""


class Lease:
    """The right to write a pipeline's tables, until `release`, or until somebody else takes it."""

    def __init__(self, pipeline: str, descriptor: int, epoch: int) -> None:
        self.pipeline = pipeline
        self.epoch = epoch
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, pipeline: str, directory: Path, ops: OpsStore, *, briefly: bool = False) -> Lease:
        """Take the lease. Raises `LeaseHeld`, with the process id, while another live process has it.

        briefly: for one piece of work (a command). Who comes meanwhile gets `SinkUnavailable` instead, and waits:
        a run that is about to open the lake again must not end because of a command.
        """
        descriptor = _lock(lock_path(pipeline, directory), pipeline, briefly)
        try:
            epoch = ops.next_epoch(pipeline, f"process {os.getpid()} on {os.uname().nodename}")
        except BaseException:
            os.close(descriptor)
            raise
        return cls(pipeline, descriptor, epoch)

    def release(self) -> None:
        """Let go; may be called twice. The file stays: deleting it would let two processes lock two files."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def held(pipeline: str, directory: Path) -> Iterator[None]:
    """Nobody else holds the lease meanwhile: for work on the catalog's file itself, where no epoch can be kept."""
    descriptor = _lock(lock_path(pipeline, directory), pipeline, briefly=True)
    try:
        yield
    finally:
        os.close(descriptor)


def lock_path(pipeline: str, directory: Path) -> Path:
    """Where the lock of a pipeline is."""
    return directory / ".catchment" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', pipeline)}.lock"


def holder(pipeline: str, directory: Path) -> int | None:
    """The process id of the live holder; None when nobody holds the lease."""
    path = lock_path(pipeline, directory)
    if not path.exists():
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(descriptor)
    finally:
        os.close(descriptor)
    return None


def _lock(path: Path, pipeline: str, briefly: bool) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Close-on-exec is Python's default: a child process must not keep the lock alive.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise SinkUnavailable(f"The lock {path} cannot be opened: {error.strerror}.") from error
    try:
        if ours := _locked(descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}{_BRIEFLY if briefly else ''}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise SinkUnavailable(f"The lock {path} cannot be taken: {error.strerror}.") from error
    if not ours:
        refusal = _refusal(descriptor, pipeline)
        os.close(descriptor)
        raise refusal
    return descriptor


def _refusal(descriptor: int, pipeline: str) -> CatchmentError:
    pid = _read_pid(descriptor) or "unknown"
    if _read(descriptor).endswith(_BRIEFLY):
        return SinkUnavailable(f"A command (process {pid}) works on the lake of {pipeline} just now.")
    return LeaseHeld(
        f"Pipeline {pipeline} is already run by process {pid}. Stop that process first, or leave the work to it."
    )


def _locked(descriptor: int) -> bool:
    """Take the lock; True when it is ours. A moment's patience: `holder` looks by locking for an instant."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _read_pid(descriptor: int) -> int | None:
    text = _read(descriptor).removesuffix(_BRIEFLY)
    return int(text) if text.isdigit() else None


def _read(descriptor: int) -> str:
    return os.pread(descriptor, 64, 0).decode("ascii", "replace").strip()
