"""Silver is what the DynamoDB table is, whatever came first: deletes before scanned rows, replays, new generations."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.reading.connection import connect_lake
from pipelines.order_table import SHARDS, Capture, OrderTable
from seeds import first_seed


def test_silver_is_the_table_however_scans_and_stream_overtake_each_other(tmp_path: Path) -> None:
    first = first_seed()
    for seed in range(first, first + int(os.environ.get("CATCHMENT_ROUNDS", "2"))):
        print(f"replay with CATCHMENT_SEED={seed}")
        directory = tmp_path / str(seed)
        directory.mkdir()
        capture = Capture(table := OrderTable(seed), directory)
        try:
            # A table keeps the columns it was made with, even if a crash lets another spelling of a name come first.
            for _ in range(40):
                table.act()
            capture.step()
            capture.flush()
            for _ in range(25):
                happen(table, capture)
            while capture.step():
                pass
            capture.flush()
        finally:
            capture.close()
        expect_equal(directory, capture.expected())


def happen(table: OrderTable, capture: Capture) -> None:
    """Some writes, some reading, and now and then a flush, a crash, or a stream that is trimmed."""
    chance = table.chance
    for _ in range(chance.randint(0, 15)):
        table.act()
    for _ in range(chance.randint(0, 4)):
        capture.step()
    if chance.random() < 0.4:
        capture.flush()
    if chance.random() < 0.2:
        capture.begin_anew()
    if chance.random() < 0.08:
        capture.begin_generation()


def expect_equal(directory: Path, expected: pa.Table) -> None:
    """Silver and `current` have these rows, column for column."""
    with connect_lake(LakehouseConfig(), directory) as lake:
        for name in ("silver", "current"):
            found = lake.execute(f'SELECT * FROM {name}."dynamodb_OrderTable" ORDER BY orderid').to_arrow_table()
            assert found["orderid"].to_pylist() == expected["orderid"].to_pylist(), name
            for column in set(found.column_names) & set(expected.column_names):
                assert texts(found[column]) == texts(expected[column]), f"{column} of {name}"
            missing = set(expected.column_names) - set(found.column_names)
            assert all(expected[column].null_count == len(expected) for column in missing), f"{missing} of {name}"


def texts(column: pa.ChunkedArray) -> list[object]:
    """A column's values; maps without their order."""
    return [dict(one) if isinstance(one, list) else one for one in column.to_pylist()]


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    made = Capture(OrderTable(1), tmp_path)
    yield made
    made.close()


def put(capture: Capture, orderid: str, **attributes: dict[str, object]) -> None:
    capture.table.put(orderid, {"orderid": {"S": orderid}, **attributes})


def rows(directory: Path, columns: str) -> list[tuple[object, ...]]:
    with connect_lake(LakehouseConfig(), directory) as lake:
        found = [
            lake.execute(f'SELECT {columns} FROM {layer}."dynamodb_OrderTable" ORDER BY orderid').fetchall()
            for layer in ("silver", "current")
        ]
    assert found[0] == found[1]
    return found[0]


def test_a_row_that_was_scanned_before_its_deletion_was_read_does_not_come_back(
    capture: Capture, tmp_path: Path
) -> None:
    put(capture, "0000")
    put(capture, "0003")
    scanned = capture.table.segment(0)
    capture.table.delete("0000")
    for shard in range(SHARDS):
        capture.read(shard, 100)
    capture.flush()
    capture.scan(0, items=scanned)
    capture.flush()
    assert rows(tmp_path, "orderid") == [("0003",)]


def test_the_next_generation_takes_off_what_was_deleted_unseen(capture: Capture, tmp_path: Path) -> None:
    for orderid in ("0000", "0001", "0002"):
        put(capture, orderid, price={"N": "1"})
    while capture.step():
        pass
    capture.flush()
    capture.table.delete("0001")
    put(capture, "0002", price={"N": "2"})
    capture.begin_generation()
    put(capture, "0003", price={"N": "3"})
    while capture.step():
        pass
    capture.flush()
    assert rows(tmp_path, "orderid, price::int") == [("0000", 1), ("0002", 2), ("0003", 3)]


def test_what_was_unrepresentable_before_is_not_the_rows(capture: Capture, tmp_path: Path) -> None:
    put(capture, "0000", price={"N": "1E-100"}, note={"S": "x"})
    put(capture, "0000", price={"N": "1"}, note={"NULL": True})
    put(capture, "0000", price={"N": "2"}, note={"NULL": True})
    while capture.step():
        pass
    capture.flush()
    assert rows(tmp_path, "price::int, note, _unrepresentable") == [(2, None, {"note": '{"NULL":true}'})]
