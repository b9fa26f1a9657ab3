"""The suites are proved: the plainest components pass, and each way to break the contract is found out."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from catchment.change import ChangeBatch
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema
from catchment.sources.base import Event, Idle, SchemaChange, Source, TransactionEnd
from catchment.testing.faults import FailAfterFlush, Fault
from catchment.testing.memory import MemorySink, MemoryTarget
from catchment.testing.scripted import ScriptedSource
from catchment.testing.sinks import SinkConformance, SinkHarness
from catchment.testing.sources import SourceConformance
from conformance.test_scripted_source import ScriptedHarness


class MemoryHarness(SinkHarness):
    """Sinks of one kind on one target in memory."""

    def __init__(self, kind: type[MemorySink] = MemorySink) -> None:
        self._kind = kind
        self._target = MemoryTarget()

    def sink(self) -> MemorySink:
        return self._kind(self._target)

    def read(self, schema: TableSchema) -> pa.Table:
        return self._target.read(schema)


class TestMemorySink(SinkConformance):
    @pytest.fixture
    def harness(self) -> SinkHarness:
        return MemoryHarness()


class WritesThrough(MemorySink):
    """Visible before it is flushed."""

    def write(self, batch: ChangeBatch) -> None:
        self.target.batches.append(batch)


class FlushesBeyondTheBoundary(MemorySink):
    """Rows of an unfinished transaction go out with a flush."""

    def flush(self) -> Progress | None:
        self.bounded += self.open_batches
        self.open_batches = []
        return super().flush()


class FlushesOnClose(MemorySink):
    """What was not flushed becomes durable when it is closed."""

    def close(self) -> None:
        if self.target.holder is self:
            self.flush()
        super().close()


class ForgetsProgress(MemorySink):
    """The rows are durable before the progress is: a lost answer, and they come twice."""

    def flush(self) -> Progress | None:
        self.target.batches += self.bounded
        self.bounded = []
        before, self.target.progress = self.target.progress, self.boundary or self.target.progress
        held, self.target.progress = self.target.progress, before
        return held


class ForgetsIdleProgress(MemorySink):
    """Progress without rows is not kept."""

    def flush(self) -> Progress | None:
        return super().flush() if self.bounded else self.target.progress


class GoesBack(MemorySink):
    """Takes a boundary below its own progress for the truth."""

    def flush(self) -> Progress | None:
        super().flush()
        self.target.progress = self.boundary or self.target.progress
        return self.target.progress


class TakesTheFirstLaneOnly(MemorySink):
    """Holds a position for one lane."""

    def flush(self) -> Progress | None:
        held = super().flush()
        if held is not None:
            self.target.progress = Progress(dict(itertools.islice(held.positions.items(), 1)), held.chunks)
        return self.target.progress


class LosesTheOrder(MemorySink):
    """Batches of a flush are written in any order."""

    def flush(self) -> Progress | None:
        self.bounded.reverse()
        return super().flush()


class LetsASecondIn(MemorySink):
    """No lease."""

    def open(self) -> Progress | None:
        self.target.holder = None
        return super().open()


class LetsGoOfOthersLease(MemorySink):
    """Closed, it lets go of a lease that it never had."""

    def close(self) -> None:
        self.target.holder = None


class DropsUnchanged(MemorySink):
    """NULL and unchanged become the same."""

    def write(self, batch: ChangeBatch) -> None:
        index = batch.records.schema.get_field_index("_unchanged")
        nothing = pa.nulls(len(batch), batch.records.schema.field(index).type)
        super().write(replace(batch, records=batch.records.set_column(index, "_unchanged", nothing)))


class KeepsTheFirstSchema(MemorySink):
    """Columns that come later are lost."""

    def write(self, batch: ChangeBatch) -> None:
        after, known = batch.records.column("after"), 4
        if len(after.type) > known and batch.schema.version > 1:
            children = [pa.nulls(len(after), c.type) if i >= known else c for i, c in enumerate(after.flatten())]
            index = batch.records.schema.get_field_index("after")
            narrow = pa.StructArray.from_arrays(children, fields=list(after.type), mask=after.is_null())
            batch = replace(batch, records=batch.records.set_column(index, "after", narrow))
        super().write(batch)


class ForgetsChunks(MemorySink):
    """Snapshot chunks are not part of what it holds."""

    def flush(self) -> Progress | None:
        held = super().flush()
        self.target.progress = None if held is None else Progress(held.positions)
        return self.target.progress


class ShowsTablesInTurn(MemorySink):
    """A flush shows a table, and a moment later the next."""

    def flush(self) -> Progress | None:
        by_table: dict[TableId, list[ChangeBatch]] = {}
        for batch in self.bounded:
            by_table.setdefault(batch.table, []).append(batch)
        for batches in by_table.values():
            self.target.batches += batches
            time.sleep(0.01)
        self.bounded = []
        return super().flush()


BROKEN_SINKS = (
    WritesThrough,
    FlushesBeyondTheBoundary,
    FlushesOnClose,
    ForgetsProgress,
    ForgetsIdleProgress,
    GoesBack,
    TakesTheFirstLaneOnly,
    LosesTheOrder,
    LetsASecondIn,
    LetsGoOfOthersLease,
    DropsUnchanged,
    KeepsTheFirstSchema,
    ForgetsChunks,
)


class BrokenSource(ScriptedSource):
    """Passes the scripted source's events through `spoil`."""

    def next(self, timeout: float) -> Event | None:
        return self.spoil(super().next(timeout))

    def spoil(self, event: Event | None) -> Event | None:
        return event


