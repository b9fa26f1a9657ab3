"""A lock whose file cannot be written, because the disk is full: told in our own errors, and let go of."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catchment.errors import SinkUnavailable
from catchment.lakehouse.lease import held
from catchment.sinks.files.store import LocalStore


@contextmanager
def no_room_in_files() -> Iterator[None]:
    """Every write of this process into a file fails meanwhile, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_lease_says_so_and_can_be_taken_later(tmp_path: Path) -> None:
    with no_room_in_files(), pytest.raises(SinkUnavailable, match=r"shop\.lock"), held("shop", tmp_path):
        pass
    with held("shop", tmp_path):
        pass


def test_a_directory_of_files_says_so_and_can_be_held_later(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with no_room_in_files(), pytest.raises(SinkUnavailable, match=str(tmp_path)):
        store.hold()
    store.hold()
    store.release()
