"""A lake with a full `silver.orders`, and Catchment's own code that merges into it: no source, nothing in bronze."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from benchmarks.order_changes import ORDERS, MixedChanges, OrderChanges
from catchment.lakehouse.catalog import local_path
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings
from catchment.lakehouse.file_schema import Arrangement, file_schema
from catchment.lakehouse.reading.connection import connect_lake
from catchment.lakehouse.silver.layer import SilverLayer
from catchment.lakehouse.silver.table import SilverTable, silver_schema
from catchment.lakehouse.writer import LakeWriter
from catchment.sinks.iceberg.bronze_table import bronze_name, bronze_properties

PIPELINE = "benchmark"
_FILL_ROWS = 250_000
_COMMIT_ROWS = 2_000_000


@dataclass(frozen=True)
class SilverLake:
    """An open lake. Merging is done at once, on the thread that calls."""

    directory: Path
    config: LakehouseConfig
    writer: LakeWriter
    layer: SilverLayer
    silver: SilverTable
    changes: OrderChanges

    @property
    def location(self) -> Path:
        """Where the silver table's files are."""
        found = local_path(self.silver.main.lake.metadata.location)
        assert found is not None
        return found

    def merge(self, mixed: MixedChanges) -> float:
        """Merge and commit them, durably; seconds that it took."""
        records = mixed.batch.records
        size = int(records.nbytes)
        start = time.perf_counter()
        self.silver.write(records, size)
        self.silver.advance(mixed.progress)
        self.silver.finish(mixed.progress)
        self.layer.commit(self.silver, mixed.progress.to_json())
        return time.perf_counter() - start

    def bytes_of(self, rows: pa.Table) -> int:
        """The size of one data file of these rows, written as the table's are."""
        lake = self.silver.main.lake
        file = DataFileWriter(
            lake.storage, lake.new_data_location(), file_schema(lake.metadata.schema()), ParquetSettings()
        )
        file.write([self._arranged(batch) for batch in rows.combine_chunks().to_batches()])
        size = file.close().file_size_in_bytes
        file.abort()
        return size

    def check(self) -> None:
        """Does a reader see the rows that must be there?"""
        with connect_lake(self.config, self.directory, PIPELINE) as connection:
            held = connection.execute("select order_id, total_amount, updated_at from silver.orders").to_arrow_table()
        self.changes.check(held)

    def fill(self) -> None:
        """The rows of the beginning, through the table's own index."""
        main, rows = self.silver.main, self.changes.rows
        for first in range(0, rows, _FILL_ROWS):
            count = min(_FILL_ROWS, rows - first)
            batch = self._arranged(self.changes.beginning(first, count))
            main.append(batch, main.keys_of(batch))
            if (first + count) % _COMMIT_ROWS == 0 or first + count == rows:
                main.advance()
                self.writer.commit([main.draft({}, {})])
                main.settle()

    def _arranged(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Plain rows in the columns of the table's files."""
        wanted = silver_schema(ORDERS.row_type)
        lacking = [field for field in wanted if field.name not in rows.schema.names]
        columns = [*rows.columns, *(pa.nulls(rows.num_rows, field.type) for field in lacking)]
        arrangement: Arrangement = self.silver.main.fit(wanted, 1)
        return arrangement.apply(pa.RecordBatch.from_arrays(columns, schema=wanted))


@contextmanager
def silver_lake(directory: Path, rows: int) -> Iterator[SilverLake]:
    """A new lake with so many rows, gone at the end."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = LakehouseConfig()
    writer = LakeWriter.open(config, PIPELINE, directory)
    layer = SilverLayer(writer, config, directory)
    writer.find_keyed = layer.keyed
    try:
        bronze = bronze_name(ORDERS.table)
        writer.table(bronze, ORDERS.envelope, bronze_properties(PIPELINE, ORDERS))
        silver = layer.table(bronze[-1], ORDERS.key)
        assert silver is not None
        lake = SilverLake(directory, config, writer, layer, silver, OrderChanges(rows))
        lake.fill()
        yield lake
    finally:
        layer.close()
        writer.close()
        shutil.rmtree(directory, ignore_errors=True)
