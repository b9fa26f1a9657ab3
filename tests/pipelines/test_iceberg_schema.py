"""A table's bronze follows its schema: nothing stalls, no value changes, old rows stay what they were."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.types import DecimalType, LongType, StringType, StructType

from catchment.change import Operation
from catchment.component import BuildContext
from catchment.errors import SinkRefused
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.reading.connection import connect_lake
from catchment.progress import Progress
from catchment.schema import Column, TableId, TableSchema
from catchment.sinks.base import Sink
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.testing.changes import Change, make_batch

LANE = "slot"
ID = Column("id", pa.int64(), "bigint", key=True)
ITEMS = TableId("public", "items")


def version(number: int, *columns: Column) -> TableSchema:
    return TableSchema(ITEMS, (ID, *columns), version=number)


class Lake:
    """Writes one row after the other under changing schemas, and reads them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.written = 0
        self.sink = self._open()

    def _open(self) -> Sink:
        sink = IcebergSinkConfig().build(BuildContext("evolving", self.directory, LakehouseConfig()))
        sink.open()
        return sink

    def reopen(self) -> None:
        self.sink.close()
        self.sink = self._open()

    def insert(self, schema: TableSchema, *, flush: bool = True, **values: Any) -> None:
        self.written += 1
        at = self.written.to_bytes(8, "big")
        row = {"id": self.written, **values}
        change = Change(Operation.INSERT, before=row, after=row, position=at, version=at)
        self.sink.schema_change(schema)
        self.sink.write(make_batch(schema, LANE, [change]))
        self.sink.advance(Progress({LANE: at}))
        if flush:
            self.sink.flush()

    def table(self) -> Any:
        catalog = load_catalog(LakehouseConfig().catalog, self.directory)
        try:
            return catalog.load_table(("bronze", "items"))
        finally:
            catalog.close()

    def rows(self) -> list[dict[str, Any]]:
        rows = sorted(self.table().scan().to_arrow().to_pylist(), key=lambda row: str(row["after"]["id"]))
        assert all(row["before"] == row["after"] for row in rows)
        return [row["after"] for row in rows]

    def column_type(self, name: str) -> Any:
        after = self.table().schema().find_field("after").field_type
        assert isinstance(after, StructType)
        return next(field.field_type for field in after.fields if field.name == name)


@pytest.fixture
def lake(tmp_path: Path) -> Any:
    one = Lake(tmp_path)
    yield one
    one.sink.close()


@pytest.mark.parametrize("flush", [True, False])
def test_columns_come_and_go(lake: Lake, flush: bool) -> None:
    name, note = Column("name", pa.string()), Column("note", pa.string())
    lake.insert(version(1, name), flush=flush, name="a")
    lake.insert(version(2, name, note), flush=flush, name="b", note="n")
    lake.insert(version(3, note), flush=flush, note="o")
    lake.insert(version(4, note, name), name="d", note="p")
    assert lake.rows() == [
        {"id": 1, "name": "a", "note": None},
        {"id": 2, "name": "b", "note": "n"},
        {"id": 3, "name": None, "note": "o"},
        {"id": 4, "name": "d", "note": "p"},
    ]


def test_types_widen_in_place_and_narrow_values_still_fit(lake: Lake) -> None:
    small, big = Column("n", pa.int32()), Column("n", pa.int64())
    short, long = Column("d", pa.decimal128(5, 2)), Column("d", pa.decimal128(20, 2))
    lake.insert(version(1, small, short), n=1, d=Decimal("1.00"))
    lake.insert(version(2, big, long), n=2**40, d=Decimal("123456789012.34"))
    lake.reopen()
    lake.insert(version(3, small, short), n=3, d=Decimal("3.00"))
    assert lake.column_type("n") == LongType()
    assert lake.column_type("d") == DecimalType(20, 2)
    assert [(row["n"], row["d"]) for row in lake.rows()] == [
        (1, Decimal("1.00")),
        (2**40, Decimal("123456789012.34")),
        (3, Decimal("3.00")),
    ]


@pytest.mark.parametrize("reopen", [True, False])
def test_an_incompatible_type_gets_a_column_of_its_own(lake: Lake, reopen: bool) -> None:
    number, text = Column("code", pa.int32()), Column("code", pa.string())
    lake.insert(version(1, number), code=7)
    lake.insert(version(2, text), code="seven")
    if reopen:
        lake.reopen()
    lake.insert(version(2, text), code="eight")
    lake.insert(version(3, number), code=9)
    assert lake.column_type("code__v00002") == StringType()
    assert lake.rows() == [
        {"id": 1, "code": 7, "code__v00002": None},
        {"id": 2, "code": None, "code__v00002": "seven"},
        {"id": 3, "code": None, "code__v00002": "eight"},
        {"id": 4, "code": 9, "code__v00002": None},
    ]


