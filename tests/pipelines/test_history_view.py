"""`silver.<table>_history`: what was valid when, out of versions that lie there in any order, some of them twice."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.commit import open_or_create
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.reading.connection import connect_lake
from catchment.lakehouse.silver.versions import versions_schema
from seeds import first_seed

CONFIG = LakehouseConfig()
ROW = pa.schema([pa.field("id", pa.int64()), pa.field("status", pa.string())])
START = datetime(2026, 11, 20, 10, tzinfo=UTC)


def at(version: int) -> datetime:
    """Change n is committed n minutes after ten."""
    return START + timedelta(minutes=version)


def version(
    op: str, place: int, key: Any = None, status: str | None = None, *, timed: bool = True, **columns: Any
) -> dict[str, Any]:
    return {
        "id": key,
        "status": status,
        "_op": op,
        "_version": place.to_bytes(16, "big"),
        "_lane": "slot",
        "_position": place.to_bytes(16, "big"),
        "_valid_from": at(place) if timed and op != "r" else None,
        **columns,
    }


class Versions:
    """A versions table, filled by hand."""

    def __init__(self, directory: Path, row: pa.Schema = ROW, key: Sequence[str] = ("id",)) -> None:
        self.directory = directory
        self.schema = versions_schema(row)
        self.catalog = load_catalog(CONFIG.catalog, directory)
        properties = {"catchment.key": json.dumps(list(key)), "catchment.kind": "versions"}
        open_or_create(self.catalog, ("silver", "orders_versions"), self.schema, properties)

    def add(self, *versions: dict[str, Any]) -> None:
        table = self.catalog.load_table(("silver", "orders_versions"))
        table.append(pa.Table.from_pylist(list(versions), self.schema))

    def connect(self) -> duckdb.DuckDBPyConnection:
        return connect_lake(CONFIG, self.directory)

    def history(self, key: Any = None) -> list[tuple[Any, ...]]:
        """(status, from, to, current) of one key, or with the key of all; times as the numbers of changes."""
        with self.connect() as lake:
            found = lake.execute(
                "SELECT id, status, valid_from, valid_to, is_current FROM silver.orders_history ORDER BY id, _version"
            ).to_arrow_table()
        rows = [
            (one["id"], one["status"], _number(one["valid_from"]), _number(one["valid_to"]), one["is_current"])
            for one in found.to_pylist()
        ]
        return [row[1:] for row in rows if row[0] == key] if key is not None else rows


def _number(moment: datetime | None) -> int | None:
    return None if moment is None else round((moment - START).total_seconds() / 60)


def test_each_version_is_valid_until_the_next(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.add(version("c", 1, 7, "new"), version("u", 5, 7, "paid"), version("u", 9, 7, "shipped"))
    assert versions.history(7) == [("new", 1, 5, False), ("paid", 5, 9, False), ("shipped", 9, None, True)]


def test_versions_may_lie_there_in_any_order_and_twice(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.add(version("u", 9, 7, "shipped"), version("u", 5, 7, "paid"))
    versions.add(version("u", 5, 7, "paid"), version("r", 1, 7, "new"))
    assert versions.history(7) == [("new", None, 5, False), ("paid", 5, 9, False), ("shipped", 9, None, True)]


def test_equal_neighbours_are_one(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.add(version("c", 1, 7, "new"), version("u", 2, 7, "new"), version("u", 3, 7, "paid"))
    versions.add(version("u", 4, 7, None), version("u", 5, 7, None), version("u", 6, 7, "paid"))
    assert versions.history(7) == [
        ("new", 1, 3, False),
        ("paid", 3, 4, False),
        (None, 4, 6, False),
        ("paid", 6, None, True),
    ]


def test_a_delete_and_an_insert_leave_a_gap(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.add(version("c", 1, 7, "new"), version("d", 3, 7), version("c", 8, 7, "new"), version("d", 9, 7))
    assert versions.history(7) == [("new", 1, 3, False), ("new", 8, 9, False)]


def test_a_truncate_ends_every_row(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.add(version("c", 1, 7, "new"), version("c", 2, 8, "new"), version("t", 5), version("c", 6, 7, "new"))
    versions.add(version("t", 9), version("u", 3, 8, "new"))
    assert versions.history(7) == [("new", 1, 5, False), ("new", 6, 9, False)]
    assert versions.history(8) == [("new", 2, 5, False)]


def test_a_new_snapshot_continues_what_it_finds_unchanged(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.add(version("c", 1, 7, "new"), version("c", 2, 8, "new"), version("u", 3, 9, "new"))
    versions.add(version("t", 19, timed=False), version("r", 20, 7, "new"), version("r", 20, 8, "paid"))
    assert versions.history(7) == [("new", 1, None, True)]
    # What happened to the others happened at some time after the last change that is known.
    assert versions.history(8) == [("new", 2, 3, False), ("paid", 3, None, True)]
    assert versions.history(9) == [("new", 3, 3, False)]


def test_a_value_that_its_type_cannot_hold_tells_versions_apart(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    infinite: dict[str, Any] = {"_unrepresentable": [("status", "infinity")]}
    versions.add(version("c", 1, 7, None), version("u", 2, 7, None, **infinite), version("u", 3, 7, None, **infinite))
    assert versions.history(7) == [(None, 1, 2, False), (None, 2, None, True)]


def test_a_key_that_its_type_cannot_hold_has_its_own_history(tmp_path: Path) -> None:
    versions = Versions(tmp_path, pa.schema([pa.field("id", pa.date32()), pa.field("status", pa.string())]))
    for text, number in (("infinity", 1), ("-infinity", 2)):
        versions.add(version("c", number, None, text, _unrepresentable=[("id", text)]))
    assert [row[1:] for row in versions.history()] == [("infinity", 1, None, True), ("-infinity", 2, None, True)]


def test_a_key_whose_type_changed_keeps_its_history(tmp_path: Path) -> None:
    row = pa.schema([pa.field("id", pa.int64()), pa.field("id__v90009", pa.string()), pa.field("status", pa.string())])
    versions = Versions(tmp_path, row)
    versions.add(version("c", 1, 7, "new"), version("u", 5, None, "paid", id__v90009="7"))
    assert sorted(row[1:] for row in versions.history()) == [("new", 1, 5, False), ("paid", 5, None, True)]


def test_columns_may_have_the_names_that_the_history_has(tmp_path: Path) -> None:
    names = ("valid_from", "is_current", "version", "number", "at", "cut", "began", "key_0", "value_0", "until")
    versions = Versions(tmp_path, pa.schema([*ROW, *(pa.field(name, pa.string()) for name in names)]))
    theirs: dict[str, Any] = {name: name.upper() for name in names}
    versions.add(version("c", 1, 7, "new", **theirs), version("t", 3), version("r", 9, 7, "new", **theirs))
    with versions.connect() as lake:
        found = lake.execute("SELECT * FROM silver.orders_history ORDER BY _version").to_arrow_table().to_pylist()
    assert [{name: one[name] for name in names} for one in found] == [theirs, theirs]
    assert [(one["_valid_from"], one["valid_to"], one["_is_current"]) for one in found] == [
        (at(1), at(3), False),
        (at(3), None, True),
    ]


def test_a_composite_key_and_an_empty_table(tmp_path: Path) -> None:
    versions = Versions(tmp_path, key=("id", "status"))
    assert versions.history() == []
    versions.add(version("c", 1, 7, "a"), version("c", 2, 7, "b"), version("d", 3, 7, "a"))
    assert versions.history(7) == [("a", 1, 3, False), ("b", 2, None, True)]


def test_any_course_of_events_gives_the_history_that_a_simple_model_gives(tmp_path: Path) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    events: list[dict[str, Any]] = []
    alive: dict[int, str] = {}
    model: dict[int, list[list[Any]]] = {}

    def end(key: int, number: int) -> None:
        model[key][-1][2:] = [number, False]
        del alive[key]

    for number in range(1, 400):
        key, status = chance.randrange(12), chance.choice(["new", "paid"])
        step = chance.random()
        if step < 0.02:
            events.append(version("t", number))
            for one in list(alive):
                end(one, number)
        elif key not in alive or step < 0.75:
            events.append(version("u" if key in alive else "c", number, key, status))
            if alive.get(key) != status:
                if key in alive:
                    end(key, number)
                model.setdefault(key, []).append([status, number, None, True])
                alive[key] = status
        else:
            events.append(version("d", number, key))
            end(key, number)
    events += chance.sample(events, 60)
    chance.shuffle(events)
    versions = Versions(tmp_path)
    versions.add(*events[:200])
    versions.add(*events[200:])
    assert versions.history() == [(key, *span) for key in sorted(model) for span in model[key]]
