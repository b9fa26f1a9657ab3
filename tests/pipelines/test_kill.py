"""kill -9 at every named failpoint under a random workload: bronze has each change once, current equals the source."""

from __future__ import annotations

import random
from pathlib import Path

import psycopg
import pytest

from catchment import failpoint
from pipelines.lake import (
    catch_up,
    end,
    expect_equal,
    expect_once,
    expect_verified,
    kill_at,
    query,
    start,
    write_pipeline,
)
from pipelines.workload import TABLES, Workload, set_up
from seeds import first_seed
from waiting import wait_for


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
@pytest.mark.parametrize("catch_up_bytes", [64 << 20, 0], ids=["live", "catch-up"])
@pytest.mark.parametrize("name", failpoint.NAMES)
def test_a_kill_at_a_failpoint_loses_and_doubles_nothing(
    database: str, tmp_path: Path, name: str, catch_up_bytes: int
) -> None:
    _rounds(database, tmp_path, [name], catch_up_bytes, rounds=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("catch_up_bytes", [64 << 20, 0], ids=["live", "catch-up"])
def test_many_kills_anywhere_lose_and_double_nothing(database: str, tmp_path: Path, catch_up_bytes: int) -> None:
    _rounds(database, tmp_path, list(failpoint.NAMES), catch_up_bytes, rounds=30)


def _rounds(database: str, directory: Path, names: list[str], catch_up_bytes: int, rounds: int) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    set_up(database)
    pipeline = _maintained(write_pipeline(directory, database, flush=0.05, catch_up_bytes=catch_up_bytes))
    with Workload(database, seed) as workload:
        for _ in range(rounds):
            kill_at(pipeline, f"{chance.choice(names)}:{chance.randint(1, 4)}")
        # Where every kill came before the first commit, all so far are rows of a snapshot: some changes come after it.
        catch_up(pipeline)
        before = workload.changes
        wait_for(lambda: workload.changes > before, what="another change")
    catch_up(pipeline)
    streamed = expect_once(pipeline, list(TABLES))
    for table, key in TABLES.items():
        expect_equal(pipeline, database, table, key)
    expect_verified(pipeline)
    # What was committed before the slot was made came as rows of the snapshot.
    assert 0 < streamed <= workload.changes


def _maintained(pipeline: Path) -> Path:
    """With maintenance that looks often: a kill at a place of its own need not be waited for long."""
    often = "lakehouse:\n  maintenance: {interval_seconds: 0.2, budget_percent: 100}\n"
    pipeline.write_text(pipeline.read_text().replace("lakehouse:\n", often))
    return pipeline


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
def test_every_change_after_the_snapshot_is_in_bronze_once(database: str, tmp_path: Path) -> None:
    """With nothing before the slot, the count of changes is exactly the application's own."""
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    set_up(database, rows=0)
    pipeline = _maintained(write_pipeline(tmp_path, database, flush=0.05))
    catch_up(pipeline)
    with Workload(database, seed) as workload:
        for name in failpoint.NAMES:
            kill_at(pipeline, f"{name}:{chance.randint(1, 4)}")
    catch_up(pipeline)
    assert expect_once(pipeline, list(TABLES)) == workload.changes
    for table, key in TABLES.items():
        expect_equal(pipeline, database, table, key)


@pytest.mark.parametrize("postgres", ["18"], indirect=True)
def test_sigterm_in_the_middle_of_a_transaction_ends_cleanly_and_loses_nothing(database: str, tmp_path: Path) -> None:
    set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    process = start(pipeline)
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            active = "SELECT 1 FROM pg_replication_slots WHERE active AND database = current_database()"
            wait_for(lambda: bool(connection.execute(active).fetchall()), what="a stream")
            before = len(list((tmp_path / "lake").rglob("*.parquet")))
            connection.execute("INSERT INTO accounts SELECT g, 'big', g, NULL FROM generate_series(1000, 500000) g")
            # Files of a transaction are written before it is whole; nobody sees them.
            wait_for(lambda: len(list((tmp_path / "lake").rglob("*.parquet"))) > before, what="a file of it")
    finally:
        errors = end(process)
    assert process.returncode == 0, errors
    catch_up(pipeline)
    assert query(pipeline, "SELECT count(*) FROM bronze.accounts WHERE after.name = 'big'") == [(499001,)]
    expect_equal(pipeline, database, "accounts", ("id",))
