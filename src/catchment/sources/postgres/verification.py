"""PostgreSQL's tables at one exact LSN, for comparing them with the lake.

A temporary slot makes the LSN exact: its exported snapshot shows what committed below it and nothing else. A
transaction of ours takes the snapshot on and exports it again, and the slot is dropped at once: it holds WAL back
for no longer than that. What stays is an ordinary reading transaction with a bound in time, which gives way
as soon as a session waits for one of the tables (an ALTER TABLE, and everybody who queues behind it).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pyarrow.compute as pc
from psycopg import sql

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.errors import ConfigError, PositionLost, Retriable, SourceRefused, SourceUnavailable
from catchment.progress import ALL_CHUNKS, Progress
from catchment.schema import TableSchema
from catchment.sources.postgres import publication
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import connect, conninfo, translated
from catchment.sources.postgres.inbox import Chunk, Inbox
from catchment.sources.postgres.pgoutput import Relation, RelationMessage, lsn_text, position, position_lsn
from catchment.sources.postgres.publication import SourceTable
from catchment.sources.postgres.relations import Relations
from catchment.sources.postgres.replication import ExportedSnapshot, ReplicationConnection
from catchment.sources.postgres.slot import Connection, check_slot, find_slot
from catchment.sources.postgres.snapshot import Snapshotter, TableSnapshot, plan_table
from catchment.sources.verification import SourcePoint, VerifiableTable

SLOT_SECONDS = 60.0
"""How long to wait for a slot: it comes when every transaction that runs now has ended."""
LOOK_SECONDS = 0.25
"""How often to look whether somebody waits for us."""
PATIENCE_SECONDS = 1.0
"""How long somebody may wait for us before we let go."""

_FILES = """
SELECT c.oid::int8, c.relfilenode::int8
FROM pg_class c WHERE c.oid IN (SELECT unnest(%(oids)s::oid[]) UNION
  SELECT t.relid FROM unnest(%(oids)s::oid[]) root, pg_partition_tree(root::regclass) t)
"""

_WAITING = """
SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted AND relation = ANY(%s::oid[])
  AND %s = ANY(pg_blocking_pids(pid)) AND clock_timestamp() - waitstart > make_interval(secs => %s)
