"""Commits with position deletes: any reader of Iceberg v2 sees the rows that are left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile, ManifestContent

from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.commit import commit_one, open_or_create
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings
from catchment.lakehouse.file_schema import file_schema
from catchment.lakehouse.position_delete import read_position_deletes, write_position_deletes
from catchment.lakehouse.table import Change, LakeTable

NAME = ("silver", "orders")
COLUMNS = pa.schema([pa.field("id", pa.int64())])


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    one = load_catalog(LakehouseConfig().catalog, tmp_path)
    yield one
    one.close()


@pytest.fixture
def table(catalog: Catalog) -> LakeTable:
    return open_or_create(catalog, NAME, COLUMNS, {}, snapshots_kept=3)


def data_file(table: LakeTable, first: int, last: int) -> DataFile:
    writer = DataFileWriter(
        table.storage, table.new_data_location(), file_schema(table.metadata.schema()), ParquetSettings(bounded=())
    )
    rows = pa.table({"id": pa.array(range(first, last), pa.int64())}).cast(file_schema(table.metadata.schema()))
    writer.write(rows.to_batches())
    return writer.close()


def deletes(table: LakeTable, rows: dict[str, list[int]]) -> DataFile:
    positions = {path: np.array(ones, dtype=np.int64) for path, ones in rows.items()}
    return write_position_deletes(table.storage, table.new_data_location(), positions)


def commit(catalog: Catalog, table: LakeTable, change: Change) -> None:
    draft = table.draft(change)
    table.storage.sync(draft.written)
    commit_one(catalog, draft)


def read(catalog: Catalog) -> list[int]:
    return sorted(catalog.load_table(NAME).scan().to_arrow().column("id").to_pylist())


def test_deleted_rows_are_gone_and_a_delete_may_name_a_file_of_its_own_commit(
    catalog: Catalog, table: LakeTable
) -> None:
    first = data_file(table, 0, 10)
    commit(catalog, table, Change([first]))
    second = data_file(table, 10, 20)
    commit(
        catalog, table, Change([second], deletes=[deletes(table, {first.file_path: [0, 9], second.file_path: [1, 2]})])
    )
    assert read(catalog) == [*range(1, 9), 10, *range(13, 20)]
    current = catalog.load_table(NAME).metadata.current_snapshot()
    assert current is not None and current.summary is not None
    summary = current.summary
    assert (summary["total-records"], summary["total-position-deletes"], summary["total-delete-files"]) == (
        "20",
        "4",
        "1",
    )


def test_a_rewrite_takes_data_and_delete_files_away_without_changing_rows(catalog: Catalog, table: LakeTable) -> None:
    first, second = data_file(table, 0, 10), data_file(table, 10, 20)
    commit(catalog, table, Change([first, second]))
    dead = deletes(table, {first.file_path: list(range(5))})
    commit(catalog, table, Change(deletes=[dead]))
    small = data_file(table, 5, 10)
    commit(catalog, table, Change([small], removed={first.file_path, dead.file_path}))
    assert read(catalog) == list(range(5, 20))
    current = catalog.load_table(NAME).metadata.current_snapshot()
    assert current is not None and current.summary is not None
    assert current.summary.operation.value == "replace"
    assert (current.summary["total-records"], current.summary["total-position-deletes"]) == ("15", "0")
    commit(catalog, table, Change([data_file(table, 20, 21)]))
    assert read(catalog) == list(range(5, 21))
    manifests = catalog.load_table(NAME).metadata.current_snapshot().manifests(table.table.io)  # type: ignore[union-attr]
    assert all(one.content == ManifestContent.DATA for one in manifests), "an emptied delete manifest lingers"


def test_many_commits_with_deletes_merge_manifests_by_kind_and_keep_every_row(
    catalog: Catalog, table: LakeTable
) -> None:
    base = data_file(table, 0, 200)
    commit(catalog, table, Change([base]))
    for n in range(60):
        added = data_file(table, 1000 + n, 1001 + n)
        commit(catalog, table, Change([added], deletes=[deletes(table, {base.file_path: [n]})]))
    assert read(catalog) == [*range(60, 200), *range(1000, 1060)]
    assert len(table.manifests.files) < 40
    again = LakeTable.load(catalog, NAME)
    assert {e.data_file.file_path for e in again.manifests.live()} == {
        e.data_file.file_path for e in table.manifests.live()
    }


def test_replacing_all_rows_takes_the_deletes_away_too(catalog: Catalog, table: LakeTable) -> None:
    first = data_file(table, 0, 10)
    commit(catalog, table, Change([first], deletes=[deletes(table, {first.file_path: [3]})]))
    second = data_file(table, 50, 52)
    commit(catalog, table, Change([second], deletes=[deletes(table, {second.file_path: [0]})], replace=True))
    assert read(catalog) == [51]
    assert len(table.manifests.deletes()) == 1


def test_a_delete_file_reads_back_as_it_was_written(table: LakeTable) -> None:
    rows = {"b": [5, 7, 900], "a": list(range(1000)), "c": [0]}
    file = deletes(table, rows)
    found = read_position_deletes(pa.OSFile(file.file_path.removeprefix("file://"), "rb"))
    assert {path: list(positions) for path, positions in found.items()} == rows
