"""Which tables moved in one commit: said in each one's snapshot, for the day the catalog is lost.

The catalog's transaction moves all tables of a flush at once. Without the catalog only their files are left, and a
process that was killed before its transaction leaves the files of some tables, or of all. From the stamp it can
be told whether a commit is there as a whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyiceberg.table.snapshots import Snapshot

    from catchment.lakehouse.table import Draft

STAMP = "catchment.commit"


@dataclass(frozen=True, slots=True)
class Stamp:
    """One commit of so many tables. A commit of one table needs none."""

    commit: str
    tables: int


def stamp(drafts: Sequence[Draft]) -> None:
    """Note in each draft's snapshot that they are committed together. Before its metadata is written."""
    # A draft that only lets go of old snapshots makes no new one.
    moving = [one for one in drafts if one.snapshot.snapshot_id != one.table.metadata.current_snapshot_id]
    if len(moving) < 2:
        return
    text = f"{uuid.uuid4().hex}/{len(moving)}"
    for draft in moving:
        if draft.snapshot.summary is not None:
            draft.snapshot.summary[STAMP] = text


def stamp_of(snapshot: Snapshot) -> Stamp | None:
    """What `stamp` noted."""
    text = snapshot.summary.get(STAMP) if snapshot.summary is not None else None
    if not text:
        return None
    commit, _, tables = text.partition("/")
    return Stamp(commit, int(tables))
