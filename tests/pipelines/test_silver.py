"""Silver is what the source's table is, whatever overtook what, and whenever a process began anew."""

from __future__ import annotations

import datetime
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog

from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.maintenance.keyed_compaction import rewrite_files
from catchment.lakehouse.maintenance.plan import FileState
from catchment.lakehouse.properties import BRONZE_SINCE
from catchment.lakehouse.reading.connection import connect_lake
from catchment.lakehouse.silver import table as silver_module
from catchment.lakehouse.table import Change
from catchment.progress import Progress
from catchment.schema import Column, TableSchema
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from pipelines.overtaking import SCHEMA, SIMPLE, Overtaking, write
from seeds import first_seed


def open_sink(directory: Path, lakehouse: LakehouseConfig | None = None) -> tuple[IcebergSink, Progress]:
    sink = IcebergSink(IcebergSinkConfig(), lakehouse or LakehouseConfig(), "test", directory)
    return sink, sink.open() or Progress()


def rows(catalog: Catalog, schema: TableSchema, table: str = "items") -> list[dict[str, Any]]:
    names = [column.name for column in schema.columns]
    found = catalog.load_table(("silver", table)).scan().to_arrow().to_pylist()
    for row in found:
        born = row["born"]
        row["born"] = (born - datetime.date(1970, 1, 1)).days if born is not None else None
        row["_unrepresentable"] = dict(row["_unrepresentable"]) if row["_unrepresentable"] else None
    kept = [{name: row[name] for name in (*names, "_unrepresentable")} for row in found]
    return sorted(kept, key=lambda row: str([row[name] for name in schema.key]))


def run(source: Overtaking, directory: Path, actions: int, lakehouse: LakehouseConfig | None = None) -> None:
    """Changes and deliveries, mixed; flushes now and then; the process begins anew now and then."""
    sink, progress = open_sink(directory, lakehouse)
    try:
        for _ in range(actions):
            for _ in range(source.chance.randint(1, 20)):
                source.act()
            for batch, reached in source.deliver(progress):
                write(sink, batch, reached)
                progress = reached
                if source.chance.random() < 0.3:
                    break
            if source.chance.random() < 0.4:
                sink.flush()
            if source.chance.random() < 0.3:
                compact(sink, source.chance)
            if source.chance.random() < 0.2:
                sink.flush()
                sink.close()
                sink, progress = open_sink(directory, lakehouse)
        source.finish()
        for batch, reached in source.deliver(progress):
            write(sink, batch, reached)
            progress = reached
        sink.flush()
    finally:
        sink.close()


def compact(sink: IcebergSink, chance: random.Random) -> None:
    """Write some of the committed files anew, while changes wait that are not committed."""
    assert sink._writer is not None and sink._layer is not None
    for silver in sink._layer.opened():
        for keyed in silver.tables:
            files = [FileState(one.path, one.bytes, one.rows) for one in keyed.files()]
            chosen = chance.sample(files, chance.randint(0, len(files)))
            if chosen:
                rewrite_files(sink._writer, keyed, chosen, 1 << 30, lambda: None)


@pytest.mark.parametrize("full", [False, True], ids=["default", "full"])
@pytest.mark.parametrize("schema", [SCHEMA, SIMPLE], ids=["composite", "integer"])
@pytest.mark.parametrize("segment", [1, 7, 65536])
def test_silver_is_the_table_however_snapshot_and_stream_overtake_each_other(
    tmp_path: Path, schema: TableSchema, segment: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silver_module, "SEGMENT_ROWS", segment)
    first = first_seed()
    for seed in range(first, first + int(os.environ.get("CATCHMENT_ROUNDS", "4"))):
        print(f"replay with CATCHMENT_SEED={seed}")
        directory = tmp_path / str(seed)
        directory.mkdir()
        source = Overtaking(seed, schema, full=full, chunks=seed % 4)
        run(source, directory, actions=12)
        catalog = load_catalog(LakehouseConfig().catalog, directory)
        try:
            assert rows(catalog, schema) == source.expected(), f"seed {seed}"
        finally:
            catalog.close()


RULES = """
tables:
  items:
    - {type: range, name: enough, column: amount, min: 2, severity: quarantine}
    - {type: range, name: modest, column: amount, max: 6}
"""