class LosesABatch(BrokenSource):
    """Every seventh event with rows is lost."""

    count = 0

    def spoil(self, event: Event | None) -> Event | None:
        if isinstance(event, ChangeBatch):
            self.count += 1
            return None if self.count % 7 == 0 else event
        return event


class RepeatsABatch(BrokenSource):
    """Every batch comes twice."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._again: ChangeBatch | None = None

    def next(self, timeout: float) -> Event | None:
        if self._again is not None:
            again, self._again = self._again, None
            return again
        event = super().next(timeout)
        self._again = event if isinstance(event, ChangeBatch) else None
        return event


class NumbersAnew(BrokenSource):
    """Positions depend on when the source was opened."""

    opened = itertools.count(1)

    def open(self, resume: Progress | None) -> None:
        self._offset = next(self.opened) % 200 + 1
        super().open(resume)

    def spoil(self, event: Event | None) -> Event | None:
        if not isinstance(event, ChangeBatch) or event.chunk is not None:
            return event
        index = event.records.schema.get_field_index("_position")
        moved = [p + bytes([self._offset]) for p in event.records.column("_position").to_pylist()]
        column = pa.array(moved, pa.binary())
        return replace(event, records=event.records.set_column(index, event.records.schema.field(index), column))


class EndsTooEarly(BrokenSource):
    """The boundary's progress stops short of what was emitted."""

    def spoil(self, event: Event | None) -> Event | None:
        if isinstance(event, TransactionEnd):
            return TransactionEnd(Progress({lane: at[:-1] for lane, at in event.progress.positions.items()}))
        return event


class IdlesAhead(BrokenSource):
    """After a boundary an idle progress covers the next transaction, of which no row was emitted yet."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ended: Progress | None = None

    def next(self, timeout: float) -> Event | None:
        ended, self._ended = self._ended, None
        if ended is not None:
            reached = (entry.reach for entry in self._system.entries())
            ahead = next((one for one in reached if one.positions and not ended.covers(one)), None)
            if ahead is not None and not ended.join(ahead).covers(self._system.head()):
                return Idle(ended.join(ahead))
        event = super().next(timeout)
        self._ended = event.progress if isinstance(event, TransactionEnd) else None
        return event


class EndsInTheMiddle(BrokenSource):
    """A boundary after every batch, the transaction's end already in it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._batches = 0

    def next(self, timeout: float) -> Event | None:
        if self._batches:
            self._batches = 0
            return TransactionEnd(self._system.head())
        event = super().next(timeout)
        self._batches = int(isinstance(event, ChangeBatch))
        return event


class SkipsSchemas(BrokenSource):
    """Rows come without their schema."""

    def spoil(self, event: Event | None) -> Event | None:
        return None if isinstance(event, SchemaChange) else event


class NeverIdle(BrokenSource):
    """An idle lane says nothing."""

    def spoil(self, event: Event | None) -> Event | None:
        return None if isinstance(event, Idle) else event


class AcknowledgesByItself(BrokenSource):
    """Lets go of what it has read, not of what is durable."""

    def spoil(self, event: Event | None) -> Event | None:
        if isinstance(event, TransactionEnd):
            self.acknowledge(event.progress)
        return event


