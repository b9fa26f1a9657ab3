"""Rows on their way into a range: in order, table by table, in memory and beyond that on local disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from catchment.schema import TableId, TableSchema
from catchment.sinks.files.store import translated

BATCH_ROWS = 65_536
"""Small batches are joined to about this size before they are encoded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one table with one schema: in memory, or spilled to a file."""

    schema: TableSchema
    arrow_schema: pa.Schema
    rows: int
    held: pa.RecordBatch | Path

    @property
    def spilled(self) -> bool:
        return isinstance(self.held, Path)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows."""
        if not isinstance(self.held, Path):
            yield self.held
            return
        with pa.memory_map(str(self.held)) as source, pa.ipc.open_file(source) as reader:
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)


@dataclass
class _Table:
    """open: rows after the last boundary. bounded: rows before it."""

    bounded: list[Piece] = field(default_factory=list)
    open: list[Piece] = field(default_factory=list)


class Staging:
    """Takes rows, and gives back those before the last boundary."""

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._tables: dict[TableId, _Table] = defaultdict(_Table)
        self._in_memory = 0
        self._spilled = 0

    def write(self, schema: TableSchema, records: pa.RecordBatch) -> None:
        """Take rows; they are after the last boundary until the next."""
        piece = Piece(schema, records.schema, records.num_rows, records)
        self._tables[schema.table].open.append(piece)
        self._in_memory += records.nbytes
        if self._in_memory > self._memory_bytes:
            self._spill()

    def advance(self) -> None:
        """A boundary: everything so far may be taken."""
        for table in self._tables.values():
            if table.open:
                table.bounded.extend(table.open)
                table.open = []

    def bounded(self) -> dict[TableId, list[Piece]]:
        """What lies before the last boundary. Reading it changes nothing."""
        return {table: one.bounded for table, one in sorted(self._tables.items()) if one.bounded}

    def drop_bounded(self) -> None:
        """What lies before the last boundary is durable elsewhere."""
        for table in self._tables.values():
            for piece in table.bounded:
                if isinstance(piece.held, Path):
                    piece.held.unlink(missing_ok=True)
                else:
                    self._in_memory -= piece.held.nbytes
            table.bounded = []

    def put_before(self, following: Staging) -> None:
        """Everything here comes before what is staged there, and is staged there from now on."""
        for name, mine in self._tables.items():
            table = following._tables[name]
            table.bounded = mine.bounded + table.bounded
            table.open = mine.open + table.open
        following._in_memory += self._in_memory
        self._tables.clear()
        self._in_memory = 0

    def _spill(self) -> None:
        """Everything in memory goes to disk, in place and in order."""
        with translated(self._directory):
            for table in self._tables.values():
                table.bounded = [self._spill_run(run) for run in _runs(table.bounded)]
                table.open = [self._spill_run(run) for run in _runs(table.open)]
        self._in_memory = 0

    def _spill_run(self, run: list[Piece]) -> Piece:
        first = run[0]
        if first.spilled:
            return first
        self._spilled += 1
        path = self._directory / f"staged-{id(self)}-{self._spilled}.arrow"
        # lz4 halves the pages that a large transaction pushes through the cache; nothing here must last.
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, first.arrow_schema, options=options) as out,
        ):
            for records in joined(batch for piece in run for batch in piece.batches()):
                out.write_batch(records)
        return Piece(first.schema, first.arrow_schema, sum(piece.rows for piece in run), path)


def _runs(pieces: list[Piece]) -> Iterator[list[Piece]]:
    """Neighbours in memory that can share a file; a spilled piece stands alone."""
    run: list[Piece] = []
    for piece in pieces:
        if run and (piece.spilled or run[0].spilled or not same_kind(run[0], piece)):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


def same_kind(one: Piece, other: Piece) -> bool:
    """Can both stand in one object?"""
    return one.schema == other.schema and one.arrow_schema.equals(other.arrow_schema)


def joined(batches: Iterator[pa.RecordBatch], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that are worth a call: small ones joined, large ones cut."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        for start in range(0, batch.num_rows, rows):
            part = batch.slice(start, rows)
            waiting.append(part)
            count += part.num_rows
            if count >= rows:
                yield _one(waiting)
                waiting, count = [], 0
    if waiting:
        yield _one(waiting)


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