@pytest.mark.parametrize("chunks", [0, 3])
def test_a_row_that_breaks_a_quarantine_rule_is_kept_aside_until_a_change_mends_it(tmp_path: Path, chunks: int) -> None:
    (tmp_path / "quality.yaml").write_text(RULES)
    first = first_seed()
    lakehouse = LakehouseConfig(quality=tmp_path / "quality.yaml")
    aside = 0
    for seed in range(first, first + 20):
        if seed >= first + 3 and aside:
            break
        print(f"replay with CATCHMENT_SEED={seed}")
        directory = tmp_path / str(seed)
        directory.mkdir()
        source = Overtaking(seed, chunks=chunks)
        run(source, directory, actions=12, lakehouse=lakehouse)
        aside += _expect_judged(source, load_catalog(lakehouse.catalog, directory))
    assert aside, "nothing was kept aside: the test says nothing"


def _expect_judged(source: Overtaking, catalog: Catalog) -> int:
    """Rows stand where their amounts say; how many are kept aside."""
    try:
        good, bad = rows(catalog, SCHEMA), rows(catalog, SCHEMA, "items_quarantine")
        assert good == [row for row in source.expected() if row["amount"] >= 2]  # type: ignore[operator]
        assert bad == [row for row in source.expected() if row["amount"] < 2]  # type: ignore[operator]
        flags = catalog.load_table(("silver", "items")).scan().to_arrow().select(["amount", "_quality"]).to_pylist()
        assert all((row["_quality"] == ["modest"]) == (row["amount"] > 6) for row in flags)
        return len(bad)
    finally:
        catalog.close()


@pytest.mark.parametrize("history", ["items", "items.amount"])
def test_history_has_every_version_from_when_to_when(tmp_path: Path, history: str) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    source = Overtaking(seed, chunks=0)
    lakehouse = LakehouseConfig(history=[history])
    run(source, tmp_path, actions=15, lakehouse=lakehouse)
    columns = ["amount", "note", "born"] if history == "items" else ["amount"]
    with connect_lake(lakehouse, tmp_path) as lake:
        listed = ", ".join(f"date_diff('day', DATE '1970-01-01', {c})" if c == "born" else c for c in columns)
        found = lake.execute(
            f"SELECT id, part, {listed}, epoch(valid_from)::int, epoch(valid_to)::int, is_current"
            " FROM silver.items_history ORDER BY valid_from, id, part"
        ).fetchall()
    assert sorted(found, key=str) == sorted(_spans(source, columns), key=str)


@pytest.mark.parametrize("cut", [False, True], ids=["whole bronze", "cut bronze"])
def test_history_that_is_switched_on_later_begins_with_what_is_known(tmp_path: Path, cut: bool) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    source = Overtaking(seed, chunks=0)
    run(source, tmp_path, actions=8)
    known = source.expected()
    if cut:
        sink, _ = open_sink(tmp_path)
        assert sink._writer is not None
        bronze = sink._writer.existing(("bronze", "items"))
        assert bronze is not None
        sink._writer.commit([bronze.draft(Change(properties={BRONZE_SINCE: "2026-01-01T00:00:00+00:00"}))])
        sink.close()
    lakehouse = LakehouseConfig(history=["items"])
    run(source, tmp_path, actions=8, lakehouse=lakehouse)
    with connect_lake(lakehouse, tmp_path) as lake:
        found = lake.execute(
            "SELECT id, part, amount, note, date_diff('day', DATE '1970-01-01', born), epoch(valid_from)::int,"
            " epoch(valid_to)::int, is_current FROM silver.items_history"
        ).fetchall()
    spans = _spans(source, ["amount", "note", "born"])
    if cut:
        first = {(row["id"], row["part"]) for row in known}
        assert {row[:2] for row in found} >= first
        # What is known of a row's beginning is its last change, even one that left its values as they were.
        whole = {(*span[:5], *span[6:]): span[5] for span in spans}
        assert all(whole[(*row[:5], *row[6:])] <= row[5] for row in found)
        assert {row[:5] for row in found if row[-1]} == {row[:5] for row in spans if row[-1]}
    else:
        assert sorted(found, key=str) == sorted(spans, key=str)


def _spans(source: Overtaking, columns: list[str]) -> list[tuple[Any, ...]]:
    """Each version's key, values, beginning and end in seconds: the source's own record of what it did."""
    spans: list[tuple[Any, ...]] = []
    alive: dict[tuple[Any, ...], tuple[int, dict[str, Any]]] = {}

    def end(key: tuple[Any, ...], at: int) -> None:
        since, row = alive.pop(key)
        spans.append((*key, *(row[c] for c in columns), since, at, False))

    for at, left, key, row in source.journal:
        for one in [one for one in alive if left is None or one in left]:
            if row is None or one != key or not _same(alive[one][1], row, columns):
                end(one, at)
        if row is not None and key is not None and key not in alive:
            alive[key] = (at, row)
    for key, (since, row) in alive.items():
        spans.append((*key, *(row[c] for c in columns), since, None, True))
    return spans


