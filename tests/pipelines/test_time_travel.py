"""The lake as of a moment of the source's clock: from bronze, from history, from a snapshot, or not at all."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from catchment.errors import ConfigError
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.commit import replace
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.reading.connection import connect_lake
from catchment.lakehouse.reading.time_travel import parse_moment
from catchment.lakehouse.silver.table import silver_schema
from catchment.lakehouse.silver.versions import versions_schema
from catchment.lakehouse.table import LakeTable
from catchment.schema import envelope
from seeds import first_seed

CONFIG = LakehouseConfig()
ROW = pa.struct([("id", pa.int64()), ("status", pa.string())])
KEY = {"catchment.key": json.dumps(["id"])}
START = datetime(2026, 11, 20, 10, tzinfo=UTC)
SLOT = "slot@7/1"


def at(place: int) -> datetime:
    """Change n is committed n minutes after ten."""
    return START + timedelta(minutes=place)


def place(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Lake:
    """A lake written with plain PyIceberg, long after the changes happened."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.catalog = load_catalog(CONFIG.catalog, directory)

    def table(self, name: str, schema: pa.Schema, **properties: str) -> Any:
        layer = name.partition(".")[0]
        self.catalog.create_namespace_if_not_exists(layer)
        if not self.catalog.table_exists(name):
            self.catalog.create_table(name, schema, properties={**KEY, **properties})
        return self.catalog.load_table(name)

    def change(self, op: str, number: int, key: int | None = None, status: str | None = None) -> dict[str, Any]:
        """A change; `r` and an untimed truncate `T` are a snapshot's."""
        row = {"id": key, "status": status} if key is not None else None
        undated = op in "rT"
        return {
            "_op": op.lower(),
            "_lane": f"{SLOT}/public.orders/chunk" if undated else SLOT,
            "_position": place(number),
            "_version": place(number),
            "_committed_at": None if undated else at(number),
            "_schema_version": 1,
            "before": row if op == "d" else None,
            "after": row if op in "cru" else None,
        }

    def bronze(self, *changes: dict[str, Any], name: str = "orders") -> None:
        self.table(f"bronze.{name}", envelope(ROW)).append(pa.Table.from_pylist(list(changes), envelope(ROW)))

    def versions(self, *changes: dict[str, Any], row: pa.StructType = ROW) -> None:
        schema = versions_schema(pa.schema(list(row)))
        events = [
            {
                **{name: (one["after"] or one["before"] or {}).get(name) for name in row.names},
                **{name: one[name] for name in ("_op", "_version", "_lane", "_position")},
                "_valid_from": one["_committed_at"],
            }
            for one in changes
        ]
        table = self.table("silver.orders_versions", schema, **{"catchment.kind": "versions"})
        table.append(pa.Table.from_pylist(events, schema))

    def silver(self, *rows: tuple[int, str], end: str = "") -> datetime:
        """Silver holds these rows from now on; when that was."""
        schema = silver_schema(ROW)
        made = [{"id": key, "status": status, "_version": place(key)} for key, status in rows]
        return self.replace(f"silver.orders{end}", pa.Table.from_pylist(made, schema))

    def replace(self, name: str, rows: pa.Table) -> datetime:
        """The table has these rows from now on; when that was."""
        self.table(name, rows.schema)
        table = LakeTable.load(self.catalog, tuple(name.split(".")))
        replace(self.catalog, table, rows)
        return datetime.fromtimestamp(table.metadata.last_updated_ms / 1000, UTC)

    def forget_bronze(self) -> None:
        with self.catalog.load_table("bronze.orders").transaction() as transaction:
            transaction.set_properties({"catchment.bronze-since": at(1).isoformat()})

    def rows(self, moment: datetime, view: str = "current.orders") -> list[tuple[Any, ...]]:
        with connect_lake(CONFIG, self.directory, as_of=moment) as lake:
            return lake.execute(f"SELECT id, status FROM {view} ORDER BY id").fetchall()

    def read_from(self, moment: datetime, view: str = "silver.orders") -> tuple[str, str]:
        with connect_lake(CONFIG, self.directory, as_of=moment, query=f"FROM {view}") as lake:
            found: tuple[str, str] = lake.execute(
                "SELECT read_from, detail FROM ops.as_of WHERE name = ?", [view]
            ).fetchall()[0]
            return found

    def refused(self, moment: datetime, view: str = "current.orders") -> str:
        with pytest.raises(duckdb.InvalidInputException) as refusal:
            self.rows(moment, view)
        return str(refusal.value)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


