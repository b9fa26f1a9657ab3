"""Many delete files into one. What they name together stays the same, so no merge can come in the way.

A row that a merge deletes meanwhile is named by a delete file of its own, which stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from catchment.lakehouse.maintenance.commits import exchange
from catchment.lakehouse.maintenance.plan import DeleteFileState
from catchment.lakehouse.maintenance.table_files import TableFiles, read_deletes
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.position_delete import Positions, write_position_deletes
from catchment.lakehouse.table import LakeTable
from catchment.lakehouse.writer import LakeWriter


def merge_delete_files(
    writer: LakeWriter,
    table: LakeTable,
    files: TableFiles,
    deletes: Sequence[DeleteFileState],
    check: Callable[[], None],
) -> Work | None:
    """Make one delete file of these; what they say of data files that have left is left out.

    files: what the table had when the plan was made: a data file that came later is named by none of `deletes`.
    None if one of `deletes` had left meanwhile.
    """
    started = time.monotonic()
    there = {one.location for one in files.data}
    parts: dict[str, list[Positions]] = {}
    for one in deletes:
        check()
        for path, positions in read_deletes(table, one.location).items():
            if path in there:
                parts.setdefault(path, []).append(positions)
    rows = {path: np.unique(np.concatenate(positions)) for path, positions in parts.items()}
    new = [write_position_deletes(table.storage, table.new_data_location(), rows)] if rows else []
    if not exchange(writer, table, [one.location for one in deletes], Kind.DELETE_FILES, deletes=new):
        return None
    return Work(
        table.name,
        Kind.DELETE_FILES,
        files_before=len(deletes),
        files_after=len(new),
        bytes_before=sum(one.size for one in deletes),
        bytes_after=sum(one.file_size_in_bytes for one in new),
        dead_rows=sum(len(one) for one in rows.values()),
        seconds=time.monotonic() - started,
    )
