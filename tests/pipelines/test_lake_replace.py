"""Tables that are replaced whole: each commit shows all new rows or all old ones, and nothing piles up."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog

from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.commit import open_or_create, replace
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig
from catchment.lakehouse.table import LakeTable
from pipelines.rest_catalog import rest_catalog

NAME = ("gold", "revenue")
SNAPSHOTS_KEPT = 3


@pytest.fixture(params=["sql", "rest"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    if request.param == "sql":
        one = load_catalog(LakehouseConfig().catalog, tmp_path)
        yield one
        one.close()
    else:
        with rest_catalog(tmp_path / "lake") as server:
            yield load_catalog(CatalogConfig(type="rest", uri=server.uri), tmp_path)


def data(n: int) -> pa.Table:
    amounts = pa.array([Decimal(i) for i in range(n)], pa.decimal128(38, 2))
    return pa.table({"city": pa.array([f"city {i}" for i in range(n)], pa.string()), "revenue": amounts})


def open_table(catalog: Catalog) -> LakeTable:
    return open_or_create(catalog, NAME, data(0).schema, {}, snapshots_kept=SNAPSHOTS_KEPT, owns_data=True)


def read(catalog: Catalog) -> pa.Table:
    return catalog.load_table(NAME).scan().to_arrow()


def test_rows_and_schema_are_replaced_whole(catalog: Catalog) -> None:
    table = open_table(catalog)
    replace(catalog, table, data(5), {"catchment.model": "revenue"})
    assert read(catalog).to_pylist() == data(5).to_pylist()
    other = pa.table({"city": pa.array([1, 2], pa.int64()), "orders": pa.array([3, 4], pa.int32())})
    replace(catalog, table, other)
    assert read(catalog).to_pylist() == other.to_pylist()
    replace(catalog, table, other.slice(0, 0))
    assert read(catalog).num_rows == 0
    replace(catalog, table, data(2))
    assert read(catalog).to_pylist() == data(2).to_pylist()
    found = catalog.load_table(NAME)
    assert found.properties["catchment.model"] == "revenue"
    snapshot = found.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.summary["total-records"] == "2"
    assert snapshot.summary["total-data-files"] == "1"


def test_old_data_goes_with_its_snapshots_and_no_earlier(catalog: Catalog) -> None:
    for n in range(1, 12):
        replace(catalog, open_table(catalog), data(n))
    table = catalog.load_table(NAME)
    kept = table.metadata.snapshots
    assert len(kept) == SNAPSHOTS_KEPT
    sizes = [table.scan(snapshot_id=one.snapshot_id).to_arrow().num_rows for one in kept]
    assert sorted(sizes) == [9, 10, 11]
    folder = Path(table.location().removeprefix("file://"))
    assert len(list((folder / "data").iterdir())) == SNAPSHOTS_KEPT
    assert len(list((folder / "metadata").glob("*.avro"))) == 2 * SNAPSHOTS_KEPT


def test_the_slower_of_two_writers_is_told_and_changes_nothing(catalog: Catalog) -> None:
    quick, slow = open_table(catalog), open_table(catalog)
    replace(catalog, quick, data(3))
    with pytest.raises(SinkUnavailable, match="another writer"):
        replace(catalog, slow, data(4))
    assert read(catalog).num_rows == 3
    replace(catalog, open_table(catalog), data(4))
    assert read(catalog).num_rows == 4
