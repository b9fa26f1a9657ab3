"""ChangeBatch: how a replay is skipped, and what is counted."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.change import ChangeBatch, Operation
from catchment.progress import ALL_CHUNKS, Progress
from catchment.schema import Column, TableId, TableSchema
from catchment.testing.changes import Change, make_batch

SCHEMA = TableSchema(TableId("public", "orders"), (Column("id", pa.int64(), "bigint", key=True),))


def at(number: int) -> bytes:
    return b"%040d" % number


def streamed(*numbers: int, lane: str = "slot") -> ChangeBatch:
    changes = [Change(Operation.INSERT, after={"id": n}, position=at(n)) for n in numbers]
    return make_batch(SCHEMA, lane, changes)


def chunk(name: str) -> ChangeBatch:
    return make_batch(
        SCHEMA, "slot", [Change(Operation.READ, after={"id": 1}, position=at(1), version=at(1))], chunk=name
    )


def ids(batch: ChangeBatch | None) -> list[int]:
    return [] if batch is None else [row["id"] for row in batch.records.column("after").to_pylist()]


@given(st.lists(st.integers(1, 50), unique=True).map(sorted), st.integers(0, 51))
def test_after_leaves_exactly_what_is_above_the_position(numbers: list[int], reached: int) -> None:
    left = streamed(*numbers).after(Progress({"slot": at(reached)}))
    assert ids(left) == [n for n in numbers if n > reached]


@given(st.lists(st.integers(1, 50), unique=True, min_size=1).map(sorted), st.integers(0, 51), st.integers(0, 51))
def test_after_twice_is_after_the_later_one(numbers: list[int], first: int, second: int) -> None:
    one, other = Progress({"slot": at(first)}), Progress({"slot": at(second)})
    left = streamed(*numbers).after(one)
    assert ids(None if left is None else left.after(other)) == ids(streamed(*numbers).after(one.join(other)))


def test_after_nothing_is_the_batch_itself() -> None:
    batch = streamed(1, 2)
    assert batch.after(None) is batch
    assert batch.after(Progress()) is batch


def test_after_everything_is_none() -> None:
    assert streamed(1, 2).after(Progress({"slot": at(2)})) is None


def test_after_looks_at_the_lane_of_the_batch_only() -> None:
    progress = Progress({"shard-1": at(9)})
    assert ids(streamed(1, 2, lane="shard-0").after(progress)) == [1, 2]
    assert streamed(1, 2, lane="shard-1").after(progress) is None


def test_after_keeps_schema_lane_and_columns_of_the_source() -> None:
    batch = streamed(1, 2, 3)
    records = batch.records.append_column("_lsn", pa.array(["a", "b", "c"]))
    left = ChangeBatch(SCHEMA, "slot", records).after(Progress({"slot": at(1)}))
    assert left is not None
    assert (left.schema, left.lane, left.chunk) == (SCHEMA, "slot", None)
    assert left.records.column("_lsn").to_pylist() == ["b", "c"]


@pytest.mark.parametrize("names", [frozenset({"a"}), frozenset({"a", "b"}), ALL_CHUNKS])
def test_a_chunk_is_skipped_by_its_name(names: frozenset[str]) -> None:
    assert chunk("a").after(Progress({}, {"public.orders": names})) is None


@pytest.mark.parametrize(
    "progress",
    [
        Progress({}, {"public.orders": frozenset({"b"})}),
        Progress({}, {"public.users": ALL_CHUNKS}),
        Progress({"slot": at(9)}),
    ],
)
def test_a_chunk_is_never_skipped_by_position_or_anothers_name(progress: Progress) -> None:
    assert ids(chunk("a").after(progress)) == [1]


def test_positions_compare_as_bytes_not_as_lengths() -> None:
    changes = [Change(Operation.INSERT, after={"id": n}, position=p) for n, p in ((1, b"\x01\xff"), (2, b"\x02"))]
    batch = make_batch(SCHEMA, "slot", changes)
    assert ids(batch.after(Progress({"slot": b"\x01\xff"}))) == [2]


def test_count_counts_one_operation() -> None:
    kinds = (Operation.INSERT, Operation.INSERT, Operation.DELETE)
    batch = make_batch(SCHEMA, "slot", [Change(op, position=at(n)) for n, op in enumerate(kinds, 1)])
    assert [batch.count(op) for op in (Operation.INSERT, Operation.DELETE, Operation.TRUNCATE)] == [2, 1, 0]
    assert len(batch) == 3
    assert batch.table == TableId("public", "orders")
