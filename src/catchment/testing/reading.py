"""Reads a source and holds it to the contract at every event."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from catchment.change import ChangeBatch
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema
from catchment.sources.base import Event, Idle, SchemaChange, Source, TransactionEnd
from catchment.testing.changes import Change, read_changes


@dataclass(frozen=True, slots=True)
class Boundary:
    """A place where a sink may cut: so many changes came before it, and this progress with it."""

    changes: int
    progress: Progress


class Reading:
    """One source, open from `resume`; what it emitted so far, repeats at or below `resume` left out.

    Every event is checked: order within a lane, nothing between a transaction's batches, schemas before
    rows, the envelope, and that a boundary covers what came before it. Between two boundaries a source may
    group by table; `changes` has them in the lane's order.
    """

    def __init__(self, source: Source, resume: Progress | None = None) -> None:
        self.source = source
        self.changes: list[Change] = []
        self.boundaries: list[Boundary] = []
        self.schemas: dict[TableId, TableSchema] = {}
        self.largest_batch = 0
        self._resume = resume
        self._last: dict[tuple[str, TableId], bytes] = {}
        self._open: set[tuple[object, ...]] = set()
        self._closed: set[tuple[object, ...]] = set()
        self._pending_chunks: dict[str, set[str]] = {}
        source.open(resume)

    @property
    def progress(self) -> Progress | None:
        """The last boundary's, or `resume` before the first."""
        return self.boundaries[-1].progress if self.boundaries else self._resume

    def step(self, timeout: float = 0.25) -> Event | None:
        """The next event, checked."""
        event = self.source.next(timeout)
        match event:
            case SchemaChange(schema):
                self.schemas[schema.table] = schema
            case ChangeBatch():
                self._check_batch(event)
            case TransactionEnd(progress) | Idle(progress):
                self._check_boundary(progress, idle=isinstance(event, Idle))
            case None:
                pass
        return event

    def until(self, done: Progress | Callable[[], bool], patience_seconds: float = 60.0) -> Reading:
        """Read until a boundary covers `done`, or until `done()`; never for longer than the patience."""
        deadline = time.monotonic() + patience_seconds
        while not self._reached(done):
            assert time.monotonic() < deadline, (
                f"The source did not get there in {patience_seconds:.0f} s. It stands at {self.progress}, "
                f"after {len(self.changes)} changes; {done} was waited for."
            )
            self.step()
        return self

    def close(self) -> None:
        self.source.close()

    def _reached(self, done: Progress | Callable[[], bool]) -> bool:
        if isinstance(done, Progress):
            return (self.progress or Progress()).covers(done)
        return done()

    def _check_batch(self, batch: ChangeBatch) -> None:
        assert len(batch), "an empty batch was emitted"
        self.largest_batch = max(self.largest_batch, len(batch))
        announced = self.schemas.get(batch.table)
        assert announced is not None, f"rows of {batch.table} came before its schema"
        assert announced == batch.schema, f"rows of {batch.table} have a schema that was not announced"
        envelope = batch.schema.envelope
        fields = list(batch.records.schema)[: len(envelope)]
        assert fields == list(envelope), f"rows of {batch.table} do not begin with the envelope"
        batch.records.validate(full=True)
        fresh = batch.after(self._resume)
        if fresh is None:
            return
        late = fresh.after(self.progress)
        assert late is not None, f"rows of {batch.table} came after a boundary that covers them"
        assert len(late) == len(fresh), f"rows of {batch.table} came after a boundary that covers them"
        changes = read_changes(batch.table, fresh.records, batch.chunk)
        assert {c.lane for c in changes} == {batch.lane}
        assert {c.schema_version for c in changes} == {batch.schema.version}
        for change in changes:
            self._check_order(change)
        if batch.chunk is not None:
            self._pending_chunks.setdefault(batch.snapshot or str(batch.table), set()).add(batch.chunk)
        self.changes.extend(changes)

    def _check_order(self, change: Change) -> None:
        if change.chunk is None and change.table is not None:
            last = self._last.get((change.lane, change.table), b"")
            assert change.position > last, (
                f"lane {change.lane}, {change.table}: position {change.position.hex()} came after {last.hex()}"
            )
            self._last[change.lane, change.table] = change.position
        unit = ("chunk", change.table, change.chunk) if change.chunk else ("transaction", change.transaction)
        assert unit not in self._closed, f"{unit} goes on after the boundary that ended it"
        self._open.add(unit)
        for column in change.unchanged:
            assert change.after is not None, f"{change.table}.{column} is unchanged in a row that is absent"
            assert change.after[column] is None, f"{change.table}.{column} is unchanged and has a value"

    def _check_boundary(self, progress: Progress, *, idle: bool) -> None:
        before = self.progress
        assert before is None or progress.covers(before), f"progress went back, from {before} to {progress}"
        for (lane, table), last in self._last.items():
            assert progress.covers(Progress({lane: last})), f"{progress} does not cover {last.hex()} of {table}"
        if not idle:
            for snapshot, names in self._pending_chunks.items():
                handled = Progress({}, {snapshot: frozenset(names)})
                assert progress.covers(handled), f"{progress} does not cover chunks {names} of {snapshot}"
            self._pending_chunks.clear()
        count = len(self.changes)
        boundary = self.boundaries[-1] if self.boundaries else None
        if idle:
            assert count == (boundary.changes if boundary else 0), "Idle came inside a transaction"
        if None not in {transaction for kind, *_, transaction in self._open if kind == "transaction"}:
            self._closed |= self._open
        self._open = set()
        self._put_in_order(boundary.changes if boundary else 0)
        self.boundaries.append(Boundary(count, progress))

    def _put_in_order(self, first: int) -> None:
        """What a source grouped by table since the last boundary, in the lane's order again."""
        tail = self.changes[first:]
        if len({change.lane for change in tail}) == 1 and all(change.chunk is None for change in tail):
            self.changes[first:] = sorted(tail, key=lambda change: change.position)
