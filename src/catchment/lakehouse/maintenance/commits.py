"""Commits of maintenance: they change files, not rows, so a table says of its progress what it said before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pyiceberg.manifest import DataFile

from catchment import failpoint
from catchment.lakehouse.properties import MARKER
from catchment.lakehouse.table import Change, LakeTable
from catchment.lakehouse.table_health import MAINTENANCE
from catchment.lakehouse.writer import LakeWriter


def summary(table: LakeTable, reason: str) -> dict[str, str]:
    """What a snapshot of maintenance says of itself: the progress is that of the snapshot before."""
    current = table.metadata.current_snapshot()
    before = current.summary.additional_properties if current is not None and current.summary is not None else {}
    return {MAINTENANCE: reason} | ({MARKER: before[MARKER]} if MARKER in before else {})


def exchange(
    writer: LakeWriter,
    table: LakeTable,
    removed: Collection[str],
    reason: str,
    *,
    files: Sequence[DataFile] = (),
    deletes: Sequence[DataFile] = (),
    age: int | None = None,
    drops: bool = False,
    properties: Mapping[str, str] | None = None,
) -> bool:
    """Commit new files in the place of others; False, and they are deleted, if some of those have left meanwhile.

    The new files are durable already: the writer's lock is held for as long as a commit takes.
    """
    failpoint.reach("before_exchange")
    new = [one.file_path for one in (*files, *deletes)]
    with writer.lock:
        if not table.manifests.has_all(removed):
            table.delete_uncommitted(new)
            return False
        try:
            draft = table.draft(
                Change(
                    files=files,
                    deletes=deletes,
                    removed=frozenset(removed),
                    age=age,
                    drops=drops,
                    properties=properties or {},
                    summary=summary(table, reason),
                )
            )
        except BaseException:
            table.delete_uncommitted(new)
            raise
        writer.commit([draft])
    return True
