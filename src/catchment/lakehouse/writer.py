"""The one writer of a pipeline's tables: lease, catalog, committer, and the tables as they are between commits.

Several threads of one process write through it (the sink, maintenance); `lock` is held around each commit and
around whatever looks at a table's state and must still be right when it commits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

from catchment.errors import Reopen, SinkRefused, SinkUnavailable
from catchment.lakehouse.catalog import catalog_errors, load_catalog
from catchment.lakehouse.commit import open_or_create
from catchment.lakehouse.committers import AtomicCommitter, Committer, Owner, SequentialCommitter
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.lease import Lease
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.properties import PIPELINE, TABLE
from catchment.lakehouse.sweeping import Sweeper
from catchment.lakehouse.table import SNAPSHOTS_KEPT, Draft, LakeTable
from catchment.progress import Progress
from catchment.schema import TableSchema

if TYPE_CHECKING:
    from catchment.lakehouse.silver.keyed_table import KeyedTable

WRITTEN_LAYERS = ("bronze", "silver")
"""The namespaces whose tables are written under a pipeline's lease."""

Name = tuple[str, ...]
FindKeyed = Callable[[LakeTable], "KeyedTable | None"]


class LakeWriter:
    """Holds the lease of one pipeline while it is open. All tables of that pipeline are written through it.

    After a commit failed, in any way, the writer refuses further ones: what is in memory may no longer be what
    the catalog has. Close it and open another.
    """

    def __init__(
        self,
        pipeline: str,
        lakehouse: LakehouseConfig,
        directory: Path,
        catalog: Catalog,
        ops: OpsStore,
        lease: Lease,
        *,
        sink: str,
        snapshots_kept: int,
    ) -> None:
        self.pipeline = pipeline
        self.lakehouse = lakehouse
        self.directory = directory
        self.catalog = catalog
        self.ops = ops
        self.lock = threading.RLock()
        self._lease = lease
        self._kept = snapshots_kept
        self._hours = lakehouse.maintenance.snapshot_hours or None
        self.find_keyed: FindKeyed | None = None
        """Where silver is merged by this writer: gives the `KeyedTable` of a table, if that is open."""
        self._tables: dict[Name, LakeTable] = {}
        self._failure: BaseException | None = None
        self._retired: str | None = None
        self._sweeper = Sweeper()
        self._committer = self._make_committer(Owner(pipeline, sink, lease.epoch))

    @classmethod
    def open(
        cls,
        lakehouse: LakehouseConfig,
        pipeline: str,
        directory: Path,
        *,
        sink: str = "iceberg",
        snapshots_kept: int = SNAPSHOTS_KEPT,
        briefly: bool = False,
    ) -> LakeWriter:
        """Take the pipeline's lease and open its lake. Raises `LeaseHeld` while a live process has it.

        briefly: for a command; a run that comes meanwhile waits instead of ending.
        """
        ops = OpsStore.open(lakehouse, directory)
        try:
            lease = Lease.acquire(pipeline, directory, ops, briefly=briefly)
        except BaseException:
            ops.close()
            raise
        try:
            catalog = load_catalog(lakehouse.catalog, directory)
            return cls(pipeline, lakehouse, directory, catalog, ops, lease, sink=sink, snapshots_kept=snapshots_kept)
        except BaseException:
            lease.release()
            ops.close()
            raise

    @property
    def progress(self) -> Progress | None:
        """What the sink holds durably; None when nothing yet."""
        return self._committer.progress()

    def marker(self, table: LakeTable) -> Progress | None:
        """What this table holds beyond `progress`; None when that cannot be."""
        return self._committer.marker(table)

    def table(self, name: Name, schema: pa.Schema, properties: dict[str, str]) -> LakeTable:
        """The table, made if there is none; the same object for everyone. Raises `SinkRefused` for another's."""
        with self.lock:
            known = self._tables.get(name)
            if known is None:
                with catalog_errors(f"Table {'.'.join(name)} could not be opened"):
                    known = open_or_create(
                        self.catalog,
                        name,
                        schema,
                        properties,
                        snapshots_kept=self._kept,
                        snapshot_hours=self._hours,
                    )
                self._check_owner(known, properties.get(TABLE))
                self._tables[name] = known
            return known

    def existing(self, name: Name) -> LakeTable | None:
        """The table, if there is one and it is this pipeline's; the same object for everyone."""
        with self.lock:
            known = self._tables.get(name)
            if known is not None:
                return known
            with catalog_errors(f"Table {'.'.join(name)} could not be opened"):
                try:
                    found = LakeTable.load(self.catalog, name, snapshots_kept=self._kept, snapshot_hours=self._hours)
                except (NoSuchTableError, NoSuchNamespaceError):
                    return None
            if found.metadata.properties.get(PIPELINE) != self.pipeline:
                return None
            self._tables[name] = found
            return found

    def tables(self, layers: Iterable[str] = WRITTEN_LAYERS) -> list[LakeTable]:
        """All tables of the pipeline in these namespaces."""
        names: list[Name] = []
        for layer in layers:
            with catalog_errors(f"The tables of {layer} could not be listed"):
                try:
                    names += self.catalog.list_tables(layer)
                except NoSuchNamespaceError:
                    continue
        return [table for name in sorted(names) if (table := self.existing(name)) is not None]

    def commit(
        self, drafts: Sequence[Draft], progress: Progress | None = None, schemas: Sequence[TableSchema] = ()
    ) -> None:
        """Make drafts visible, with the progress they amount to; without one, the progress stays as it is.

        Hold `lock` from drafting on. Raises `LeaseLost`, or `SinkUnavailable` when it failed or may have failed.
        """
        with self.lock:
            self.check()
            if self._failure is not None:
                raise SinkUnavailable(
                    f"An earlier commit to the lake of {self.pipeline} failed; it is opened again."
                ) from self._failure
            try:
                self._committer.commit(drafts, progress, schemas)
            except BaseException as failure:
                self._failure = failure
                raise

    def give_up(self, failure: BaseException) -> None:
        """What is in memory can no longer be trusted: refuse every further commit, until it is opened again."""
        with self.lock:
            self._failure = self._failure or failure

    def retire(self, reason: str) -> None:
        """From here on nothing is committed: tables changed under those who hold state of them. They open anew."""
        self._retired = reason

    @property
    def retired(self) -> bool:
        """Is it about to be closed, and opened anew?"""
        return self._retired is not None

    def check(self) -> None:
        """Raise `Reopen` once the writer was retired."""
        if self._retired is not None:
            raise Reopen(f"{self._retired} The lake of {self.pipeline} is opened again.")

    def close(self) -> None:
        """Let go of the lease and of the catalog, once nothing is left to be deleted."""
        self._sweeper.close()
        self._lease.release()
        if isinstance(self.catalog, SqlCatalog):
            self.catalog.close()
        self.ops.close()

    def _make_committer(self, owner: Owner) -> Committer:
        if isinstance(self.catalog, SqlCatalog):
            return AtomicCommitter(self.catalog, self.ops, owner, self._sweeper.sweep)
        return SequentialCommitter(self.catalog, self.ops, owner, self.tables(), self._sweeper.sweep)

    def _check_owner(self, lake: LakeTable, source: str | None) -> None:
        properties = lake.metadata.properties
        pipeline, holds = properties.get(PIPELINE), properties.get(TABLE)
        if holds is not None and source is not None and holds != source:
            raise SinkRefused(f"{lake.name} holds {holds}, not {source}. Exclude one of them, or use another lake.")
        if pipeline != self.pipeline:
            raise SinkRefused(
                f"{lake.name} was made by {f'pipeline {pipeline}' if pipeline else 'something else'}. Use another "
                f"lake, give this pipeline that name, or drop the table."
            )
