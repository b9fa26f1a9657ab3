"""Files of a keyed table written anew: without their dead rows, sorted by key, of a good size.

Merges go on meanwhile. A row that dies in an old file after its copy was made must be dead in the new file too, or
it would come back: `KeyedTable.draft_rewrite` carries such deaths over, under the same lock as the commit. So a
table that never rests can be compacted as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing

import numpy as np
import pyarrow as pa
from pyiceberg.manifest import DataFile

from catchment import failpoint
from catchment.errors import SinkRefused
from catchment.lakehouse.file_schema import file_schema
from catchment.lakehouse.maintenance.commits import summary
from catchment.lakehouse.maintenance.live_rows import live_rows
from catchment.lakehouse.maintenance.plan import FileState
from catchment.lakehouse.maintenance.rewriting import FileWriting
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.reading.connection import open_duckdb
from catchment.lakehouse.silver.key_hash import Keys
from catchment.lakehouse.silver.keyed_table import KeyedTable, Rewrite, Rewritten
from catchment.lakehouse.sql import identifier
from catchment.lakehouse.writer import LakeWriter

SORT_MEMORY = "192MB"
"""What sorting may take in memory; the rest of a large piece of work waits on disk."""

BATCH_ROWS = 65_536
SOURCE, ROW = "_catchment_source", "_catchment_row"


def rewrite_files(
    writer: LakeWriter,
    keyed: KeyedTable,
    files: Sequence[FileState],
    target_bytes: int,
    check: Callable[[], None],
    idle: Collection[str] = (),
) -> Work | None:
    """Write the live rows of these files into new ones, sorted by key; None if one of them had left meanwhile.

    idle: delete files that name rows of these files only; they leave with them.

    Raises what `check` raises, with nothing changed.
    """
    started = time.monotonic()
    try:
        with writer.lock:
            rewrite = keyed.begin_rewrite([one.location for one in files])
    except (KeyError, SinkRefused):
        return None
    copy = _Copy(keyed, rewrite)
    writing = FileWriting(keyed.lake, target_bytes, check)
    rewritten = copy.split(writing.write_all(copy.sorted_rows()))
    failpoint.reach("before_exchange")
    if not _exchange(writer, keyed, rewrite, rewritten, idle):
        writing.abort()
        return None
    new = [one.file for one in rewritten]
    rows = sum(one.record_count for one in new)
    return Work(
        keyed.lake.name,
        Kind.COMPACTION,
        files_before=len(files),
        files_after=len(new),
        bytes_before=sum(one.size for one in files),
        bytes_after=sum(one.file_size_in_bytes for one in new),
        rows=rows,
        dead_rows=sum(one.rows for one in files) - rows,
        seconds=time.monotonic() - started,
    )


def _exchange(
    writer: LakeWriter, keyed: KeyedTable, rewrite: Rewrite, rewritten: Sequence[Rewritten], idle: Collection[str]
) -> bool:
    """Commit the new files; False, with nothing changed, when an old one has left meanwhile."""
    with writer.lock:
        try:
            said = summary(keyed.lake, Kind.COMPACTION)
            draft = keyed.draft_rewrite(rewrite, rewritten, said, consolidate=False, idle=idle)
        except SinkRefused:
            return False
        except BaseException as failure:
            # The table in memory has the new files already.
            writer.give_up(failure)
            raise
        writer.commit([draft])
    return True


class _Copy:
    """The rows on their way: where each one came from, and its key."""

    def __init__(self, keyed: KeyedTable, rewrite: Rewrite) -> None:
        self._keyed = keyed
        self._rewrite = rewrite
        self._schema = file_schema(keyed.lake.metadata.schema())
        self._sources: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []
        self._rows: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
        self._keys: list[Keys] = []

    def sorted_rows(self) -> Iterator[pa.RecordBatch]:
        """The live rows by key, in the table's columns."""
        order = ", ".join(identifier(name) for name in self._keyed.key)
        stream = pa.RecordBatchReader.from_batches(_with_origin(self._schema), self._live())
        with closing(open_duckdb(threads=1, memory_limit=SORT_MEMORY)) as connection:
            connection.register("live_rows", stream)
            ordered = connection.execute(f"SELECT * FROM live_rows ORDER BY {order}").to_arrow_reader(BATCH_ROWS)
            for batch in ordered:
                yield self._noted(batch)

    def split(self, files: Sequence[DataFile]) -> list[Rewritten]:
        """The new files, each with where its rows came from; rows were written in the order they were noted."""
        if not files:
            return []
        sources, rows, keys = np.concatenate(self._sources), np.concatenate(self._rows), Keys.join(self._keys)
        ends = np.cumsum([one.record_count for one in files])
        parts = [slice(int(end) - one.record_count, int(end)) for one, end in zip(files, ends, strict=True)]
        return [
            Rewritten(one, sources[part], rows[part], keys.take(np.arange(part.start, part.stop)))
            for one, part in zip(files, parts, strict=True)
        ]

    def _live(self) -> Iterator[pa.RecordBatch]:
        dead = {path: np.flatnonzero(flags).astype(np.int64) for path, flags in self._rewrite.dead.items()}
        paths = [file.path for file in self._rewrite.files]
        schema = _with_origin(self._schema)
        for one in live_rows(self._keyed.lake.table.io, paths, self._keyed.lake.metadata.schema(), dead):
            source = pa.array(np.full(one.rows.num_rows, one.file, np.int32))
            columns = [*_cast(one.rows.columns, self._schema), source, pa.array(one.positions)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def _noted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self._sources.append(batch.column(SOURCE).to_numpy())
        self._rows.append(batch.column(ROW).to_numpy())
        columns = _cast([batch.column(name) for name in self._schema.names], self._schema)
        rows = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._keys.append(self._keyed.keys_of(rows))
        return rows


def _with_origin(schema: pa.Schema) -> pa.Schema:
    # DuckDB reads no field ids; without them its Arrow types are ours but for names inside lists and maps.
    plain = [pa.field(field.name, field.type) for field in schema]
    return pa.schema([*plain, pa.field(SOURCE, pa.int32()), pa.field(ROW, pa.int64())])


def _cast(columns: Sequence[pa.Array], schema: pa.Schema) -> list[pa.Array]:
    return [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
