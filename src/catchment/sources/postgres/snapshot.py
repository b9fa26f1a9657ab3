"""The first copy of a table: chunks by ctid range, read in parallel as Arrow at one exact LSN.

All chunks of a run share one exported snapshot, whose LSN is the version of their rows: a row stands above
earlier commits and below later ones. A finished chunk's name in `Progress.chunks` holds what resuming must
know: `<generation>/<relfilenode>:<first page>-<end page>@<xmin of its snapshot>`. A table that starts anew begins
a generation, named by its snapshot's LSN; what older generations finished no longer counts.

After a crash the remaining chunks are read at a new snapshot. A row may meanwhile have moved into a range that
was read before, and its unchanged TOAST value be in no chunk and no message: so row versions in finished ranges
that are younger than their snapshot are read again (`moved`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from psycopg import sql

from catchment.change import ChangeBatch, Operation
from catchment.errors import CatchmentError
from catchment.schema import UTC_MICROSECONDS
from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.inbox import Chunk, Inbox
from catchment.sources.postgres.pgoutput import Lost, Relation, fixed_binary, position, unrepresentable
from catchment.sources.postgres.publication import SourceTable
from catchment.sources.postgres.replication import ExportedSnapshot
from catchment.sources.postgres.slot import Connection
from catchment.telemetry import SnapshotReport

PAGE_BYTES = 8192
_BEGUN = "begun"
ADMITTED = "0/admitted"
"""A chunk of nothing: its table was not published for a while and is to be read anew (see `source.py`)."""
REWRITTEN = "0/rewritten"
"""A chunk of nothing: its table's rows changed without a change being sent, and they are to be read again."""
REKEYED = "0/rekeyed"
"""The same for a table whose key is another, or has another type: rows are told apart otherwise, so the old ones go."""
ANEW = frozenset({ADMITTED, REKEYED})
"""What a table that is read from its beginning, after a truncate, is marked with."""
_NOTHING = frozenset(name.partition("/")[2] for name in (*ANEW, REWRITTEN))


@dataclass(frozen=True, slots=True)
class _Range:
    """Pages [first, end) of one relation; end None is open. name: what `Progress.chunks` calls it.

    since: only row versions whose xmin is at least this old snapshot's (`moved`).
    """

    name: str
    relation: sql.Composable
    first: int
    end: int | None
    rows_estimate: int
    since: int | None = None


@dataclass
class TableSnapshot:
    """One table that is being read: what is left, and how far it has come. key: its name in `Progress.chunks`."""

    table: SourceTable
    key: str
    relation: Relation
    ranges: list[_Range]
    anew: bool
    chunks_total: int
    rows_total: int
    chunks_done: int = 0
    rows_done: int = 0
    started_at: float = field(default_factory=time.monotonic)

    def report(self) -> SnapshotReport:
        """How far it is."""
        elapsed = time.monotonic() - self.started_at
        left = self.chunks_total - self.chunks_done
        seconds = elapsed / self.chunks_done * left if self.chunks_done else None
        return SnapshotReport(self.rows_done, self.rows_total, self.chunks_done, self.chunks_total, seconds)


_LEAVES = """
SELECT c.oid::int8, n.nspname, c.relname, pg_relation_filenode(c.oid)::int8,
       (pg_relation_size(c.oid) / current_setting('block_size')::int8)::int8, greatest(c.reltuples, 0)::int8
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s AND c.relkind = 'r'
   OR c.oid IN (SELECT relid FROM pg_partition_tree(%(oid)s) WHERE isleaf) AND c.relkind = 'r'
ORDER BY c.oid
"""


