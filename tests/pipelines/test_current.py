"""`current.<table>` against a simulated source table: whatever happened, the same rows.

`CATCHMENT_SEED=<number>` replays one printed seed.
"""

from __future__ import annotations

import random
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from catchment.lakehouse.reading.replay import Replay
from catchment.schema import envelope
from pipelines.source_model import COLUMNS, SCHEMA, World, bronze
from seeds import first_seed

WORLDS = 150


@pytest.mark.parametrize("round_", range(12))
@pytest.mark.parametrize("identity", ["default", "full"])
def test_random_workloads_end_with_the_rows_of_the_source(identity: str, round_: int) -> None:
    seed = first_seed()
    print(f"CATCHMENT_SEED={seed}")
    worlds = run_worlds(random.Random(seed), full=identity == "full")

    shown = current(bronze(worlds))

    expected = {row_key(row): row for world in worlds for row in world.expected()}
    assert len(expected) > WORLDS / 5  # fewer than half of the worlds have rows after a truncation of them all
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


def event(
    op: str,
    version: int,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    unchanged: list[str] | None = None,
    lane: str = "slot",
) -> dict[str, Any]:
    """One change of the table `things`, with the columns that matter to the test."""
    empty = dict.fromkeys(COLUMNS)
    place = version.to_bytes(8, "big")
    return {
        "_op": op,
        "_lane": lane,
        "_position": place,
        "_version": place,
        "_schema_version": 1,
        "_unchanged": unchanged,
        "before": {**empty, "world": 1, **before} if before else None,
        "after": {**empty, "world": 1, **after} if after else None,
    }


def rows_of(*events: dict[str, Any]) -> dict[str, Any]:
    """id → value of `big` in the current rows; the events come in any order."""
    return {row["id"]: row["big"] for row in current(pa.Table.from_pylist(list(events), schema=SCHEMA.envelope))}


def test_a_truncate_takes_away_changes_of_its_own_version_and_below() -> None:
    assert rows_of(
        event("c", 1, after={"id": "a", "big": "old"}),
        event("r", 2, after={"id": "b", "big": "same"}),
        event("t", 2),
        event("c", 3, after={"id": "c", "big": "new"}),
    ) == {"c": "new"}


def test_no_value_comes_from_before_a_truncate() -> None:
    assert rows_of(
        event("r", 2, after={"id": "a", "big": "old"}),
        event("t", 2),
        event("u", 3, after={"id": "a"}, unchanged=["big"]),
    ) == {"a": None}


def test_under_full_identity_the_row_before_a_change_supplies_an_unchanged_value() -> None:
    assert rows_of(
        event("u", 5, before={"id": "a", "big": "long"}, after={"id": "a", "small": 2}, unchanged=["big"])
    ) == {"a": "long"}


def test_an_inserted_row_takes_no_value_from_an_earlier_life_of_its_key() -> None:
    assert rows_of(
        event("c", 1, after={"id": "a", "big": "earlier"}),
        event("d", 2, before={"id": "a"}),
        event("u", 3, after={"id": "a"}, unchanged=["big"]),
    ) == {"a": None}


def test_a_swap_through_a_third_key_keeps_each_rows_unchanged_value() -> None:
    assert rows_of(
        event("c", 1, after={"id": "a", "big": "of a"}),
        event("c", 2, after={"id": "b", "big": "of b"}),
        event("u", 3, before={"id": "a"}, after={"id": "x"}, unchanged=["big"]),
        event("u", 4, before={"id": "b"}, after={"id": "a"}, unchanged=["big"]),
        event("u", 5, before={"id": "x"}, after={"id": "b"}, unchanged=["big"]),
    ) == {"a": "of b", "b": "of a"}


def test_a_snapshot_row_loses_to_a_later_change_and_wins_over_an_earlier_delete() -> None:
    assert rows_of(
        event("u", 9, after={"id": "a", "big": "streamed"}),
        event("r", 5, after={"id": "a", "big": "read"}, lane="snapshot"),
        event("d", 3, before={"id": "b"}),
        event("r", 5, after={"id": "b", "big": "read"}, lane="snapshot"),
        event("d", 9, before={"id": "c"}),
        event("r", 5, after={"id": "c", "big": "read"}, lane="snapshot"),
    ) == {"a": "streamed", "b": "read"}


def test_keys_that_their_type_cannot_hold_stay_apart_by_their_text() -> None:
    schema = envelope(pa.struct([("day", pa.date32()), ("value", pa.string())]))

    def change(op: str, version: int, text: str, value: str | None) -> dict[str, Any]:
        row = {"day": None, "value": value}
        return {
            **event(op, version),
            "before": row if op == "d" else None,
            "after": row if op != "d" else None,
            "_unrepresentable": [("day", text)],
        }

    changes = [change("c", 1, "infinity", "up"), change("c", 2, "-infinity", "down"), change("c", 3, "0044 BC", "old")]
    changes.append(change("d", 4, "0044 BC", None))
    connection = duckdb.connect()
    connection.register("changes", pa.Table.from_pylist(changes, schema=schema))
    sql = Replay("changes", ["day"], ["day", "value"], as_text=["day"]).sql()
    rows = connection.execute(f"SELECT value, _unrepresentable['day'] FROM ({sql}) ORDER BY value").fetchall()
    assert rows == [("down", "-infinity"), ("up", "infinity")]


def test_a_column_that_changed_its_type_is_unchanged_under_the_sources_name_for_it() -> None:
    schema = envelope(pa.struct([("id", pa.int64()), ("big", pa.int64()), ("big__v20002", pa.string())]))
    changes = [
        {**event("c", 1), "after": {"id": 1, "big": None, "big__v20002": "long"}},
        {**event("u", 2, unchanged=["big"]), "after": {"id": 1, "big": None, "big__v20002": None}},
    ]
    connection = duckdb.connect()
    connection.register("changes", pa.Table.from_pylist(changes, schema=schema))
    sql = Replay("changes", ["id"], ["id", "big", "big__v20002"]).sql()
    assert connection.execute(f"SELECT id, big, big__v20002 FROM ({sql})").fetchall() == [(1, None, "long")]


def test_columns_may_have_any_name() -> None:
    schema = envelope(pa.struct([('a "key"', pa.int64()), ("it's; --", pa.string())]))
    row = {'a "key"': 1, "it's; --": "kept"}
    changes = [
        {**event("c", 1), "after": row},
        {**event("u", 2, unchanged=["it's; --"]), "after": {**row, "it's; --": None}},
    ]
    connection = duckdb.connect()
    connection.register("changes", pa.Table.from_pylist(changes, schema=schema))
    sql = Replay("changes", ['a "key"'], list(row)).sql()
    assert connection.execute(
        f"SELECT * EXCLUDE (_version, _committed_at, _unrepresentable) FROM ({sql})"
    ).fetchall() == [(1, "kept")]
