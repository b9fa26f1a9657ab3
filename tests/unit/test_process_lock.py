"""A file that one process at a time holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catchment.process_lock import ProcessLock, Taken, holder
from waiting import wait_for


def test_who_comes_meanwhile_is_told_by_whom_it_is_held_and_what_he_wrote_beside(tmp_path: Path) -> None:
    lock = ProcessLock.take(tmp_path / "lock", "briefly")
    with pytest.raises(Taken) as refused:
        ProcessLock.take(tmp_path / "lock")
    assert (refused.value.pid, refused.value.note) == (os.getpid(), "briefly")
    lock.release()
    lock.release()
    ProcessLock.take(tmp_path / "lock").release()


def test_nobody_holds_what_was_let_go_of_or_never_taken(tmp_path: Path) -> None:
    assert holder(tmp_path / "lock") is None
    lock = ProcessLock.take(tmp_path / "lock")
    assert holder(tmp_path / "lock") == os.getpid()
    lock.release()
    assert holder(tmp_path / "lock") is None


def test_a_killed_process_stops_nobody_and_leaves_no_word_of_its_own(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, catchment.process_lock as lock\n"
        "held = lock.ProcessLock.take(pathlib.Path(sys.argv[1]), 'a longer note than the next')\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "lock")], stdin=subprocess.PIPE)
    try:
        wait_for(lambda: holder(tmp_path / "lock") == process.pid, "the other process holds it")
    finally:
        process.kill()
        process.communicate()
    lock = ProcessLock.take(tmp_path / "lock")
    with pytest.raises(Taken) as refused:
        ProcessLock.take(tmp_path / "lock")
    assert (refused.value.pid, refused.value.note) == (os.getpid(), "")
    lock.release()
