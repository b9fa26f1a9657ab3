"""The conformance suite of sources.

Inherit it, and supply one fixture:

    class TestPostgres(SourceConformance):
        @pytest.fixture
        def harness(self, database: Database) -> Iterator[SourceHarness]:
            yield PostgresHarness(database)

The harness is the outside system: two empty tables, ways to write to them, and their rows as the system
itself gives them back. Everything else is the suite's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from catchment.change import Operation
from catchment.errors import CatchmentError, PositionLost, Retriable
from catchment.progress import Progress
from catchment.sources.base import Event
from catchment.testing.changes import Change, CurrentRows
from catchment.testing.reading import Reading
from catchment.testing.source_harness import (
    COLUMNS,
    ITEMS,
    NOTES,
    Delete,
    Feature,
    Insert,
    RowChange,
    SourceHarness,
    Truncate,
    Update,
    example,
    large_text,
)

__all__ = [
    "COLUMNS",
    "ITEMS",
    "NOTES",
    "Delete",
    "Feature",
    "Insert",
    "RowChange",
    "SourceConformance",
    "SourceHarness",
    "Truncate",
    "Update",
    "example",
    "large_text",
    "needs",
]

Test = TypeVar("Test", bound=Callable[..., None])


def needs(*features: Feature) -> Callable[[Test], Test]:
    """The test is skipped, with the harness's reason, where one of these is lacking."""

    def mark(test: Test) -> Test:
        test.needed_features = features  # type: ignore[attr-defined]
        return test

    return mark


@contextmanager
def reading(harness: SourceHarness, resume: Progress | None = None) -> Iterator[Reading]:
    """A new source of the harness, open from `resume`, closed at the end."""
    source = harness.source()
    try:
        yield Reading(source, resume)
    finally:
        source.close()


def settle(harness: SourceHarness) -> Progress:
    """Open the source for the first time, read all there is, and say where that ended."""
    with reading(harness) as first:
        first.until(first.source.head(), harness.patience_seconds)
        return first.progress or Progress()


def rest(harness: SourceHarness, resume: Progress | None) -> Reading:
    """Everything from `resume` up to where the system stands now; the source is closed again."""
    with reading(harness, resume) as one:
        return one.until(one.source.head(), harness.patience_seconds)


def folded(harness: SourceHarness, changes: Sequence[Change], table: str) -> list[dict[str, Any]]:
    """The current rows that these changes lead to."""
    return CurrentRows().apply(c for c in changes if c.table == harness.table(table)).rows()


def expect_rows(harness: SourceHarness, changes: Sequence[Change]) -> None:
    """The changes lead to exactly the rows that the system has."""
    for table in (ITEMS, NOTES):
        expected = [_plain(row) for row in harness.rows(table)]
        assert [_plain(row) for row in folded(harness, changes, table)] == expected


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in row.items()}


@dataclass(frozen=True, slots=True)
class TimedStep:
    """A call of `next`: what it gave, and how long that took."""

    event: Event | None
    seconds: float


def timed_step(harness: SourceHarness, one: Reading, timeout: float) -> TimedStep:
    """The next event, timed. When the call goes beyond timeout and slack, a row is written that ends it."""
    with ThreadPoolExecutor(1, "next") as thread:
        began = time.monotonic()
        call = thread.submit(one.step, timeout)
        ended = bool(wait([call], timeout + harness.slack_seconds).done)
        if not ended:
            harness.commit(Insert(NOTES, example(NOTES, time.monotonic_ns())))
        timed = TimedStep(call.result(), time.monotonic() - began)
    if not ended:
        one.until(one.source.head(), harness.patience_seconds)
    return timed


