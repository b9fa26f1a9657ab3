"""The conformance suite of sinks.

Inherit it, and supply one fixture:

    class TestFiles(SinkConformance):
        @pytest.fixture
        def harness(self, tmp_path: Path) -> SinkHarness:
            return FilesHarness(tmp_path)

The harness makes sinks on one target, and reads that target as anybody else would.
"""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
import pytest

from catchment.change import ChangeBatch, Operation
from catchment.errors import LeaseHeld, SinkUnavailable
from catchment.progress import Progress
from catchment.schema import UTC_MICROSECONDS, Column, TableId, TableSchema
from catchment.sinks.base import Sink
from catchment.testing.changes import (
    Change,
    RandomChanges,
    edge_values,
    read_changes,
    replay_seed,
)
from catchment.testing.delivery import Delivery
from catchment.testing.faults import (
    FailAfterFlush,
    FailAfterWrite,
    FailBeforeFlush,
    FailBeforeWrite,
    Fault,
    FaultySink,
)
from catchment.testing.memory import widened
from catchment.testing.onlooker import Onlooker
from catchment.testing.scripted import Chunk, Quiet, Rows, ScriptedSystem, Step, Transaction

ITEMS = TableSchema(
    TableId("public", "items"),
    (
        Column("id", pa.int64(), "bigint", key=True),
        Column("name", pa.string(), "text"),
        Column("amount", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("note", pa.string(), "text"),
    ),
)
WIDER_ITEMS = TableSchema(ITEMS.table, (*ITEMS.columns, Column("extra", pa.string(), "text")), version=2)
NOTES = TableSchema(
    TableId("public", "notes"),
    (Column("id", pa.int64(), "bigint", key=True), Column("body", pa.string(), "text")),
)
EVERY_TYPE = TableSchema(
    TableId("public", "every_type"),
    (
        Column("id", pa.int64(), "bigint", key=True),
        Column("a_bool", pa.bool_(), "boolean"),
        Column("an_int32", pa.int32(), "integer"),
        Column("an_int64", pa.int64(), "bigint"),
        Column("a_float32", pa.float32(), "real"),
        Column("a_float64", pa.float64(), "double precision"),
        Column("a_decimal", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("a_wide_decimal", pa.decimal128(38, 18), "numeric(38,18)"),
        Column("a_string", pa.string(), "text"),
        Column("a_binary", pa.binary(), "bytea"),
        Column("a_date", pa.date32(), "date"),
        Column("a_timestamp", pa.timestamp("us"), "timestamp"),
        Column("a_timestamptz", UTC_MICROSECONDS, "timestamptz"),
        Column('a "quoted" Näme', pa.string(), "text"),
    ),
)
LANES = ("shard-0", "shard-1", "shard-2")
LOOKS = 6
"""So many times somebody reads while flushes go on."""


class SinkHarness(ABC):
    """One target, empty at first; sinks that write to it; and what a reader finds there."""

    lease: bool = True
    """A second sink on the same target is refused with `LeaseHeld` while the first is open."""
    atomic: bool = True
    """All tables of a flush become visible at once. One test then calls `read` on another thread, during flushes."""

    @abstractmethod
    def sink(self) -> Sink:
        """A new sink on the target, not yet opened."""

    @abstractmethod
    def read(self, schema: TableSchema) -> pa.Table:
        """What an outside reader sees of the table now: the columns of `schema.envelope`, in that order.

        In the order in which the sink holds the changes (by its own files and rows; never sorted by
        `_position`: that would hide a mistake). Columns younger than a row are NULL in it. No rows when
        the table is not there.
        """


def make_script(seed: int, *, steps: int = 40) -> list[Step]:
    """A random script: two tables over three lanes, a snapshot, quiet lanes, transactions of all sizes."""
    rng = random.Random(seed)
    snapshot: list[Step] = []
    for schema in (ITEMS, NOTES):
        rows = [Change(Operation.READ, after=_row(schema, 9_000_000 + i)) for i in range(6)]
        snapshot.append(Chunk(LANES[0], "rows-0", Rows(schema, rows[:3])))
        snapshot.append(Chunk(LANES[0], "rows-1", Rows(schema, rows[3:]), last=True))
    makers = {
        lane: [RandomChanges(s, rng, first_key=1_000_000 * n + 1) for s in (ITEMS, NOTES)]
        for n, lane in enumerate(LANES)
    }
    stream: list[Step] = []
    for _ in range(steps):
        lane = rng.choice(LANES)
        if rng.random() < 0.15:
            stream.append(Quiet(lane))
            continue
        parts = [
            Rows(maker.schema, maker.changes(rng.choice((1, 2, 5, 20))))
            for maker in rng.choices(makers[lane], k=rng.randrange(1, 4))
        ]
        stream.append(Transaction(lane, *parts))
    return snapshot + stream


def _row(schema: TableSchema, number: int) -> dict[str, Any]:
    return {c.name: number if c.name == "id" else None for c in schema.columns}


def insert(lane: str, schema: TableSchema, *numbers: int) -> Transaction:
    """A transaction that inserts rows with these ids."""
    return Transaction(lane, Rows(schema, [Change(Operation.INSERT, after=_row(schema, n)) for n in numbers]))


def scripted_changes(system: ScriptedSystem, schema: TableSchema) -> list[Change]:
    """Every change of the table in the script, in its order."""
    return [
        change.without_chunk()
        for entry in system.entries()
        for part in entry.parts
        if isinstance(part, ChangeBatch) and part.table == schema.table
        for change in read_changes(part.table, widened(part, schema))
    ]


@contextmanager
def delivery(
    harness: SinkHarness,
    system: ScriptedSystem,
    *,
    faults: Sequence[Fault] = (),
    overlap: int = 0,
    group: int = 1,
) -> Iterator[Delivery]:
    """A new sink on the harness's target, fed from the script; closed at the end, never flushed by it."""
    sink = FaultySink(harness.sink(), list(faults))
    try:
        one = Delivery(sink, system, overlap=overlap, group=group)
        yield one
    finally:
        sink.close()


class SinkConformance:
    """What every sink keeps. Inherit it, and give it a fixture `harness`."""

    @pytest.fixture
    def harness(self) -> Any:
        raise NotImplementedError("Override the fixture `harness`: it gives the suite a SinkHarness.")

    # Once

    def test_a_script_arrives_whole_and_in_order(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(*make_script(replay_seed()))
        with delivery(harness, system) as one:
            held = one.all().flush()
        assert held is not None
        assert held.covers(system.head())
        expect(harness, system)

    def test_redelivered_batches_change_nothing(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(*make_script(replay_seed()))
        with delivery(harness, system) as one:
            one.all().flush(acknowledge=False)
        with delivery(harness, system, overlap=20) as one:
            assert one.held is not None
            assert one.held.covers(system.head())
            one.all().flush()
        expect(harness, system)

    def test_a_transaction_redelivered_in_part_is_completed(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(insert(LANES[0], ITEMS, 1, 2, 3))
        with delivery(harness, system) as one:
            one.step()
            one.step()
        system.append(insert(LANES[0], ITEMS, 4))
        with delivery(harness, system) as one:
            one.all().flush()
        expect(harness, system)

    @pytest.mark.parametrize("round_", range(4))
    def test_crashes_at_random_moments_leave_every_change_once(self, harness: SinkHarness, round_: int) -> None:
        seed = replay_seed() + round_
        rng = random.Random(seed)
        system = ScriptedSystem(*make_script(seed))
        for _ in range(8):
            with delivery(harness, system, overlap=rng.randrange(4), group=rng.randrange(1, 5)) as one:
                for _ in range(rng.randrange(30)):
                    one.step()
                    if rng.random() < 0.2:
                        one.flush(acknowledge=rng.random() < 0.8)
        with delivery(harness, system) as one:
            held = one.all().flush()
        assert held is not None
        assert held.covers(system.head())
        expect(harness, system, across_lanes=False)

    @pytest.mark.parametrize("fault", [FailBeforeWrite, FailAfterWrite, FailBeforeFlush, FailAfterFlush])
    @pytest.mark.parametrize("at", [1, 2, 5])
    def test_a_failure_around_a_call_leaves_every_change_once(
        self, harness: SinkHarness, fault: type[Fault], at: int
    ) -> None:
        system = ScriptedSystem(*make_script(replay_seed()))
        faults = [fault(at=at, error=SinkUnavailable("scripted"))]
        for _ in range(2):
            with delivery(harness, system, faults=faults) as one, suppress(SinkUnavailable):
                for number in range(10**6):
                    if one.step() is None:
                        break
                    if number % 7 == 6:
                        one.flush()
                one.flush()
        assert faults[0].happened
        expect(harness, system, across_lanes=False)

    # Boundaries

    def test_nothing_is_visible_or_held_before_a_flush(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(insert(LANES[0], ITEMS, 1), insert(LANES[0], NOTES, 1))
        with delivery(harness, system) as one:
            assert one.held is None
            one.all()
            assert held_changes(harness, ITEMS) == []
            assert held_changes(harness, NOTES) == []
        with delivery(harness, system) as one:
            assert one.held is None

    def test_a_flush_is_a_barrier_up_to_the_last_boundary(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(insert(LANES[0], ITEMS, 1, 2))
        with delivery(harness, system) as one:
            one.all()
            held = one.flush()
            assert held is not None
            assert one.boundary is not None
            assert held.covers(one.boundary)
            assert one.boundary.covers(held)
            expect(harness, system)

    def test_no_table_of_a_flush_is_seen_before_another(self, harness: SinkHarness) -> None:
        if not harness.atomic:
            pytest.skip("this sink shows the tables of a flush one after another")
        system, numbers = ScriptedSystem(), itertools.count(1)
        with delivery(harness, system) as one:

            def flush_a_row_of_each() -> None:
                number = next(numbers)
                rows = [Rows(s, [Change(Operation.INSERT, after=_row(s, number))]) for s in (ITEMS, NOTES)]
                system.append(Transaction(LANES[0], *rows))
                one.all().flush()

            onlooker = Onlooker(lambda: harness.read(NOTES).num_rows, lambda: harness.read(ITEMS).num_rows)
            for _ in range(LOOKS):
                onlooker.look_during(flush_a_row_of_each)
        expect(harness, system)

    def test_rows_after_the_last_boundary_stay_out_and_come_with_the_next(self, harness: SinkHarness) -> None:
        rows = [Rows(ITEMS, [Change(Operation.INSERT, after=_row(ITEMS, n))]) for n in (2, 3)]
        system = ScriptedSystem(insert(LANES[0], ITEMS, 1), Transaction(LANES[0], *rows), insert(LANES[1], NOTES, 4))
        whole = scripted_changes(system, ITEMS)
        with delivery(harness, system) as one:
            for _ in range(4):  # the schema, the first row, its end, the first row of the second transaction
                one.step()
            one.flush()
            assert held_changes(harness, ITEMS) == whole[:1]
            one.step()
            one.flush()
            assert held_changes(harness, ITEMS) == whole[:1]
            one.step()
            one.flush()
            assert held_changes(harness, ITEMS) == whole
            one.all().flush()
        expect(harness, system)

    def test_a_flush_without_anything_new_changes_nothing(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(insert(LANES[0], ITEMS, 1))
        with delivery(harness, system) as one:
            assert one.flush() is None
            first = one.all().flush()
            assert one.flush() == first
        with delivery(harness, system) as one:
            assert one.held == first
            assert one.flush() == first
        expect(harness, system)

    def test_close_drops_what_was_not_flushed(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(insert(LANES[0], ITEMS, 1))
        with delivery(harness, system) as one:
            first = one.all().flush()
            system.append(insert(LANES[0], ITEMS, 2))
            one.all()
        expect_first(harness, system, ITEMS, 1)
        with delivery(harness, system) as one:
            assert one.held == first
            one.all().flush()
        expect(harness, system)

    def test_idle_progress_is_kept(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(Quiet(LANES[0]), Quiet(LANES[1]))
        with delivery(harness, system) as one:
            held = one.all().flush()
        assert held == system.head()
        system.append(insert(LANES[0], ITEMS, 1), Quiet(LANES[1]), Quiet(LANES[0]))
        with delivery(harness, system) as one:
            assert one.held == held
            one.all().flush()
        with delivery(harness, system) as one:
            assert one.held == system.head()
        expect(harness, system)

    def test_a_sink_ahead_of_the_others_keeps_its_progress(self, harness: SinkHarness) -> None:
        """The pipeline resumes at the minimum over its sinks: boundaries below our progress come again."""
        system = ScriptedSystem(*(insert(LANES[0], ITEMS, n) for n in range(1, 6)))
        with delivery(harness, system) as one:
            held = one.all().flush(acknowledge=False)
        with delivery(harness, system) as one:
            one.sink.advance(Progress({LANES[0]: b"0" * 40}))
            assert one.sink.flush() == held
        with delivery(harness, system) as one:
            assert one.held == held
        expect(harness, system)

    def test_snapshot_chunks_are_held_by_name(self, harness: SinkHarness) -> None:
        row = [Change(Operation.READ, after=_row(ITEMS, 1))]
        system = ScriptedSystem(
            Chunk(LANES[0], "a", Rows(ITEMS, row)), Chunk(LANES[0], "b", Rows(ITEMS, row), last=True)
        )
        with delivery(harness, system) as one:
            for _ in range(3):
                one.step()
            one.flush()
        with delivery(harness, system) as one:
            assert one.held == Progress({}, {str(ITEMS.table): frozenset({"a"})})
            held = one.all().flush()
        assert held == system.head()
        expect(harness, system)

    # Rows

    def test_several_tables_and_lanes_become_durable_in_one_flush(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(
            *(insert(lane, schema, 10 * i) for i, lane in enumerate(LANES) for schema in (ITEMS, NOTES))
        )
        with delivery(harness, system) as one:
            held = one.all().flush()
        assert held is not None
        assert set(held.positions) == set(LANES)
        expect(harness, system)

    def test_every_type_and_its_edges_come_back_the_same(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(Transaction(LANES[0], Rows(EVERY_TYPE, list(_every_value()))))
        with delivery(harness, system) as one:
            one.all().flush()
        expect(harness, system, EVERY_TYPE)

    def test_unchanged_and_unrepresentable_come_back_the_same(self, harness: SinkHarness) -> None:
        row = _row(ITEMS, 1)
        changes = [
            Change(Operation.INSERT, after=row, unrepresentable={"amount": "NaN", "note": 'a "quoted" \\ é'}),
            Change(Operation.UPDATE, after=row, unchanged=frozenset({"note", "name"})),
            Change(Operation.UPDATE, before=row, after={**row, "id": 2, "name": ""}),
            Change(Operation.DELETE, before={**row, "id": 2}),
            Change(Operation.TRUNCATE),
        ]
        system = ScriptedSystem(Transaction(LANES[0], Rows(ITEMS, changes)))
        with delivery(harness, system) as one:
            one.all().flush()
        expect(harness, system)

    def test_a_column_added_in_mid_run_is_null_before_and_there_after(self, harness: SinkHarness) -> None:
        wide = [Change(Operation.INSERT, after={**_row(WIDER_ITEMS, n), "extra": f"e{n}"}) for n in (2, 3)]
        system = ScriptedSystem(
            insert(LANES[0], ITEMS, 1),
            Transaction(LANES[0], Rows(WIDER_ITEMS, wide[:1])),
        )
        with delivery(harness, system) as one:
            one.all().flush()
            system.append(Transaction(LANES[0], Rows(WIDER_ITEMS, wide[1:])))
            one.all().flush()
        expect(harness, system, WIDER_ITEMS)

    def test_a_column_added_between_two_runs_is_there(self, harness: SinkHarness) -> None:
        system = ScriptedSystem(insert(LANES[0], ITEMS, 1))
        with delivery(harness, system) as one:
            one.all().flush()
        change = Change(Operation.INSERT, after={**_row(WIDER_ITEMS, 2), "extra": "new"})
        system.append(Transaction(LANES[0], Rows(WIDER_ITEMS, [change])))
        with delivery(harness, system) as one:
            one.all().flush()
        expect(harness, system, WIDER_ITEMS)

    def test_a_column_added_inside_a_transaction_is_there(self, harness: SinkHarness) -> None:
        change = Change(Operation.INSERT, after={**_row(WIDER_ITEMS, 2), "extra": "new"})
        first = Change(Operation.INSERT, after=_row(ITEMS, 1))
        system = ScriptedSystem(
            Transaction(LANES[0], Rows(ITEMS, [first]), Rows(WIDER_ITEMS, [change])),
        )
        with delivery(harness, system) as one:
            one.all().flush()
        expect(harness, system, WIDER_ITEMS)

    def test_a_large_transaction_is_held_back_and_then_comes_whole(self, harness: SinkHarness) -> None:
        parts = [
            Rows(NOTES, [Change(Operation.INSERT, after=_row(NOTES, 1000 * i + n)) for n in range(1000)])
            for i in range(8)
        ]
        system = ScriptedSystem(insert(LANES[0], NOTES, 1), Transaction(LANES[0], *parts))
        with delivery(harness, system) as one:
            for _ in range(7):
                one.step()
            one.flush()
            expect_first(harness, system, NOTES, 1)
            one.all().flush()
        expect(harness, system)

    # One writer

    def test_a_second_writer_is_refused_until_the_first_closes(self, harness: SinkHarness) -> None:
        if not harness.lease:
            pytest.skip("this sink has no lease")
        first = harness.sink()
        first.open()
        try:
            # One that was refused, or never opened, lets nobody in when it is closed.
            harness.sink().close()
            for other in (harness.sink(), harness.sink()):
                try:
                    with pytest.raises(LeaseHeld):
                        other.open()
                finally:
                    other.close()
        finally:
            first.close()
        last = harness.sink()
        last.open()
        last.close()

    def test_closing_twice_and_closing_unopened_is_fine(self, harness: SinkHarness) -> None:
        harness.sink().close()
        sink = harness.sink()
        sink.open()
        sink.close()
        sink.close()


def _every_value() -> Iterator[Change]:
    """A row for every edge of every type, the others NULL; and one of NULLs alone."""
    number = 0
    for column in EVERY_TYPE.columns:
        for value in (None,) if column.key else edge_values(column.type):
            number += 1
            after = {c.name: None for c in EVERY_TYPE.columns} | {column.name: value, "id": number}
            yield Change(Operation.INSERT, after=after)
            yield Change(Operation.UPDATE, before=after, after=after)


def held_changes(harness: SinkHarness, schema: TableSchema) -> list[Change]:
    """What a reader sees of the table."""
    rows = harness.read(schema)
    assert rows.schema.names == schema.envelope.names
    return read_changes(schema.table, rows)


def expect_first(harness: SinkHarness, system: ScriptedSystem, schema: TableSchema, count: int) -> None:
    """A reader sees exactly the first `count` changes of the table."""
    assert held_changes(harness, schema) == scripted_changes(system, schema)[:count]


def expect(harness: SinkHarness, system: ScriptedSystem, *schemas: TableSchema, across_lanes: bool = True) -> None:
    """A reader sees every change of the script once, in order.

    across_lanes: the order over all lanes; else that of each lane alone, which is what remains after a
    crash, when lanes are read again at different speeds.
    """
    for schema in schemas or (ITEMS, NOTES):
        held, expected = held_changes(harness, schema), scripted_changes(system, schema)
        if across_lanes:
            assert held == expected
            continue
        for lane in LANES:
            assert [c for c in held if c.lane == lane] == [c for c in expected if c.lane == lane]
        assert len(held) == len(expected)
