"""The parts of the test kit that no suite covers: the clock, the faults, random changes from a seed."""

from __future__ import annotations

import random
import threading

import pyarrow as pa
import pytest

from catchment.change import Operation
from catchment.errors import SinkUnavailable
from catchment.schema import Column, TableId, TableSchema
from catchment.testing.changes import Change, CurrentRows, RandomChanges, comparable
from catchment.testing.clock import FakeClock
from catchment.testing.delivery import Delivery
from catchment.testing.faults import FailAfterFlush, FailBeforeFlush, FaultySink, HoldFlush
from catchment.testing.memory import MemorySink, MemoryTarget
from catchment.testing.scripted import ScriptedSystem
from catchment.testing.sinks import EVERY_TYPE, NOTES, insert


def test_the_clock_moves_only_when_it_is_turned() -> None:
    clock = FakeClock(now=1000.0)
    clock.turn(5)
    clock.sleep(2.5)
    assert (clock.now(), clock.monotonic(), clock.slept) == (1007.5, 7.5, [2.5])
    clock.set_back(3600)
    assert (clock.now(), clock.monotonic()) == (1007.5 - 3600, 7.5)
    with pytest.raises(ValueError, match="forwards"):
        clock.turn(-1)


def test_an_answer_that_is_lost_is_not_a_flush_that_is_lost() -> None:
    for fault, flushed in ((FailBeforeFlush(), 0), (FailAfterFlush(), 1)):
        target = MemoryTarget()
        one = Delivery(FaultySink(MemorySink(target), [fault]), ScriptedSystem(insert("lane", NOTES, 1)))
        one.all()
        with pytest.raises(SinkUnavailable):
            one.flush()
        one.close()
        assert target.flushes == flushed


def test_a_held_flush_stands_until_it_is_released() -> None:
    hold, target = HoldFlush(), MemoryTarget()
    one = Delivery(FaultySink(MemorySink(target), [hold]), ScriptedSystem(insert("lane", NOTES, 1))).all()
    flush = threading.Thread(target=one.flush)
    flush.start()
    try:
        assert hold.reached.wait(60)
        assert target.flushes == 0
    finally:
        hold.released.set()
        flush.join()
    assert target.flushes == 1
    one.close()


@pytest.mark.parametrize("seed", range(5))
def test_random_changes_lead_to_the_rows_that_they_say(seed: int) -> None:
    maker = RandomChanges(EVERY_TYPE, random.Random(seed))
    versions = iter(range(1, 10_000))
    changes = [
        Change(one.op, one.before, one.after, one.unchanged, version=b"%06d" % next(versions))
        for one in maker.changes(300)
    ]
    assert {one.op for one in changes} >= {Operation.INSERT, Operation.UPDATE, Operation.DELETE}
    assert any(one.unchanged for one in changes)
    assert any(one.before for one in changes if one.op is Operation.UPDATE)
    # As text: NaN is not equal to itself.
    assert repr(CurrentRows().apply(changes).rows()) == repr(maker.rows())
    again = RandomChanges(EVERY_TYPE, random.Random(seed)).changes(300)
    assert repr([one.after for one in again]) == repr([one.after for one in changes])


def test_the_higher_version_wins_whatever_comes_first() -> None:
    def change(op: Operation, version: int, name: str | None = None) -> Change:
        row = {"id": 1, "name": name}
        deletes = op is Operation.DELETE
        return Change(op, row if deletes else None, None if deletes else row, version=b"%02d" % version)

    snapshot, update = change(Operation.READ, 5, "snapshot"), change(Operation.UPDATE, 3, "before it")
    assert CurrentRows().apply([snapshot, update]).rows() == [{"id": 1, "name": "snapshot"}]
    deleted = change(Operation.DELETE, 7)
    assert CurrentRows().apply([deleted, snapshot]).rows() == []
    truncated = Change(Operation.TRUNCATE, version=b"06")
    assert CurrentRows().apply([snapshot, truncated]).rows() == []
    assert CurrentRows().apply([truncated, snapshot]).rows() == []
    assert CurrentRows().apply([truncated, change(Operation.INSERT, 8, "new")]).rows() == [{"id": 1, "name": "new"}]


def test_comparable_rows_tell_apart_what_python_does_not() -> None:
    def values(kind: pa.DataType, *values: object) -> list[object]:
        return [row["v"] for row in comparable(pa.table({"v": pa.array(values, kind)}))]

    zero, minus_zero, nan = values(pa.float64(), 0.0, -0.0, float("nan"))
    assert zero != minus_zero
    assert [nan] == values(pa.float64(), float("nan"))
    long_ago, far_ahead = -(10**17), 10**18
    assert values(pa.timestamp("us", "UTC"), long_ago, far_ahead) == [long_ago, far_ahead]
    assert comparable(pa.table({"s": pa.array([None, {"a": None}])})) == [{"s": None}, {"s": {"a": None}}]


def test_a_schema_of_one_column_is_enough() -> None:
    schema = TableSchema(TableId("a", "b"), (Column("id", pa.int64(), key=True),))
    changes = RandomChanges(schema, random.Random(1)).changes(50)
    assert CurrentRows().apply([]).rows() == []
    assert all(one.unchanged == frozenset() for one in changes)
