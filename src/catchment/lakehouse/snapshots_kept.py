"""Which snapshots of a table are kept: how far back, and how densely, the table can be read as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyiceberg.table.snapshots import Snapshot

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class SnapshotsKept:
    """The last `count` snapshots, and before those the first of each hour; none of an hour longer ago than `hours`.

    hours: None keeps the last `count` whatever their age, and no others.
    """

    count: int = 100
    hours: float | None = None

    def expired(self, snapshots: Sequence[Snapshot], now_ms: int) -> list[Snapshot]:
        """Those that are not kept, of all snapshots of a table, the current one last. That one always stays."""
        recent = max(1, self.count)
        if self.hours is None:
            return list(snapshots[: max(0, len(snapshots) - recent)])
        # By the hour: what was kept for an hour stays until the whole hour is too long ago.
        oldest = (now_ms - int(self.hours * HOUR_MS)) // HOUR_MS
        gone: list[Snapshot] = []
        hours: set[int] = set()
        for back, one in zip(range(len(snapshots) - 1, 0, -1), snapshots[:-1], strict=True):
            hour = one.timestamp_ms // HOUR_MS
            if hour < oldest or (back >= recent and hour in hours):
                gone.append(one)
            else:
                hours.add(hour)
        return gone