"""

_LATE_DEFAULTS = "SELECT attname::text FROM pg_attribute WHERE attrelid = %s AND atthasmissing AND NOT attisdropped"

_Form = tuple[frozenset[tuple[int, int]], tuple[RelationMessage, ...]]
"""What changes when tables are truncated, rewritten or altered: files and columns. MVCC does not cover those."""


class PostgresVerification:
    """The tables of a pipeline at points. Contract: `catchment.sources.verification.SourceVerification`."""

    def __init__(self, config: PostgresSourceConfig, context: BuildContext) -> None:
        if config.snapshot == "only":
            raise ConfigError(
                "This pipeline reads a snapshot only (`snapshot: only`): the lake is not kept up with its source, so "
                "there is nothing to verify."
            )
        self._config = config
        self._context = context
        application = f"catchment {context.pipeline} verify"
        self._info = conninfo(config.dsn.get_secret_value(), application)
        self._replication_info = conninfo(config.dsn.get_secret_value(), application, replication=True)
        self._slot = config.slot_name(context.pipeline)
        self._session: Connection | None = None
        self._prefix = ""
        self._known: dict[str, SourceTable] = {}

    def tables(self, held: Progress) -> list[VerifiableTable]:
        session = self._connected()
        found = publication.find_tables(session, self._config.tables, self._config.exclude)
        self._known = {str(table.id): table for table in found}
        lane = self._lane(held)
        return [self._verifiable(table, lane, held) for table in found]

    @contextmanager
    def point(self, tables: Sequence[str], held: Progress, seconds: float) -> Iterator[SourcePoint]:
        session = self._connected()
        wanted = [self._known[name] for name in tables]
        slot = f"{self._slot[:40]}_verify_{time.monotonic_ns() % 10**9}"
        with _HeldPoint.take(self._info, self._replication_info, slot, wanted) as held_point:
            held_point.watch(seconds)
            if _form(session, wanted) != held_point.form:
                raise SourceUnavailable(
                    f"One of {', '.join(tables)} was truncated, altered or rewritten at the moment of looking. Run "
                    "verify again."
                )
            relations = Relations(session)
            resolved = {
                str(table.id): relations.resolve(message)
                for table, message in zip(wanted, held_point.form[1], strict=True)
            }
            yield _Point(session, self._config, self._info, self._lane(held), held_point, self._known, resolved)

    def changes(self, tables: Sequence[str], since: Progress, point: SourcePoint) -> Iterator[ChangeBatch]:
        from catchment.sources.postgres.source import PostgresSource

        (lane,) = point.position.positions
        slot = find_slot(self._connected(), self._slot)
        check_slot(slot, self._slot, position_lsn(since.positions[lane]))
        only = {"tables": [_literal(name) for name in tables], "exclude": [], "snapshot": "never"}
        source = PostgresSource(self._config.model_copy(update=only), self._context, ephemeral=True)
        try:
            source.open(since)
            progress = since
            while not progress.covers(point.position):
                point.chunks(tables[0])  # raises once the point is gone
                event = source.next(LOOK_SECONDS)
                if isinstance(event, ChangeBatch):
                    before = pc.less_equal(event.records.column("_version"), point.version)
                    if pc.any(before).as_py():
                        yield replace(event, records=event.records.filter(before))
                elif event is not None and hasattr(event, "progress"):
                    progress = event.progress
        finally:
            source.close()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _connected(self) -> Connection:
        if self._session is None:
            self._session = connect(self._info)
            identity = ReplicationConnection(self._replication_info)
            self._prefix = f"{self._slot}@{identity.system_identifier()}/"
            identity.close()
        return self._session

    def _lane(self, held: Progress) -> str:
        lanes = [lane for lane in held.positions if lane.startswith(self._prefix)]
        if not lanes:
            there = ", ".join(held.positions) or "nothing"
            raise PositionLost(
                f"The lake was filled from {there}, not from {self._prefix}…: it cannot be compared with this server. "
                "Check the DSN and the slot's name."
            )
        return max(lanes, key=lambda lane: int(lane.rpartition("/")[2], 16))

    def _verifiable(self, table: SourceTable, lane: str, held: Progress) -> VerifiableTable:
        def obstacle(text: str, *, lasting: bool) -> VerifiableTable:
            return VerifiableTable(str(table.id), table.rows_estimate, text, lasting)

        if self._config.snapshot == "never":
            return obstacle(
                "`snapshot: never`: the lake does not have the rows from before capture began", lasting=True
            )
        if not table.identified:
            return obstacle("it has no replica identity: its updates and deletes are not captured", lasting=True)
        try:
            relation = Relations(self._connected()).resolve(Relations(self._connected()).describe(table))
        except SourceRefused as error:
            return obstacle(str(error), lasting=True)
        if not relation.schema.key:
            return obstacle("it has no primary key: the lake has its changes (bronze), no current rows", lasting=True)
        # The table's newest snapshot must be in the lake as a whole.
        prefix = f"{table.id}@{table.oid}/"
        known = [int(key[len(prefix) :], 16) for key in held.chunks if key.startswith(prefix)]
        newest = f"{prefix}{max([int(lane.rpartition('/')[2], 16), *known]):X}"
        if held.chunks.get(newest) != ALL_CHUNKS:
            return obstacle("its snapshot is not finished in the lake yet; run the pipeline until it is", lasting=False)
        return VerifiableTable(str(table.id), table.rows_estimate, reading=newest)


def _form(session: Connection, tables: Sequence[SourceTable]) -> _Form:
    """As the session's snapshot shows it: in a transaction that took one on, as it was then."""
    with translated("looking at the tables"):
        rows = session.execute(_FILES, {"oids": [table.oid for table in tables]}).fetchall()
    relations = Relations(session)
    try:
        described = tuple(relations.describe(table) for table in tables)
    except SourceRefused as error:
        raise SourceUnavailable(f"{error} Run verify again.") from error
    return frozenset((row[0], row[1]) for row in rows), described


class _HeldPoint:
    """A reading transaction at an exact LSN, that lets go after some time or when somebody waits for it."""

    def __init__(self, info: str, session: Connection, exported: ExportedSnapshot, form: _Form) -> None:
        self._info = info
        self._session = session
        self.form = form
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self._inbox: Inbox | None = None
        self._watcher: threading.Thread | None = None
        self.snapshot = exported
        self.error: Retriable | None = None

    @classmethod
    def take(cls, info: str, replication_info: str, slot: str, tables: Sequence[SourceTable]) -> _HeldPoint:
        session: Connection = connect(info)
        try:
            exporter = ReplicationConnection(replication_info)
            try:
                exported = exporter.create_slot(slot, temporary=True, waiting=_not_for_ever)
                name = _take_on(session, exported, tables)
            finally:
                # The slot goes with its connection: from here on no WAL is kept for us.
                exporter.close()
            return cls(info, session, ExportedSnapshot(exported.lsn, name), _form(session, tables))
        except BaseException:
            session.close()
            raise

    def __enter__(self) -> _HeldPoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join(timeout=30.0)
        self._session.close()

    def watch(self, seconds: float) -> None:
        """From here on, look whether it is time to let go."""
        self._watcher = threading.Thread(target=self._watch, args=(seconds,), name="catchment-verify", daemon=True)
        self._watcher.start()

    def reads_into(self, inbox: Inbox | None) -> None:
        """Whoever waits on this inbox is told when the point is let go."""
        with self._guard:
            self._inbox = inbox
            if inbox is not None and self.error is not None:
                inbox.fail(self.error)

    def check(self) -> None:
        """Raise what ended the point, if it has ended."""
        if self.error is not None:
            raise self.error

    def _watch(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        waiting = ([oid for oid, _ in self.form[0]], self._session.info.backend_pid, PATIENCE_SECONDS)
        try:
            with connect(self._info) as looking:
                while not self._ended.wait(LOOK_SECONDS):
                    if time.monotonic() > deadline:
                        self._let_go(f"Reading took longer than {seconds:.0f} s. Allow it more with --timeout.")
                        return
                    with translated("looking who waits"):
                        row = looking.execute(_WAITING, waiting).fetchone()
                    if row is not None and row[0]:
                        self._let_go(
                            "A session waits to alter one of the tables, and others may wait behind it: verify let go. "
                            "Run it again."
                        )
                        return
        except (Retriable, SourceRefused) as error:
            self._let_go(str(error))

    def _let_go(self, why: str) -> None:
        with self._guard:
            self.error = SourceUnavailable(why)
            if self._inbox is not None:
                self._inbox.fail(self.error)
        self._session.close()


def _not_for_ever(seconds: float) -> None:
    if seconds > SLOT_SECONDS:
        raise SourceUnavailable(
            f"A transaction has been open for more than {SLOT_SECONDS:.0f} s: an exact point exists only when those "
            "that run now have ended. Look into pg_stat_activity, and run verify again."
        )


def _take_on(session: Connection, exported: ExportedSnapshot, tables: Sequence[SourceTable]) -> str:
    """Take the snapshot on in a transaction and export it again; locks the tables as any reader does."""
    named = sql.SQL(", ").join(sql.Identifier(table.id.namespace, table.id.name) for table in tables)
    with translated("taking the snapshot on"):
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported.name)))
        session.execute("SET LOCAL lock_timeout = '5s'")
        session.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(named))
        row = session.execute("SELECT pg_export_snapshot()").fetchone()
    if row is None:
        raise SourceUnavailable("PostgreSQL exported no snapshot. Run verify again.")
    return str(row[0])