def _same(one: dict[str, Any], other: dict[str, Any], columns: list[str]) -> bool:
    return all(one[c] == other[c] for c in columns) and ("born" not in columns or one["_text"] == other["_text"])


def test_a_column_that_has_a_name_of_silvers_ends_silver_and_not_capture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink, progress = open_sink(tmp_path)
    wide = TableSchema(SIMPLE.table, (*SIMPLE.columns, Column("_Quality", pa.string(), "text")))
    sources = [Overtaking(1, SIMPLE, chunks=0), Overtaking(2, wide, chunks=0)]
    count = sum(len(source.stream) for source in sources)
    _later(sources[1])
    for source in sources:
        sink.schema_change(source.schema)
        for batch, reached in source.deliver(progress):
            write(sink, batch, reached)
            progress = reached
    sink.flush()
    sink.close()
    catalog = load_catalog(LakehouseConfig().catalog, tmp_path)
    assert catalog.load_table(("bronze", "items")).scan().to_arrow().num_rows == count
    assert "There is no silver.items: its source has a column _quality" in caplog.text
    sink, _ = open_sink(tmp_path)
    sink.close()
    catalog.close()


def _later(source: Overtaking) -> None:
    """The stream goes on where another one ended."""
    for row in source.stream:
        for name in ("_position", "_version"):
            position = row[name]
            assert isinstance(position, bytes)
            row[name] = (1000 + int.from_bytes(position[:8], "big")).to_bytes(8, "big") + bytes(8)


def test_a_quarantine_that_is_made_after_the_table_grew_takes_its_rows(tmp_path: Path) -> None:
    columns = SCHEMA.columns
    narrow = TableSchema(SCHEMA.table, (*columns[:2], *columns[3:]))
    sink, progress = open_sink(tmp_path)
    early = Overtaking(1, narrow, chunks=0)
    for batch, reached in early.deliver(progress):
        write(sink, batch, reached)
        progress = reached
    sink.flush()
    sink.close()
    (tmp_path / "quality.yaml").write_text(RULES)
    source = Overtaking(2, chunks=0)
    _later(source)
    lakehouse = LakehouseConfig(quality=tmp_path / "quality.yaml")
    sink, progress = open_sink(tmp_path, lakehouse)
    for batch, reached in source.deliver(progress):
        write(sink, batch, reached)
        progress = reached
    sink.flush()
    sink.close()
    catalog = load_catalog(lakehouse.catalog, tmp_path)
    aside = rows(catalog, SCHEMA, "items_quarantine")
    assert aside == [row for row in source.expected() if row["amount"] < 2]  # type: ignore[operator]
    assert {row["id"] for row in aside} & {row["id"] for row in early.expected()}, "no key was in silver before"
    both = {(r["id"], r["part"]) for r in aside} & {(r["id"], r["part"]) for r in rows(catalog, SCHEMA)}
    assert not both, "a key is in silver and in its quarantine"
    catalog.close()


def test_rows_that_left_with_their_file_are_not_found_after_a_restart(tmp_path: Path) -> None:
    """The places of a file that left must not be given to another one while the saved index still names them."""
    source = Overtaking(1, SIMPLE, chunks=0, keys=0)
    progress = Progress()
    sink, _ = open_sink(tmp_path)

    def deliver(*changes: tuple[str, int]) -> None:
        nonlocal progress
        for op, number in changes:
            row = {"id": number, "amount": number, "note": "", "born": 0, "_text": None}
            source._emit(op, row if op == "d" else None, None if op == "d" else row)
        for batch, reached in source.deliver(progress):
            write(sink, batch, reached)
            progress = reached
        sink.flush()

    deliver(*(("c", n) for n in range(10)))
    deliver(*(("c", n) for n in range(10, 20)))
    deliver(*(("d", n) for n in range(10, 20)))
    assert sink._writer is not None and sink._layer is not None
    keyed = sink._layer.opened()[0].main
    dead = [FileState(one.path, one.bytes, one.rows) for one in keyed.files() if keyed.dead_rows(one) == one.rows]
    assert dead and rewrite_files(sink._writer, keyed, dead, 1 << 30, lambda: None) is not None
    sink.close()
    sink, _ = open_sink(tmp_path)
    deliver(*(("c", n) for n in range(20, 30)))
    deliver(*(("c", n) for n in range(10, 20)))
    sink.close()
    catalog = load_catalog(LakehouseConfig().catalog, tmp_path)
    assert sorted(row["id"] for row in rows(catalog, SIMPLE)) == list(range(30))
    catalog.close()
