"""One Parquet data file, streamed, with Iceberg's field ids and no more statistics than readers use.

The settings are measured (docs/adr/0003): dictionaries cost most of a file's time and pay only where values
repeat, so a sample decides; statistics are kept for the columns that someone filters by.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.typedef import Record

from catchment import failpoint
from catchment.lakehouse.catalog import local_path
from catchment.lakehouse.file_schema import FIELD_ID
from catchment.lakehouse.storage import Storage, writing

BOUNDED_COLUMNS = ("_position", "_version", "_committed_at")
"""Columns whose lower and upper bounds are kept, in the file and in the manifest."""

SAMPLE_ROWS = 4_096
SMALL_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class ParquetSettings:
    """How data files are written."""

    compression: str = "zstd"
    level: int | None = 1
    bounded: Sequence[str] = BOUNDED_COLUMNS


class DataFileWriter:
    """A data file while it is written: `write`, then `close` or `abort`. Used by one thread at a time."""

    def __init__(self, storage: Storage, location: str, schema: pa.Schema, settings: ParquetSettings) -> None:
        self.location = location
        self.rows = 0
        self._storage = storage
        self._schema = schema
        self._settings = settings
        self._file: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._footers: list[pq.FileMetaData] = []

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return int(self._file.tell()) if self._file is not None else 0

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Append one row group."""
        table = pa.Table.from_batches(batches)
        if table.num_rows < SMALL_BATCH_ROWS * len(batches):
            # Parquet's writer pays for each chunk of each column; a stream of tiny transactions has many.
            table = table.combine_chunks()
        with writing(f"The data file {self.location}"):
            if self._writer is None:
                self._writer = self._open(table.slice(0, SAMPLE_ROWS))
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def _open(self, sample: pa.Table) -> pq.ParquetWriter:
        self._file = self._storage.create(self.location)
        return pq.ParquetWriter(
            self._file,
            self._schema,
            compression=self._settings.compression,
            compression_level=self._settings.level,
            use_dictionary=repeating_columns(sample),
            write_statistics=[name for name in self._settings.bounded if name in self._schema.names],
            store_decimal_as_integer=True,
            # Arrow's own copy of the schema is a third of a small file and says nothing that Iceberg needs.
            store_schema=False,
            metadata_collector=self._footers,
        )

    def close(self) -> DataFile:
        """Finish the file: durable when this returns."""
        if self._writer is None or self._file is None:
            raise ValueError("a data file without rows")
        with writing(f"The data file {self.location}"):
            self._writer.close()
            size = int(self._file.tell())
            self._storage.finish(self._file)
            self._storage.sync_directory(self.location)
        failpoint.reach("data_file_written")
        return self._describe(self._footers[0], size)

    def abort(self) -> None:
        """Give the file up, finished or not, and delete it as far as that is possible."""
        if self._writer is not None:
            # It must not write its footer any more, now or when it is collected: the disk may be full.
            self._writer.is_open = False
            self._writer = None
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._storage.delete([self.location])

    def _describe(self, footer: pq.FileMetaData, size: int) -> DataFile:
        lower: dict[int, bytes] = {}
        upper: dict[int, bytes] = {}
        nulls: dict[int, int] = {}
        for name in self._settings.bounded:
            position = self._schema.get_field_index(name)
            if position < 0:
                continue
            field_id = int(self._schema.field(position).metadata[FIELD_ID])
            bounds = _bounds(footer, name)
            if bounds is not None:
                lower[field_id], upper[field_id], nulls[field_id] = bounds
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=self.location,
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=footer.num_rows,
            file_size_in_bytes=size,
            column_sizes={},
            value_counts=dict.fromkeys(nulls, footer.num_rows),
            null_value_counts=nulls,
            nan_value_counts={},
            lower_bounds=lower,
            upper_bounds=upper,
            key_metadata=None,
            split_offsets=[_start(footer.row_group(i)) for i in range(footer.num_row_groups)],
            equality_ids=None,
            sort_order_id=None,
            spec_id=0,
        )


def repeating_columns(sample: pa.Table) -> list[str]:
    """The columns, by Parquet path, whose values repeat enough to be worth a dictionary.

    Of numbers inside rows none: the general compression does as well, for a third of the time.
    """
    found = []
    for field in sample.schema:
        column = sample.column(field.name)
        if pa.types.is_struct(field.type):
            found += [f"{field.name}.{name}" for name in _repeating_texts(column)]
        elif pa.types.is_list(field.type):
            found.append(f"{field.name}.list.element")
        elif pa.types.is_map(field.type):
            found += [f"{field.name}.key_value.key", f"{field.name}.key_value.value"]
        elif _repeats(column):
            found.append(field.name)
    return found


def _repeating_texts(rows: pa.ChunkedArray) -> list[str]:
    texts = [field.name for field in rows.type if _is_text(field.type)]
    if not texts:
        return []
    if rows.null_count == len(rows):
        return texts
    return [name for name in texts if _repeats(pc.struct_field(rows, name))]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _repeats(column: pa.ChunkedArray) -> bool:
    values = int(len(column) - column.null_count)
    distinct = int(pc.count_distinct(column).as_py())
    return values == 0 or distinct * 4 <= values


def _bounds(footer: pq.FileMetaData, name: str) -> tuple[bytes, bytes, int] | None:
    """A column's least and greatest value, as Iceberg writes single values, and how many are NULL."""
    index = next(i for i in range(footer.num_columns) if footer.schema.column(i).path == name)
    lows: list[Any] = []
    highs: list[Any] = []
    nulls = 0
    for group in range(footer.num_row_groups):
        statistics = footer.row_group(group).column(index).statistics
        if statistics is None:
            return None
        nulls += statistics.null_count or 0
        if statistics.has_min_max:
            lows.append(statistics.min_raw)
            highs.append(statistics.max_raw)
    if not lows:
        return None
    return _single_value(min(lows)), _single_value(max(highs)), nulls


def _single_value(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes) else int(value).to_bytes(8, "little", signed=True)


def _start(group: Any) -> int:
    first = group.column(0)
    offset = first.dictionary_page_offset
    return int(offset if offset is not None and offset > 0 else first.data_page_offset)


def open_parquet(io: FileIO, location: str, *, memory_map: bool = False, read_bytes: int = 0) -> pq.ParquetFile:
    """A Parquet file, wherever the table is. memory_map: for who reads few of its pages, if it is on this machine.

    read_bytes: how much of a column is read at a time; 0 reads a row group's columns whole.
    """
    path = local_path(location)
    if path is not None:
        return pq.ParquetFile(str(path), memory_map=memory_map, buffer_size=read_bytes, pre_buffer=False)
    source = pa.PythonFile(io.new_input(location).open(), mode="r")
    return pq.ParquetFile(source, buffer_size=read_bytes, pre_buffer=False)
