"""What time makes due: old changes leave bronze once silver has them, old snapshots leave tables at rest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import LakehouseConfig, MaintenanceConfig
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.reading.connection import connect_lake
from catchment.lakehouse.table import LakeTable
from catchment.lakehouse.writer import LakeWriter
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from pipelines import iceberg_writer as writer

SILVER, BRONZE = ("silver", "both"), ("bronze", "both")
DAYS = 30.0
TRANSACTIONS = 4


def lakehouse(**options: Any) -> LakehouseConfig:
    maintenance = MaintenanceConfig(enabled=False, bronze_retention_days=DAYS, snapshot_hours=0)
    return LakehouseConfig(maintenance=maintenance, **options)


def fill(directory: Path, config: LakehouseConfig, transactions: int = TRANSACTIONS) -> None:
    """Changes that were committed in 2023."""
    sink = IcebergSink(IcebergSinkConfig(), config, writer.PIPELINE, directory)
    sink.open()
    for n in range(transactions):
        sink.write(writer.changes(writer.BOTH, n, 1))
        sink.advance(writer.boundary(n))
        sink.flush()
    sink.close()


@contextmanager
def lake(directory: Path, config: LakehouseConfig) -> Iterator[LakeWriter]:
    opened = LakeWriter.open(config, writer.PIPELINE, directory)
    try:
        yield opened
    finally:
        opened.close()


def maintain(directory: Path, config: LakehouseConfig) -> list[Work]:
    with lake(directory, config) as opened:
        one = Maintainer(opened, config.maintenance, lambda _: None)
        done = []
        while (work := one.step(lambda: None)) is not None:
            done.append(work)
        return done


def bronze(opened: LakeWriter) -> LakeTable:
    found = opened.existing(BRONZE)
    assert found is not None
    return found


def count(directory: Path, config: LakehouseConfig, table: str) -> int:
    connection = connect_lake(config, directory)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])
    finally:
        connection.close()


def test_old_changes_leave_bronze_and_silver_keeps_its_rows(tmp_path: Path) -> None:
    config = lakehouse()
    fill(tmp_path, config)
    rows = count(tmp_path, config, "silver.both")
    done = maintain(tmp_path, config)
    assert [(one.kind, one.table, one.files_before) for one in done] == [(Kind.RETENTION, "bronze.both", TRANSACTIONS)]
    assert count(tmp_path, config, "bronze.both") == 0
    assert count(tmp_path, config, "silver.both") == rows == TRANSACTIONS
    with lake(tmp_path, config) as opened:
        table = bronze(opened)
        assert table.metadata.properties["catchment.bronze-since"] == "2023-11-14T22:13:20.000003+00:00"
        assert table.metadata.properties["catchment.progress"]
        snapshot = table.metadata.current_snapshot()
        assert snapshot is not None
        assert snapshot.summary is not None
        assert snapshot.summary.operation.value == "delete"
    with pytest.raises(duckdb.Error, match="no longer has the changes"):
        count(tmp_path, config, "current.both")
    assert maintain(tmp_path, config) == []


def test_young_changes_stay(tmp_path: Path) -> None:
    config = LakehouseConfig(maintenance=MaintenanceConfig(enabled=False, bronze_retention_days=100_000.0))
    fill(tmp_path, config)
    assert maintain(tmp_path, config) == []
    assert count(tmp_path, config, "bronze.both") == TRANSACTIONS


def test_what_silver_has_not_merged_stays(tmp_path: Path) -> None:
    """A pinned table (rolled back) will be replayed from bronze; a table that silver is switched off for as well."""
    config = lakehouse()
    fill(tmp_path, config)
    catalog = load_catalog(config.catalog, tmp_path)
    with catalog.load_table(SILVER).transaction() as change:
        change.set_properties({"catchment.pinned": "by a test"})
    assert maintain(tmp_path, config) == []
    with catalog.load_table(SILVER).transaction() as change:
        change.remove_properties("catchment.pinned")
        change.set_properties({"catchment.progress": writer.boundary(TRANSACTIONS - 2).to_json()})
    catalog.close()
    assert maintain(tmp_path, config) == []
    without = lakehouse(silver=False)
    other = tmp_path / "without"
    other.mkdir()
    fill(other, without)
    assert maintain(other, without) == []
    assert count(other, without, "bronze.both") == TRANSACTIONS


def test_rows_without_a_commit_time_are_as_old_as_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot's rows have no commit time."""
    config = lakehouse()
    changes = writer.changes

    def undated(*arguments: Any) -> Any:
        batch = changes(*arguments)
        at = batch.records.schema.get_field_index("_committed_at")
        field = batch.records.schema.field(at)
        records = batch.records.set_column(at, field, pa.nulls(len(batch), field.type))
        return type(batch)(batch.schema, batch.lane, records)

    monkeypatch.setattr(writer, "changes", undated)
    fill(tmp_path, config)
    assert maintain(tmp_path, config) == []
    for path in (tmp_path / "lake/warehouse/bronze/both/data").iterdir():
        os.utime(path, (time.time() - (DAYS + 1) * 86_400,) * 2)
    assert [one.kind for one in maintain(tmp_path, config)] == [Kind.RETENTION]
    assert count(tmp_path, config, "silver.both") == TRANSACTIONS


def test_a_table_at_rest_lets_old_snapshots_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LakehouseConfig(maintenance=MaintenanceConfig(enabled=False, snapshot_hours=2))
    fill(tmp_path, config)
    assert maintain(tmp_path, config) == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 4 * 3600)
    done = maintain(tmp_path, config)
    assert {(one.kind, one.table) for one in done} == {(Kind.EXPIRY, "bronze.both"), (Kind.EXPIRY, "silver.both")}
    with lake(tmp_path, config) as opened:
        assert len(bronze(opened).metadata.snapshots) == 1
    assert maintain(tmp_path, config) == []
    assert count(tmp_path, config, "bronze.both") == count(tmp_path, config, "silver.both") == TRANSACTIONS
