"""`current.<table>` against a simulated source table: whatever happened, the same rows.

`CATCHMENT_SEED=<number>` replays one printed seed.
"""

from __future__ import annotations

import os
import random
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from source_model import COLUMNS, SCHEMA, World, bronze

from catchment.lakehouse.replay import Replay

WORLDS = 150


@pytest.mark.parametrize("round_", range(12))
@pytest.mark.parametrize("identity", ["default", "full"])
def test_random_workloads_end_with_the_rows_of_the_source(identity: str, round_: int) -> None:
    seed = int(os.environ.get("CATCHMENT_SEED", random.randrange(2**32)))
    print(f"CATCHMENT_SEED={seed}")
    worlds = run_worlds(random.Random(seed), full=identity == "full")

    shown = current(bronze(worlds))

    expected = {row_key(row): row for world in worlds for row in world.expected()}
    assert len(expected) > WORLDS / 2
    assert {row_key(row) for row in shown} == expected.keys()
    assert len(shown) == len(expected)
    for row in shown:
        assert row == expected[row_key(row)], f"world {row['world']}"


def run_worlds(rng: random.Random, *, full: bool) -> list[World]:
    """Worlds that share one table; now and then all of it is truncated in the middle."""
    worlds = [World(number, random.Random(rng.random()), full) for number in range(WORLDS)]
    for world in worlds:
        world.run(rng.randrange(1, 25))
    if rng.random() < 0.3:
        latest = max(world.lsn for world in worlds) + 10
        for world in worlds:
            world.lsn = latest
            world.truncate()
            for _ in range(rng.randrange(6)):
                world.transaction()
    return worlds


def row_key(row: dict[str, Any]) -> tuple[int, str]:
    return row["world"], row["id"]


def current(changes: pa.Table) -> list[dict[str, Any]]:
    connection = duckdb.connect(config={"threads": 1})
    connection.register("changes", changes)
    rows = connection.execute(Replay("changes", SCHEMA.key, COLUMNS).sql()).to_arrow_table()
    odd = rows["odd"].cast(pa.int64())
    rows = rows.set_column(rows.schema.get_field_index("odd"), "odd", odd).drop_columns(["_version", "_committed_at"])
    return [
        {**row, "_unrepresentable": dict(row["_unrepresentable"]) if row["_unrepresentable"] else None}
        for row in rows.to_pylist()
    ]
