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
from pyiceberg.io import FileIO
from pyiceberg.schema import Schema

from catchment.lakehouse.data_file import open_parquet
from catchment.lakehouse.file_schema import Arrangement, by_field_id, file_schema

BATCH_ROWS = 16_384
READ_BYTES = 64 * 1024
"""Of a column at a time: a column of a large row group is not read whole."""

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

    dead: location → positions of dead rows, ascending. Holds a batch in memory, more or less.
    """
    for index, location in enumerate(locations):
        gone = (dead or {}).get(location, np.empty(0, np.int64))
        first = 0
        with open_parquet(io, location, read_bytes=READ_BYTES) as file:
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