def test_bronze_is_replayed_up_to_the_moment(lake: Lake) -> None:
    c = lake.change
    lake.bronze(c("r", 1, 7, "new"), c("r", 1, 8, "new"), c("u", 5, 7, "paid"), c("d", 6, 8), c("c", 9, 9, "new"))
    lake.silver((7, "paid"), (9, "new"))
    assert lake.rows(at(5)) == [(7, "paid"), (8, "new")] == lake.rows(at(5), "silver.orders")
    assert lake.rows(at(6)) == [(7, "paid")]
    assert lake.rows(at(9) - timedelta(microseconds=1)) == [(7, "paid")]
    assert lake.rows(at(9)) == [(7, "paid"), (9, "new")]
    assert lake.read_from(at(5)) == ("bronze", "bronze replayed until 2026-11-20T10:05:00Z")
    with connect_lake(CONFIG, lake.directory, as_of=at(5)) as past:
        assert past.execute("SELECT count(*) FROM bronze.orders").fetchall() == [(3,)]
        silver = past.execute("SELECT * FROM silver.orders").to_arrow_table().schema
    with connect_lake(CONFIG, lake.directory) as now:
        assert now.execute("SELECT * FROM silver.orders").to_arrow_table().schema == silver


def test_nothing_is_known_of_a_table_before_it_was_first_read(lake: Lake) -> None:
    c = lake.change
    lake.bronze(c("r", 10, 7, "new"), c("u", 15, 7, "paid"))
    assert "nothing is known of bronze.orders before it was first read" in lake.refused(at(9))
    # Between the reading and the first change after it only other tables tell that it had been read.
    assert "nothing is known" in lake.refused(at(12))
    lake.bronze(c("c", 11, 1, "x"), name="users")
    assert lake.rows(at(12)) == [(7, "new")]
    assert "nothing is known" in lake.refused(at(10))
    assert lake.read_from(at(9), "current.orders")[0] == "nothing"
    with connect_lake(CONFIG, lake.directory, as_of=at(12), query="FROM current.orders") as past:
        assert past.execute("SELECT count(*) FROM current.orders").fetchall() == [(1,)]


def test_rows_that_were_only_read_count_from_when_they_had_come(lake: Lake) -> None:
    lake.bronze(lake.change("r", 10, 7, "new"))
    landed = datetime.fromtimestamp(lake.catalog.load_table("bronze.orders").metadata.last_updated_ms / 1000, UTC)
    assert lake.rows(landed) == [(7, "new")]
    assert "nothing is known" in lake.refused(landed - timedelta(milliseconds=1))


def test_a_table_that_was_being_read_is_not_shown_by_half(lake: Lake) -> None:
    c = lake.change
    # A crash in between: the rest was read at a later position.
    lake.bronze(c("r", 10, 7, "new"), c("c", 12, 9, "new"), c("r", 20, 8, "new"), c("c", 22, 10, "new"))
    assert "just being read" in lake.refused(at(15))
    assert lake.rows(at(22)) == [(7, "new"), (8, "new"), (9, "new"), (10, "new")]


def test_a_table_that_was_read_anew_is_shown_as_it_was_before_and_after(lake: Lake) -> None:
    c = lake.change
    lake.bronze(c("r", 1, 7, "new"), c("r", 1, 8, "new"), c("u", 5, 7, "paid"))
    lake.bronze(c("T", 19), c("r", 20, 7, "shipped"), c("u", 25, 7, "done"))
    assert lake.rows(at(6)) == [(7, "paid"), (8, "new")] == lake.rows(at(18))
    assert lake.rows(at(25)) == [(7, "done")]


def test_changes_that_were_lost_with_a_slot_are_not_passed_over(lake: Lake) -> None:
    c = lake.change
    lake.table("bronze.orders", envelope(ROW), **{"catchment.table": "public.orders"})
    lake.bronze(c("r", 1, 7, "new"), c("u", 5, 7, "paid"))
    lake.bronze(c("c", 8, 1, "x"), name="users")
    other = {"_lane": "slot@7/9/public.orders/chunk"}
    lake.bronze({**c("T", 19), **other}, {**c("r", 20, 7, "shipped"), **other})
    lake.bronze({**c("u", 25, 7, "done"), "_lane": "slot@7/9"})
    assert lake.rows(at(8)) == [(7, "paid")]
    assert "the changes after 2026-11-20T10:08:00Z were not captured" in lake.refused(at(9))
    assert lake.rows(at(25)) == [(7, "done")]


