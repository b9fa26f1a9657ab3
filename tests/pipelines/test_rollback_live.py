"""Commands on the lake of a pipeline that runs: capture goes on, and in the end all is as at the source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from catchment import config
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.lease import holder
from catchment.lakehouse.properties import PINNED
from catchment.lakehouse.recovery.snapshot_listing import kept_snapshots
from catchment.testing.lake import expect_silver_equals_current
from pipelines.lake import COMMAND, catch_up, end, expect_equal, expect_once, run, start, write_pipeline
from pipelines.workload import TABLES, Workload, set_up
from waiting import wait_for

pytestmark = pytest.mark.parametrize("postgres", ["18"], indirect=True)


def properties(pipeline: Path, name: str) -> dict[str, str]:
    loaded = config.load(pipeline)
    with closing(load_catalog(loaded.lakehouse.catalog, loaded.directory)) as catalog:
        return dict(catalog.load_table(tuple(name.split("."))).properties)


def snapshots(pipeline: Path, table: str) -> list[dict[str, Any]]:
    loaded = config.load(pipeline)
    with closing(load_catalog(loaded.lakehouse.catalog, loaded.directory)) as catalog:
        return [one.to_dict() for one in kept_snapshots(catalog, table)[0].snapshots]


def command(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@contextmanager
def running(pipeline: Path, failpoint: str = "") -> Iterator[subprocess.Popen[str]]:
    process = start(pipeline, failpoint=failpoint)
    try:
        # Where it is to be killed it may be so soon after it has the lease.
        wait_for(lambda: holder("test", pipeline.parent) == process.pid or process.poll() is not None, "the lease")
        yield process
    finally:
        print(end(process)[-3000:])


def expect_the_source(pipeline: Path, dsn: str) -> None:
    catch_up(pipeline)
    for table, key in TABLES.items():
        expect_equal(pipeline, dsn, table, key)
    expect_once(pipeline, list(TABLES))
    expect_silver_equals_current(pipeline, *TABLES)


def test_a_running_pipeline_sets_a_table_back_goes_on_and_resumes_it(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    with Workload(database, seed=5) as workload, running(pipeline) as process:
        wait_for(lambda: len(snapshots(pipeline, "silver.accounts")) > 8, what="some flushes")
        chosen = snapshots(pipeline, "silver.accounts")[4]
        done = command("rollback", str(pipeline), "silver.accounts", "--snapshot", str(chosen["id"]))
        assert done["rows"] == chosen["rows"]
        assert json.loads(properties(pipeline, "silver.accounts")[PINNED])["snapshot"] == chosen["id"]
        assert f"silver.accounts is pinned as it was at {chosen['at']}" in run("status", str(pipeline)).stdout
        # Capture goes on, in the same process: bronze grows, the other table is merged, this one stays.
        pinned_at = snapshots(pipeline, "silver.accounts")[-1]["id"]
        before = {name: snapshots(pipeline, name)[-1]["id"] for name in ("bronze.accounts", "silver.events")}
        wait_for(lambda: all(snapshots(pipeline, name)[-1]["id"] != at for name, at in before.items()))
        assert snapshots(pipeline, "silver.accounts")[-1]["id"] == pinned_at
        again = run("rollback", str(pipeline), "bronze.accounts", "--snapshot", "1")
        assert again.returncode == 2
        assert "bronze is what was captured" in again.stderr
        command("resume", str(pipeline), "silver.accounts")
        assert not properties(pipeline, "silver.accounts")[PINNED]
        command("rebuild", str(pipeline), "accounts")
        assert process.poll() is None
        workload.stop.set()
    assert process.returncode == 0
    expect_the_source(pipeline, database)


def test_an_idle_pipeline_takes_commands_as_well(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    # Twice: the last state but one is then of after the first copy, however its flushes lay.
    for seed in (6, 8):
        with Workload(database, seed=seed) as workload:
            wait_for(lambda workload=workload: workload.transactions > 50)  # type: ignore[misc]
        catch_up(pipeline)
    with running(pipeline) as process:
        chosen = snapshots(pipeline, "silver.events")[-2]
        command("rollback", str(pipeline), "public.events", "--snapshot", str(chosen["id"]))
        command("resume", str(pipeline), "silver.events")
        expect_silver_equals_current(pipeline, *TABLES)
        assert process.poll() is None
    assert process.returncode == 0
    expect_the_source(pipeline, database)


def test_a_process_killed_over_a_rebuild_leaves_it_to_the_command(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    with Workload(database, seed=7) as workload:
        wait_for(lambda: workload.transactions > 50)
    catch_up(pipeline)
    with running(pipeline, failpoint="before_commit") as process:
        asked = subprocess.Popen(
            [*COMMAND, "rebuild", str(pipeline), "silver.accounts", "--json"],
            env={**os.environ, "CATCHMENT_FAILPOINT": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            process.wait(120)
            output, errors = asked.communicate(timeout=200)
        finally:
            asked.kill()
            asked.communicate()
        assert process.returncode == -signal.SIGKILL
    assert asked.returncode == 0, errors
    assert json.loads(output)["from"] == "bronze"
    expect_the_source(pipeline, database)
