"""The PostgreSQL source: a snapshot and the WAL, as one ordered lane."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from catchment import failpoint
from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.errors import Fatal, PositionLost, SourceRefused, SourceUnavailable
from catchment.progress import ALL_CHUNKS, Progress
from catchment.schema import TableId, TableSchema
from catchment.sources.base import Event, Idle, SchemaChange, SourceStatus, TransactionEnd
from catchment.sources.postgres import publication, snapshot
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import connect, conninfo, translated
from catchment.sources.postgres.inbox import Chunk, Inbox, Reached
from catchment.sources.postgres.pgoutput import Decoder, Relation, RelationMessage, lsn_text, position, position_lsn
from catchment.sources.postgres.publication import Publications, SourceTable
from catchment.sources.postgres.relations import Relations
from catchment.sources.postgres.replication import ExportedSnapshot, ReplicationConnection
from catchment.sources.postgres.slot import Slot, check_slot, current_lsn, drop_slot, find_slot
from catchment.sources.postgres.snapshot import Snapshotter, TableSnapshot
from catchment.sources.postgres.table_form import TableForm, keeping, known_form, read_forms
from catchment.sources.postgres.wal import WalPlan, WalReader
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

BEHIND_SECONDS = 5.0
"""How long live may be far behind before catch-up takes over."""
WAITING_SECONDS = 0.2
"""How often to look whether a table that is to be read anew may be."""

_UNREAD = snapshot.ANEW | {snapshot.REWRITTEN}


def _identities(tables: Iterable[SourceTable]) -> set[tuple[TableId, int, bool]]:
    return {(table.id, table.oid, table.identified) for table in tables}


class PostgresSource:
    """Captures the selected tables of one database. Contract: `catchment.sources.base.Source`.

    One lane, `<slot>@<system identifier>/<LSN of the slot's creation>`: progress of another server, or of a slot
    that was made anew, does not fit by accident. ephemeral: leave nothing behind at the server (a dry run).
    resnapshot: make the slot anew and read every table again, telling the lake to forget what it has.
    """

    def __init__(
        self,
        config: PostgresSourceConfig,
        context: BuildContext,
        *,
        ephemeral: bool = False,
        resnapshot: bool = False,
    ) -> None:
        self._config = config
        application = f"catchment {context.pipeline}"
        self._info = conninfo(config.dsn.get_secret_value(), application)
        self._replication_info = conninfo(config.dsn.get_secret_value(), application, replication=True)
        self._slot = config.slot_name(context.pipeline)
        self._publications = Publications(config.publication_name(context.pipeline))
        self._ephemeral = ephemeral
        self._resnapshot = resnapshot
        self._inbox = Inbox()
        self._pending: deque[Event] = deque()
        self._announced: dict[TableId, TableSchema] = {}
        self._tables: dict[TableId, SourceTable] = {}
        self._snapshots: dict[str, TableSnapshot] = {}
        self._snapshotters: list[Snapshotter] = []
        self._keeping: list[ReplicationConnection] = []
        self._wal: WalReader | None = None
        self._looked_at = time.monotonic()
        self._behind_since: float | None = None
        self._durable = Progress()
        self._waiting: set[str] = set()
        self._ahead: dict[int, SourceTable] = {}
        self._unkept: set[int] = set()
        self._lag: int | None = None

    # -- the contract

    def open(self, resume: Progress | None) -> None:
        self._connection = connect(self._info)
        identity = ReplicationConnection(self._replication_info)
        self._lane_prefix = f"{self._slot}@{identity.system_identifier()}/"
        identity.close()
        self._relations = Relations(self._connection)
        tables = publication.find_tables(self._connection, self._config.tables, self._config.exclude)
        self._refuse(tables)
        self._tables = {table.id: table for table in tables}
        slot = find_slot(self._connection, self._slot) if self._ephemeral else None
        if self._config.snapshot == "only" or (self._ephemeral and slot is None):
            self._open_snapshot_only(tables, resume)
        elif slot is not None:
            self._open_ephemeral(tables, resume, slot)
        else:
            self._open_stream(tables, resume)

    def next(self, timeout: float) -> Event | None:
        deadline = time.monotonic() + timeout
        while not self._pending:
            self._read_what_was_ahead()
            self._look_for_tables()
            left = deadline - time.monotonic()
            item = self._inbox.get(max(0.0, left), chunks_too=not self._decoder.in_transaction)
            if item is None:
                return None
            self._take(item)
        return self._pending.popleft()

    def acknowledge(self, progress: Progress) -> None:
        self._durable = progress
        at = progress.positions.get(self._lane)
        if at is not None and self._wal is not None and not self._ephemeral:
            self._wal.acknowledge(position_lsn(at))

    def head(self) -> Progress:
        never = self._config.snapshot == "never"
        chunks = {} if never else dict.fromkeys((*map(self._key, self._tables.values()), *self._waiting), ALL_CHUNKS)
        if self._wal is None:
            return Progress({}, chunks)
        return Progress({self._lane: position(current_lsn(self._connection))}, chunks)

    def status(self) -> SourceStatus:
        wal = self._wal
        reading = any(one.chunks_done < one.chunks_total for one in self._snapshots.values())
        mode = "snapshot" if reading else wal.mode if wal else "done"
        self._measure_lag()
        return SourceStatus(
            mode, self._lag, wal.notes if wal else (), {name: one.report() for name, one in self._snapshots.items()}
        )

    def close(self) -> None:
        for snapshotter in self._snapshotters:
            snapshotter.stop()
        if self._wal is not None:
            self._wal.stop()
        for connection in self._keeping:
            connection.close()
        if hasattr(self, "_connection"):
            self._connection.close()

    # -- starting

    def _refuse(self, tables: Sequence[SourceTable]) -> None:
        """Before anything is set up: a table without columns, or one that may not be published."""
        with translated("asking for the encoding"):
            encoding = self._connection.execute("SHOW server_encoding").fetchall()[0][0]
        if encoding == "SQL_ASCII":
            raise SourceRefused(
                "The database is SQL_ASCII: what its bytes mean is not known, so that no text can be read exactly. "
                "Move it to a database with a known encoding, such as UTF8."
            )
        if not tables:
            patterns = ", ".join(self._config.tables)
            raise Fatal(f"No table matches {patterns}. Check `tables:` and `exclude:`, and the database of the DSN.")
        for table in tables:
            self._relations.describe(table)
            if not table.identified and self._config.without_identity == "refuse":
                raise Fatal(
                    f"{table.id} has no replica identity, and `without_identity: refuse` is set. Add a primary key, "
                    f"ALTER TABLE {table.id} REPLICA IDENTITY FULL, or exclude it."
                )

    def _open_snapshot_only(self, tables: Sequence[SourceTable], resume: Progress | None) -> None:
        self._lane = self._lane_prefix + "0"
        self._decoder = Decoder(self._lane, self._resolve, progress=resume or Progress())
        self._read_tables(tables)

    def _open_stream(self, tables: Sequence[SourceTable], resume: Progress | None) -> None:
        lanes = [lane for lane in (resume.positions if resume else ()) if lane.startswith(self._lane_prefix)]
        if resume is not None and not lanes and not self._resnapshot:
            held = ", ".join(resume.positions) or "no slot"
            raise PositionLost(
                f"The lake was filled from another server or slot ({held}), not from {self._lane_prefix}…. "
                "If this server is meant, `catchment run --resnapshot` reads every table again."
            )
        if resume is None or self._resnapshot:
            self._publications.synchronise(self._connection, tables)
            start = self._start_fresh(tables, resume or Progress())
        else:
            self._lane = max(lanes, key=lambda lane: int(lane.rpartition("/")[2], 16))
            start = position_lsn(resume.positions[self._lane])
            check_slot(find_slot(self._connection, self._slot), self._slot, start)
            self._decoder = Decoder(self._lane, self._resolve, start, resume)
            self._durable = resume
            self._mark_rewritten()
            admitted = self._admit(tables)
            self._tables = {table.id: table for table in admitted}
            self._publications.synchronise(self._connection, admitted)
            self._read_tables(admitted)
        self._read_wal(start)

    def _open_ephemeral(self, tables: Sequence[SourceTable], resume: Progress | None, slot: Slot) -> None:
        """A dry run beside an existing slot: pulls through a temporary copy of it, whatever the lag."""
        lanes = [lane for lane in (resume.positions if resume else ()) if lane.startswith(self._lane_prefix)]
        if resume is not None and lanes:
            self._lane = max(lanes, key=lambda lane: int(lane.rpartition("/")[2], 16))
            start = position_lsn(resume.positions[self._lane])
            check_slot(slot, self._slot, start)
        else:
            start = slot.confirmed_lsn or 0
            self._lane = f"{self._lane_prefix}{start:X}"
        self._decoder = Decoder(self._lane, self._resolve, start, resume or Progress())
        self._read_tables(tables)
        self._read_wal(start)

    def _read_wal(self, start: int) -> None:
        plan = WalPlan(
            self._info,
            self._replication_info,
            self._slot,
            self._publications.names,
            start,
            self._config.catch_up_bytes,
            pulls_only=self._ephemeral,
        )
        self._wal = WalReader(plan, self._inbox)
        self._wal.start()

    def _start_fresh(self, tables: Sequence[SourceTable], held: Progress) -> int:
        """A new slot and, unless never, a snapshot at its consistent point; `held` is what older slots gave."""
        if find_slot(self._connection, self._slot) is not None:
            # Asked for, or from a start that ended before anything was durable, or for a lake that is gone.
            log.warning("Making the replication slot %s anew.", self._slot)
            drop_slot(self._connection, self._slot)
        forms = read_forms(self._connection, tables)
        exporter = ReplicationConnection(self._replication_info)
        try:
            exported = exporter.create_slot(self._slot, temporary=False, waiting=self._tell_waiting)
            self._lane = f"{self._lane_prefix}{exported.lsn:X}"
            progress = held.join(Progress({self._lane: position(exported.lsn)}))
            self._decoder = Decoder(self._lane, self._resolve, exported.lsn, progress)
            self._pending.append(TransactionEnd(progress))
            if self._config.snapshot != "never":
                self._begin(tables, exported, forms)
        finally:
            exporter.close()
        return exported.lsn

    def _tell_waiting(self, seconds: float) -> None:
        """Creating a slot waits for every transaction that is open: say for which."""
        if int(seconds) % 5 != 0:
            return
        with translated("asking what the slot waits for"):
            row = self._connection.execute(
                "SELECT count(*), min(pid), extract(epoch FROM now() - min(xact_start))::int8 FROM pg_stat_activity"
                " WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
            ).fetchone()
        if row and row[0]:
            log.warning(
                "Creating the slot waits for %s open transactions; the oldest has run for %s s (for example pid %s).",
                row[0],
                row[2],
                row[1],
            )

    # -- snapshots

    def _key(self, table: SourceTable) -> str:
        """A table's newest snapshot in `Progress.chunks`.

        A table that was re-created under its name, a new slot, and a table that was not published for a while
        have another: `<table>@<oid>/<LSN that it counts from>`.
        """
        origin = int(self._lane.rpartition("/")[2], 16)
        prefix = f"{table.id}@{table.oid}/"
        known = (int(key[len(prefix) :], 16) for key in self._decoder.progress.chunks if key.startswith(prefix))
        return f"{prefix}{max([origin, *known]):X}"

    def _keepable(self, table: SourceTable) -> bool:
        """Can a table that appeared while running be captured? If not, say so once, and go on with the others."""
        if table.oid in self._unkept or (table.id in self._tables and self._tables[table.id].oid == table.oid):
            return table.oid not in self._unkept
        try:
            self._refuse([table])
        except Fatal as error:
            self._unkept.add(table.oid)
            log.warning("%s The other tables go on; the next start refuses it.", error)
            return False
        return True

    def _admit(self, tables: Sequence[SourceTable]) -> list[SourceTable]:
        """The tables that may be published now.

        One that was captured before and is not published now has missed changes (it was excluded for a while, or
        taken out of the publication): it is read anew. That must be durable before it is published again, or a
        crash in between would leave it looking as if nothing were missing.
        """
        admitted = []
        self._waiting = set()
        for table in tables:
            key = self._key(table)
            chunks = self._decoder.progress.chunks.get(key)
            if chunks is None or self._config.snapshot == "never":
                admitted.append(table)
            elif snapshot.ADMITTED in chunks and len(chunks) == 1:
                marked = Progress({}, {key: chunks})
                if self._durable.covers(marked):
                    admitted.append(table)
                else:
                    self._waiting.add(key)
            elif self._publications.published(self._connection, table):
                admitted.append(table)
            else:
                self._waiting.add(self._mark(table))
        return admitted

    def _mark(self, table: SourceTable) -> str:
        log.warning(
            "%s was captured before and is not published: its changes since are missing; reading it anew.", table.id
        )
        key = f"{table.id}@{table.oid}/{current_lsn(self._connection):X}"
        marked = Progress({}, {key: frozenset({snapshot.ADMITTED})})
        self._decoder.progress = self._decoder.progress.join(marked)
        self._pending.append(TransactionEnd(self._decoder.progress))
        return key

    def _read_tables(self, tables: Sequence[SourceTable]) -> None:
        """Read what is left of these tables, at a new snapshot whose LSN a temporary slot makes exact."""
        if self._config.snapshot == "never":
            return
        left = [one for one in tables if self._decoder.progress.chunks.get(self._key(one)) != ALL_CHUNKS]
        self._ahead |= {one.oid: one for one in left if self._is_ahead(one)}
        left = [one for one in left if one.oid not in self._ahead]
        if not left:
            return
        forms = read_forms(self._connection, left)
        exporter = ReplicationConnection(self._replication_info)
        try:
            name = f"{self._slot[:40]}_snapshot_{time.monotonic_ns() % 10**9}"
            exported = exporter.create_slot(name, temporary=True, waiting=self._tell_waiting)
            self._begin(left, exported, forms)
        finally:
            exporter.close()

    def _is_ahead(self, table: SourceTable) -> bool:
        """Is the stream still before the moment when the table was found to have another key?

        What comes until then knows the old key only: after the new one it would be taken for the newer.
        """
        key = self._key(table)
        here = self._decoder.progress.positions.get(self._lane)
        return (
            self._decoder.progress.chunks.get(key) == frozenset({snapshot.REKEYED})
            and here is not None
            and position_lsn(here) < int(key.rpartition("/")[2], 16)
        )

    def _read_what_was_ahead(self) -> None:
        """Read the tables that the stream has come to meanwhile."""
        if not self._ahead or self._decoder.in_transaction:
            return
        reached = [one for one in self._ahead.values() if not self._is_ahead(one)]
        for table in reached:
            del self._ahead[table.oid]
        there = {table.oid for table in self._tables.values()}
        self._read_tables([table for table in reached if table.oid in there])

    def _plan(self, table: SourceTable, lsn: int) -> TableSnapshot:
        chunks, key = self._decoder.progress.chunks, self._key(table)
        earlier = any(other != key and other.rpartition("@")[0] == str(table.id) for other in chunks)
        return snapshot.plan_table(
            self._connection,
            table,
            self._relations.resolve(self._relations.describe(table)),
            key,
            chunks.get(key, frozenset()),
            self._config.snapshot_chunk_bytes,
            lsn,
            from_scratch=earlier and chunks.get(key, frozenset()) <= snapshot.ANEW,
        )

    def _begin(self, tables: Sequence[SourceTable], exported: ExportedSnapshot, forms: Mapping[int, TableForm]) -> None:
        """forms: the tables' as they were before the snapshot."""
        planned = [self._plan(table, exported.lsn) for table in tables]
        for one in planned:
            self._keep_form(one, exported.lsn, forms.get(one.table.oid))
            self._snapshots[str(one.table.id)] = one
            if one.anew:
                self._take(snapshot.anew(one, self._lane, exported.lsn))
            if not one.ranges:
                self._take(Chunk(one.key, "", (), True))
        snapshotter = Snapshotter(
            self._info,
            self._lane,
            exported,
            planned,
            self._inbox,
            workers=self._config.snapshot_workers,
            rows_per_second=self._config.snapshot_rows_per_second,
        )
        self._snapshotters.append(snapshotter)
        snapshotter.start()

    def _keep_form(self, table: TableSnapshot, lsn: int, form: TableForm | None) -> None:
        """Of a table that is read from its beginning: DDL after that is noticed, also while it is being read."""
        chunks = self._decoder.progress.chunks
        from_scratch = table.anew or chunks.get(table.key, frozenset()) <= _UNREAD
        if form is not None and (from_scratch or known_form(table.table, chunks) is None):
            self._decoder.progress = self._decoder.progress.join(keeping(table.table, form, lsn))

    def _mark_rewritten(self) -> list[SourceTable]:
        """Tables whose rows DDL changed without a change being sent: marked, so that they are read again.

        Their rows as they are now go on top of those that the lake has: nobody sees the table without rows meanwhile,
        unless its key is another, or has another type.
        """
        if self._config.snapshot == "never":
            return []
        chunks = self._decoder.progress.chunks
        done = [one for one in self._tables.values() if one.has_key and chunks.get(self._key(one)) == ALL_CHUNKS]
        forms = read_forms(self._connection, done) if done else {}
        before, marked = self._decoder.progress, []
        for table in done:
            old, new = known_form(table, chunks), forms.get(table.oid)
            if new is None or (old is not None and str(old) == str(new)):
                continue
            lsn = current_lsn(self._connection)
            progress = keeping(table, new, lsn)
            if old is not None and (why := new.changed_rows_since(old)) is not None and self._rereads(table, why):
                mark = frozenset({snapshot.REKEYED if new.tells_rows_apart_otherwise(old) else snapshot.REWRITTEN})
                progress = progress.join(Progress({}, {f"{table.id}@{table.oid}/{lsn:X}": mark}))
                marked.append(table)
            self._decoder.progress = self._decoder.progress.join(progress)
        if self._decoder.progress != before:
            self._pending.append(TransactionEnd(self._decoder.progress))
        return marked

    def _rereads(self, table: SourceTable, why: str) -> bool:
        if self._config.reread_after_ddl:
            log.info("%s: %s, and PostgreSQL sends no changes for that; reading it again.", table.id, why)
        else:
            log.warning(
                "%s: %s. The lake keeps its rows as they were until they change (`reread_after_ddl: false`).",
                table.id,
                why,
            )
        return self._config.reread_after_ddl

    def _look_for_tables(self) -> None:
        """Tables that appeared while running are published and read like the first ones; so are rewritten ones."""
        now = time.monotonic()
        interval = WAITING_SECONDS if self._waiting else self._config.new_tables_interval_seconds
        if self._wal is None or self._ephemeral or now - self._looked_at < interval or self._decoder.in_transaction:
            return
        self._looked_at = now
        if rewritten := self._mark_rewritten():
            self._read_tables(rewritten)
        tables = publication.find_tables(self._connection, self._config.tables, self._config.exclude)
        if not self._waiting and _identities(tables) == _identities(self._tables.values()):
            return
        admitted = self._admit([table for table in tables if self._keepable(table)])
        known = {table.oid for table in self._tables.values()}
        new = [table for table in admitted if table.oid not in known]
        if not new and _identities(admitted) == _identities(self._tables.values()):
            return
        self._publications.synchronise(self._connection, admitted)
        self._tables = {table.id: table for table in admitted}
        if new:
            log.info("New tables: %s.", ", ".join(str(table.id) for table in new))
            self._read_tables(new)

    # -- decoding

    def _take(self, item: object) -> None:
        """Turn one item of the inbox into events."""
        if isinstance(item, Chunk):
            self._take_chunk(item)
        elif isinstance(item, Reached):
            self._take_reached(item)
        else:
            for event in self._decoder.decode(item):  # type: ignore[arg-type]
                self._emit(event)
            failpoint.reach("decoded")

    def _take_chunk(self, chunk: Chunk) -> None:
        for batch in chunk.batches:
            self._emit(batch)
        names = ALL_CHUNKS if chunk.table_done else frozenset({chunk.name})
        self._decoder.progress = self._decoder.progress.join(Progress({}, {chunk.key: names}))
        self._pending.append(TransactionEnd(self._decoder.progress))

    def _take_reached(self, reached: Reached) -> None:
        progress = Progress({self._lane: position(reached.lsn)})
        if self._decoder.in_transaction or self._decoder.progress.covers(progress):
            return
        self._decoder.progress = self._decoder.progress.join(progress)
        self._pending.append(Idle(self._decoder.progress))

    def _emit(self, event: Event) -> None:
        """Announce a schema before its first batch: chunks and stream may have different versions."""
        if isinstance(event, SchemaChange):
            return
        if isinstance(event, ChangeBatch) and self._announced.get(event.table) != event.schema:
            self._announced[event.table] = event.schema
            self._pending.append(SchemaChange(event.schema))
        self._pending.append(event)

    def _resolve(self, message: RelationMessage) -> Relation | None:
        if not publication.selected(f"{message.namespace}.{message.name}", self._config.tables, self._config.exclude):
            return None
        # Its columns may be other ones: look soon what else that DDL did.
        self._looked_at = float("-inf")
        return self._relations.resolve(message)

    # -- lag

    def _measure_lag(self) -> None:
        wal = self._wal
        if wal is None:
            return
        try:
            head = current_lsn(self._connection)
        except SourceUnavailable:
            self._lag = None
            return
        here = position_lsn(self._decoder.progress.positions.get(self._lane, position(wal.started_at)))
        self._lag = max(0, head - here)
        now = time.monotonic()
        if wal.mode != "live" or self._lag < 4 * self._config.catch_up_bytes:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since > BEHIND_SECONDS:
            log.info("Behind by %d MiB at %s: catching up by pulls.", self._lag >> 20, lsn_text(here))
            self._behind_since = None
            wal.fall_behind()
