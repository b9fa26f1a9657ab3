"""A killed writer leaves each change once, whatever moment it was killed at; and is replaced at once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from catchment.errors import LeaseHeld, LeaseLost
from catchment.lakehouse.lease import holder
from catchment.lakehouse.ops import OpsStore
from catchment.progress import Progress
from pipelines import iceberg_writer as writer

TRANSACTIONS = 30


def run(directory: Path, *, failpoint: str = "", under: tuple[str, ...] = ()) -> int:
    """Run the writer in a process of its own; its exit code."""
    command = [*under, sys.executable, writer.__file__, str(directory), str(TRANSACTIONS)]
    done = subprocess.run(
        command, env={**os.environ, "CATCHMENT_FAILPOINT": failpoint}, capture_output=True, text=True, timeout=200
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def expect_everything_once(directory: Path) -> None:
    for name in ("odd", "even", "both"):
        assert writer.rows(directory, name) == writer.expected(name, TRANSACTIONS), name


@pytest.mark.parametrize("failpoint", ["data_file_written", "before_commit", "after_commit"])
def test_kills_at_a_failpoint_leave_each_change_once(tmp_path: Path, failpoint: str) -> None:
    kills = 0
    for times in (1, 2, 4):
        kills += run(tmp_path, failpoint=f"{failpoint}:{times}") == -signal.SIGKILL
    assert kills == 3
    assert run(tmp_path) == 0
    expect_everything_once(tmp_path)


def test_what_is_visible_after_a_kill_is_what_the_progress_says(tmp_path: Path) -> None:
    assert run(tmp_path, failpoint="after_commit:4") == -signal.SIGKILL
    ops = OpsStore.open(writer.lakehouse(), tmp_path)
    held = ops.progress(writer.PIPELINE)["iceberg"]
    ops.close()
    done = writer.next_transaction(held)
    assert 0 < done < TRANSACTIONS
    assert writer.rows(tmp_path, "both") == writer.expected("both", done)


def test_a_live_process_holds_the_lease_and_a_killed_one_does_not(tmp_path: Path) -> None:
    code = "import sys, iceberg_writer as w, pathlib; s = w.open_sink(pathlib.Path(sys.argv[1])); s.open(); "
    code += "print('open', flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(writer.__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            assert holder(writer.PIPELINE, tmp_path) == process.pid
            second = writer.open_sink(tmp_path)
            with pytest.raises(LeaseHeld, match=str(process.pid)):
                second.open()
            second.close()
        finally:
            process.kill()
    third = writer.open_sink(tmp_path)
    assert third.open() is None
    third.close()
    assert holder(writer.PIPELINE, tmp_path) is None


def test_a_writer_that_lost_its_lease_commits_nothing_more(tmp_path: Path) -> None:
    late = writer.open_sink(tmp_path)
    late.open()
    writer.write_transaction(late, 0)
    late.flush()
    writer.write_transaction(late, 1)
    ops = OpsStore.open(writer.lakehouse(), tmp_path)
    ops.next_epoch(writer.PIPELINE, "another machine")
    with pytest.raises(LeaseLost, match="took pipeline writer over"):
        late.flush()
    late.close()
    assert ops.progress(writer.PIPELINE)["iceberg"] == writer.boundary(0)
    ops.close()
    assert writer.rows(tmp_path, "both") == [(0, 0)]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_data_then_metadata_then_the_pointer_reach_the_disk(tmp_path: Path) -> None:
    """Reads the system calls of the writer: nothing points to a file that a power cut could empty."""
    trace = tmp_path / "trace"
    lake = tmp_path / "pipeline"
    calls = "--trace=openat,write,pwrite64,fsync,fdatasync,close,unlink"
    run(lake, under=("strace", "-f", "-y", "-qq", "-o", str(trace), calls))
    commits = _commits(trace.read_text(errors="replace"), str(lake))
    with_rows = [one for one in commits if any(path.endswith(".parquet") for path in one)]
    assert len(with_rows) == TRANSACTIONS // writer.FLUSH_EVERY
    for steps in with_rows:
        last_data = max(i for path, i in steps.items() if path.endswith(".parquet"))
        metadata = {path: i for path, i in steps.items() if path.endswith((".avro", ".metadata.json"))}
        # Each of the three tables (two, when only one of odd and even has rows): manifest, list, metadata.
        assert len(metadata) >= 6
        assert last_data < min(metadata.values())
        directories = {path: i for path, i in steps.items() if path.endswith("/metadata")}
        assert len(directories) >= 2
        assert max(metadata.values()) < min(directories.values())
        assert {str(Path(path).parent) for path in steps if path.endswith(".parquet")} <= set(steps)


def _commits(trace: str, lake: str) -> list[dict[str, int]]:
    """For each fsync of the catalog's log: what was fsynced since the last one, path → when.

    Fails where a file of the lake is written and not fsynced before the log is, or written after its fsync.
    """
    commits: list[dict[str, int]] = []
    synced: dict[str, int] = {}
    unsynced: set[str] = set()
    for number, line in enumerate(trace.splitlines()):
        call = re.search(r"\b(write|pwrite64|fsync|fdatasync)\(\d+<([^>]*)>", line)
        if call is None or not call[2].startswith(lake):
            continue
        name, path = call[1], call[2]
        if path.endswith("catalog.db-wal"):
            if name in ("fsync", "fdatasync"):
                assert not unsynced, f"the pointer was committed before {sorted(unsynced)} reached the disk"
                commits.append(synced)
                synced = {}
        elif name in ("write", "pwrite64") and "/warehouse/" in path:
            assert path not in synced
            unsynced.add(path)
        elif name in ("fsync", "fdatasync"):
            unsynced.discard(path)
            synced[path] = number
    return commits


def test_an_idle_pipeline_moves_its_progress_and_no_table(tmp_path: Path) -> None:
    sink = writer.open_sink(tmp_path)
    sink.open()
    writer.write_transaction(sink, 0)
    sink.flush()
    files = sorted(path for path in (tmp_path / "lake/warehouse").rglob("*") if path.is_file())
    sink.advance(Progress({writer.LANE: writer.position(77)}))
    held = sink.flush()
    sink.close()
    assert held == Progress({writer.LANE: writer.position(77)})
    assert sorted(path for path in (tmp_path / "lake/warehouse").rglob("*") if path.is_file()) == files
    again = writer.open_sink(tmp_path)
    assert again.open() == held
    again.close()
