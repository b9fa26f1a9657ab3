"""Rows of one table on their way into data files.

A table has two segments: rows up to the last boundary, which the next flush commits, and rows after it,
which it must not. A boundary moves the second into the first. A transaction that is larger than memory
spills into files of its own, which join at its boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
from pyiceberg.manifest import DataFile

from catchment.lakehouse.data_file import DataFileWriter
from catchment.sinks.iceberg.encoder import Encoder

OpenFile = Callable[[pa.Schema], DataFileWriter]


@dataclass
class FileSet:
    """Data files in the order of their rows. Only the encoder's thread touches it while tasks run."""

    finished: list[DataFile] = field(default_factory=list)
    writing: DataFileWriter | None = None

    def finish(self) -> None:
        """Close the file that is being written."""
        if self.writing is not None:
            self.finished.append(self.writing.close())
            self.writing = None


class Segment:
    """A run of a table's rows: some in files, the rest, which follows, in memory.

    All rows in memory have one schema: `spill` and `cut` come before a batch of another.
    """

    def __init__(self, encoder: Encoder, open_file: OpenFile, target_file_bytes: int) -> None:
        self._encoder = encoder
        self._open_file = open_file
        self._target = target_file_bytes
        self._batches: list[pa.RecordBatch] = []
        self._files = FileSet()
        self._spilled = False
        self.rows = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return self._spilled or self.rows > 0

    def add(self, batch: pa.RecordBatch, size: int) -> None:
        """Append a batch."""
        self._batches.append(batch)
        self.rows += batch.num_rows
        self.bytes += size

    def spill(self, schema: pa.Schema) -> None:
        """Send the rows in memory to a file, as one row group."""
        if not self._batches:
            return
        batches, files = self._batches, self._files
        self._batches, self.rows, self.bytes, self._spilled = [], 0, 0, True
        self._encoder.submit(lambda: self._encode(files, batches, schema))

    def _encode(self, files: FileSet, batches: list[pa.RecordBatch], schema: pa.Schema) -> None:
        if files.writing is None:
            files.writing = self._open_file(schema)
        files.writing.write(batches)
        if files.writing.size >= self._target:
            files.finish()

    def cut(self) -> None:
        """End the current file: what follows goes to another."""
        if self._spilled:
            self._encoder.submit(self._files.finish)

    def take(self, other: Segment, schema: pa.Schema) -> None:
        """Append all that `other` has, and leave it empty."""
        if other._spilled:
            # Its rows come after ours: ours end where its first file begins.
            self.spill(schema)
            mine, theirs = self._files, other._files
            other._files, other._spilled, self._spilled = FileSet(), False, True
            self._encoder.submit(lambda: _join(mine, theirs))
        self._batches += other._batches
        self.rows += other.rows
        self.bytes += other.bytes
        other._batches, other.rows, other.bytes = [], 0, 0

    def finish(self, schema: pa.Schema) -> FileSet:
        """Close the last file. Once the encoder has drained, the result holds the finished files."""
        self.spill(schema)
        self.cut()
        files, self._files, self._spilled = self._files, FileSet(), False
        return files


def _join(first: FileSet, second: FileSet) -> None:
    first.finish()
    first.finished += second.finished
    first.writing = second.writing
