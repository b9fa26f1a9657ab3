"""Small files into large ones, for tables that are only appended to: bronze and versions.

Rows are read, written and made durable beside capture; only the exchange of the files is a commit, and takes the
writer's lock for as long as a commit does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from catchment.lakehouse.maintenance.commits import exchange
from catchment.lakehouse.maintenance.live_rows import live_rows
from catchment.lakehouse.maintenance.plan import FileState
from catchment.lakehouse.maintenance.rewriting import FileWriting
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.table import LakeTable
from catchment.lakehouse.writer import LakeWriter


def merge_files(
    writer: LakeWriter, table: LakeTable, files: Sequence[FileState], target_bytes: int, check: Callable[[], None]
) -> Work | None:
    """Make few files of these, with the same rows in the same order; None if the table had lost one meanwhile.

    Keeps a row group in memory. Raises what `check` raises, with nothing changed.
    """
    started = time.monotonic()
    locations = [one.location for one in files]
    rows = live_rows(table.table.io, locations, table.metadata.schema())
    new = FileWriting(table, target_bytes, check).write_all(one.rows for one in rows)
    # Changes are replayed in the order of their files' ages: the new file is as old as what it is made of.
    if not exchange(writer, table, locations, Kind.COMPACTION, files=new, age=max(one.age for one in files)):
        return None
    return Work(
        table.name,
        Kind.COMPACTION,
        files_before=len(files),
        files_after=len(new),
        bytes_before=sum(one.size for one in files),
        bytes_after=sum(one.file_size_in_bytes for one in new),
        rows=sum(one.record_count for one in new),
        seconds=time.monotonic() - started,
    )
