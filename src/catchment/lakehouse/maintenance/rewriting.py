"""New data files out of a stream of batches: row groups of a bounded size, files of a target size."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyarrow as pa
from pyiceberg.manifest import DataFile

from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings
from catchment.lakehouse.file_schema import file_schema
from catchment.lakehouse.table import LakeTable

ROW_GROUP_ROWS = 65_536
ROW_GROUP_BYTES = 32 * 1024 * 1024
"""Rows in memory before they become a row group, whatever their number."""


class FileWriting:
    """Writes batches into new files of a table, until `finish` or `abort`.

    check: called before each batch; raises to break the work off.
    """

    def __init__(self, table: LakeTable, target_bytes: int, check: Callable[[], None]) -> None:
        self._table = table
        self._schema = file_schema(table.metadata.schema())
        self._target = target_bytes
        self._check = check
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._bytes = 0
        self._writer: DataFileWriter | None = None
        self._files: list[DataFile] = []

    def write_all(self, batches: Iterable[pa.RecordBatch]) -> list[DataFile]:
        """Write all batches; the finished, durable files. Deletes them again when anything goes wrong."""
        try:
            for batch in batches:
                self._check()
                self._add(batch)
            self._end_group()
            self._end_file()
        except BaseException:
            self.abort()
            raise
        return self._files

    def abort(self) -> None:
        """Delete what was written."""
        given_up = [one.file_path for one in self._files]
        if self._writer is not None:
            self._writer.abort()
            given_up.append(self._writer.location)
            self._writer = None
        self._table.delete_uncommitted(given_up)
        self._files = []

    def _add(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 0:
            return
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._end_group()

    def _end_group(self) -> None:
        if not self._batches:
            return
        batches, self._batches, self._rows, self._bytes = self._batches, [], 0, 0
        if self._writer is None:
            location = self._table.new_data_location()
            self._writer = DataFileWriter(self._table.storage, location, self._schema, ParquetSettings())
        self._writer.write(batches)
        if self._writer.size >= self._target:
            self._end_file()

    def _end_file(self) -> None:
        if self._writer is not None:
            self._files.append(self._writer.close())
            self._writer = None
