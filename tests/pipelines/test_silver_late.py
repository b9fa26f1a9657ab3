"""What comes late, by a transport that repeats and reorders, does not bring back what is old, at a bounded price."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from catchment.change import ChangeBatch
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.silver.bronze_changes import bronze_changes
from catchment.lakehouse.silver.table import SilverTable
from catchment.progress import Progress
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from pipelines.overtaking import SIMPLE, Overtaking, Row

DAY = 24 * 3600


@dataclass
class Transport:
    """Changes of a table with one key column, in any order of versions, through a sink."""

    directory: Path
    positions: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.maker = Overtaking(1, SIMPLE, chunks=0, keys=0)
        self.open()

    def open(self) -> None:
        self.sink = IcebergSink(IcebergSinkConfig(), LakehouseConfig(), "test", self.directory)
        self.progress = self.sink.open() or Progress()

    def restart(self) -> None:
        self.sink.close()
        self.open()

    def bring(self, *changes: tuple[str, int, int], lane: str = "stream", at: int | None = None) -> None:
        """(operation, key, version) each, in one flush. at: when they were made, in seconds; else their version."""
        self.sink.write(ChangeBatch(SIMPLE, lane, self.maker._batch([self._row(*one, lane, at) for one in changes])))
        position = self.positions[lane].to_bytes(16, "big")
        self.progress = self.progress.join(Progress({lane: position}))
        self.sink.advance(self.progress)
        self.sink.flush()

    def _row(self, op: str, key: int, version: int, lane: str, at: int | None) -> Row:
        self.positions[lane] = self.positions.get(lane, 0) + 1
        row: Row = {"id": key, "amount": version, "note": "", "born": 0}
        sides: tuple[Row | None, Row | None] = ({"id": key}, None) if op == "d" else (None, row)
        record = self.maker._record(op, version, *sides, [], None, lane)
        record["_position"] = self.positions[lane].to_bytes(16, "big")
        if at is not None:
            record["_committed_at"] = at * 1_000_000
        return record

    @property
    def silver(self) -> SilverTable:
        assert self.sink._layer is not None
        (table,) = self.sink._layer.opened()
        return table

    def rows(self) -> dict[int, int]:
        """Key → version, as anybody reads it."""
        found = load_catalog(LakehouseConfig().catalog, self.directory).load_table("silver.items").scan().to_arrow()
        return {row["id"]: row["amount"] for row in found.to_pylist()}


@pytest.fixture
def transport(tmp_path: Path) -> Transport:
    return Transport(tmp_path)


def test_an_older_change_of_a_row_or_of_a_key_that_was_left_is_late(transport: Transport) -> None:
    transport.bring(("c", 1, 10), ("c", 2, 11), ("d", 2, 20), ("u", 1, 30))
    transport.bring(("c", 1, 9), ("c", 2, 19), ("c", 3, 31))
    assert transport.rows() == {1: 30, 3: 31}


def test_after_a_restart_bronze_says_who_was_left(transport: Transport) -> None:
    transport.bring(("c", 1, 10), ("d", 1, 20), ("c", 2, 21))
    transport.restart()
    transport.bring(("c", 1, 15))
    assert transport.rows() == {2: 21}


def test_lanes_that_are_in_order_each_cost_nothing_however_their_versions_lie(transport: Transport) -> None:
    transport.bring(("c", 2, 1), lane="left")
    transport.bring(("c", 1, 100), lane="right")
    for step in range(2, 6):
        transport.bring(("u", 2, step), lane="left")
        transport.bring(("u", 1, 100 * step), ("d", 1, 100 * step + 1), ("c", 1, 100 * step + 2), lane="right")
    assert transport.rows() == {1: 502, 2: 5}
    assert transport.silver._remembered_since is None
    assert not len(transport.silver._stones)


def test_a_lane_that_follows_another_brings_nothing_old_back(transport: Transport) -> None:
    transport.bring(("c", 1, 10), ("u", 1, 20), ("c", 2, 21), ("d", 2, 30), lane="parent")
    transport.bring(("u", 1, 15), lane="child")
    transport.bring(("u", 1, 16), ("c", 2, 25), lane="child")
    assert transport.rows() == {1: 20}
    transport.restart()
    transport.bring(("c", 2, 26), ("u", 1, 40), lane="child")
    assert transport.rows() == {1: 40}


def test_left_keys_are_forgotten_after_a_day_and_looked_up_when_they_are_needed_again(transport: Transport) -> None:
    transport.bring(("c", 1, 10), ("d", 1, 20), ("c", 2, 30), at=100)
    transport.bring(("c", 1, 15), at=100)
    assert len(transport.silver._stones)
    transport.bring(("c", 3, 40), at=100 + 2 * DAY)
    assert transport.silver._remembered_since is None
    assert not len(transport.silver._stones)
    transport.bring(("c", 4, 50), ("d", 4, 60), at=100 + 3 * DAY)
    transport.bring(("c", 1, 16), at=100)
    transport.bring(("c", 4, 55), at=100 + 3 * DAY)
    assert transport.rows() == {2: 30, 3: 40}


def test_made_anew_from_bronze_silver_is_the_same(transport: Transport) -> None:
    transport.bring(("c", 9, 30))
    transport.bring(("u", 9, 20))
    transport.bring(("c", 1, 100))
    transport.bring(("d", 1, 200), ("u", 9, 10))
    assert transport.rows() == {9: 30}
    silver, layer = transport.silver, transport.sink._layer
    assert layer is not None
    silver.rebuild()
    layer.commit(silver, transport.progress.to_json())
    assert transport.rows() == {9: 30}


def test_only_keys_left_since_a_late_change_was_made_are_looked_for(transport: Transport) -> None:
    transport.bring(("c", 1, 10), ("d", 1, 20), at=DAY)
    transport.bring(("c", 2, 30), ("d", 2, 40), at=5 * DAY)
    since = 3 * DAY * 1_000_000
    bronze = transport.silver.bronze
    found = [row for batch in bronze_changes(bronze, None, committed_since=since) for row in batch.to_pylist()]
    assert {row["before"]["id"] for row in found if row["before"]} == {2}
    transport.bring(("c", 2, 35), at=5 * DAY)
    assert transport.rows() == {}
    assert len(transport.silver._stones) == 1
