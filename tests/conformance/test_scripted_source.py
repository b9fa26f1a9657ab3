"""The suite of sources on the scripted source: two lanes, 40-digit sequence numbers, a log that forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pytest

from catchment.change import Operation
from catchment.errors import PositionLost, SourceUnavailable
from catchment.progress import Progress
from catchment.schema import Column, TableId, TableSchema
from catchment.sources.base import Source
from catchment.testing.changes import Change
from catchment.testing.scripted import (
    Abort,
    Chunk,
    Hold,
    Quiet,
    Rows,
    ScriptedSource,
    ScriptedSystem,
    Transaction,
)
from catchment.testing.sources import (
    ITEMS,
    NOTES,
    Delete,
    Insert,
    RowChange,
    SourceConformance,
    SourceHarness,
    Truncate,
    Update,
    example,
    reading,
)

LANES = ("lane-a", "lane-b")


class ScriptedHarness(SourceHarness):
    """A system of rows in memory that writes its own script: transactions go to its lanes in turn."""

    largest_batch = 100

    def __init__(self) -> None:
        self.system: ScriptedSystem | None = None
        self._schemas = {
            ITEMS: TableSchema(
                self.table(ITEMS),
                (
                    Column("id", pa.int64(), "bigint", key=True),
                    Column("name", pa.string(), "text"),
                    Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
                    Column("note", pa.string(), "text"),
                ),
            ),
            NOTES: TableSchema(
                self.table(NOTES),
                (Column("id", pa.int64(), "bigint", key=True), Column("body", pa.string(), "text")),
            ),
        }
        self._rows: dict[str, dict[int, dict[str, Any]]] = {ITEMS: {}, NOTES: {}}
        self._turn = 0

    def source(self) -> Source:
        if self.system is None:
            self.system = ScriptedSystem(*self._snapshot())
        return ScriptedSource(self.system, overlap=2)

    def table(self, name: str) -> TableId:
        return TableId("scripted", name)

    def commit(self, *changes: RowChange) -> None:
        made = [(one.table, self._apply(one)) for one in changes]
        if self.system is None:
            return
        self._turn += 1
        parts: list[Rows] = []
        run: list[Change] = []
        for index, (table, change) in enumerate(made):
            run.append(change)
            last = index + 1 == len(made)
            if last or made[index + 1][0] != table or len(run) == self.largest_batch:
                parts.append(Rows(self._schemas[table], run))
                run = []
        self.system.append(Transaction(LANES[self._turn % 2], *parts))

    def rows(self, table: str) -> Sequence[Mapping[str, Any]]:
        return [self._rows[table][key] for key in sorted(self._rows[table])]

    def roll_back(self, *changes: RowChange) -> None:
        """What is taken back is never in a log of commits."""

    def add_column(self, table: str, column: str) -> None:
        old = self._schemas[table]
        new = Column(column, pa.string(), "text")
        self._schemas[table] = TableSchema(old.table, (*old.columns, new), old.version + 1)
        for row in self._rows[table].values():
            row[column] = None

    def pass_by(self) -> None:
        assert self.system is not None
        self.system.append(Quiet(LANES[0]))

    def cut(self) -> None:
        assert self.system is not None
        self.system.append(Abort(SourceUnavailable("The scripted connection was cut.")))

    def _snapshot(self) -> list[Chunk]:
        chunks = []
        for table, schema in self._schemas.items():
            rows = [Change(Operation.READ, after=dict(row)) for row in self.rows(table)]
            for start in range(0, len(rows), 10):
                part = Rows(schema, rows[start : start + 10])
                chunks.append(Chunk(LANES[0], f"from-{start}", part, last=start + 10 >= len(rows)))
        return chunks

    def _apply(self, one: RowChange) -> Change:
        rows, names = self._rows[one.table], [c.name for c in self._schemas[one.table].columns]
        match one:
            case Truncate():
                rows.clear()
                return Change(Operation.TRUNCATE)
            case Delete(id=key):
                del rows[key]
                return Change(Operation.DELETE, before={n: key if n == "id" else None for n in names})
            case Insert(row=row):
                new: dict[str, Any] = {n: row.get(n) for n in names}
                rows[new["id"]] = new
                return Change(Operation.INSERT, after=dict(new))
            case Update(id=key, values=values):
                new = {**rows.pop(key), **values}
                rows[new["id"]] = new
                before = {n: key if n == "id" else None for n in names} if new["id"] != key else None
                left_out = frozenset(n for n in ("note",) if n in new and n not in values and new[n])
                after = {n: None if n in left_out else new[n] for n in names}
                return Change(Operation.UPDATE, before=before, after=after, unchanged=left_out)


class TestScriptedSource(SourceConformance):
    @pytest.fixture
    def harness(self) -> ScriptedHarness:
        return ScriptedHarness()


def test_a_hold_says_nothing_until_it_is_released() -> None:
    harness, hold = ScriptedHarness(), Hold()
    source = harness.source()
    assert harness.system is not None
    harness.system.append(hold)
    harness.commit(Insert(ITEMS, example(ITEMS, 1)))
    source.open(None)
    assert source.next(0.01) is None
    assert hold.reached.is_set()
    hold.released.set()
    assert source.next(0.01) is not None


def test_an_abort_inside_a_transaction_happens_once() -> None:
    schema = ScriptedHarness()._schemas[NOTES]
    rows = [Rows(schema, [Change(Operation.INSERT, after=example(NOTES, n))]) for n in (1, 2)]
    abort = Abort(SourceUnavailable("scripted"))
    system = ScriptedSystem(Transaction(LANES[0], rows[0], abort, rows[1]))
    source = ScriptedSource(system)
    source.open(None)
    source.next(0)
    source.next(0)
    with pytest.raises(SourceUnavailable):
        source.next(0)
    source.close()
    again = ScriptedSource(system)
    again.open(None)
    events = [again.next(0) for _ in range(5)]
    assert [type(event).__name__ for event in events] == [
        "SchemaChange",
        "ChangeBatch",
        "ChangeBatch",
        "TransactionEnd",
        "NoneType",
    ]


def test_what_was_acknowledged_is_gone() -> None:
    harness = ScriptedHarness()
    with reading(harness) as one:
        harness.commit(Insert(ITEMS, example(ITEMS, 1)))
        one.until(one.source.head())
        assert one.progress is not None
        one.source.acknowledge(one.progress)
    with pytest.raises(PositionLost):
        harness.source().open(None)


def test_a_caller_that_acknowledges_too_much_or_backwards_is_found_out() -> None:
    harness = ScriptedHarness()
    with reading(harness) as one:
        harness.commit(Insert(ITEMS, example(ITEMS, 1)))
        harness.commit(Insert(ITEMS, example(ITEMS, 2)))
        assert harness.system is not None
        with pytest.raises(AssertionError, match="not emitted"):
            one.source.acknowledge(harness.system.head())
        one.until(one.source.head())
        first, last = one.boundaries[0].progress, one.boundaries[-1].progress
        one.source.acknowledge(last)
        with pytest.raises(AssertionError, match="backwards"):
            one.source.acknowledge(first)


def test_a_sequence_number_has_forty_digits_and_lanes_have_their_own() -> None:
    harness = ScriptedHarness()
    with reading(harness) as one:
        for n in range(1, 5):
            harness.commit(Insert(ITEMS, example(ITEMS, n)))
        one.until(one.source.head())
        assert isinstance(one.progress, Progress)
        assert {len(at) for at in one.progress.positions.values()} == {40}
        assert set(one.progress.positions) == set(LANES)
