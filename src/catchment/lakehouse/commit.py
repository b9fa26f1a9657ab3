"""How commits become visible: all tables and the progress at once, or one by one with markers.

A SQL catalog keeps its pointers in a database: one transaction there checks the lease, moves every table
from exactly the state that the commit was built on, and stores the progress. Other catalogs move one table
at a time; then each table's marker says what a replay must skip in it, and `ops.progress`, an Iceberg table
committed last, says where to resume.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.table.metadata import new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from sqlalchemy import Connection, update

from catchment import failpoint
from catchment.errors import LeaseLost, SinkUnavailable
from catchment.lakehouse.catalog import catalog_errors, local_path
from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings
from catchment.lakehouse.file_schema import file_schema
from catchment.lakehouse.ops import OpsStore, ops_errors
from catchment.lakehouse.storage import LocalStorage, writing
from catchment.lakehouse.table import TABLE_PROPERTIES, Change, Draft, LakeTable
from catchment.lakehouse.table_schema import fit, fit_exactly
from catchment.progress import Progress
from catchment.schema import TableSchema

MARKER = "catchment.progress"
EPOCH = "catchment.epoch"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose commits these are. epoch: the lease's."""

    pipeline: str
    sink: str
    epoch: int


class TableMoved(SinkUnavailable):
    """Another writer committed to a table since we last did."""


class Committer(Protocol):
    """Makes drafts of several tables visible, with the progress that they amount to."""

    def progress(self) -> Progress | None:
        """What is held durably; None when nothing yet."""
        ...

    def marker(self, table: LakeTable) -> Progress | None:
        """What this table holds beyond `progress`; None when that cannot be."""
        ...

    def commit(self, drafts: Sequence[Draft], progress: Progress, schemas: Sequence[TableSchema] = ()) -> None:
        """Make it so. Raises `LeaseLost`, or `SinkUnavailable` when it failed or may have failed.

        After an exception the truth is what `progress` and `marker` of a new committer say.
        """
        ...


class AtomicCommitter:
    """All tables and the progress in one transaction of the SQL catalog's database."""

    def __init__(self, catalog: SqlCatalog, ops: OpsStore, owner: Owner) -> None:
        self._catalog = catalog
        self._ops = ops
        self._owner = owner

    def progress(self) -> Progress | None:
        return self._ops.progress(self._owner.pipeline).get(self._owner.sink)

    def marker(self, table: LakeTable) -> Progress | None:
        return None

    def commit(self, drafts: Sequence[Draft], progress: Progress, schemas: Sequence[TableSchema] = ()) -> None:
        owner = self._owner
        locations = prepare(drafts)
        failpoint.reach("before_commit")
        try:
            with ops_errors(f"The commit of pipeline {owner.pipeline} failed"), self._ops.writing() as connection:
                self._ops.check_epoch(connection, owner.pipeline, owner.epoch)
                for draft, location in zip(drafts, locations, strict=True):
                    move(connection, self._catalog, draft, location)
                self._ops.keep_schemas(connection, owner.pipeline, schemas)
                self._ops.keep_progress(connection, owner.pipeline, owner.sink, progress, owner.epoch)
        except (LeaseLost, TableMoved):
            # Raised before COMMIT: nothing can point to these files. After any other failure something may.
            discard(drafts, locations)
            raise
        failpoint.reach("after_commit")
        settle(drafts, locations)


class SequentialCommitter:
    """One table after the other through any catalog, then `ops.progress`."""

    def __init__(self, catalog: Catalog, ops: OpsStore, owner: Owner, tables: Sequence[LakeTable]) -> None:
        """Takes over: from here on, whoever wrote `tables` before cannot commit to them any more."""
        self._catalog = catalog
        self._ops = ops
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
        text = table.metadata.properties.get(MARKER)
        return Progress.from_json(text) if text else None

    def commit(self, drafts: Sequence[Draft], progress: Progress, schemas: Sequence[TableSchema] = ()) -> None:
        for draft in drafts:
            draft.table.storage.sync(draft.written)
        for draft in drafts:
            failpoint.reach("before_commit")
            self._commit_table(draft)
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
            commit_one(self._catalog, draft)
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


def commit_one(catalog: Catalog, draft: Draft) -> None:
    """Commit one table through the catalog's own interface, on exactly the state that it was built on."""
    table = draft.table
    # No answer, or an unclear one, is no outcome: whoever opens next looks at the table, and so do we.
    with catalog_errors(f"The commit to {table.name} may or may not have happened"):
        try:
            response = catalog.commit_table(table.table, draft.requirements, draft.updates)
        except CommitFailedException as error:
            raise _moved(table) from error
    table.adopt(draft, response.metadata, response.metadata_location)
    table.storage.delete(draft.garbage)


def prepare(drafts: Sequence[Draft]) -> list[str]:
    """Write the drafts' metadata files and make all of their files durable; the files' locations."""
    locations = [draft.table.write_metadata(draft) for draft in drafts]
    together: dict[type, list[str]] = {}
    for draft, location in zip(drafts, locations, strict=True):
        together.setdefault(type(draft.table.storage), []).extend((*draft.written, location))
    for draft in drafts:
        mine = together.pop(type(draft.table.storage), None)
        if mine is not None:
            with writing("Metadata of the lake"):
                draft.table.storage.sync(mine)
    return locations