def test_a_table_without_a_snapshot_is_known_from_its_first_change(lake: Lake) -> None:
    lake.bronze(lake.change("c", 3, 7, "new"), lake.change("u", 5, 7, "paid"))
    assert lake.rows(at(4)) == [(7, "new")]
    assert "nothing is known" in lake.refused(at(2))


def test_without_all_of_bronze_history_is_read(lake: Lake) -> None:
    c = lake.change
    changes = [c("r", 1, 7, "new"), c("r", 1, 8, "new"), c("u", 5, 7, "paid"), c("d", 6, 8), c("c", 9, 9, "new")]
    lake.bronze(*changes)
    lake.versions(*changes)
    lake.silver((7, "paid"), (9, "new"))
    lake.forget_bronze()
    assert lake.rows(at(5)) == [(7, "paid"), (8, "new")] == lake.rows(at(5), "silver.orders")
    assert lake.rows(at(9)) == [(7, "paid"), (9, "new")]
    assert lake.read_from(at(5)) == ("history", "the versions in silver.orders_versions until 2026-11-20T10:05:00Z")
    assert "nothing is known" in lake.refused(at(0))
    with connect_lake(CONFIG, lake.directory, as_of=at(5)) as past:
        history = past.execute(
            "SELECT status, is_current FROM silver.orders_history WHERE id = 7 ORDER BY 1"
        ).fetchall()
    assert history == [("new", False), ("paid", True)]


def test_a_history_that_began_late_is_not_taken_for_the_whole(lake: Lake) -> None:
    c = lake.change
    lake.bronze(c("r", 1, 7, "new"))
    lake.silver((7, "new"), (8, "new"))
    lake.forget_bronze()
    lake.versions(c("u", 5, 7, "paid"))
    reason = lake.refused(at(6))
    assert "history began when there were rows already" in reason
    assert "no longer has the changes" in reason
    assert "the oldest kept snapshot of silver.orders" in reason


def test_a_history_of_some_columns_is_not_taken_for_rows(lake: Lake) -> None:
    lake.bronze(lake.change("r", 1, 7, "new"))
    lake.versions(lake.change("r", 1, 7, "new"), row=pa.struct([("id", pa.int64())]))
    moment = lake.silver((7, "new"))
    lake.forget_bronze()
    assert lake.read_from(moment)[0] == "snapshot"


def test_without_bronze_and_history_the_nearest_snapshot_is_read(lake: Lake) -> None:
    lake.bronze(lake.change("r", 1, 7, "new"))
    first = lake.silver((7, "new"))
    lake.silver((8, "odd"), end="_quarantine")
    second = lake.silver((7, "paid"))
    lake.forget_bronze()
    assert lake.rows(first, "silver.orders") == [(7, "new")]
    assert lake.rows(second, "silver.orders") == [(7, "paid"), (8, "odd")] == lake.rows(second)
    read_from, detail = lake.read_from(second + timedelta(hours=1))
    assert read_from == "snapshot"
    assert str(lake.catalog.load_table("silver.orders").metadata.current_snapshot_id) in detail
    assert "silver.orders has every row" in lake.refused(second, "silver.orders_quarantine")


def test_a_snapshot_is_brought_forward_by_what_bronze_still_has(lake: Lake) -> None:
    """Silver's snapshot is of now; bronze goes on for minutes that are still to come."""
    now = lake.silver((7, "new"), (8, "new"))
    lake.silver((9, "odd"), end="_quarantine")
    made = lake.silver((7, "new"), (8, "new"))
    later = [made + timedelta(minutes=n) for n in range(6)]

    def change(op: str, number: int, key: int | None = None, status: str | None = None) -> dict[str, Any]:
        # Above the versions of silver's rows, which are their keys.
        made_of = lake.change(op, 100 + number, key, status)
        return {**made_of, "_committed_at": None if op in "rT" else later[number]}

    # Of the changes that silver holds some are gone, such as the delete of a row that was read once.
    lake.bronze({**lake.change("r", 1, 6, "deleted since")}, lake.change("u", 3, 8, "new"))
    lake.bronze(change("u", 1, 7, "paid"), change("d", 2, 8), change("u", 3, 9, "mended"), change("c", 3, 10, "new"))
    lake.forget_bronze()
    assert lake.read_from(later[3])[0] == "snapshot"
    assert "and bronze from there until" in lake.read_from(later[3])[1]
    assert lake.rows(later[0]) == [(7, "new"), (8, "new"), (9, "odd")]
    assert lake.rows(later[2], "silver.orders") == [(7, "paid"), (9, "odd")]
    assert lake.rows(later[3]) == [(7, "paid"), (9, "mended"), (10, "new")]
    lake.bronze(change("t", 4), change("c", 5, 11, "new"))
    assert lake.rows(later[4]) == []
    assert lake.rows(later[5]) == [(11, "new")]
    assert now <= made


