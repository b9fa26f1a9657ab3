"""The live rows of data files as a stream of batches, in the columns that the table has now.

Columns are found by Iceberg's field ids: a file from before a column was added gives NULL there, one from before a
type was widened gives the wider type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.io import FileIO
from pyiceberg.schema import Schema

from catchment.lakehouse.catalog import local_path
from catchment.lakehouse.file_schema import FIELD_ID, Arrangement, file_schema
from catchment.lakehouse.table_schema import Place, Places

BATCH_ROWS = 65_536

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LiveBatch:
    """Rows of one file. file: its index in the list that was asked for; positions: where the rows are in it."""

    file: int
    positions: Positions
    rows: pa.RecordBatch


def live_rows(
    io: FileIO, locations: Sequence[str], schema: Schema, dead: Mapping[str, Positions] | None = None
) -> Iterator[LiveBatch]:
    """The rows of these files, file by file in their order, without the dead ones.

    dead: location → positions of dead rows, ascending. Holds one row group in memory, more or less.
    """
    for index, location in enumerate(locations):
        gone = (dead or {}).get(location, np.empty(0, np.int64))
        first = 0
        with open_parquet(io, location) as file:
            arrangement = Arrangement(file.schema_arrow, schema, by_field_id(file.schema_arrow, file_schema(schema)))
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                yield from _live(index, first, arrangement.apply(batch), gone)
                first += batch.num_rows


def _live(index: int, first: int, rows: pa.RecordBatch, gone: Positions) -> Iterator[LiveBatch]:
    count = rows.num_rows
    here = gone[np.searchsorted(gone, first) : np.searchsorted(gone, first + count)] - first
    if len(here) == 0:
        yield LiveBatch(index, np.arange(first, first + count, dtype=np.int64), rows)
    elif len(here) < count:
        kept = np.ones(count, dtype=np.bool_)
        kept[here] = False
        yield LiveBatch(index, np.flatnonzero(kept).astype(np.int64) + first, rows.filter(pa.array(kept)))


def open_parquet(io: FileIO, location: str) -> pq.ParquetFile:
    """A Parquet file, wherever the table is."""
    path = local_path(location)
    source = str(path) if path is not None else io.new_input(location).open()
    return pq.ParquetFile(source, memory_map=False, pre_buffer=False)


def by_field_id(file: pa.Schema, table: pa.Schema) -> Places:
    """Which of a file's columns fills each column of the table; both carry Iceberg's field ids."""
    return _places(list(file), list(table))


def _places(file: Sequence[pa.Field], table: Sequence[pa.Field]) -> Places:
    at = {_id(field): index for index, field in enumerate(file)}
    found: dict[str, Place] = {}
    for field in table:
        index = at.get(_id(field))
        if index is not None:
            inner = _places(list(file[index].type), list(field.type)) if pa.types.is_struct(field.type) else {}
            found[field.name] = Place(index, inner)
    return found


def _id(field: pa.Field) -> bytes | None:
    found: bytes | None = (field.metadata or {}).get(FIELD_ID)
    return found
