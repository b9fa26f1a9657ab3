"""One writer a pipeline: a lock that a dead process cannot keep, and an epoch that a late one cannot forge.

The lock is on a local file (`process_lock`). The epoch is a row in the operations data, counted up by every new holder
and checked inside the transaction that moves the tables: a process that lost the lease without noticing (another
machine, a suspended laptop) cannot commit any more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from catchment import process_lock
from catchment.errors import CatchmentError, LeaseHeld, SinkUnavailable
from catchment.process_lock import ProcessLock, Taken

if TYPE_CHECKING:
    from catchment.lakehouse.ops import OpsStore


_BRIEFLY = "briefly"
"""Stands after the process id in the lock's file."""


class Lease:
    """The right to write a pipeline's tables, until `release`, or until somebody else takes it."""

    def __init__(self, pipeline: str, lock: ProcessLock, epoch: int) -> None:
        self.pipeline = pipeline
        self.epoch = epoch
        self._lock = lock

    @classmethod
    def acquire(cls, pipeline: str, directory: Path, ops: OpsStore, *, briefly: bool = False) -> Lease:
        """Take the lease. Raises `LeaseHeld`, with the process id, while another live process has it.

        briefly: for one piece of work (a command). Who comes meanwhile gets `SinkUnavailable` instead, and waits:
        a run that is about to open the lake again must not end because of a command.
        """
        lock = _lock(lock_path(pipeline, directory), pipeline, briefly)
        try:
            epoch = ops.next_epoch(pipeline, f"process {os.getpid()} on {os.uname().nodename}")
        except BaseException:
            lock.release()
            raise
        return cls(pipeline, lock, epoch)

    def release(self) -> None:
        """Let go; may be called twice."""
        self._lock.release()


@contextmanager
def held(pipeline: str, directory: Path) -> Iterator[None]:
    """Nobody else holds the lease meanwhile: for work on the catalog's file itself, where no epoch can be kept."""
    lock = _lock(lock_path(pipeline, directory), pipeline, briefly=True)
    try:
        yield
    finally:
        lock.release()


def lock_path(pipeline: str, directory: Path) -> Path:
    """Where the lock of a pipeline is."""
    return directory / ".catchment" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', pipeline)}.lock"


def holder(pipeline: str, directory: Path) -> int | None:
    """The process id of the live holder; None when nobody holds the lease."""
    return process_lock.holder(lock_path(pipeline, directory))


def _lock(path: Path, pipeline: str, briefly: bool) -> ProcessLock:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return ProcessLock.take(path, _BRIEFLY if briefly else "")
    except Taken as taken:
        raise _refusal(taken, pipeline) from None
    except OSError as error:
        raise SinkUnavailable(f"The lock {path} cannot be taken: {error.strerror}.") from error


def _refusal(taken: Taken, pipeline: str) -> CatchmentError:
    pid = taken.pid or "unknown"
    if taken.note == _BRIEFLY:
        return SinkUnavailable(f"A command (process {pid}) works on the lake of {pipeline} just now.")
    return LeaseHeld(
        f"Pipeline {pipeline} is already run by process {pid}. Stop that process first, or leave the work to it."
    )
