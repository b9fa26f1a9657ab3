"""Bronze's changes as they were committed, in the columns that the table has now."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.manifest import DataFile

from catchment.lakehouse.data_file import open_parquet
from catchment.lakehouse.file_schema import Arrangement, by_field_id, file_schema
from catchment.lakehouse.silver.fold import Mask
from catchment.lakehouse.table import LakeTable
from catchment.progress import Progress

_PLACED = ("_lane", "_position")


def bronze_changes(
    bronze: LakeTable,
    since: Progress | None,
    columns: Sequence[str] | None = None,
    *,
    committed_since: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Bronze's changes after `since`, in the order in which they were committed, a row group at a time.

    Rows of lanes that `since` does not name (snapshot chunks) all come. committed_since: microseconds of UTC; files
    whose changes were all made before at their source are passed over.
    """
    entries = sorted(bronze.manifests.data(), key=lambda one: one.sequence_number or 0)
    schema = bronze.metadata.schema()
    committed = schema.find_field("_committed_at").field_id
    if columns is not None:
        schema = schema.select(*{*columns, *_PLACED})
    wanted = file_schema(schema)
    for entry in entries:
        if committed_since is not None and _latest(entry.data_file, committed) < committed_since:
            continue
        with open_parquet(bronze.table.io, entry.data_file.file_path) as file:
            names = [field.name for field in schema.fields if field.name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group, columns=names)
                if since is not None:
                    rows = rows.filter(pa.array(_after(rows, since)))
                if rows.num_rows:
                    arrangement = Arrangement(rows.schema, schema, by_field_id(rows.schema, wanted))
                    for batch in rows.combine_chunks().to_batches():
                        yield arrangement.apply(batch)


def _latest(file: DataFile, committed: int) -> int:
    """When the latest change in the file was made, in microseconds; never too early. committed: the column's id."""
    bound = (file.upper_bounds or {}).get(committed)
    nulls = (file.null_value_counts or {}).get(committed, 1)
    return int.from_bytes(bound, "little", signed=True) if bound and not nulls else sys.maxsize


def _after(rows: pa.Table, since: Progress) -> Mask:
    lanes = rows.column("_lane")
    new = np.ones(rows.num_rows, np.bool_)
    for lane, position in since.positions.items():
        mine = pc.equal(lanes, lane)
        if pc.any(mine).as_py():
            new &= ~np.asarray(pc.and_(mine, pc.less_equal(rows.column("_position"), pa.scalar(position, pa.binary()))))
    return new
