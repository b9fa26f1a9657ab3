"""A silver table brought up to bronze beside the one that is being merged, and put in its place in one commit.

What takes long (reading bronze, folding, writing files) happens on copies of the tables' state, while capture goes
on. Only the last step, what bronze got meanwhile, is done under the writer's lock.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
from pyiceberg.table.snapshots import Snapshot

from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import catalog_errors
from catchment.lakehouse.manifests import Manifests
from catchment.lakehouse.properties import MARKER, key_of, marker_of
from catchment.lakehouse.recovery.rollback import Target, files_at, newest_at
from catchment.lakehouse.recovery.tasks import Task
from catchment.lakehouse.silver.layer import SilverLayer
from catchment.lakehouse.silver.table import SilverTable
from catchment.lakehouse.table import Change, Draft, LakeTable
from catchment.lakehouse.writer import LakeWriter, Name
from catchment.progress import Progress

ROUNDS = 8
"""Times that what bronze got meanwhile is merged beside capture, before the rest is merged under the lock."""
FEW_ROWS = 50_000
"""So few new rows are merged under the lock: a fraction of a second."""


class TablesApart(LakeWriter):
    """The tables of a writer, each loaded once more: what is prepared on them does not touch the writer's own."""

    def __init__(self, writer: LakeWriter, as_of: Mapping[Name, Snapshot] | None = None) -> None:
        """as_of: tables that are shown as they were at a snapshot."""
        # Not the parent's: this one holds no lease and commits nothing.
        self.lock = threading.RLock()
        self.pipeline = writer.pipeline
        self.catalog = writer.catalog
        self._writer = writer
        self._as_of = as_of or {}

    def table(self, name: Name, schema: pa.Schema, properties: dict[str, str]) -> LakeTable:
        self._writer.table(name, schema, properties)
        return self._load(name)

    def existing(self, name: Name) -> LakeTable | None:
        return self._load(name) if self._writer.existing(name) is not None else None

    def _load(self, name: Name) -> LakeTable:
        with self._writer.lock, catalog_errors(f"Table {'.'.join(name)} could not be opened"):
            table = LakeTable.load(self.catalog, name)
        snapshot = self._as_of.get(name)
        if snapshot is not None:
            table.manifests = Manifests(table.table.io, snapshot.manifests(table.table.io))
        return table


class SilverApart:
    """A silver table's state apart from the one that is merged. See `bringing_up`."""

    def __init__(
        self, writer: LakeWriter, silver: SilverTable, bronze: LakeTable, start: Mapping[str, Target] | None
    ) -> None:
        self._writer = writer
        self._silver = silver
        self._bronze = bronze
        self._start = start
        self._base = {one.lake.name: one.lake.metadata.current_snapshot_id for one in silver.tables}
        self.held: Progress | None = silver.marker
        if start is not None:
            self._base = {}
            target = start[silver.main.lake.name]
            self.held = target.held
            silver.begin_after(newest_at(silver.main.lake, target.snapshot))

    @property
    def silver(self) -> SilverTable:
        """The copy, for work of another kind; `put_in_place` commits it."""
        return self._silver

    def rebuild(self, task: Task) -> None:
        """Make all rows anew from bronze as it is now."""
        task.tell(f"Reading {_rows(self._bronze):,} changes of {self._bronze.name}.")
        # It is read twice: the rows of snapshots first, then all others.
        self._silver.rebuild(each=_Told(task, self._bronze, 2 * _rows(self._bronze)))
        self._base = {}
        self.held = marker_of(self._bronze.metadata.properties)
        self._follow(task)

    def replay(self, task: Task) -> None:
        """Merge what bronze has got since the table was like this."""
        task.tell(f"Replaying {self._bronze.name}.")
        self._merge(self._bronze, task)
        self._follow(task)

    def put_in_place(self, task: Task, properties: Mapping[str, str], reason: str) -> int:
        """Merge the rest and commit, with capture held up for that long; the table's rows.

        Raises `SinkUnavailable` when the table was changed by another piece of work meanwhile: begin again.
        """
        writer, silver = self._writer, self._silver
        task.tell(f"Putting {silver.main.lake.name} in place.")
        with writer.lock:
            bronze = writer.existing(self._bronze.table.name())
            if bronze is None:
                raise SinkUnavailable(f"{self._bronze.name} is gone; {silver.main.lake.name} is left as it was.")
            self._merge(bronze, task)
            for table in silver.tables:
                table.lake = self._current(table.lake)
            if silver.versions is not None:
                silver.versions.lake = self._current(silver.versions.lake)
            held = self.held or Progress()
            drafts = silver.drafts({MARKER: held.to_json(), **properties}, {MARKER: held.brief().to_json()})
            writer.commit(drafts)
            # Those who merge have a state of the table from before: they must open it anew.
            writer.retire(reason)
            silver.settle()
        return sum(one.rows for one in silver.tables)

    def _follow(self, task: Task) -> None:
        """Merge what came meanwhile, until it is little."""
        for _ in range(ROUNDS):
            before = _rows(self._bronze)
            with self._writer.lock, catalog_errors(f"Table {self._bronze.name} could not be opened"):
                self._bronze = LakeTable.load(self._writer.catalog, self._bronze.table.name())
            came = _rows(self._bronze) - before
            if came <= FEW_ROWS:
                return
            task.tell(f"Merging {came:,} changes that came meanwhile.")
            self._merge(self._bronze, task)

    def _merge(self, bronze: LakeTable, task: Task) -> None:
        marker = marker_of(bronze.metadata.properties)
        if marker is None or marker == self.held:
            return
        held = self.held or Progress()
        # Snapshots that were finished then have nothing new: their rows need not be compared again.
        known = held.snapshots_finished and bool(held.chunks) and held.chunks.keys() == marker.brief().chunks.keys()
        self._silver.replay(held, bronze, snapshots=not known, each=lambda _: task.check())
        self.held = marker

    def _current(self, mine: LakeTable) -> LakeTable:
        """The writer's own table; the copy was made of just that state, or takes its place whole."""
        table = self._writer.existing(mine.table.name())
        if table is None or (table.name in self._base and table.metadata.current_snapshot_id != self._base[table.name]):
            raise SinkUnavailable(
                f"{mine.name} was changed by another piece of work meanwhile. Give the command again."
            )
        if table.metadata.schema() != mine.metadata.schema():
            raise SinkUnavailable(f"{mine.name} got other columns meanwhile. Give the command again.")
        if self._start is not None and table.name in self._start:
            return _Onto(table, self._start[table.name])
        return table


