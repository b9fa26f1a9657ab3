"""Cut connections, a restarted server, a full disk, a second process: survived, or a clear end, and nothing is lost."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from catchment import config
from catchment.demo.postgres import EmbeddedPostgres
from catchment.errors import LeaseHeld, SourceUnavailable
from catchment.pipeline import Backoff
from catchment.telemetry import Report
from pipelines.lake import catch_up, expect_equal, expect_once, query, write_pipeline
from pipelines.workload import TABLES, Workload, set_up
from waiting import wait_for


class Running:
    """A pipeline in a thread, with its last report."""

    def __init__(self, path: Path) -> None:
        self.last = Report(at=0.0, state="")
        self.states: list[str] = []
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self._pipeline = config.load(path).build([self])
        self._thread = threading.Thread(target=self._run, daemon=True)

    def report(self, report: Report) -> None:
        self.last = report
        self.states.append(report.state)

    def _run(self) -> None:
        try:
            self._pipeline.run(self.stop)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.failure = error

    def start(self) -> Running:
        self._thread.start()
        return self

    def end(self) -> None:
        self.stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive()

    @property
    def durable(self) -> int:
        return sum(table.durable_changes for table in self.last.tables.values())


@contextmanager
def running(path: Path) -> Iterator[Running]:
    one = Running(path).start()
    try:
        wait_for(lambda: one.last.state == "running" or one.failure is not None, what="a running pipeline")
        yield one
    finally:
        one.end()


def check(pipeline: Path, database: str) -> None:
    catch_up(pipeline)
    expect_once(pipeline, list(TABLES))
    for table, key in TABLES.items():
        expect_equal(pipeline, database, table, key)


def test_cut_connections_are_made_again_and_nothing_is_lost(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    with Workload(database, 1) as workload, running(pipeline) as one:
        for cuts in range(1, 4):
            before = one.durable
            wait_for(lambda before=before: one.durable > before, what="progress")  # type: ignore[misc]
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'catchment%' AND datname = current_database()"
                )
            wait_for(lambda cuts=cuts: one.last.restarts >= cuts, what="the restart")  # type: ignore[misc]
            wait_for(lambda: one.last.state == "running", what="running again")
        assert one.failure is None
        assert workload.changes > 0
    check(pipeline, database)


def test_a_restarted_server_is_waited_for(database: str, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    with running(pipeline) as one:
        wait_for(lambda: one.durable > 0)
        postgres.stop("immediate")
        wait_for(lambda: one.last.state == "waiting", what="a note that it waits")
        assert one.last.last_error
        assert "value" not in one.last.last_error
        postgres.start()
        wait_for(lambda: one.last.state == "running", what="running again")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("INSERT INTO accounts VALUES (100000, 'after the restart', 1, NULL)")
        wait_for(lambda: bool(query(pipeline, "SELECT 1 FROM bronze.accounts WHERE after.id = 100000")))
    check(pipeline, database)


def test_a_server_that_was_never_there_ends_with_a_clear_error(tmp_path: Path) -> None:
    pipeline = write_pipeline(tmp_path, "postgresql://postgres@127.0.0.1:1/postgres")
    built = config.load(pipeline).build()
    built._backoff = Backoff(patience_seconds=1.0)  # long enough for several attempts
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        built.run(threading.Event())


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
def test_a_second_process_on_the_same_pipeline_is_refused(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    with running(pipeline) as one:
        with pytest.raises(LeaseHeld):
            config.load(pipeline).build().run(threading.Event())
        before = one.durable
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("INSERT INTO accounts VALUES (100000, 'still captured', 1, NULL)")
        wait_for(lambda: one.durable > before, what="the first process to go on")
    check(pipeline, database)


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
def test_a_full_disk_is_waited_out_and_nothing_is_lost(database: str, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(lake)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        set_up(database)
        pipeline = write_pipeline(tmp_path, database)
        filler = lake / "filler"
        with running(pipeline) as one:
            wait_for(lambda: one.durable > 0)
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(bytes(4096))
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute(
                    "INSERT INTO accounts SELECT g, md5(g::text), 1, md5(g::text) FROM generate_series(1000, 9000) g"
                )
            wait_for(
                lambda: one.last.state == "waiting" or one.failure is not None, what="a note that the disk is full"
            )
            assert one.failure is None
            assert "space" in (one.last.last_error or "")
            filler.unlink()
            wait_for(lambda: one.last.state == "running", seconds=90, what="running again")
            wait_for(lambda: bool(query(pipeline, "SELECT 1 FROM bronze.accounts WHERE after.id = 9000")))
        check(pipeline, database)
    finally:
        subprocess.run(["umount", "-l", str(lake)], check=True)
