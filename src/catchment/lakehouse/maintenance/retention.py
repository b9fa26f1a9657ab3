"""Bronze is kept for a declared time. What silver does not have yet stays, however old it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from catchment.lakehouse.catalog import local_path
from catchment.lakehouse.maintenance.table_files import TableFiles
from catchment.lakehouse.properties import PINNED, key_of, marker_of
from catchment.lakehouse.table import LakeTable
from catchment.progress import Progress


def expired_changes(files: TableFiles, before: datetime, written_before: Callable[[str, float], bool]) -> list[str]:
    """Data files all of whose changes were committed before a moment.

    Rows of a snapshot have no commit time: a file that has such rows is as old as itself. written_before: was the
    file at this location last written before these epoch seconds?
    """
    limit = int(before.timestamp() * 1_000_000)
    gone = []
    for one in files.data:
        age = files.ages[one.location]
        old = age.last is None or age.last < limit
        if old and (not age.undated or written_before(one.location, before.timestamp())):
            gone.append(one.location)
    return gone


def since(files: TableFiles, gone: list[str], before: str | None) -> str:
    """What `BRONZE_SINCE` says once these files are gone; it never goes back. before: what it says now."""
    newest = max((age.last for path in gone if (age := files.ages[path]).last is not None), default=None)
    moment = datetime.fromtimestamp((newest or 0) / 1_000_000, UTC).isoformat(timespec="microseconds")
    return max(moment, before or moment)


def held_by_silver(bronze: LakeTable, silver: LakeTable | None) -> bool:
    """May old changes of this table go? Not before silver has all that bronze has, and not while it is pinned.

    A table without a key never has a silver table: its changes are all there is, and go by their age.
    """
    if not key_of(bronze.metadata.properties):
        return True
    if silver is None or silver.metadata.properties.get(PINNED):
        return False
    mine, theirs = marker_of(bronze.metadata.properties), marker_of(silver.metadata.properties)
    return mine is not None and theirs is not None and theirs.covers(Progress(mine.positions))


def written_before(location: str, seconds: float) -> bool:
    """Was a file on this machine last written before these epoch seconds? Elsewhere nobody knows: False."""
    path = local_path(location)
    try:
        return path is not None and path.stat().st_mtime < seconds
    except FileNotFoundError:
        return False
