"""One bronze table while the sink is open: its schema, and the rows that wait for a commit."""

from __future__ import annotations

import json

import pyarrow as pa
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.types import StructType

from catchment.change import ChangeBatch
from catchment.errors import SinkRefused
from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings
from catchment.lakehouse.file_schema import Arrangement
from catchment.lakehouse.properties import KEY, MARKER, PIPELINE, SCHEMA_VERSION, TABLE, marker_of
from catchment.lakehouse.table import Change, Draft, LakeTable
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema
from catchment.sinks.iceberg.encoder import Encoder
from catchment.sinks.iceberg.segment import FileSet, Segment

BRONZE = "bronze"
SPILL_BYTES = 24 * 1024 * 1024
"""Rows of a table in memory, before they become a row group, whatever their number."""
BATCH_OVERHEAD_BYTES = 2_048
"""What a batch takes besides its values: it matters where transactions have one row."""


def bronze_name(table: TableId) -> tuple[str, str]:
    """A source table's bronze table: the bare name for PostgreSQL's `public`, else `<schema>_<name>`."""
    return BRONZE, table.name if table.namespace == "public" else f"{table.namespace}_{table.name}"


def bronze_properties(pipeline: str, schema: TableSchema) -> dict[str, str]:
    """What a bronze table says of its source."""
    return {
        PIPELINE: pipeline,
        TABLE: str(schema.table),
        KEY: json.dumps(list(schema.key)),
        SCHEMA_VERSION: str(schema.version),
    }


def lanes(progress: Progress) -> str:
    """What a snapshot's summary says of the progress: small, however many chunks there are."""
    return Progress(progress.positions).to_json()


class BronzeTable:
    """Buffers a table's rows, follows its schema, and drafts its commits."""

    def __init__(
        self,
        lake: LakeTable,
        schema: TableSchema,
        pipeline: str,
        *,
        marker: Progress | None,
        encoder: Encoder,
        settings: ParquetSettings,
        row_group_rows: int,
        target_file_bytes: int,
    ) -> None:
        self.lake = lake
        self.marker = marker
        self._pipeline = pipeline
        self._settings = settings
        self._row_group_rows = row_group_rows
        self._bounded = Segment(encoder, self._open_file, target_file_bytes)
        self._open = Segment(encoder, self._open_file, target_file_bytes)
        self._files: FileSet | None = None
        self._uncommitted: dict[str, DataFileWriter] = {}
        self._chunks = (marker_of(lake.metadata.properties) or Progress()).chunks
        self._iceberg: Schema = lake.metadata.schema()
        self._schema = schema
        self._columns = -1
        self._arrangement = self._fit(schema.envelope)

    @property
    def source(self) -> TableId:
        """The table at the source."""
        return self._schema.table

    @property
    def columns(self) -> list[str]:
        """The columns of its rows from the next commit on."""
        row = self._iceberg.find_field("after").field_type
        return [field.name for field in row.fields] if isinstance(row, StructType) else []

    @property
    def size(self) -> int:
        """Arrow bytes in memory."""
        return self._bounded.bytes + self._open.bytes

    def lacks(self, held: Progress) -> bool:
        """Are there rows, or finished chunks without rows, that a commit at `held` would bring?"""
        return bool(self._bounded) or self._chunks != held.chunks

    def change_schema(self, schema: TableSchema) -> None:
        """From here on, batches have this schema."""
        if schema != self._schema or self._columns < 0:
            self._refit(schema, schema.envelope)

    def write(self, batch: ChangeBatch) -> tuple[pa.RecordBatch, int]:
        """Accept rows after the last boundary; gives them in the table's columns, and their size in bytes."""
        if batch.schema is not self._schema and batch.schema == self._schema:
            self._schema = batch.schema
        if batch.schema is not self._schema or batch.records.num_columns != self._columns:
            self._refit(batch.schema, batch.records.schema)
        records = self._arrangement.apply(batch.records)
        size = int(records.nbytes) + BATCH_OVERHEAD_BYTES
        self._open.add(records, size)
        if self._open.rows >= self._row_group_rows or self._open.bytes >= SPILL_BYTES:
            self._open.spill(self._arrangement.file)
        return records, size

    def advance(self) -> None:
        """A boundary: all that was written may be committed."""
        if not self._open:
            return
        self._bounded.take(self._open, self._arrangement.file)
        if self._bounded.rows >= self._row_group_rows or self._bounded.bytes >= SPILL_BYTES:
            self._bounded.spill(self._arrangement.file)

    def spill(self) -> None:
        """Free the memory that the rows take."""
        self._bounded.spill(self._arrangement.file)
        self._open.spill(self._arrangement.file)

    def finish_files(self) -> None:
        """Begin to close the files of the next commit: they are there once the encoder has drained."""
        self._files = self._bounded.finish(self._arrangement.file)

    def draft(self, held: Progress) -> Draft:
        """The commit of the rows before the last boundary, at which the table holds `held`."""
        files: list[DataFile] = self._files.finished if self._files is not None else []
        self._files, self._chunks = None, held.chunks
        for file in files:
            # From here on a commit's outcome may be unknown: these are no longer ours to delete.
            self._uncommitted.pop(file.file_path)
        changed = self._iceberg is not self.lake.metadata.schema() and self._iceberg != self.lake.metadata.schema()
        return self.lake.draft(
            Change(
                files=files,
                schema=self._iceberg if changed else None,
                properties={**bronze_properties(self._pipeline, self._schema), MARKER: held.to_json()},
                summary={MARKER: lanes(held)},
            )
        )

    def abort(self) -> None:
        """Delete every file that no commit was tried with. Only once the encoder is closed."""
        for writer in self._uncommitted.values():
            writer.abort()
        self._uncommitted.clear()

    def _refit(self, schema: TableSchema, arrow: pa.Schema) -> None:
        for segment in (self._bounded, self._open):
            segment.spill(self._arrangement.file)
            segment.cut()
        self._schema = schema
        self._arrangement = self._fit(arrow)
        self._columns = len(arrow)

    def _fit(self, arrow: pa.Schema) -> Arrangement:
        """Make the table's schema take these columns; the table itself has it from the next commit on."""
        try:
            fitted = self.lake.fit(arrow, self._iceberg, self._schema.version)
            self._iceberg = fitted.schema
            return Arrangement(arrow, fitted.schema, fitted.places)
        except SinkRefused as error:
            raise SinkRefused(f"Table {self._schema.table}: {error}") from error

    def _open_file(self, schema: pa.Schema) -> DataFileWriter:
        writer = DataFileWriter(self.lake.storage, self.lake.new_data_location(), schema, self._settings)
        self._uncommitted[writer.location] = writer
        return writer
