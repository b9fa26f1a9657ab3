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

from benchmarks.process import Cost, run
from benchmarks.server import SCRATCH, Database

CATCHMENT = Path(sys.executable).parent / "catchment"

ALWAYS_LIVE = 1 << 60
ALWAYS_CATCH_UP = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """One pipeline in a directory of its own."""

    name: str
    directory: Path

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
        query = "select count(*) as n from bronze.orders"
        done = subprocess.run(
            [CATCHMENT, "query", self.pipeline, query, "--format", "json"],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0 and "orders" in done.stderr and "exist" in done.stderr:
            return 0
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)[0]["n"])

    def must_hold(self, rows: int) -> None:
        """A figure counts only when every change is there, once."""
        held = self.bronze_rows()
        assert held == rows, f"bronze of {self.name} holds {held} changes instead of {rows}"


def subject(base: Database, name: str, source: Mapping[str, object] | None = None) -> Subject:
    """A pipeline for the database's `orders`, gold off; nothing has run yet."""
    directory = SCRATCH / "pipelines" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    made = Subject(name, directory)
    # JSON is YAML.
    config = {
        "name": name,
        "source": {"type": "postgres", "dsn": base.dsn, "tables": ["public.orders"], **(source or {})},
        "sinks": [{"type": "iceberg", "flush_interval_seconds": 1, "flush_rows": 100000}],
    }
    made.pipeline.write_text(json.dumps(config, indent=2))
    return made
