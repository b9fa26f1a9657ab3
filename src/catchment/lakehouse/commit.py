"""One commit to a table: drafted, made durable, moved to, settled; and tables made or replaced whole."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema
from pyiceberg.table.metadata import new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from sqlalchemy import Connection, update

from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import catalog_errors, local_path
from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings
from catchment.lakehouse.file_schema import file_schema
from catchment.lakehouse.ops import ops_errors
from catchment.lakehouse.storage import LocalStorage, writing
from catchment.lakehouse.sweeping import Sweep, sweep_now
from catchment.lakehouse.table import TABLE_PROPERTIES, Change, Draft, LakeTable
from catchment.lakehouse.table_schema import fit, fit_exactly

FILE_BYTES = 256 * 1024 * 1024
ROW_GROUP_ROWS = 100_000


class TableMoved(SinkUnavailable):
    """Another writer committed to a table since we last did."""


def commit_one(catalog: Catalog, draft: Draft, sweep: Sweep = sweep_now) -> None:
    """Commit one table through the catalog's own interface, on exactly the state that it was built on."""
    table = draft.table
    # No answer, or an unclear one, is no outcome: whoever opens next looks at the table, and so do we.
    with catalog_errors(f"The commit to {table.name} may or may not have happened"):
        try:
            response = catalog.commit_table(table.table, draft.requirements, draft.updates)
        except CommitFailedException as error:
            raise _moved(table) from error
    table.adopt(draft, response.metadata, response.metadata_location)
    sweep(table.storage, draft.garbage)


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


def settle(drafts: Sequence[Draft], locations: Sequence[str], sweep: Sweep = sweep_now) -> None:
    """The transaction has committed: remember what the tables are, and delete what nothing needs any more."""
    for draft, location in zip(drafts, locations, strict=True):
        garbage = [*draft.garbage, *draft.table.dropped_metadata(draft)]
        draft.table.adopt(draft, draft.metadata, location)
        sweep(draft.table.storage, garbage)


def replace(
    catalog: Catalog, table: LakeTable, data: pa.Table | pa.RecordBatchReader, properties: dict[str, str] | None = None
) -> None:
    """Replace all rows of a table, and its schema by that of `data`, in one commit.

    Use a LakeTable with `owns_data`: old data files go when their snapshots do. Raises `SinkUnavailable`
    when another writer was quicker: load the table again and repeat.
    """
    commit_alone(catalog, draft_replacement(table, data, properties or {}))


def commit_alone(catalog: Catalog, draft: Draft) -> None:
    """Commit one table, with no progress and no lease: for tables that anybody may make anew.

    Raises `TableMoved` when another writer was quicker; what was written for nothing is deleted.
    """
    table = draft.table
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


def draft_replacement(table: LakeTable, data: pa.Table | pa.RecordBatchReader, properties: dict[str, str]) -> Draft:
    """A commit that replaces all rows of a table."""
    before = table.metadata
    fitted = fit_exactly(
        before.schema(),
        data.schema,
        last_column_id=before.last_column_id,
        schema_id=max(one.schema_id for one in before.schemas) + 1,
    )
    reader = data.combine_chunks().to_reader(ROW_GROUP_ROWS) if isinstance(data, pa.Table) else data
    files = write_rows(table, fitted.schema, reader)
    schema = fitted.schema if fitted.changed else None
    return table.draft(Change(files, replace=True, schema=schema, properties=properties))


def write_rows(table: LakeTable, schema: Schema, rows: pa.RecordBatchReader) -> list[DataFile]:
    """Write rows into new data files of a table, a row group a batch; durable when this returns.

    schema: the table's, with the rows' columns in the same order.
    """
    layout = file_schema(schema)
    files: list[DataFile] = []
    writer: DataFileWriter | None = None
    try:
        for batch in rows:
            if not batch.num_rows:
                continue
            if writer is None:
                writer = DataFileWriter(table.storage, table.new_data_location(), layout, ParquetSettings(bounded=()))
            writer.write(pa.Table.from_batches([batch]).cast(layout).to_batches())
            if writer.size >= FILE_BYTES:
                files.append(writer.close())
                writer = None
        if writer is not None:
            files.append(writer.close())
    except BaseException:
        given_up = [file.file_path for file in files]
        if writer is not None:
            writer.abort()
            given_up.append(writer.location)
        table.delete_uncommitted(given_up)
        raise
    return files


def open_or_create(
    catalog: Catalog,
    identifier: tuple[str, ...],
    schema: pa.Schema,
    properties: dict[str, str],
    *,
    snapshots_kept: int = 100,
    snapshot_hours: float | None = None,
    owns_data: bool = False,
) -> LakeTable:
    """The table, made with this schema if there is none."""

    def load() -> LakeTable:
        return LakeTable.load(
            catalog, identifier, snapshots_kept=snapshots_kept, snapshot_hours=snapshot_hours, owns_data=owns_data
        )

    with contextlib.suppress(NoSuchTableError, NoSuchNamespaceError):
        return load()
    catalog.create_namespace_if_not_exists(identifier[:-1])
    # Another process may make it at this moment: then ours is the loader's part.
    with contextlib.suppress(TableAlreadyExistsError):
        _create(catalog, identifier, schema, {**TABLE_PROPERTIES, **properties})
    return load()


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