def test_a_version_column_never_takes_the_name_of_a_real_one(lake: Lake) -> None:
    number, text, real = Column("code", pa.int32()), Column("code", pa.string()), Column("code__v00002", pa.string())
    lake.insert(version(1, number, real), code=1, code__v00002="real")
    lake.insert(version(2, text, real), code="two", code__v00002="still real")
    assert lake.rows()[1] == {"id": 2, "code": None, "code__v00002": "still real", "code__v00002_2": "two"}


def test_schema_versions_and_what_the_table_says_of_its_source(lake: Lake, tmp_path: Path) -> None:
    lake.insert(version(1, Column("name", pa.string(), "text")), name="a")
    lake.insert(version(2, Column("name", pa.string(), "text"), Column("n", pa.int32(), "integer")), name="b", n=1)
    properties = lake.table().properties
    assert properties["catchment.table"] == "public.items"
    assert properties["catchment.key"] == '["id"]'
    assert properties["catchment.schema-version"] == "2"
    assert Progress.from_json(properties["catchment.progress"]) == Progress({LANE: (2).to_bytes(8, "big")})
    ops = OpsStore.open(LakehouseConfig(), tmp_path)
    stored = ops.tables()["schema_versions"].to_pylist()
    ops.close()
    assert [(row["table"], row["version"]) for row in stored] == [("public.items", 1), ("public.items", 2)]
    assert '"source_type": "integer"' in stored[1]["schema"]


def test_columns_of_the_source_stand_beside_the_envelope(lake: Lake) -> None:
    schema = version(1, Column("name", pa.string()))
    lake.insert(schema, name="a")
    at = (2).to_bytes(8, "big")
    row = {"id": 2, "name": "b"}
    batch = make_batch(schema, LANE, [Change(Operation.INSERT, before=row, after=row, position=at, version=at)])
    wider = batch.records.append_column("_lsn", pa.array([77], pa.int64()))
    lake.sink.write(replace(batch, records=wider))
    lake.sink.advance(Progress({LANE: at}))
    lake.sink.flush()
    assert sorted(lake.table().scan().to_arrow()["_lsn"].to_pylist(), key=str) == [77, None]
    assert [r["name"] for r in lake.rows()] == ["a", "b"]


def test_files_of_one_schema_are_alike_whatever_the_batches_had(lake: Lake) -> None:
    """Readers that go by the first file's columns, and by names, are right as well."""
    name, note, small, big = (
        Column("name", pa.string()),
        Column("note", pa.string()),
        Column("n", pa.int32()),
        Column("n", pa.int64()),
    )
    lake.insert(version(1, name, note, big), name="a", note="b", n=1)
    lake.insert(version(2, note, small), note="c", n=2)
    lake.insert(version(3, small, note, name), name="d", n=3)
    table = lake.table()
    assert len(table.metadata.schemas) == 1
    files = [task.file.file_path.removeprefix("file://") for task in table.scan().plan_files()]
    assert len({str(pq.read_schema(file)) for file in files}) == 1
    found = duckdb.sql(f"SELECT after.id, after.name, after.note, after.n FROM read_parquet({files}) ORDER BY 1")
    assert found.fetchall() == [(1, "a", "b", 1), (2, None, "c", 2), (3, "d", None, 3)]


def test_the_views_show_every_version_of_a_table(lake: Lake, tmp_path: Path) -> None:
    lake.insert(version(1, Column("name", pa.string())), name="a")
    lake.insert(version(2, Column("name", pa.string()), Column("n", pa.int32())), name="b", n=5)
    lake.insert(version(3, Column("n", pa.int64())), n=2**40)
    with connect_lake(LakehouseConfig(), tmp_path) as connection:
        found = connection.execute("SELECT after.id, after.name, after.n FROM bronze.items ORDER BY 1").fetchall()
    assert found == [(1, "a", None), (2, "b", 5), (3, None, 2**40)]


def test_two_tables_of_one_bronze_name_are_refused(lake: Lake) -> None:
    lake.insert(version(1))
    lake.insert(TableSchema(TableId("sales", "x"), (ID,)))
    with pytest.raises(SinkRefused, match=r"bronze\.sales_x"):
        lake.sink.schema_change(TableSchema(TableId("public", "sales_x"), (ID,)))


def test_a_table_of_another_pipeline_is_refused(lake: Lake, tmp_path: Path) -> None:
    lake.insert(version(1))
    other = IcebergSinkConfig().build(BuildContext("other", tmp_path, LakehouseConfig()))
    other.open()
    with pytest.raises(SinkRefused, match="pipeline evolving"):
        other.schema_change(version(1))
    other.close()
