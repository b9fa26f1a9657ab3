"""How healthy a table is: how many files and dead rows it has, how far back it can be read, when it was maintained.

From the table's metadata alone, so that any process may ask at any time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catchment.lakehouse.properties import BRONZE_SINCE, PINNED

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

MAINTENANCE = "catchment.maintenance"
"""In a snapshot's summary: the kind of maintenance that made it."""


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table's files, and how far it reaches.

    dead_rows: rows that delete files name, those of files that left meanwhile among them; delete files are merged
    before that is much. readable_since: the oldest kept snapshot, epoch seconds. maintained_at: the newest kept
    commit of maintenance, and maintained_by its kind. bronze_since: before this moment changes have left bronze.
    pinned_at: the time of the snapshot that the table was set back to, and stays at until it is resumed.
    """

    files: int
    size: int
    dead_rows: int
    delete_files: int
    snapshots: int
    readable_since: float | None
    maintained_at: float | None
    maintained_by: str | None
    bronze_since: str | None
    pinned_at: str | None


def health(table: Table) -> TableHealth:
    """The health of a table as it was loaded."""
    metadata = table.metadata
    ours = sorted(metadata.snapshots, key=lambda one: one.sequence_number or 0)
    by_maintenance = [one for one in ours if _said(one, MAINTENANCE)]
    last = by_maintenance[-1] if by_maintenance else None
    now = metadata.current_snapshot()
    pinned = metadata.properties.get(PINNED)
    return TableHealth(
        files=_count(now, "total-data-files"),
        size=_count(now, "total-files-size"),
        dead_rows=_count(now, "total-position-deletes"),
        delete_files=_count(now, "total-delete-files"),
        snapshots=len(ours),
        readable_since=ours[0].timestamp_ms / 1000 if ours else None,
        maintained_at=last.timestamp_ms / 1000 if last is not None else None,
        maintained_by=_said(last, MAINTENANCE) if last is not None else None,
        bronze_since=metadata.properties.get(BRONZE_SINCE),
        pinned_at=json.loads(pinned)["at"] if pinned else None,
    )


def _count(snapshot: Snapshot | None, name: str) -> int:
    return int((_said(snapshot, name) if snapshot is not None else None) or 0)


def _said(snapshot: Snapshot, name: str) -> str | None:
    return snapshot.summary.additional_properties.get(name) if snapshot.summary is not None else None
