"""The server hears of a position only after the catalog's log that holds it was fsynced: read from system calls."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from catchment import config
from catchment.lakehouse.ops import OpsStore
from pipelines.lake import COMMAND, catch_up, write_pipeline
from pipelines.workload import Workload, set_up
from waiting import wait_for

CALL = re.compile(r"\b(sendto|write|pwrite64|fsync|fdatasync)\(\d+<([^>]*)>(?:, \"((?:\\x[0-9a-f]{2})*)\")?")
STATUS_UPDATE = re.compile(rb"d\x00\x00\x00\x26r(.{8})", re.DOTALL)
POSITION = re.compile(rb'/[0-9A-F]+": "([0-9a-f]{16})0000000000000000"')


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("postgres", ["18"], indirect=True)
def test_nothing_is_acknowledged_before_its_commit_is_on_the_disk(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    held = _held(pipeline)
    trace = tmp_path / "trace"
    calls = "--trace=sendto,write,pwrite64,fsync,fdatasync"
    strace = ["strace", "-f", "-y", "-qq", "-xx", "-s", "100000", "-o", str(trace), calls]
    with Workload(database, 5) as workload:
        wait_for(lambda: workload.transactions > 5, what="something to acknowledge")
        done = subprocess.run(
            [*strace, *COMMAND, "run", str(pipeline), "--until-caught-up"],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    told = _told(trace, held)
    assert len(set(told)) >= 2, "the server heard of no new position"
    assert max(told) <= _held(pipeline)


def _held(pipeline: Path) -> int:
    loaded = config.load(pipeline)
    ops = OpsStore.open(loaded.lakehouse, loaded.directory)
    (progress,) = ops.progress("test").values()
    ops.close()
    return max(int.from_bytes(at[:8], "big") for at in progress.positions.values())


def _told(trace: Path, held: int) -> list[int]:
    """What the server was told, in order; fails where it was more than a finished fsync had made durable."""
    told = []
    written = held
    syncing: set[str] = set()
    with trace.open(errors="replace") as lines:
        for line in lines:
            thread = line.split()[0]
            if "sync resumed>" in line and thread in syncing:
                syncing.remove(thread)
                held = max(held, written)
            call = CALL.search(line)
            if call is None:
                continue
            name, path, data = call[1], _bytes(call[2]), _bytes(call[3] or "")
            if path.endswith(b"catalog.db-wal"):
                if name not in ("fsync", "fdatasync"):
                    written = max([written, *(int(found, 16) for found in POSITION.findall(data))])
                elif "unfinished" in line:
                    syncing.add(thread)
                else:
                    held = max(held, written)
            elif path.startswith((b"socket", b"TCP", b"UNIX")):
                for found in STATUS_UPDATE.findall(data):
                    lsn = int.from_bytes(found, "big")
                    assert lsn <= held, f"acknowledged {lsn:X} when {held:X} was on the disk"
                    told.append(lsn)
    return told


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))