class _Point:
    """See `catchment.sources.verification.SourcePoint`."""

    def __init__(
        self,
        session: Connection,
        config: PostgresSourceConfig,
        info: str,
        lane: str,
        held: _HeldPoint,
        tables: dict[str, SourceTable],
        relations: dict[str, Relation],
    ) -> None:
        self._session = session
        self._config = config
        self._info = info
        self._lane = lane
        self._held = held
        self._tables = tables
        self._relations = relations
        self._plans: dict[str, TableSnapshot] = {}

    @property
    def label(self) -> str:
        return lsn_text(self._held.snapshot.lsn)

    @property
    def position(self) -> Progress:
        return Progress({self._lane: position(self._held.snapshot.lsn)})

    @property
    def version(self) -> bytes:
        return position(self._held.snapshot.lsn)

    def schema(self, table: str) -> TableSchema:
        return self._relations[table].schema

    def chunks(self, table: str) -> int:
        self._held.check()
        return len(self._plan(table).ranges)

    def rows(self, table: str, chunks: Sequence[int], *, key_only: bool = False) -> Iterator[tuple[int, ChangeBatch]]:
        if not chunks:
            return
        whole = self._plan(table)
        ranges = [whole.ranges[number] for number in chunks]
        numbers = {one.name: number for one, number in zip(ranges, chunks, strict=True)}
        relation = _key_of(whole.relation) if key_only else whole.relation
        plan = TableSnapshot(whole.table, whole.key, relation, ranges, False, len(ranges), whole.rows_total)
        inbox = Inbox()
        reader = Snapshotter(
            self._info,
            self._lane,
            self._held.snapshot,
            [plan],
            inbox,
            workers=self._config.snapshot_workers,
            rows_per_second=self._config.snapshot_rows_per_second,
        )
        try:
            self._held.reads_into(inbox)
            reader.start()
            while True:
                item = inbox.get(LOOK_SECONDS, chunks_too=True)
                if not isinstance(item, Chunk):
                    continue
                if item.table_done:
                    break
                for batch in item.batches:
                    yield numbers[item.name.rpartition("@")[0]], batch
        finally:
            self._held.reads_into(None)
            reader.stop()

    def late_defaults(self, table: str) -> frozenset[str]:
        with translated("looking at the columns' defaults"):
            rows = self._session.execute(_LATE_DEFAULTS, (self._tables[table].oid,)).fetchall()
        return frozenset(row[0] for row in rows)

    def _plan(self, table: str) -> TableSnapshot:
        if table not in self._plans:
            self._plans[table] = plan_table(
                self._session,
                self._tables[table],
                self._relations[table],
                table,
                frozenset(),
                self._config.snapshot_chunk_bytes,
                self._held.snapshot.lsn,
            )
        return self._plans[table]


def _key_of(relation: Relation) -> Relation:
    kept = [(c, t) for c, t in zip(relation.schema.columns, relation.types, strict=True) if c.key]
    schema = relation.schema
    columns, types = tuple(column for column, _ in kept), tuple(kind for _, kind in kept)
    return Relation(TableSchema(schema.table, columns, schema.version), types)


def _literal(name: str) -> str:
    """A pattern that matches this name only."""
    return re.sub(r"([*?\[])", r"[\1]", name)