def plan_table(
    connection: Connection,
    table: SourceTable,
    relation: Relation,
    key: str,
    done: frozenset[str],
    chunk_bytes: int,
    lsn: int,
    *,
    from_scratch: bool = False,
) -> TableSnapshot:
    """What is left to read of a table, given the names of its finished chunks.

    A table that was rewritten since (another relfilenode), or has no key to tell rows apart, starts anew, as does
    one that is wanted from_scratch.
    """
    with translated(f"planning the snapshot of {table.id}"):
        leaves = connection.execute(_LEAVES, {"oid": table.oid}).fetchall()
    generation = max((int(name.partition("/")[0]) for name in done), default=0)
    finished = [
        _Finished.parse(rest)
        for number, _, rest in (name.partition("/") for name in done)
        if int(number) == generation and rest != _BEGUN and rest not in _NOTHING
    ]
    filenodes = {leaf[3] for leaf in leaves}
    rewritten = any(one.filenode not in filenodes for one in finished)
    anew = from_scratch or (bool(finished) and (rewritten or not relation.schema.key))
    if anew:
        generation, finished = lsn, []
    pages = max(1, chunk_bytes // PAGE_BYTES)
    ranges: list[_Range] = []
    total = 0
    for _, namespace, name, filenode, size, estimate in leaves:
        target = sql.Identifier(namespace, name)
        mine = [one for one in finished if one.filenode == filenode and not one.moved]
        for first in range(0, max(size, 1), pages):
            total += 1
            if any(one.first == first for one in mine):
                continue
            last = first + pages >= size
            end = None if last and not any(one.end is None for one in mine) else first + pages
            share = int(estimate * min(pages, max(size - first, 0)) / max(size, 1))
            ranges.append(
                _Range(f"{generation}/{filenode}:{first}-{'' if end is None else end}", target, first, end, share)
            )
        if mine and table.has_toast and table.identity != "f":
            since = min(one.xmin for one in mine)
            total += 1
            ranges.append(_Range(f"{generation}/{filenode}:moved-{lsn}", target, 0, None, 0, since))
    rows = sum(leaf[5] for leaf in leaves)
    return TableSnapshot(table, key, relation, ranges, anew, total, rows, chunks_done=total - len(ranges))


@dataclass(frozen=True, slots=True)
class _Finished:
    """A finished chunk's name, taken apart."""

    filenode: int
    first: int
    end: int | None
    xmin: int
    moved: bool

    @classmethod
    def parse(cls, name: str) -> _Finished:
        place, _, xmin = name.partition("@")
        filenode, _, pages = place.partition(":")
        first, _, end = pages.partition("-")
        if first == "moved":
            return cls(int(filenode), -1, None, int(xmin), True)
        return cls(int(filenode), int(first), int(end) if end else None, int(xmin), False)


class Snapshotter:
    """Reads the planned tables with some workers and leaves finished chunks in the inbox.

    rows_per_second: at most so many, over all workers; None for as fast as it goes.
    """

    def __init__(
        self,
        info: str,
        lane: str,
        snapshot: ExportedSnapshot,
        tables: Sequence[TableSnapshot],
        inbox: Inbox,
        *,
        workers: int,
        rows_per_second: int | None,
    ) -> None:
        self._info = info
        self._lane = lane
        self._snapshot = snapshot
        self._inbox = inbox
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._left = deque((table, one) for table in tables for one in table.ranges)
        self._open = {table.table.oid: len(table.ranges) for table in tables}
        self._rate = rows_per_second
        self._rows_taken = 0
        self._started_at = time.monotonic()
        self._begun = threading.Barrier(max(1, min(workers, len(self._left))) + 1)
        self._threads = [
            threading.Thread(target=self._work, name=f"catchment-snapshot-{n}", daemon=True)
            for n in range(self._begun.parties - 1)
        ]

    def start(self) -> None:
        """Start; returns when every worker has taken on the snapshot, so that its exporter may hang up."""
        for thread in self._threads:
            thread.start()
        try:
            self._begun.wait(timeout=60.0)
        except threading.BrokenBarrierError:
            # The worker that broke it has told the inbox why.
            return

    def stop(self) -> None:
        """End the workers; unfinished chunks are dropped."""
        self._stop.set()
        self._inbox.close()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=30.0)

    def _work(self) -> None:
        import adbc_driver_postgresql.dbapi as adbc

        try:
            with translated("reading the snapshot"), adbc.connect(self._info, autocommit=True) as session:
                cursor = session.cursor()
                try:
                    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    cursor.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot.name}'")
                    cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
                    xmin = int(cursor.fetchone()[0])
                    self._begun.wait(timeout=60.0)
                    for table, one in self._take():
                        self._read(cursor, table, one, xmin)
                finally:
                    cursor.close()
        except CatchmentError as error:
            self._begun.abort()
            self._inbox.fail(error)
        except Exception as error:  # noqa: BLE001 - a thread's bug must reach the pipeline, not vanish
            self._begun.abort()
            self._inbox.fail(error)

    def _take(self) -> Iterator[tuple[TableSnapshot, _Range]]:
        while not self._stop.is_set():
            with self._lock:
                if not self._left:
                    return
                taken = self._left.popleft()
            yield taken

    def _read(self, cursor: object, table: TableSnapshot, one: _Range, xmin: int) -> None:
        name = f"{one.name}@{xmin}"
        cursor.execute(_query(table, one))  # type: ignore[attr-defined]
        batches = []
        ordinal = 0
        for records in cursor.fetch_record_batch():  # type: ignore[attr-defined]
            if self._stop.is_set():
                return
            if records.num_rows:
                batches.append(snapshot_batch(table, self._lane, name, self._snapshot.lsn, records, ordinal))
                ordinal += records.num_rows
        self._inbox.put_chunk(Chunk(table.key, name, tuple(batches), False))
        with self._lock:
            self._open[table.table.oid] -= 1
            last = self._open[table.table.oid] == 0
            table.chunks_done += 1
            table.rows_done += ordinal
            self._rows_taken += ordinal
        if last:
            # Only now is every chunk in the inbox: another worker may have been held up just before it put its own.
            self._inbox.put_chunk(Chunk(table.key, "", (), True))
        self._slow_down()

    def _slow_down(self) -> None:
        if self._rate:
            due = self._started_at + self._rows_taken / self._rate
            self._stop.wait(max(0.0, due - time.monotonic()))


