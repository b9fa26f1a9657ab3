"""From staged rows to objects: how a range is divided, and how an object is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.formats.flat_rows import FlatNdjsonEncoder, FlatRows
from catchment.formats.ndjson import NdjsonEncoder
from catchment.schema import TableSchema
from catchment.sinks.files.naming import Group, Naming, Place
from catchment.sinks.files.ranges import DataObject
from catchment.sinks.files.staging import Piece, joined, same_kind

_ENDINGS = {"none": "", "gzip": ".gz", "zstd": ".zst"}


@dataclass
class PlannedObject:
    """Rows of one table with one schema: (piece, first row, rows) in order."""

    path: str
    schema: TableSchema
    arrow_schema: pa.Schema
    parts: list[tuple[Piece, int, int]] = field(default_factory=list)
    rows: int = 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its rows, in batches worth encoding."""
        return joined(batch for part in self.parts for batch in _slice(*part))

    def done(self) -> DataObject:
        """How the record of its range names it."""
        return DataObject(str(self.schema.table), self.path, self.rows, self.schema.version)


def plan(
    groups: Mapping[Group, list[Piece]], number: int, naming: Naming, moment: int, ending: str, file_rows: int
) -> list[PlannedObject]:
    """Divide a range into objects: by group, by schema, and after every `file_rows` rows.

    Only the rows decide, never how they came in batches: a replay of the same rows gives the same names.
    """
    objects: list[PlannedObject] = []
    for group, pieces in groups.items():
        part = 0
        current: PlannedObject | None = None
        for piece in pieces:
            start = 0
            while start < piece.rows:
                if current is None or current.rows == file_rows or not same_kind(current.parts[0][0], piece):
                    part += 1
                    path = naming.path(Place(group, number, part, moment)) + ending
                    current = PlannedObject(path, piece.schema, piece.arrow_schema)
                    objects.append(current)
                rows = min(piece.rows - start, file_rows - current.rows)
                current.parts.append((piece, start, rows))
                current.rows += rows
                start += rows
    return objects


def _slice(piece: Piece, first: int, rows: int) -> Iterator[pa.RecordBatch]:
    for batch in piece.batches():
        if rows <= 0:
            return
        if first >= batch.num_rows:
            first -= batch.num_rows
            continue
        part = batch.slice(first, rows)
        first, rows = 0, rows - part.num_rows
        yield part


class Encoder(Protocol):
    """Writes an object's rows into a file."""

    ending: str
    """The end of an object's name."""

    def write(self, planned: PlannedObject, file: BinaryIO) -> None:
        """Write all of them."""
        ...

    def close(self) -> None:
        """Let go of what encoding needed."""
        ...


class NdjsonObjects:
    """A line a change, with all lines perhaps compressed."""

    def __init__(self, compression: str, rows: FlatRows | None = None) -> None:
        self.ending = f".ndjson{_ENDINGS[compression]}"
        self._compression = compression
        self._changes = NdjsonEncoder()
        self._rows = None if rows is None else FlatNdjsonEncoder(rows)

    def write(self, planned: PlannedObject, file: BinaryIO) -> None:
        with self._compressed(file) as out:
            for records in planned.batches():
                out.write(self._lines(planned.schema, records))

    def close(self) -> None:
        self._changes.close()
        if self._rows is not None:
            self._rows.close()

    def _lines(self, schema: TableSchema, records: pa.RecordBatch) -> memoryview:
        return self._changes.encode(schema.table, records) if self._rows is None else self._rows.encode(schema, records)

    def _compressed(self, file: BinaryIO) -> AbstractContextManager[BinaryIO]:
        return _as_is(file) if self._compression == "none" else _through(file, self._compression)


@contextmanager
def _as_is(file: BinaryIO) -> Iterator[BinaryIO]:
    yield file


@contextmanager
def _through(file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    # Arrow closes what it wraps; the store still has to fsync it.
    with pa.CompressedOutputStream(_Open(file), compression) as out:
        yield out


class _Open:
    """A file that others cannot close."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        """Not now."""


class ParquetObjects:
    """Parquet, with the columns of the envelope as they are, or flat rows."""

    ending = ".parquet"

    def __init__(self, compression: str, rows: FlatRows | None = None) -> None:
        self._compression = compression
        self._rows = rows

    def write(self, planned: PlannedObject, file: BinaryIO) -> None:
        metadata = {
            "catchment.table": str(planned.schema.table),
            "catchment.schema-version": str(planned.schema.version),
        }
        shaped = planned.batches() if self._rows is None else map(self._rows.of, planned.batches())
        out: pq.ParquetWriter | None = None
        try:
            for records in shaped:
                out = out or pq.ParquetWriter(
                    file, records.schema.with_metadata(metadata), compression=self._compression
                )
                out.write_batch(records.replace_schema_metadata(metadata))
        finally:
            if out is not None:
                out.close()

    def close(self) -> None:
        """Nothing is held."""