class TakesUnchangedForNull(BrokenSource):
    """A column that was left out is said to be NULL."""

    def spoil(self, event: Event | None) -> Event | None:
        if not isinstance(event, ChangeBatch):
            return event
        index = event.records.schema.get_field_index("_unchanged")
        nothing = pa.nulls(len(event), event.records.schema.field(index).type)
        return replace(event, records=event.records.set_column(index, "_unchanged", nothing))


class ClosesOnce(BrokenSource):
    """A second close fails."""

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed twice")
        super().close()


class BlocksUntilAnEvent(BrokenSource):
    """Waits for an event for as long as it takes, whatever the timeout."""

    def next(self, timeout: float) -> Event | None:
        while (event := super().next(1.0)) is None:
            pass
        return event


class DoesNotWait(BrokenSource):
    """Says None at once: its caller goes round and round."""

    def next(self, timeout: float) -> Event | None:
        return super().next(0.0)


BROKEN_SOURCES = (
    LosesABatch,
    RepeatsABatch,
    NumbersAnew,
    EndsTooEarly,
    IdlesAhead,
    EndsInTheMiddle,
    SkipsSchemas,
    NeverIdle,
    AcknowledgesByItself,
    TakesUnchangedForNull,
    ClosesOnce,
)


class BrokenHarness(ScriptedHarness):
    """The scripted system behind a source of this kind; what is broken is not waited for for long."""

    def __init__(self, kind: type[BrokenSource]) -> None:
        super().__init__()
        self._kind = kind
        if kind is not BrokenSource:
            self.patience_seconds = self.slack_seconds = 0.5

    def source(self) -> Source:
        super().source()
        assert self.system is not None
        return self._kind(self.system)


def each_test(suite: type) -> Iterator[tuple[Callable[..., None], Mapping[str, Any]]]:
    """Every test of a suite with each of its parameters."""
    for name, test in inspect.getmembers(suite, inspect.isfunction):
        if name.startswith("test_"):
            parameters = set(inspect.signature(test).parameters) - {"self", "harness"}
            values: dict[str, Any] = {}
            if "round_" in parameters:
                values["round_"] = 0
            if "fault" in parameters:
                values |= {"fault": FailAfterFlush, "at": 2}
            assert parameters == values.keys(), f"{name} has parameters that are not known here"
            yield test, values


def breaches(suite: type, harness: Callable[[], object]) -> list[str]:
    """The tests of the suite that fail."""
    failed = []
    for test, values in each_test(suite):
        try:
            test(suite(), harness(), **values)
        except Exception:  # noqa: BLE001 -- however a test fails, it has found something
            failed.append(test.__name__)
        except pytest.fail.Exception:
            failed.append(test.__name__)
    return failed


def test_the_unspoilt_components_pass() -> None:
    assert breaches(SinkConformance, MemoryHarness) == []
    assert breaches(SourceConformance, lambda: BrokenHarness(BrokenSource)) == []


@pytest.mark.parametrize("kind", BROKEN_SINKS)
def test_a_broken_sink_is_found_out(kind: type[MemorySink]) -> None:
    assert breaches(SinkConformance, lambda: MemoryHarness(kind)) != []


def test_rows_that_a_boundary_before_them_covers_are_found_out_without_snapshots() -> None:
    assert "test_a_replay_has_the_same_positions" in breaches(SourceConformance, lambda: BrokenHarness(IdlesAhead))


def test_a_table_that_is_shown_before_another_is_found_out() -> None:
    harness = MemoryHarness(ShowsTablesInTurn)
    with pytest.raises(AssertionError, match="shows a table before another"):
        SinkConformance().test_no_table_of_a_flush_is_seen_before_another(harness)


@pytest.mark.parametrize(("kind", "found"), [(BlocksUntilAnEvent, "blocks"), (DoesNotWait, "without waiting")])
def test_a_source_that_does_not_look_at_its_timeout_is_found_out(kind: type[BrokenSource], found: str) -> None:
    harness = BrokenHarness(kind)
    with pytest.raises(AssertionError, match=found):
        SourceConformance().test_a_call_without_an_event_takes_its_timeout(harness)


@pytest.mark.parametrize("kind", BROKEN_SOURCES)
def test_a_broken_source_is_found_out(kind: type[BrokenSource]) -> None:
    assert breaches(SourceConformance, lambda: BrokenHarness(kind)) != []


def test_every_fault_of_the_kit_happens_once() -> None:
    fault = Fault(at=2)
    assert [fault.due() for _ in range(4)] == [False, True, False, False]
    assert fault.happened