def _query(table: TableSnapshot, one: _Range) -> str:
    """The rows of a range. Without a column list there would be none for a table of no columns."""
    columns = [
        sql.SQL(kind.select.replace("{}", "{name}")).format(name=sql.Identifier(column.name))
        + sql.SQL(" AS ")
        + sql.Identifier(f"c{index}")
        for index, (kind, column) in enumerate(zip(table.relation.types, table.relation.schema.columns, strict=True))
    ]
    where = [sql.SQL("ctid >= '({},0)'::tid").format(sql.SQL(str(one.first)))]
    if one.end is not None:
        where.append(sql.SQL("ctid < '({},0)'::tid").format(sql.SQL(str(one.end))))
    if one.since is not None:
        # xmin has 32 bits: age() compares it within the horizon of two billion transactions.
        where.append(sql.SQL("age(xmin) <= age('{}'::xid)").format(sql.SQL(str(one.since & 0xFFFFFFFF))))
    query = sql.SQL("SELECT {} FROM ONLY {} WHERE {}").format(
        sql.SQL(", ").join(columns), one.relation, sql.SQL(" AND ").join(where)
    )
    return query.as_string(None)


def snapshot_batch(
    table: TableSnapshot, lane: str, chunk: str, lsn: int, records: pa.RecordBatch, ordinal: int
) -> ChangeBatch:
    """What a chunk's query gave, as changes. Lane and position are the chunk's own, so that each row has its own."""
    relation = table.relation
    schema, count = relation.schema, records.num_rows
    columns: list[pa.Array] = []
    lost: list[Lost] = []
    for index, kind in enumerate(relation.types):
        values, bad = kind.snapshot(records.column(index))
        if bad is not None:
            at = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
            lost.append(Lost(schema.columns[index].name, at, kind.snapshot_text(records.column(index), bad)))
        columns.append(values)
    own = f"{lane}/{schema.table}/{chunk}"
    places = np.empty((count, 2), ">u8")
    places[:, 0], places[:, 1] = lsn, np.arange(ordinal + 1, ordinal + count + 1)
    version = position(lsn)
    arrays = [
        pa.repeat(pa.scalar(Operation.READ.value), count),
        pa.repeat(pa.scalar(own), count),
        fixed_binary(places.view(np.uint8).reshape(count, 16)),
        pa.repeat(pa.scalar(version), count),
        pa.nulls(count, pa.string()),
        pa.nulls(count, UTC_MICROSECONDS),
        pa.repeat(pa.scalar(schema.version, pa.int32()), count),
        pa.nulls(count, pa.list_(pa.string())),
        unrepresentable(lost, count),
        pa.nulls(count, schema.row_type),
        pa.StructArray.from_arrays(columns, fields=list(schema.row_type)),
    ]
    return ChangeBatch(schema, own, pa.RecordBatch.from_arrays(arrays, schema=schema.envelope), chunk, table.key)


def anew(table: TableSnapshot, lane: str, lsn: int) -> Chunk:
    """A truncation just below `lsn`: what the lake has of this table is older than the snapshot that follows."""
    schema = table.relation.schema
    name = f"{lsn}/{_BEGUN}"
    own = f"{lane}/{schema.table}/{name}"
    below = (int.from_bytes(position(lsn), "big") - 1).to_bytes(16, "big")
    arrays = [
        pa.array([Operation.TRUNCATE.value]),
        pa.array([own]),
        pa.array([below], pa.binary()),
        pa.array([below], pa.binary()),
        pa.nulls(1, pa.string()),
        pa.nulls(1, UTC_MICROSECONDS),
        pa.array([schema.version], pa.int32()),
        pa.nulls(1, pa.list_(pa.string())),
        pa.nulls(1, pa.map_(pa.string(), pa.string())),
        pa.nulls(1, schema.row_type),
        pa.nulls(1, schema.row_type),
    ]
    batch = ChangeBatch(schema, own, pa.RecordBatch.from_arrays(arrays, schema=schema.envelope), name, table.key)
    return Chunk(table.key, name, (batch,), False)
