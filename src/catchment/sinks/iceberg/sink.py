"""The Iceberg sink: bronze tables that hold every change once.

Rows stream into Parquet files on a second thread while the next ones are decoded. A flush closes the files
of all rows before the last boundary, makes them durable, and commits all tables together with the progress
(see `catchment.lakehouse.committers`). Only this sink writes its tables while it holds the pipeline's lease.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchNamespaceError

from catchment.change import ChangeBatch
from catchment.errors import SinkRefused
from catchment.lakehouse.catalog import catalog_errors, load_catalog
from catchment.lakehouse.commit import open_or_create
from catchment.lakehouse.committers import AtomicCommitter, Committer, Owner, SequentialCommitter
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.data_file import ParquetSettings
from catchment.lakehouse.lease import Lease
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.table import LakeTable
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema
from catchment.sinks.iceberg.bronze_table import BRONZE, BronzeTable, bronze_name, bronze_properties
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.encoder import Encoder
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

MEMORY_BYTES = 96 * 1024 * 1024
"""Rows of all tables in memory, before the largest tables' rows are spilled to their files."""
WEIGH_EVERY_ROWS = 1_024


class IcebergSink:
    """Lands changes in `bronze.<table>`, exactly once. See `catchment.sinks.base.Sink`."""

    def __init__(self, config: IcebergSinkConfig, lakehouse: LakehouseConfig, pipeline: str, directory: Path) -> None:
        self._config = config
        self._lakehouse = lakehouse
        self._pipeline = pipeline
        self._directory = directory
        self._settings = ParquetSettings(
            config.compression, config.compression_level if config.compression in ("zstd", "gzip") else None
        )
        self._encoder = Encoder()
        self._tables: dict[TableId, BronzeTable] = {}
        self._names: dict[tuple[str, str], TableId] = {}
        self._touched: set[TableId] = set()
        self._schemas: list[TableSchema] = []
        self._unweighed_rows = 0
        self._boundary: Progress | None = None
        self._held: Progress | None = None
        self._ops: OpsStore | None = None
        self._lease: Lease | None = None
        self._catalog: Catalog | None = None
        self._committer: Committer | None = None

    def open(self) -> Progress | None:
        self._ops = OpsStore.open(self._lakehouse, self._directory)
        self._lease = Lease.acquire(self._pipeline, self._directory, self._ops)
        self._catalog = load_catalog(self._lakehouse.catalog, self._directory)
        owner = Owner(self._pipeline, self._config.name, self._lease.epoch)
        if isinstance(self._catalog, SqlCatalog):
            self._committer = AtomicCommitter(self._catalog, self._ops, owner)
        else:
            self._committer = SequentialCommitter(
                self._catalog, self._ops, owner, self._tables_of_pipeline(self._catalog)
            )
        self._held = self._committer.progress()
        return self._held

    def schema_change(self, schema: TableSchema) -> None:
        self._table(schema).change_schema(schema)
        self._schemas.append(schema)

    def write(self, batch: ChangeBatch) -> None:
        table = self._tables.get(batch.table) or self._table(batch.schema)
        fresh = batch.after(table.marker)
        if fresh is None or not len(fresh):
            return
        table.write(fresh)
        self._touched.add(batch.table)
        self._unweighed_rows += len(fresh)
        if self._unweighed_rows >= WEIGH_EVERY_ROWS:
            self._weigh()

    def _weigh(self) -> None:
        """Keep many tables' rows in memory together within bounds; one table's are by its row groups."""
        self._unweighed_rows = 0
        while sum(one.bytes for one in self._tables.values()) > MEMORY_BYTES:
            max(self._tables.values(), key=lambda one: one.bytes).spill()

    def advance(self, progress: Progress) -> None:
        for name in self._touched:
            self._tables[name].advance()
        self._touched.clear()
        self._boundary = progress

    def flush(self) -> Progress | None:
        tables = [one for one in self._tables.values() if one.dirty]
        if self._boundary is None or (not tables and self._held is not None and self._held.covers(self._boundary)):
            return self._held
        committer, _ = self._opened()
        progress = self._boundary if self._held is None else self._held.join(self._boundary)
        for table in tables:
            table.finish_files()
        if tables:
            self._encoder.drain()
        drafts = [table.draft(progress) for table in tables]
        committer.commit(drafts, progress, self._schemas)
        self._schemas = []
        self._held = progress
        return progress

    def close(self) -> None:
        self._encoder.close()
        for table in self._tables.values():
            table.abort()
        self._tables.clear()
        if self._lease is not None:
            self._lease.release()
        if isinstance(self._catalog, SqlCatalog):
            self._catalog.close()
        if self._ops is not None:
            self._ops.close()

    def _table(self, schema: TableSchema) -> BronzeTable:
        """The open table of this schema's; made in the lake if it is new."""
        known = self._tables.get(schema.table)
        if known is not None:
            return known
        committer, catalog = self._opened()
        name = bronze_name(schema.table)
        other = self._names.setdefault(name, schema.table)
        if other != schema.table:
            raise SinkRefused(f"Tables {other} and {schema.table} would both be {'.'.join(name)}. Exclude one of them.")
        properties = bronze_properties(self._pipeline, schema)
        kept = self._config.snapshots_kept
        with catalog_errors(f"Table {'.'.join(name)} could not be opened"):
            lake = open_or_create(catalog, name, schema.envelope, properties, snapshots_kept=kept)
        self._check_owner(lake, schema.table)
        table = BronzeTable(
            lake,
            schema,
            self._pipeline,
            marker=committer.marker(lake),
            encoder=self._encoder,
            settings=self._settings,
            row_group_rows=self._config.row_group_rows,
            target_file_bytes=self._config.target_file_bytes,
        )
        self._tables[schema.table] = table
        return table

    def _check_owner(self, lake: LakeTable, table: TableId) -> None:
        properties = lake.metadata.properties
        pipeline, source = properties.get("catchment.pipeline"), properties.get("catchment.table")
        if source is not None and source != str(table):
            raise SinkRefused(f"{lake.name} holds {source}, not {table}. Exclude one of them, or use another lake.")
        if pipeline != self._pipeline:
            raise SinkRefused(
                f"{lake.name} was made by {f'pipeline {pipeline}' if pipeline else 'something else'}. Use another "
                f"lake, give this pipeline that name, or drop the table."
            )

    def _tables_of_pipeline(self, catalog: Catalog) -> list[LakeTable]:
        try:
            names = catalog.list_tables(BRONZE)
        except NoSuchNamespaceError:
            return []
        loaded = [LakeTable.load(catalog, name, snapshots_kept=self._config.snapshots_kept) for name in names]
        return [one for one in loaded if one.metadata.properties.get("catchment.pipeline") == self._pipeline]

    def _opened(self) -> tuple[Committer, Catalog]:
        if self._committer is None or self._catalog is None:
            raise RuntimeError("The Iceberg sink is used before open()")
        return self._committer, self._catalog