class _Told:
    """Says how much of a table was read, and gives up when the process ends."""

    def __init__(self, task: Task, bronze: LakeTable, rows: int) -> None:
        self._task = task
        self._name = bronze.name
        self._rows = rows
        self._read = 0

    def __call__(self, rows: int) -> None:
        self._read += rows
        share = min(99, 100 * self._read // max(1, self._rows))
        self._task.tell(f"Reading {self._name}: {share} %.")


class _Onto(LakeTable):
    """A table whose next commit builds on the files of an earlier snapshot instead of those it has now."""

    def __init__(self, table: LakeTable, target: Target) -> None:
        # A view of the other: all that it has, but for one method.
        self.__dict__ = table.__dict__
        self._target = target

    def draft(self, change: Change) -> Draft:
        if not change.replace:
            data, deletes = files_at(self, self._target.snapshot)
            change = replace(change, replace=True, files=[*data, *change.files], deletes=[*deletes, *change.deletes])
            old = {one.file_path for one in (*data, *deletes)}
            draft = super().draft(change)
            # A commit that fails must not delete the old files as its own.
            return replace(draft, added=tuple(path for path in draft.added if path not in old))
        return super().draft(change)


@contextmanager
def bringing_up(writer: LakeWriter, name: str, start: Mapping[str, Target] | None = None) -> Iterator[SilverApart]:
    """The state of `silver.<name>` apart, for one piece of work; what is not put in place is given up.

    start: silver table and quarantine, by name, as they were at earlier snapshots, instead of as they are.
    """
    as_of = {tuple(table.split(".")): target.snapshot for table, target in start.items()} if start is not None else None
    apart = TablesApart(writer, as_of)
    bronze = apart.existing(("bronze", name))
    if bronze is None:
        raise SinkUnavailable(f"silver.{name} has no bronze table to be made from.")
    place = writer.directory / ".catchment"
    place.mkdir(exist_ok=True)
    # An index of its own: the one of the table that is merged is in use.
    directory = Path(tempfile.mkdtemp(dir=place, prefix="apart-"))
    try:
        layer = SilverLayer(apart, writer.lakehouse, writer.directory)
        key = key_of(bronze.metadata.properties)
        silver = SilverTable(apart, bronze, key, directory, layer.plan(name), lambda task: task())
        with closing(silver):
            yield SilverApart(writer, silver, bronze, start)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _rows(table: LakeTable) -> int:
    current = table.metadata.current_snapshot()
    said = current.summary.get("total-records") if current is not None and current.summary is not None else None
    return int(said or 0)
