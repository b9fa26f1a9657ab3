"""How commits become visible: all tables and the progress at once, or one by one with markers.

A SQL catalog keeps its pointers in a database: one transaction there checks the lease, moves every table
from exactly the state that the commit was built on, and stores the progress. Other catalogs move one table
at a time; then each table's marker says what a replay must skip in it, and `ops.progress`, an Iceberg table
committed last, says where to resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog

from catchment import failpoint
from catchment.errors import LeaseLost
from catchment.lakehouse.catalog import catalog_errors
from catchment.lakehouse.commit import (
    TableMoved,
    commit_one,
    discard,
    draft_replacement,
    move,
    open_or_create,
    prepare,
    settle,
)
from catchment.lakehouse.commit_stamp import stamp
from catchment.lakehouse.ops import OpsStore, ops_errors
from catchment.lakehouse.properties import marker_of
from catchment.lakehouse.sweeping import Sweep, sweep_now
from catchment.lakehouse.table import Change, Draft, LakeTable
from catchment.progress import Progress
from catchment.schema import TableSchema

EPOCH = "catchment.epoch"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose commits these are. epoch: the lease's."""

    pipeline: str
    sink: str
    epoch: int


class Committer(Protocol):
    """Makes drafts of several tables visible, with the progress that they amount to."""

    def progress(self) -> Progress | None:
        """What is held durably; None when nothing yet."""
        ...

    def marker(self, table: LakeTable) -> Progress | None:
        """What this table holds beyond `progress`; None when that cannot be."""
        ...

    def commit(self, drafts: Sequence[Draft], progress: Progress | None, schemas: Sequence[TableSchema] = ()) -> None:
        """Make it so; without a progress, that stays as it is.

        Raises `LeaseLost`, or `SinkUnavailable` when it failed or may have failed.
        After an exception the truth is what `progress` and `marker` of a new committer say.
        """
        ...


class AtomicCommitter:
    """All tables and the progress in one transaction of the SQL catalog's database."""

    def __init__(self, catalog: SqlCatalog, ops: OpsStore, owner: Owner, sweep: Sweep = sweep_now) -> None:
        self._catalog = catalog
        self._ops = ops
        self._owner = owner
        self._sweep = sweep

    def progress(self) -> Progress | None:
        return self._ops.progress(self._owner.pipeline).get(self._owner.sink)

    def marker(self, table: LakeTable) -> Progress | None:
        return None

    def commit(self, drafts: Sequence[Draft], progress: Progress | None, schemas: Sequence[TableSchema] = ()) -> None:
        owner = self._owner
        stamp(drafts)
        locations = prepare(drafts)
        failpoint.reach("before_commit")
        try:
            with ops_errors(f"The commit of pipeline {owner.pipeline} failed"), self._ops.writing() as connection:
                self._ops.check_epoch(connection, owner.pipeline, owner.epoch)
                for draft, location in zip(drafts, locations, strict=True):
                    move(connection, self._catalog, draft, location)
                self._ops.keep_schemas(connection, owner.pipeline, schemas)
                if progress is not None:
                    self._ops.keep_progress(connection, owner.pipeline, owner.sink, progress, owner.epoch)
        except (LeaseLost, TableMoved):
            # Raised before COMMIT: nothing can point to these files. After any other failure something may.
            discard(drafts, locations)
            raise
        failpoint.reach("after_commit")
        settle(drafts, locations, self._sweep)


class SequentialCommitter:
    """One table after the other through any catalog, then `ops.progress`."""

    def __init__(
        self, catalog: Catalog, ops: OpsStore, owner: Owner, tables: Sequence[LakeTable], sweep: Sweep = sweep_now
    ) -> None:
        """Takes over: from here on, whoever wrote `tables` before cannot commit to them any more."""
        self._catalog = catalog
        self._ops = ops
        self._sweep = sweep
        self._progress = open_or_create(
            catalog, ("ops", "progress"), _PROGRESS_SCHEMA, {}, snapshots_kept=10, owns_data=True
        )
        self._rows = self._progress.table.scan().to_arrow().select(_PROGRESS_SCHEMA.names).to_pylist()
        mine = next((row for row in self._rows if _is(row, owner)), None)
        self._owner = Owner(owner.pipeline, owner.sink, max(owner.epoch, mine["epoch"] + 1 if mine else 1))
        self._held = Progress.from_json(mine["progress"]) if mine and mine["progress"] else None
        self._commit_progress(self._held)
        fence = {EPOCH: str(self._owner.epoch)}
        for table in tables:
            self._commit_table(table.draft(Change(properties=fence, summary=fence)))

    def progress(self) -> Progress | None:
        return self._held

    def marker(self, table: LakeTable) -> Progress | None:
        return marker_of(table.metadata.properties)

    def commit(self, drafts: Sequence[Draft], progress: Progress | None, schemas: Sequence[TableSchema] = ()) -> None:
        for draft in drafts:
            draft.table.storage.sync(draft.written)
        for draft in drafts:
            failpoint.reach("before_commit")
            self._commit_table(draft)
        if progress is None:
            return
        failpoint.reach("before_commit")
        self._commit_progress(progress)
        self._held = progress
        failpoint.reach("after_commit")
        owner = self._owner
        with ops_errors("The local copy of the progress failed"), self._ops.writing() as connection:
            self._ops.keep_schemas(connection, owner.pipeline, schemas)
            self._ops.keep_progress(connection, owner.pipeline, owner.sink, progress, owner.epoch)

    def _commit_progress(self, progress: Progress | None) -> None:
        owner = self._owner
        row = {
            "pipeline": owner.pipeline,
            "sink": owner.sink,
            "progress": progress.to_json() if progress is not None else None,
            "epoch": owner.epoch,
        }
        self._rows = [one for one in self._rows if not _is(one, owner)] + [row]
        data = pa.Table.from_pylist(self._rows, _PROGRESS_SCHEMA)
        draft = draft_replacement(self._progress, data, {})
        draft.table.storage.sync(draft.written)
        self._commit_table(draft)

    def _commit_table(self, draft: Draft) -> None:
        try:
            commit_one(self._catalog, draft, self._sweep)
        except TableMoved as error:
            self._check_epoch(error)
            raise

    def _check_epoch(self, reason: TableMoved) -> None:
        """Was it a new holder of the lease that moved the table? Then this process must stop, not try again."""
        with catalog_errors("The progress of the pipeline could not be read"):
            rows = self._catalog.load_table(("ops", "progress")).scan().to_arrow().to_pylist()
        found = next((row["epoch"] for row in rows if _is(row, self._owner)), 0)
        if found > self._owner.epoch:
            raise LeaseLost(
                f"Another process took pipeline {self._owner.pipeline} over (epoch {found}, ours was "
                f"{self._owner.epoch}). This one stops; what it had not committed, the other captures."
            ) from reason


def _is(row: dict[str, object], owner: Owner) -> bool:
    return row["pipeline"] == owner.pipeline and row["sink"] == owner.sink


_PROGRESS_SCHEMA = pa.schema(
    [
        pa.field("pipeline", pa.string()),
        pa.field("sink", pa.string()),
        pa.field("progress", pa.string()),
        pa.field("epoch", pa.int64()),
    ]
)
