"""A source whose whole life is a script: several lanes, long sequence numbers, failures as data.

    >>> system = ScriptedSystem(
    ...     Chunk("shard-0", "rows-1", Rows(schema, [Change(Operation.READ, after={"id": 1})]), last=True),
    ...     Transaction("shard-0", Rows(schema, [Change(Operation.INSERT, after={"id": 2})])),
    ...     Abort(SourceUnavailable("the connection is gone")),
    ...     Transaction("shard-1", Rows(schema, [Change(Operation.INSERT, after={"id": 3})])),
    ... )
    >>> source = ScriptedSource(system)

The system outlives its sources, as a server does: it keeps the log, hands out positions, forgets what was
acknowledged, and each failure happens once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from catchment.change import ChangeBatch
from catchment.errors import CatchmentError, PositionLost
from catchment.progress import ALL_CHUNKS, Progress
from catchment.schema import TableId, TableSchema
from catchment.sources.base import Event, Idle, SchemaChange, SourceStatus, TransactionEnd
from catchment.testing.changes import Change, make_batch

FIRST_SEQUENCE_NUMBER = 7 * 10**39
"""40 digits: no machine integer holds it, and only bytes of equal width compare as the numbers do."""

COMMITTED_AT = 1_700_000_000_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """One batch of one table. A schema that differs from the last one is a schema change."""

    schema: TableSchema
    changes: Sequence[Change]


@dataclass
class Abort:
    """Raise this error here, once."""

    error: CatchmentError
    raised: bool = False


@dataclass
class Hold:
    """Say nothing more from here until `released` is set. `reached` is set when a source stands here."""

    released: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


class Transaction:
    """Changes of one lane that belong together; an `Abort` or a `Hold` may stand between its batches."""

    def __init__(self, lane: str, *parts: Rows | Abort | Hold) -> None:
        self.lane = lane
        self.parts = parts


@dataclass(frozen=True, slots=True)
class Chunk:
    """Snapshot rows of one table. With the last chunk its snapshot is finished."""

    lane: str
    name: str
    rows: Rows
    last: bool = False


@dataclass(frozen=True, slots=True)
class Quiet:
    """The lane moves on without rows for us."""

    lane: str


Step = Transaction | Chunk | Quiet | Abort | Hold


@dataclass(frozen=True, slots=True)
class _Entry:
    """A step with its positions. `reach`: what is handled once it is."""

    parts: tuple[ChangeBatch | Abort | Hold, ...]
    reach: Progress
    idle: bool = False


class ScriptedSystem:
    """The log of a system that can be captured. It may be added to while a source reads."""

    def __init__(self, *steps: Step) -> None:
        self.released = Progress()
        """What was acknowledged: the system has forgotten it."""
        self.acknowledged: list[Progress] = []
        self.opened: list[Progress | None] = []
        """What every source was opened with."""
        self._entries: list[_Entry] = []
        self._numbers: dict[str, int] = {}
        self._transactions = 0
        self._versions = 0
        self._grown = threading.Condition()
        self.append(*steps)

    def append(self, *steps: Step) -> None:
        """More happens."""
        with self._grown:
            self._entries.extend(self._entry(step) for step in steps)
            self._grown.notify_all()

    def head(self) -> Progress:
        """Where the log ends."""
        with self._grown:
            head = Progress()
            for entry in self._entries:
                head = head.join(entry.reach)
            return head

    def entries(self) -> tuple[_Entry, ...]:
        """The whole log."""
        with self._grown:
            return tuple(self._entries)

    def entry(self, index: int) -> _Entry | None:
        """One entry of the log; None beyond its end."""
        with self._grown:
            return self._entries[index] if index < len(self._entries) else None

    def wait_for_entry(self, index: int, timeout: float) -> None:
        """Wait until the log has this entry, or for so many seconds."""
        with self._grown:
            self._grown.wait_for(lambda: index < len(self._entries), timeout)

    def acknowledge(self, progress: Progress) -> None:
        """Forget what `progress` has handled."""
        self.acknowledged.append(progress)
        self.released = self.released.join(progress)

    def _entry(self, step: Step) -> _Entry:
        match step:
            case Abort() | Hold():
                return _Entry((step,), Progress())
            case Quiet(lane):
                return _Entry((), Progress({lane: self._number(lane)}), idle=True)
            case Chunk(lane, name, rows, last):
                batch = self._batch(lane, rows, transaction=None, chunk=name)
                names = ALL_CHUNKS if last else frozenset({name})
                return _Entry((batch,), Progress({}, {str(rows.schema.table): names}))
            case Transaction(lane=lane, parts=parts):
                self._transactions += 1
                name = f"{lane}:{self._transactions}"
                made = tuple(
                    self._batch(lane, one, transaction=name, chunk=None) if isinstance(one, Rows) else one
                    for one in parts
                )
                return _Entry(made, Progress({lane: self._number(lane)}))

    def _batch(self, lane: str, rows: Rows, *, transaction: str | None, chunk: str | None) -> ChangeBatch:
        changes = []
        for change in rows.changes:
            self._versions += 1
            number = _digits(self._versions) if chunk else self._number(lane)
            changes.append(
                replace(
                    change,
                    position=change.position or number,
                    version=change.version or _digits(self._versions),
                    transaction=transaction,
                    committed_at=COMMITTED_AT + 1000 * self._transactions,
                )
            )
        return make_batch(rows.schema, lane, changes, chunk)

    def _number(self, lane: str) -> bytes:
        start = FIRST_SEQUENCE_NUMBER + 10**38 * len(self._numbers)
        self._numbers[lane] = self._numbers.get(lane, start) + 1
        return _digits(self._numbers[lane])


def _digits(number: int) -> bytes:
    return b"%040d" % number


class ScriptedSource:
    """Reads a `ScriptedSystem` as the contract says, and holds its caller to the contract as well.

    overlap: how many steps at or below `resume` come once more at open, as sources may do. group: how many
    transactions of one lane at most come table by table with one boundary, as from a source that catches up.
    """

    def __init__(self, system: ScriptedSystem, *, overlap: int = 0, group: int = 1) -> None:
        self._system = system
        self._overlap = overlap
        self._group = group
        self._events: Iterator[Event | Hold | int] | None = None
        self._emitted = Progress()
        self._acknowledged: Progress | None = None
        self._announced: dict[TableId, TableSchema] = {}
        self.closed = False

    def open(self, resume: Progress | None) -> None:
        self._system.opened.append(resume)
        start = resume or Progress()
        if not start.covers(self._system.released):
            raise PositionLost(
                f"The scripted log was released up to {self._system.released.to_json()} and cannot be read "
                f"from {start.to_json()}. Take a new snapshot."
            )
        self._emitted = start
        self._acknowledged = resume
        self._events = self._read(start)

    def next(self, timeout: float) -> Event | None:
        assert self._events is not None, "next() before open()"
        assert not self.closed, "next() after close()"
        deadline = time.monotonic() + timeout
        while True:
            event = next(self._events)
            left = max(0.0, deadline - time.monotonic())
            if isinstance(event, Hold):
                event.reached.set()
                if not event.released.wait(left):
                    return None
            elif isinstance(event, int):
                self._system.wait_for_entry(event, left)
                if self._system.entry(event) is None:
                    return None
            else:
                return event

    def acknowledge(self, progress: Progress) -> None:
        assert not self.closed, "acknowledge() after close()"
        assert self._emitted.covers(progress), f"acknowledged what was not emitted: {progress.to_json()}"
        before = self._acknowledged
        assert before is None or progress.covers(before), f"acknowledged backwards: {progress.to_json()}"
        self._acknowledged = progress
        self._system.acknowledge(progress)

    def head(self) -> Progress:
        return self._system.head()

    def status(self) -> SourceStatus:
        return SourceStatus(mode="scripted")

    def close(self) -> None:
        self.closed = True

    def _read(self, start: Progress) -> Iterator[Event | Hold | int]:
        """Events; a `Hold` or the index of an entry that is still missing where it has to wait."""
        handled = [
            index
            for index, entry in enumerate(self._system.entries())
            if not _fault(entry) and start.covers(entry.reach)
        ]
        skip = set(handled[: max(0, len(handled) - self._overlap)])
        index = 0
        while True:
            entry = self._system.entry(index)
            if entry is None:
                yield index
                continue
            if index not in skip:
                group = self._grouped(index, skip)
                yield from self._emit(_joined(group))
                index += len(group)
            else:
                index += 1

    def _grouped(self, index: int, skip: set[int]) -> list[_Entry]:
        """The entry, and those after it that may come with it: transactions of the same lane."""
        entry = self._system.entry(index)
        group: list[_Entry] = []
        while entry is not None and index not in skip:
            alike = _is_plain(entry) and (not group or entry.reach.positions.keys() == group[0].reach.positions.keys())
            if group and (not alike or len(group) == self._group):
                break
            group.append(entry)
            if not alike:
                break
            index += 1
            entry = self._system.entry(index)
        return group

    def _emit(self, entry: _Entry) -> Iterator[Event | Hold]:
        for part in entry.parts:
            match part:
                case Abort(error=error):
                    if not part.raised:
                        part.raised = True
                        raise error
                case Hold():
                    while not part.released.is_set():
                        yield part
                case ChangeBatch():
                    if self._announced.get(part.table) != part.schema:
                        self._announced[part.table] = part.schema
                        yield SchemaChange(part.schema)
                    yield part
        if not _fault(entry):
            self._emitted = self._emitted.join(entry.reach)
            yield Idle(self._emitted) if entry.idle else TransactionEnd(self._emitted)


def _is_plain(entry: _Entry) -> bool:
    """A transaction with nothing but rows."""
    return (
        bool(entry.parts)
        and all(isinstance(part, ChangeBatch) and part.chunk is None for part in entry.parts)
        and not entry.idle
    )


def _joined(group: list[_Entry]) -> _Entry:
    """Several transactions as one entry: one batch a table and schema, in the order of their first rows."""
    if len(group) == 1:
        return group[0]
    batches: dict[tuple[TableId, int], list[ChangeBatch]] = {}
    reach = Progress()
    for entry in group:
        reach = reach.join(entry.reach)
        for part in entry.parts:
            if isinstance(part, ChangeBatch):
                batches.setdefault((part.table, part.schema.version), []).append(part)
    joined = [
        ChangeBatch(parts[0].schema, parts[0].lane, pa.concat_batches([part.records for part in parts]))
        for parts in batches.values()
    ]
    return _Entry(tuple(joined), reach)


def _fault(entry: _Entry) -> bool:
    return entry.reach == Progress()