def test_gold_is_shown_at_its_nearest_snapshot(lake: Lake) -> None:
    first = lake.replace("gold.totals", pa.table({"id": [1], "status": ["first"]}))
    lake.replace("gold.totals", pa.table({"id": [1], "status": ["second"]}))
    assert lake.rows(first, "gold.totals") == [(1, "first")]
    assert lake.rows(first + timedelta(days=1), "gold.totals") == [(1, "second")]
    assert "the oldest kept snapshot of gold.totals is of" in lake.refused(first - timedelta(days=1), "gold.totals")


def test_one_table_is_shown_at_a_snapshot_and_the_others_as_they_are(lake: Lake) -> None:
    lake.bronze(lake.change("c", 1, 7, "new"))
    lake.silver((7, "new"))
    snapshot = lake.catalog.load_table("silver.orders").metadata.current_snapshot_id
    lake.silver((7, "paid"))
    with connect_lake(CONFIG, lake.directory, snapshot=snapshot) as past:
        assert past.execute("SELECT status FROM silver.orders").fetchall() == [("new",)]
        assert past.execute("SELECT count(*) FROM bronze.orders").fetchall() == [(1,)]
    with pytest.raises(ConfigError, match="No table has a snapshot 12"):
        connect_lake(CONFIG, lake.directory, snapshot=12)
    with pytest.raises(ConfigError, match="not both"):
        connect_lake(CONFIG, lake.directory, snapshot=snapshot, as_of=at(1))


def test_current_is_refused_once_bronze_let_changes_go(lake: Lake) -> None:
    lake.bronze(lake.change("c", 1, 7, "new"))
    lake.forget_bronze()
    with (
        connect_lake(CONFIG, lake.directory) as now,
        pytest.raises(duckdb.InvalidInputException, match=r"query silver\.orders"),
    ):
        now.execute("SELECT count(*) FROM current.orders").fetchall()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-20T10:00", START),
        ("2026-11-20 10:00:00.000001", START + timedelta(microseconds=1)),
        ("2026-11-20T11:00+01:00", START),
        ("2026-11-20T10:00Z", START),
        ("2026-11-20", datetime(2026, 11, 20, tzinfo=UTC)),
    ],
)
def test_a_moment_is_utc_unless_it_says_otherwise(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment


def test_python_may_give_the_moment_as_a_text_or_without_a_zone(lake: Lake) -> None:
    lake.bronze(lake.change("c", 1, 7, "new"), lake.change("u", 5, 7, "paid"))
    for moment in ("2026-11-20T10:04", at(4).replace(tzinfo=None), at(4)):
        with connect_lake(CONFIG, lake.directory, as_of=moment) as past:
            assert past.execute("SELECT status FROM current.orders").fetchall() == [("new",)]
    assert "nothing is known" in lake.read_from(at(0), "bronze.orders")[1]


def test_what_is_no_moment_is_refused() -> None:
    for text in ("yesterday", "10:00", "", "2026-13-01"):
        with pytest.raises(ConfigError, match="is no moment"):
            parse_moment(text)


def test_any_course_of_changes_is_shown_as_it_was_at_each_moment(lake: Lake) -> None:
    """By bronze and by history alike, also with moments that changes share."""
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    alive: dict[int, str] = dict.fromkeys(range(5), "read")
    changes = [lake.change("r", 1, key, "read") for key in alive]
    states: dict[int, dict[int, str]] = {}
    for number in range(2, 60):
        key, status = chance.randrange(10), chance.choice("abc")
        if chance.random() < 0.04:
            changes.append(lake.change("t", number))
            alive = {}
        elif key in alive and chance.random() < 0.4:
            changes.append(lake.change("d", number, key, None))
            alive.pop(key)
        else:
            changes.append(lake.change("u" if key in alive else "c", number, key, status))
            alive = {**alive, key: status}
        states[number] = dict(alive)
    lake.silver(*alive.items())
    chance.shuffle(changes)
    lake.bronze(*changes)
    lake.versions(*changes, *chance.sample(changes, 10))
    moments = chance.sample(sorted(states), 4)
    for read_from in ("bronze", "history"):
        for number in moments:
            assert lake.read_from(at(number))[0] == read_from
            assert lake.rows(at(number), "silver.orders") == sorted(states[number].items())
        lake.forget_bronze()
