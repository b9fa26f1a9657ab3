"""What is due in a pipeline's lake, found table by table, and done a piece at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table.metadata import TableMetadata

from catchment.lakehouse.catalog import catalog_errors, local_path
from catchment.lakehouse.config import MaintenanceConfig
from catchment.lakehouse.maintenance import plan, retention
from catchment.lakehouse.maintenance.commits import exchange
from catchment.lakehouse.maintenance.compaction import merge_files
from catchment.lakehouse.maintenance.delete_files import merge_delete_files
from catchment.lakehouse.maintenance.expiry import LeavingFiles
from catchment.lakehouse.maintenance.keyed_compaction import rewrite_files
from catchment.lakehouse.maintenance.orphans import Orphan, orphans
from catchment.lakehouse.maintenance.table_files import FileLister, TableFiles
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.manifests import Manifests
from catchment.lakehouse.properties import BRONZE_SINCE, KIND, PINNED
from catchment.lakehouse.silver.table import SILVER
from catchment.lakehouse.table import LakeTable
from catchment.lakehouse.writer import FindKeyed, LakeWriter

KEYED = ("silver", "quarantine")
"""Kinds of tables with one row a key."""

SELDOM_SECONDS = 600.0
"""How often to look for what time alone makes due: snapshots and changes that have become too old."""

ORPHANS_SECONDS = 6 * 3600.0
"""How often to look for orphans: every manifest is read for it."""

HOUR = 3600.0


@dataclass(frozen=True)
class Piece:
    """Something that is due. run: does it; None when the table has changed so that it is no longer right."""

    table: str
    kind: Kind
    files: int
    size: int
    run: Callable[[Callable[[], None]], Work | None]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"table": self.table, "kind": str(self.kind), "files": self.files, "bytes": self.size}


@dataclass(frozen=True)
class _Moment:
    """A table at one moment."""

    metadata: TableMetadata
    location: str
    manifests: Manifests
    uncommitted: frozenset[str]


@dataclass
class _Known:
    """What is remembered of a table between two looks. clean_at: the metadata at which nothing was due."""

    lister: FileLister = field(default_factory=FileLister)
    leaving: LeavingFiles = field(default_factory=LeavingFiles)
    files: TableFiles | None = None
    clean_at: str | None = None
    looked_at: float = float("-inf")
    orphans_at: float = float("-inf")
    last: Kind | None = None


class Maintainer:
    """Maintains the tables of one pipeline through its open writer. One thread at a time.

    find_keyed: gives the open `KeyedTable` of a silver table; None when it is not to be touched now.
    """

    def __init__(self, writer: LakeWriter, config: MaintenanceConfig, find_keyed: FindKeyed) -> None:
        self._writer = writer
        self._config = config
        self._find_keyed = find_keyed
        self._known: dict[str, _Known] = {}
        self._last: str | None = None

    def step(self, check: Callable[[], None], only: Collection[str] | None = None) -> Work | None:
        """Do one piece of what is due; None when nothing is. Tables take turns.

        check: called now and then; raises to break the work off, which leaves everything as it was. only: names of
        tables, such as `silver.orders`.
        """
        for table in self._in_turn(only):
            for piece in self._pieces(table):
                check()
                work = piece.run(check)
                if work is not None:
                    self._last = table.name
                    self._known[table.name].last = work.kind
                    return work
        return None

    def due(self, only: Collection[str] | None = None) -> list[Piece]:
        """What is due now. Doing it may make more due: files that were merged can be merged again."""
        return [piece for table in self._in_turn(only) for piece in self._pieces(table)]

    def tables(self) -> dict[str, TableFiles]:
        """The files of each table at the last look, by the table's name."""
        return {name: known.files for name, known in self._known.items() if known.files is not None}

    def strain(self) -> float:
        """How many times too many dead rows the worst table has, as of the last look; 1 when none has too many."""
        limit = self._config.dead_row_percent / 100
        shares = [one.dead / one.rows for one in self.tables().values() if one.dead >= plan.NOTICED_DEAD_ROWS]
        return max(1.0, *(share / limit for share in shares)) if shares else 1.0

    def waiting(self) -> int:
        """How many files wait for the snapshots that need them to expire."""
        return sum(known.leaving.waiting for known in self._known.values())

    def _in_turn(self, only: Collection[str] | None) -> list[LakeTable]:
        tables = [one for one in (*self._writer.tables(), *self._gold()) if only is None or one.name in only]
        after = next((i + 1 for i, one in enumerate(tables) if one.name == self._last), 0)
        return [*tables[after:], *tables[:after]]

    def _gold(self) -> list[LakeTable]:
        """Gold tables are written by gold itself, which also keeps them small; but a killed one leaves orphans."""
        found = []
        with catalog_errors("The tables of gold could not be listed"), suppress(NoSuchNamespaceError):
            for name in self._writer.catalog.list_tables("gold"):
                known = self._known.get(".".join(name))
                if known is None or time.monotonic() - known.orphans_at >= ORPHANS_SECONDS:
                    with suppress(NoSuchTableError):
                        found.append(LakeTable.load(self._writer.catalog, name))
        return found

    def _pieces(self, table: LakeTable) -> Iterator[Piece]:
        """What is due, the most useful first. Looks as it goes: stop when one was done, and begin anew."""
        known = self._known.setdefault(table.name, _Known())
        if table.table.name()[0] != "gold":
            yield from self._kept_small(table, known)
        if time.monotonic() - known.orphans_at >= ORPHANS_SECONDS:
            yield from self._orphans(table)
            known.orphans_at = time.monotonic()

    def _kept_small(self, table: LakeTable, known: _Known) -> Iterator[Piece]:
        moment = self._moment(table)
        seldom = time.monotonic() - known.looked_at >= SELDOM_SECONDS
        if moment.location == known.clean_at and not seldom:
            return
        files = known.files = known.lister.files(table, moment.manifests)
        known.leaving.look(moment.metadata, table.table.io)
        yield from self._expired_files(table, known.leaving, moment)
        yield from self._compaction(table, known, files)
        if seldom:
            yield from self._retention(table, files)
            yield from self._expiry(table)
            known.looked_at = time.monotonic()
        known.clean_at = moment.location

    def _moment(self, table: LakeTable) -> _Moment:
        with self._writer.lock:
            return _Moment(table.metadata, table.metadata_location, table.manifests, frozenset(table.uncommitted))

    # -- compaction

    def _compaction(self, table: LakeTable, known: _Known, files: TableFiles) -> Iterator[Piece]:
        if table.metadata.properties.get(KIND) not in KEYED:
            yield from self._merging(table, files)
        elif known.last is Kind.COMPACTION:
            # Where merges never rest both are always due: each has its turn.
            yield from self._delete_files(table, files)
            yield from self._rewriting(table, files)
        else:
            yield from self._rewriting(table, files)
            yield from self._delete_files(table, files)

    def _merging(self, table: LakeTable, files: TableFiles) -> Iterator[Piece]:
        target = self._config.target_file_bytes
        chosen = plan.neighbours(files.data, target)
        if chosen:
            size = sum(one.size for one in chosen)
            yield Piece(
                table.name,
                Kind.COMPACTION,
                len(chosen),
                size,
                lambda check: merge_files(self._writer, table, chosen, target, check),
            )

    def _rewriting(self, table: LakeTable, files: TableFiles) -> Iterator[Piece]:
        target = plan.part_bytes(files.data, self._config.target_file_bytes)
        chosen = plan.alike(files.data, target) or plan.deadest(files.data, target, self._config.dead_row_percent)
        if not chosen or table.metadata.properties.get(PINNED):
            return
        keyed = self._find_keyed(table)
        if keyed is not None:
            size = sum(one.size for one in chosen)
            idle = files.idle([one.location for one in chosen])
            yield Piece(
                table.name,
                Kind.COMPACTION,
                len(chosen),
                size,
                lambda check: rewrite_files(self._writer, keyed, chosen, target, check, idle),
            )

    def _delete_files(self, table: LakeTable, files: TableFiles) -> Iterator[Piece]:
        deletes = plan.delete_files(files.deletes, files.dead)
        if deletes:
            size = sum(one.size for one in deletes)
            yield Piece(
                table.name,
                Kind.DELETE_FILES,
                len(deletes),
                size,
                lambda check: merge_delete_files(self._writer, table, files, deletes, check),
            )

    # -- what time makes due

    def _expired_files(self, table: LakeTable, leaving: LeavingFiles, moment: _Moment) -> Iterator[Piece]:
        gone = leaving.due(moment.metadata, table.table.io)
        if not gone:
            return

        def delete(_: Callable[[], None]) -> Work:
            started = time.monotonic()
            table.storage.delete(gone)
            return Work(table.name, Kind.EXPIRY, len(gone), bytes_before=size, seconds=time.monotonic() - started)

        size = sum(gone.values())
        yield Piece(table.name, Kind.EXPIRY, len(gone), size, delete)

    def _expiry(self, table: LakeTable) -> Iterator[Piece]:
        """Snapshots of a table at rest: of another, each commit lets go of those that are too old."""

        def expire(_: Callable[[], None]) -> Work | None:
            started = time.monotonic()
            with self._writer.lock:
                draft = table.draft_expiry(int(time.time() * 1000))
                if draft is None:
                    return None
                self._writer.commit([draft])
            return Work(table.name, Kind.EXPIRY, len(draft.garbage), seconds=time.monotonic() - started)

        with self._writer.lock:
            draft = table.draft_expiry(int(time.time() * 1000))
        if draft is not None:
            yield Piece(table.name, Kind.EXPIRY, len(draft.garbage), 0, expire)

    def _retention(self, table: LakeTable, files: TableFiles) -> Iterator[Piece]:
        days = self._config.bronze_retention_days
        if days is None or table.table.name()[0] != "bronze":
            return
        before = datetime.now(UTC) - timedelta(days=days)
        gone = retention.expired_changes(files, before, retention.written_before)
        silver = self._writer.existing((SILVER, table.table.name()[-1]))
        if not gone or not retention.held_by_silver(table, silver):
            return
        chosen = [one for one in files.data if one.location in set(gone)]

        def drop(_: Callable[[], None]) -> Work | None:
            started = time.monotonic()
            said = retention.since(files, gone, table.metadata.properties.get(BRONZE_SINCE))
            properties = {BRONZE_SINCE: said}
            if not exchange(self._writer, table, gone, Kind.RETENTION, drops=True, properties=properties):
                return None
            rows = sum(one.rows for one in chosen)
            seconds = time.monotonic() - started
            return Work(table.name, Kind.RETENTION, len(gone), bytes_before=size, rows=rows, seconds=seconds)

        size = sum(one.size for one in chosen)
        yield Piece(table.name, Kind.RETENTION, len(gone), size, drop)

    def _orphans(self, table: LakeTable) -> Iterator[Piece]:
        if local_path(table.metadata.location) is None:
            return
        moment = self._moment(table)
        before = time.time() - self._config.orphan_hours * HOUR
        found: list[Orphan] = orphans(moment.metadata, moment.location, table.table.io, moment.uncommitted, before)

        def delete(_: Callable[[], None]) -> Work:
            started = time.monotonic()
            table.storage.delete([one.path for one in found])
            return Work(table.name, Kind.ORPHANS, len(found), bytes_before=size, seconds=time.monotonic() - started)

        size = sum(one.size for one in found)
        if found:
            yield Piece(table.name, Kind.ORPHANS, len(found), size, delete)
