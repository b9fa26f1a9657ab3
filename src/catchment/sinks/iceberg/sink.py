"""The Iceberg sink: bronze tables that hold every change once.

Rows stream into Parquet files on a second thread while the next ones are decoded. A flush closes the files
of all rows before the last boundary, makes them durable, and commits all tables together with the progress
(see `catchment.lakehouse.committers`). Only this sink writes its tables while it holds the pipeline's lease.
"""

from __future__ import annotations

import logging
from pathlib import Path

from catchment.change import ChangeBatch
from catchment.errors import SinkRefused, SinkUnavailable
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.data_file import ParquetSettings
from catchment.lakehouse.maintenance.service import MaintenanceService
from catchment.lakehouse.properties import MARKER
from catchment.lakehouse.silver.layer import SilverLayer
from catchment.lakehouse.silver.table import SilverTable
from catchment.lakehouse.writer import LakeWriter
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema
from catchment.sinks.iceberg.bronze_table import BronzeTable, bronze_name, bronze_properties
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
        self._merger = Encoder("silver-merger")
        self._silver: dict[TableId, SilverTable] = {}
        self._layer: SilverLayer | None = None
        self._maintenance: MaintenanceService | None = None
        self._tables: dict[TableId, BronzeTable] = {}
        self._names: dict[tuple[str, str], TableId] = {}
        self._touched: set[TableId] = set()
        self._reading: set[TableId] = set()
        self._schemas: list[TableSchema] = []
        self._unweighed_rows = 0
        self._boundary: Progress | None = None
        self._held: Progress | None = None
        self._writer: LakeWriter | None = None

    def open(self) -> Progress | None:
        config = self._config
        self._writer = LakeWriter.open(
            self._lakehouse, self._pipeline, self._directory, sink=config.name, snapshots_kept=config.snapshots_kept
        )
        self._layer = SilverLayer(
            self._writer,
            self._lakehouse,
            self._directory,
            settings=self._settings,
            target_file_bytes=config.target_file_bytes,
            submit=self._merger.submit,
        )
        self._layer.follow_keys()
        self._writer.find_keyed = self._layer.keyed
        self._maintenance = MaintenanceService(self._writer, self._lakehouse.maintenance, self._layer.keyed)
        self._maintenance.start()
        self._held = self._writer.progress
        return self._held

    def schema_change(self, schema: TableSchema) -> None:
        bronze = self._table(schema)
        bronze.change_schema(schema)
        silver = self._silver.get(schema.table)
        assert self._layer is not None  # noqa: S101 - tells the type checker
        if silver is not None and (
            self._layer.clashes(silver.name, [column.name for column in schema.columns])
            or self._layer.lacks_key(silver, bronze.columns)
        ):
            # From here on there is none, for now or for good; what was not merged of it yet is in bronze.
            del self._silver[schema.table]
            self._reading.discard(schema.table)
        elif silver is not None and schema.key != silver.source_key:
            raise SinkUnavailable(f"Table {schema.table} has another key now; its silver table is built anew.")
        self._schemas.append(schema)

    def write(self, batch: ChangeBatch) -> None:
        self._opened().check()
        table = self._tables.get(batch.table) or self._table(batch.schema)
        fresh = batch.after(table.marker)
        if fresh is None or not len(fresh):
            return
        records, size = table.write(fresh)
        silver = self._silver.get(batch.table)
        if silver is not None and not silver.pinned:
            snapshot = (fresh.snapshot or str(fresh.table)) if fresh.chunk is not None else None
            silver.write(records, size, snapshot)
            if snapshot is not None:
                self._reading.add(batch.table)
        self._touched.add(batch.table)
        self._unweighed_rows += len(fresh)
        if self._unweighed_rows >= WEIGH_EVERY_ROWS:
            self._weigh()

    def _weigh(self) -> None:
        """Keep many tables' rows in memory together within bounds; one table's are by its row groups."""
        self._unweighed_rows = 0
        waiting: list[BronzeTable | SilverTable] = [*self._tables.values(), *self._silver.values()]
        while sum(one.size for one in waiting) > MEMORY_BYTES:
            max(waiting, key=lambda one: one.size).spill()

    def advance(self, progress: Progress) -> None:
        self._opened().check()
        # A boundary may come with every change: only tables that it concerns are looked at.
        for name in self._touched:
            self._tables[name].advance()
        for name in (self._touched | self._reading) & self._silver.keys():
            self._silver[name].advance(progress)
        self._reading = {name for name in self._reading if self._silver[name].reading}
        self._touched.clear()
        self._boundary = progress

    def flush(self) -> Progress | None:
        self._opened().check()
        if self._boundary is None:
            return self._held
        progress = self._boundary if self._held is None else self._held.join(self._boundary)
        # A marker names the table's own snapshots: all tables' chunks may be thousands.
        chunks = progress.snapshots()
        held = {name: Progress(progress.positions, chunks.get(str(name), {})) for name in self._tables}
        tables = [one for one in self._tables.values() if one.lacks(held[one.source])]
        if not tables and self._held is not None and self._held.covers(self._boundary):
            return self._held
        writer = self._opened()
        for table in tables:
            table.finish_files()
        silvers = [(self._silver[t.source], t) for t in tables if t.source in self._silver]
        silvers = [(silver, table) for silver, table in silvers if not silver.pinned]
        for silver, table in silvers:
            silver.finish(held[table.source])
        if tables:
            self._encoder.drain()
            self._merger.drain()
        with writer.lock:
            drafts = [table.draft(held[table.source]) for table in tables]
            for silver, table in silvers:
                marker = held[table.source]
                drafts += silver.drafts({MARKER: marker.to_json()}, {MARKER: marker.brief().to_json()})
            writer.commit(drafts, progress, self._schemas)
            for silver, _ in silvers:
                silver.settle()
        if self._layer is not None:
            for silver in self._silver.values():
                self._layer.mend(silver)
        self._schemas = []
        self._held = progress
        self._look_for_keys([table.source for table in tables])
        return progress

    def _look_for_keys(self, committed: list[TableId]) -> None:
        """A key column's new name or type is in bronze now: silver can follow it, from the next opening on."""
        waiting = self._layer.waiting if self._layer is not None else set()
        for table in committed:
            if bronze_name(table)[-1] in waiting:
                raise SinkUnavailable(f"Table {table} has another key now; its silver table is built anew.")

    def close(self) -> None:
        if self._maintenance is not None:
            self._maintenance.stop()
        self._encoder.close()
        self._merger.close()
        if self._layer is not None:
            self._layer.close()
        self._silver.clear()
        for table in self._tables.values():
            table.abort()
        self._tables.clear()
        if self._writer is not None:
            self._writer.close()

    def _table(self, schema: TableSchema) -> BronzeTable:
        """The open table of this schema's; made in the lake if it is new."""
        known = self._tables.get(schema.table)
        if known is not None:
            return known
        writer = self._opened()
        name = bronze_name(schema.table)
        other = self._names.setdefault(name, schema.table)
        if other != schema.table:
            raise SinkRefused(f"Tables {other} and {schema.table} would both be {'.'.join(name)}. Exclude one of them.")
        lake = writer.table(name, schema.envelope, bronze_properties(self._pipeline, schema))
        table = BronzeTable(
            lake,
            schema,
            self._pipeline,
            marker=writer.marker(lake),
            encoder=self._encoder,
            settings=self._settings,
            row_group_rows=self._config.row_group_rows,
            target_file_bytes=self._config.target_file_bytes,
        )
        self._tables[schema.table] = table
        assert self._layer is not None  # noqa: S101 - tells the type checker
        silver = self._layer.table(name[-1], schema.key)
        if silver is not None:
            self._silver[schema.table] = silver
        return table

    def _opened(self) -> LakeWriter:
        if self._writer is None:
            raise RuntimeError("The Iceberg sink is used before open()")
        return self._writer
