"""Catchment itself, as anybody runs it: a pipeline.yaml and `catchment run` in a process of its own."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import orders
from benchmarks.process import Cost, run
from benchmarks.server import SCRATCH, Database

CATCHMENT = Path(sys.executable).parent / "catchment"

ALWAYS_LIVE = 1 << 60
ALWAYS_CATCH_UP = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """One pipeline in a directory of its own. silver: does it keep the current rows, too?"""

    name: str
    directory: Path
    silver: bool = False

    @property
    def pipeline(self) -> Path:
        """Its pipeline.yaml."""
        return self.directory / "pipeline.yaml"

    @property
    def slot(self) -> str:
        """Its replication slot."""
        return f"catchment_{self.name}"

    def run_until_caught_up(self) -> Cost:
        """Capture what is there now, and end."""
        return run([CATCHMENT, "run", self.pipeline, "--until-caught-up"])

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Capture in the background, until the end of the block."""
        with (self.directory / "log").open("wb") as log:
            child = subprocess.Popen([CATCHMENT, "run", self.pipeline], stdout=log, stderr=log)
            try:
                yield child
                assert child.poll() is None, f"it ended early: {(self.directory / 'log').read_text()[-2000:]}"
            finally:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(60)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()

    def bronze_rows(self) -> int:
        """How many changes are in bronze; 0 when there is no table yet."""
        done = self._query("select count(*) as n from bronze.orders")
        if done.returncode != 0 and "orders" in done.stderr and "exist" in done.stderr:
            return 0
        return int(_first(done)["n"])

    def must_hold(self, rows: int) -> None:
        """A figure counts only when every change is there, once."""
        held = self.bronze_rows()
        assert held == rows, f"bronze of {self.name} holds {held} changes instead of {rows}"

    def must_equal(self, base: Database) -> None:
        """A figure counts only when silver has the table's rows, value for value."""
        found = _first(self._query(SILVER_FINGERPRINT))
        with base.connect() as connection:
            wanted = orders.fingerprint(connection)
        have = orders.Fingerprint(int(found["rows"]), found["sum"])
        assert have == wanted, f"silver of {self.name} is not the table: {have} instead of {wanted}"

    def _query(self, query: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [CATCHMENT, "query", self.pipeline, query, "--format", "json"],
            check=False,
            capture_output=True,
            text=True,
        )


def _first(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)[0])


SILVER_FINGERPRINT = f"""
    select count(*) as rows, sum(('0x' || left(md5(row), 15))::ubigint)::text as sum
    from (
        select concat_ws('|', {orders.PLAIN_COLUMNS}, epoch_us(created_at), epoch_us(updated_at)) as row
        from silver.orders
    )
"""
"""What `orders.fingerprint` is of the source's table."""


def subject(base: Database, name: str, source: Mapping[str, object] | None = None, *, silver: bool = False) -> Subject:
    """A pipeline for the database's `orders`, into bronze alone or silver as well; nothing has run yet."""
    directory = SCRATCH / "pipelines" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    made = Subject(name, directory, silver)
    # JSON is YAML.
    config = {
        "name": name,
        "source": {"type": "postgres", "dsn": base.dsn, "tables": ["public.orders"], **(source or {})},
        "lakehouse": {"silver": silver},
        "sinks": [{"type": "iceberg", "flush_interval_seconds": 1, "flush_rows": 100000}],
    }
    made.pipeline.write_text(json.dumps(config, indent=2))
    return made