def move(connection: Connection, catalog: SqlCatalog, draft: Draft, location: str) -> None:
    """Point the catalog at a draft, inside the caller's transaction, if the table still is as it was."""
    namespace, name = draft.table.table.name()[:-1], draft.table.table.name()[-1]
    moved = connection.execute(
        update(IcebergTables)
        .where(
            IcebergTables.catalog_name == catalog.name,
            IcebergTables.table_namespace == ".".join(namespace),
            IcebergTables.table_name == name,
            IcebergTables.metadata_location == draft.table.metadata_location,
        )
        .values(metadata_location=location, previous_metadata_location=draft.table.metadata_location)
    )
    if moved.rowcount != 1:
        raise _moved(draft.table)


def discard(drafts: Sequence[Draft], locations: Sequence[str]) -> None:
    """Delete the files of a commit that certainly did not happen."""
    for draft, location in zip(drafts, locations, strict=True):
        draft.table.storage.delete([*draft.written, location, *draft.added])


def settle(drafts: Sequence[Draft], locations: Sequence[str]) -> None:
    """The transaction has committed: remember what the tables are, and delete what nothing needs any more."""
    for draft, location in zip(drafts, locations, strict=True):
        garbage = [*draft.garbage, *draft.table.dropped_metadata(draft)]
        draft.table.adopt(draft, draft.metadata, location)
        draft.table.storage.delete(garbage)


def replace(catalog: Catalog, table: LakeTable, data: pa.Table, properties: dict[str, str] | None = None) -> None:
    """Replace all rows of a table, and its schema by that of `data`, in one commit.

    Use a LakeTable with `owns_data`: old data files go when their snapshots do. Raises `SinkUnavailable`
    when another writer was quicker: load the table again and repeat.
    """
    draft = draft_replacement(table, data, properties or {})
    if not isinstance(catalog, SqlCatalog):
        table.storage.sync(draft.written)
        commit_one(catalog, draft)
        return
    locations = prepare([draft])
    try:
        with ops_errors(f"The commit to {table.name} failed"), catalog.engine.begin() as connection:
            move(connection, catalog, draft, locations[0])
    except TableMoved:
        discard([draft], locations)
        raise
    settle([draft], locations)


def draft_replacement(table: LakeTable, data: pa.Table, properties: dict[str, str]) -> Draft:
    """A commit that replaces all rows of a table."""
    before = table.metadata
    fitted = fit_exactly(
        before.schema(),
        data.schema,
        last_column_id=before.last_column_id,
        schema_id=max(one.schema_id for one in before.schemas) + 1,
    )
    files = []
    if data.num_rows:
        layout = file_schema(fitted.schema)
        writer = DataFileWriter(table.storage, table.new_data_location(), layout, ParquetSettings(bounded=()))
        try:
            writer.write(data.cast(layout).combine_chunks().to_batches())
            files.append(writer.close())
        except BaseException:
            writer.abort()
            raise
    schema = fitted.schema if fitted.changed else None
    return table.draft(Change(files, replace=True, schema=schema, properties=properties))


def open_or_create(
    catalog: Catalog,
    identifier: tuple[str, ...],
    schema: pa.Schema,
    properties: dict[str, str],
    *,
    snapshots_kept: int = 100,
    owns_data: bool = False,
) -> LakeTable:
    """The table, made with this schema if there is none."""
    with contextlib.suppress(NoSuchTableError, NoSuchNamespaceError):
        return LakeTable.load(catalog, identifier, snapshots_kept=snapshots_kept, owns_data=owns_data)
    catalog.create_namespace_if_not_exists(identifier[:-1])
    # Another process may make it at this moment: then ours is the loader's part.
    with contextlib.suppress(TableAlreadyExistsError):
        _create(catalog, identifier, schema, {**TABLE_PROPERTIES, **properties})
    return LakeTable.load(catalog, identifier, snapshots_kept=snapshots_kept, owns_data=owns_data)


def _create(catalog: Catalog, identifier: tuple[str, ...], schema: pa.Schema, properties: dict[str, str]) -> None:
    iceberg = fit(None, schema).schema
    warehouse = catalog.properties.get("warehouse")
    if not isinstance(catalog, SqlCatalog) or local_path(warehouse) is None:
        catalog.create_table(identifier, iceberg, properties=properties)
        return
    # PyIceberg points to a metadata file that is not fsynced: ours is durable before anything points to it.
    location = f"{str(warehouse).rstrip('/')}/{'/'.join(identifier)}"
    metadata = new_table_metadata(iceberg, UNPARTITIONED_PARTITION_SPEC, UNSORTED_SORT_ORDER, location, properties)
    file = f"{location}/metadata/00000-{metadata.table_uuid}.metadata.json"
    files = LocalStorage()
    with writing(f"Metadata of table {'.'.join(identifier)}"):
        files.write(file, metadata.model_dump_json(exclude_none=True).encode())
        files.sync([file])
    catalog.register_table(identifier, file)


def _moved(table: LakeTable) -> TableMoved:
    return TableMoved(
        f"Table {table.name} was changed by another writer since this pipeline last wrote it. It is read again; if "
        f"this repeats, stop the other writer."
    )


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
