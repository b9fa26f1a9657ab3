"""A catalog lost under a pipeline with a real source: found again in the warehouse, and nothing is missing."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from catchment import config
from catchment.lakehouse.lease import holder
from catchment.progress import Progress
from catchment.testing.lake import expect_silver_equals_current
from pipelines.lake import catch_up, expect_equal, expect_once, run, start, write_pipeline
from pipelines.workload import TABLES, Workload, set_up
from waiting import wait_for

pytestmark = pytest.mark.parametrize("postgres", ["18"], indirect=True)


def lose_catalog(pipeline: Path) -> None:
    for file in (pipeline.parent / "lake").glob("catalog.db*"):
        file.unlink()


def expect_the_source(pipeline: Path, dsn: str) -> None:
    for table, key in TABLES.items():
        expect_equal(pipeline, dsn, table, key)
    expect_once(pipeline, list(TABLES))
    expect_silver_equals_current(pipeline, *TABLES)


def acknowledged(pipeline: Path, held: Progress) -> Progress | None:
    loaded = config.load(pipeline)
    return loaded.source_config.acknowledged(loaded.context, held)


def progress(pipeline: Path) -> Progress:
    """Asked in a process of its own: one that has the catalog open would keep it from being replaced."""
    done = run("query", str(pipeline), "SELECT progress FROM ops.progress", "--format", "json")
    return Progress.from_json(json.loads(done.stdout)[0]["progress"])


def capture(pipeline: Path) -> None:
    done = run("run", str(pipeline), "--until-caught-up")
    assert done.returncode == 0, done.stderr


def test_a_catalog_lost_with_a_killed_process_comes_back_whole(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline, file = write_pipeline(tmp_path, database), tmp_path / "catalog.backup"
    catch_up(pipeline)
    assert run("backup", str(pipeline), str(file)).returncode == 0
    with Workload(database, seed=3) as workload:
        process = start(pipeline)
        try:
            before = len(list(tmp_path.glob("lake/warehouse/bronze/accounts/data/*")))
            written = tmp_path / "lake/warehouse/bronze/accounts/data"
            wait_for(lambda: len(list(written.glob("*"))) > before + 12, what="some flushes")
            refused = run("restore", str(pipeline), str(file), "--newest")
            assert refused.returncode == 3
            assert str(process.pid) in refused.stderr
        finally:
            process.kill()
            process.communicate()
        workload.stop.set()
    assert holder("test", tmp_path) is None
    lose_catalog(pipeline)
    done = run("restore", str(pipeline), str(file), "--newest", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["notes"] == []
    catch_up(pipeline)
    expect_the_source(pipeline, database)


def test_idle_time_after_the_last_commit_is_told_and_can_be_vouched_for(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline, file = write_pipeline(tmp_path, database), tmp_path / "catalog.backup"
    capture(pipeline)
    last = progress(pipeline)
    assert run("backup", str(pipeline), str(file)).returncode == 0
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute("CREATE TABLE elsewhere.noise AS SELECT n FROM generate_series(1, 1000) n")
    capture(pipeline)

    def told_more() -> bool:
        told = acknowledged(pipeline, last)
        return told is not None and not last.covers(told)

    # The server looks at what it was told last in its own time.
    wait_for(told_more, what="the server's knowing")
    lose_catalog(pipeline)

    done = run("restore", str(pipeline), str(file))
    assert done.returncode == 0, done.stderr
    assert "repeat with --newest --warehouse-is-complete" in done.stderr
    assert progress(pipeline) == last
    refused = run("run", str(pipeline), "--until-caught-up")
    assert refused.returncode == 1
    assert "what is between is missing" in refused.stderr

    done = run("restore", str(pipeline), str(file), "--newest", "--warehouse-is-complete")
    assert done.returncode == 0, done.stderr
    assert "taken for idle time" in done.stderr
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE accounts SET balance = 1")
    capture(pipeline)
    expect_the_source(pipeline, database)
