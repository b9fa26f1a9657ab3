"""`catchment verify`: names exactly what differs, and raises no false alarm while changes go on."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import psycopg
import pytest

from catchment import config
from catchment.verify.report import Outcome, TableResult, Verdict
from catchment.verify.verification import Verification
from pipelines import workload
from pipelines.lake import catch_up, start, wait_for, write_pipeline
from pipelines.workload import Workload


def verify(pipeline: Path, table: str | None = None, *, deep: bool = True) -> Verdict:
    """A verification in this process."""
    return Verification(config.load(pipeline), table=table, deep=deep).run()


def only(verdict: Verdict) -> TableResult:
    (one,) = verdict.tables
    return one


def run_sql(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_lake_that_was_filled_is_equal_and_the_slot_is_gone(database: str, tmp_path: Path) -> None:
    workload.set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)

    verdict = verify(pipeline)

    assert [(one.table, one.outcome) for one in verdict.tables] == [
        ("public.accounts", Outcome.EQUAL),
        ("public.events", Outcome.EQUAL),
    ]
    assert [one.source_rows for one in verdict.tables] == [200, 200]
    assert [one.lake_rows for one in verdict.tables] == [200, 200]
    with psycopg.connect(database) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_replication_slots WHERE temporary AND database = current_database()"
        ).fetchone() == (0,)


def test_what_the_lake_does_not_have_yet_is_read_beside_the_slot(database: str, tmp_path: Path) -> None:
    workload.set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    seed = int(os.environ.get("CATCHMENT_SEED", random.randrange(2**32)))
    print(f"CATCHMENT_SEED={seed}")
    behind = Workload(database, seed)
    with psycopg.connect(database) as connection:
        for _ in range(60):
            behind.transact(connection)
    run_sql(database, "ALTER TABLE accounts ADD added text", "UPDATE accounts SET added = 'new' WHERE id % 5 = 0")

    verdict = verify(pipeline)

    assert verdict.outcome is Outcome.EQUAL, verdict


@pytest.mark.parametrize("rounds", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_there_is_no_false_alarm_while_changes_go_on(database: str, tmp_path: Path, rounds: int) -> None:
    seed = int(os.environ.get("CATCHMENT_SEED", random.randrange(2**32)))
    print(f"CATCHMENT_SEED={seed}")
    workload.set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    process = start(pipeline)
    try:
        with Workload(database, seed) as writing:
            for number in range(rounds):
                before = writing.transactions
                wait_for(lambda: writing.transactions > before + 20, what="the workload")  # noqa: B023
                verdict = verify(pipeline, deep=number % 2 == 0)
                assert verdict.outcome is Outcome.EQUAL, verdict
    finally:
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
