"""What Catchment is compared with: PostgreSQL's own tools, and the least that a Python program can do."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.server import Database


def pg_recvlogical(base: Database, slot: str, end_lsn: str) -> float:
    """Seconds that `pg_recvlogical` takes to read a copy of the slot up to there, into /dev/null."""
    program = str(base.server.bin_dir / "pg_recvlogical")
    options = ["--option=proto_version=1", "--option=publication_names=orders"]
    with base.copied_slot(slot, "benchmarks_recvlogical") as copy:
        where = ["--dbname", base.dsn, "--slot", copy, "--start", "--no-loop", "--endpos", end_lsn]
        start = time.perf_counter()
        subprocess.run([program, *where, "--file", "/dev/null", *options], check=True)
        return time.perf_counter() - start


def read_and_discard(base: Database, slot: str, end_lsn: str) -> float:
    """Seconds that a Python loop takes to read a copy of the slot through libpq and throw it away."""
    with base.copied_slot(slot, "benchmarks_discard") as copy:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.read_and_discard", base.dsn, copy, end_lsn],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
    return float(done.stdout)


def binary_copy(base: Database, table: str, target: Path) -> float:
    """Seconds that `psql` takes to COPY the table to a file, in binary."""
    program = base.server.bin_dir / "psql"
    start = time.perf_counter()
    with target.open("wb") as file:
        command = f"copy {table} to stdout (format binary)"
        subprocess.run([program, "--no-psqlrc", "--dbname", base.dsn, "--command", command], check=True, stdout=file)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds
