"""Rows on their way into a range: in order, group by group, in memory and beyond that on local disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from catchment.schema import TableSchema
from catchment.sinks.files.naming import Group, oldest
from catchment.sinks.files.store import translated

BATCH_ROWS = 65_536
"""Small batches are joined to about this size before they are encoded."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one group with one schema: in memory, or in a file. oldest: of their changes, in µs."""

    schema: TableSchema
    arrow_schema: pa.Schema
    rows: int
    held: pa.RecordBatch | Path
    oldest: int | None = None

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
class _Rows:
    """open: rows after the last boundary. bounded: rows before it."""

    bounded: list[Piece] = field(default_factory=list)
    open: list[Piece] = field(default_factory=list)


class Staging:
    """Takes rows, and gives back those before the last boundary."""

    def __init__(self, directory: Path, memory_bytes: int) -> None:
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._groups: dict[Group, _Rows] = defaultdict(_Rows)
        self._in_memory = 0
        self._spilled = 0

    def write(self, schema: TableSchema, group: Group, records: pa.RecordBatch) -> None:
        """Take rows; they are after the last boundary until the next."""
        piece = Piece(schema, records.schema, records.num_rows, records, oldest(records))
        self._groups[group].open.append(piece)
        self._in_memory += records.nbytes
        if self._in_memory > self._memory_bytes:
            self._spill()

    def advance(self) -> None:
        """A boundary: everything so far may be taken."""
        for rows in self._groups.values():
            if rows.open:
                rows.bounded.extend(rows.open)
                rows.open = []

    def bounded(self) -> dict[Group, list[Piece]]:
        """What lies before the last boundary. Reading it changes nothing."""
        return {group: one.bounded for group, one in sorted(self._groups.items()) if one.bounded}

    def drop_bounded(self) -> None:
        """What lies before the last boundary is durable elsewhere."""
        for rows in self._groups.values():
            for piece in rows.bounded:
                if isinstance(piece.held, Path):
                    piece.held.unlink(missing_ok=True)
                else:
                    self._in_memory -= piece.held.nbytes
            rows.bounded = []
        # Partitions come and go: an hour that is over has nothing more.
        for group in [group for group, rows in self._groups.items() if not rows.open]:
            del self._groups[group]

    def put_before(self, following: Staging) -> None:
        """Everything here comes before what is staged there, and is staged there from now on."""
        for name, mine in self._groups.items():
            rows = following._groups[name]
            rows.bounded = mine.bounded + rows.bounded
            rows.open = mine.open + rows.open
        following._in_memory += self._in_memory
        self._groups.clear()
        self._in_memory = 0

    def _spill(self) -> None:
        """Everything in memory goes to disk, in place and in order."""
        with translated(self._directory):
            for rows in self._groups.values():
                rows.bounded = [self._spill_run(run) for run in _runs(rows.bounded)]
                rows.open = [self._spill_run(run) for run in _runs(rows.open)]
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
        return Piece(first.schema, first.arrow_schema, sum(piece.rows for piece in run), path, first_of(run))


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


def first_of(pieces: Iterable[Piece]) -> int | None:
    """When the oldest of their changes was committed, in µs; None when none says."""
    return min((piece.oldest for piece in pieces if piece.oldest is not None), default=None)


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