class SourceConformance:
    """What every source keeps. Inherit it, and give it a fixture `harness`."""

    @pytest.fixture
    def harness(self) -> Any:
        raise NotImplementedError("Override the fixture `harness`: it gives the suite a SourceHarness.")

    @pytest.fixture(autouse=True)
    def _skip_what_is_lacking(self, request: pytest.FixtureRequest, harness: SourceHarness) -> None:
        for feature in getattr(request.function, "needed_features", ()):
            if feature in harness.lacks:
                pytest.skip(f"{feature.value}: {harness.lacks[feature]}")

    # Snapshot, and from the snapshot to the stream

    @needs(Feature.SNAPSHOT)
    def test_rows_that_were_there_before_come_as_a_snapshot(self, harness: SourceHarness) -> None:
        harness.commit(*(Insert(ITEMS, example(ITEMS, i)) for i in range(1, 51)))
        first = rest(harness, None)
        assert len(first.changes) == 50
        assert {c.op for c in first.changes} == {Operation.READ}
        assert all(c.chunk is not None for c in first.changes)
        expect_rows(harness, first.changes)

    @needs(Feature.SNAPSHOT)
    def test_writes_during_the_snapshot_are_neither_lost_nor_doubled(self, harness: SourceHarness) -> None:
        harness.commit(*(Insert(ITEMS, example(ITEMS, i)) for i in range(1, 31)))
        harness.commit(*(Insert(NOTES, example(NOTES, i)) for i in range(1, 31)))
        with reading(harness) as one:
            for i in range(1, 11):
                harness.commit(Update(ITEMS, i, {"name": "during"}), Insert(NOTES, example(NOTES, 100 + i)))
                harness.commit(Delete(NOTES, i), Insert(ITEMS, example(ITEMS, 100 + i)))
                one.step()
            one.until(one.source.head(), harness.patience_seconds)
        streamed = [c for c in one.changes if c.op is Operation.INSERT and c.chunk is None]
        assert len({(c.table, (c.after or {})["id"]) for c in streamed}) == len(streamed)
        expect_rows(harness, one.changes)

    @needs(Feature.SNAPSHOT)
    def test_a_snapshot_that_was_broken_off_goes_on_and_misses_nothing(self, harness: SourceHarness) -> None:
        harness.commit(*(Insert(ITEMS, example(ITEMS, i)) for i in range(1, 31)))
        harness.commit(*(Insert(NOTES, example(NOTES, i)) for i in range(1, 31)))
        with reading(harness) as one:
            one.until(lambda: bool(one.boundaries and one.boundaries[-1].changes), harness.patience_seconds)
        cut = one.boundaries[-1]
        harness.commit(Update(ITEMS, 3, {"name": "while down"}), Delete(NOTES, 4))
        if Feature.KEY_UPDATES not in harness.lacks:
            harness.commit(Update(NOTES, 5, {"id": 500}))
        other = rest(harness, cut.progress)
        expect_rows(harness, [*one.changes[: cut.changes], *other.changes])

    # Resuming

    def test_resuming_from_any_boundary_gives_exactly_the_rest(self, harness: SourceHarness) -> None:
        start = settle(harness)
        self._write_something_of_everything(harness)
        whole = rest(harness, start)
        assert whole.changes
        seen = set()
        for boundary in whole.boundaries:
            if boundary.changes in seen:
                continue
            seen.add(boundary.changes)
            assert rest(harness, boundary.progress).changes == whole.changes[boundary.changes :]

    def test_a_replay_has_the_same_positions(self, harness: SourceHarness) -> None:
        start = settle(harness)
        self._write_something_of_everything(harness)
        first, second = rest(harness, start), rest(harness, start)
        assert [c.position for c in first.changes] == [c.position for c in second.changes]
        assert first.changes == second.changes

    def test_what_was_not_acknowledged_comes_again(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, example(ITEMS, 1)))
        with reading(harness, start) as one:
            one.until(one.source.head(), harness.patience_seconds)
            middle = one.progress
            assert middle is not None
            one.source.acknowledge(middle)
            harness.commit(Insert(ITEMS, example(ITEMS, 2)))
            one.until(one.source.head(), harness.patience_seconds)
        assert rest(harness, middle).changes == one.changes[1:]
        expect_rows(harness, one.changes)

    def test_changes_while_the_source_is_closed_are_read_later(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, example(ITEMS, 1)), Insert(NOTES, example(NOTES, 1)))
        harness.commit(Update(ITEMS, 1, {"name": "closed"}))
        expect_rows(harness, rest(harness, start).changes)

    def test_it_does_not_silently_go_on_behind_what_it_has_let_go_of(self, harness: SourceHarness) -> None:
        start = settle(harness)
        for i in range(1, 4):
            harness.commit(Insert(ITEMS, example(ITEMS, i)))
        with reading(harness, start) as one:
            one.until(one.source.head(), harness.patience_seconds)
            assert one.progress is not None
            one.source.acknowledge(one.progress)
        # A source may still have it all (a log that is kept), or must say that it is gone.
        try:
            again = rest(harness, start)
        except PositionLost:
            return
        assert again.changes == one.changes

    # Transactions

    @needs(Feature.TRANSACTIONS)
    def test_a_transaction_is_emitted_whole_and_in_order(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(
            Insert(ITEMS, example(ITEMS, 1)),
            Insert(NOTES, example(NOTES, 1)),
            Update(ITEMS, 1, {"name": "second"}),
            Delete(NOTES, 1),
            Insert(NOTES, example(NOTES, 1, "third")),
        )
        changes = rest(harness, start).changes
        assert len({c.transaction for c in changes}) == 1
        assert len(changes) == 5
        by_position = sorted(changes, key=lambda c: c.position)
        ops = [(c.table, c.op) for c in by_position]
        items, notes = harness.table(ITEMS), harness.table(NOTES)
        assert ops == [
            (items, Operation.INSERT),
            (notes, Operation.INSERT),
            (items, Operation.UPDATE),
            (notes, Operation.DELETE),
            (notes, Operation.INSERT),
        ]
        expect_rows(harness, changes)

    @needs(Feature.TRANSACTIONS)
    def test_a_large_transaction_comes_in_several_bounded_batches(self, harness: SourceHarness) -> None:
        start = settle(harness)
        count = 3 * harness.largest_batch
        harness.insert_many(NOTES, 1, count)
        one = rest(harness, start)
        assert one.largest_batch <= harness.largest_batch
        assert [(c.after or {})["id"] for c in one.changes] == list(range(1, count + 1))
        assert len({c.transaction for c in one.changes}) == 1
        assert {b.changes for b in one.boundaries} <= {0, count}, "a boundary inside the transaction"

    @needs(Feature.ROLLBACK)
    def test_what_was_rolled_back_never_comes(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, example(ITEMS, 1)))
        harness.roll_back(Insert(ITEMS, example(ITEMS, 2)), Delete(ITEMS, 1))
        harness.commit(Insert(ITEMS, example(ITEMS, 3)))
        changes = rest(harness, start).changes
        assert [(c.after or {})["id"] for c in changes] == [1, 3]

    # Rows

    @needs(Feature.KEY_UPDATES)
    def test_a_key_update_carries_the_old_key(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, example(ITEMS, 1)), Insert(ITEMS, example(ITEMS, 2)))
        harness.commit(Update(ITEMS, 1, {"id": 10}))
        # A swap by way of a third key, in one transaction.
        harness.commit(Update(ITEMS, 10, {"id": 99}), Update(ITEMS, 2, {"id": 10}), Update(ITEMS, 99, {"id": 2}))
        changes = rest(harness, start).changes
        moves = [c for c in changes if c.op is Operation.UPDATE]
        assert [((c.before or {})["id"], (c.after or {})["id"]) for c in moves] == [(1, 10), (10, 99), (2, 10), (99, 2)]
        expect_rows(harness, changes)

    def test_a_delete_carries_the_key(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, example(ITEMS, 1)))
        harness.commit(Delete(ITEMS, 1))
        last = rest(harness, start).changes[-1]
        assert last.op is Operation.DELETE
        assert (last.before or {})["id"] == 1
        assert last.after is None

    @needs(Feature.TRUNCATE)
    def test_a_truncate_empties_one_table_only(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, example(ITEMS, 1)), Insert(NOTES, example(NOTES, 1)))
        harness.commit(Truncate(ITEMS))
        harness.commit(Insert(ITEMS, example(ITEMS, 2)))
        changes = rest(harness, start).changes
        truncates = [c for c in changes if c.op is Operation.TRUNCATE]
        assert [(c.table, c.before, c.after) for c in truncates] == [(harness.table(ITEMS), None, None)]
        expect_rows(harness, changes)

    def test_null_empty_and_unchanged_stay_three_different_things(self, harness: SourceHarness) -> None:
        start = settle(harness)
        note = large_text(1)
        harness.commit(
            Insert(ITEMS, {**example(ITEMS, 1), "note": note}),
            Insert(ITEMS, {**example(ITEMS, 2), "note": None}),
            Insert(ITEMS, {**example(ITEMS, 3), "note": ""}),
        )
        # The large column is not touched: a source may leave it out, and must then say so.
        for i in (1, 2, 3):
            harness.commit(Update(ITEMS, i, {"name": "touched"}))
        harness.commit(Update(ITEMS, 1, {"note": None}))
        harness.commit(Update(ITEMS, 3, {"note": note}))
        changes = rest(harness, start).changes
        for c in changes:
            assert c.unchanged <= set(COLUMNS[ITEMS]) - {"id"}
        untouched = [c for c in changes if (c.after or {}).get("name") == "touched"][:3]
        for c, expected in zip(untouched, (note, None, ""), strict=True):
            assert c.after is not None
            assert "note" in c.unchanged or c.after["note"] == expected
        expect_rows(harness, changes)

    @needs(Feature.KEY_UPDATES)
    def test_an_unchanged_column_survives_a_key_update(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, {**example(ITEMS, 1), "note": large_text(2)}))
        harness.commit(Update(ITEMS, 1, {"id": 7}))
        expect_rows(harness, rest(harness, start).changes)

    # Schema

    @needs(Feature.ADD_COLUMN)
    def test_a_schema_change_comes_before_its_first_rows(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(NOTES, example(NOTES, 1)))
        harness.add_column(NOTES, "extra")
        harness.commit(Insert(NOTES, {**example(NOTES, 2), "extra": "new"}))
        whole = rest(harness, start)
        first, second = whole.changes
        assert "extra" not in (first.after or {})
        assert (second.after or {})["extra"] == "new"
        assert second.schema_version != first.schema_version
        last = rest(harness, whole.boundaries[-1].progress)
        assert last.changes == []

    # Progress

    def test_the_head_is_reached_and_covers_every_commit_before_it(self, harness: SourceHarness) -> None:
        start = settle(harness)
        with reading(harness, start) as one:
            for i in range(1, 6):
                harness.commit(Insert(ITEMS, example(ITEMS, i)))
                one.until(one.source.head(), harness.patience_seconds)
                assert len(one.changes) == i

    @needs(Feature.IDLE)
    def test_an_idle_source_moves_on(self, harness: SourceHarness) -> None:
        start = settle(harness)
        with reading(harness, start) as one:
            harness.pass_by()
            head = one.source.head()
            assert not start.covers(head), "the system did not move on"
            one.until(head, harness.patience_seconds)
            assert one.progress is not None
            one.source.acknowledge(one.progress)
            harness.commit(Insert(ITEMS, example(ITEMS, 1)))
            one.until(one.source.head(), harness.patience_seconds)
        assert len(one.changes) == 1

    def test_nothing_new_is_none_and_not_an_event_without_end(self, harness: SourceHarness) -> None:
        start = settle(harness)
        with reading(harness, start) as one:
            one.until(lambda: one.step(0.05) is None, harness.patience_seconds)
            assert one.changes == []

    def test_a_call_without_an_event_takes_its_timeout(self, harness: SourceHarness) -> None:
        start = settle(harness)
        timeout, slack = 0.1, harness.slack_seconds
        with reading(harness, start) as one:
            calls = [timed_step(harness, one, timeout) for _ in range(3)]
        # One of three may be kept from it by other work; a source that does not look at its timeout never keeps it.
        assert min(call.seconds for call in calls) <= timeout + slack, f"next({timeout}) blocks: {calls}"
        nothing = [call.seconds for call in calls if call.event is None]
        assert not nothing or max(nothing) >= timeout / 2, f"next({timeout}) says None without waiting: {calls}"

    def test_progress_can_be_acknowledged_again(self, harness: SourceHarness) -> None:
        start = settle(harness)
        with reading(harness, start) as one:
            one.source.acknowledge(start)
            one.source.acknowledge(start)
            harness.commit(Insert(ITEMS, example(ITEMS, 1)))
            one.until(one.source.head(), harness.patience_seconds)
        assert len(one.changes) == 1

    def test_the_status_can_be_asked_for_at_any_time(self, harness: SourceHarness) -> None:
        harness.commit(Insert(ITEMS, example(ITEMS, 1)))
        with reading(harness) as one:
            assert one.source.status().mode
            one.until(one.source.head(), harness.patience_seconds)
            assert one.source.status().mode

    # Closing

    def test_closing_twice_and_closing_unopened_is_fine(self, harness: SourceHarness) -> None:
        harness.source().close()
        one = harness.source()
        one.open(None)
        one.close()
        one.close()

    @needs(Feature.CUT)
    def test_a_cut_connection_is_retriable_and_loses_nothing(self, harness: SourceHarness) -> None:
        start = settle(harness)
        harness.commit(Insert(ITEMS, example(ITEMS, 1)))
        with reading(harness, start) as one:
            one.until(one.source.head(), harness.patience_seconds)
            harness.cut()
            harness.commit(Insert(ITEMS, example(ITEMS, 2)))
            with pytest.raises(CatchmentError) as caught:
                one.until(lambda: len(one.changes) > 2, harness.patience_seconds)
        assert isinstance(caught.value, Retriable)
        held = one.boundaries[-1] if one.boundaries else None
        before = one.changes[: held.changes] if held else []
        after = rest(harness, held.progress if held else start)
        expect_rows(harness, [*before, *after.changes])

    def _write_something_of_everything(self, harness: SourceHarness) -> None:
        """Several transactions with every kind of change that the system has."""
        harness.commit(Insert(ITEMS, example(ITEMS, 1)), Insert(NOTES, example(NOTES, 1)))
        harness.commit(Insert(ITEMS, {**example(ITEMS, 2), "note": large_text(3)}))
        harness.commit(Update(ITEMS, 2, {"name": "again"}), Update(NOTES, 1, {"body": None}))
        if Feature.KEY_UPDATES not in harness.lacks:
            harness.commit(Update(ITEMS, 1, {"id": 100}))
        harness.commit(*(Insert(NOTES, example(NOTES, i)) for i in range(10, 40)))
        harness.commit(Delete(NOTES, 10), Delete(ITEMS, 2))
        if Feature.TRUNCATE not in harness.lacks:
            harness.commit(Truncate(NOTES))
        harness.commit(Insert(NOTES, example(NOTES, 50)))
