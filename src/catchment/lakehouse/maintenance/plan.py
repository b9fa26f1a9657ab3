"""Which files are worth writing anew. Pure: sizes in, choices out.

Files are merged by size class: `FAN_IN` of one class become one of the next, so that a row is written again only
about log n times, however many small files there were. Dead rows are taken out where there are most of them, and
only once a table has too many in all: cleaning the deadest file first costs the least for each dead row, and the
files' ages spread by themselves, so that no table is written anew whole at one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FAN_IN = 8
"""How many files of a size class there may be before they are merged."""

SMALLEST_BYTES = 32 * 1024
"""Files below this size are of one class: their footers are most of them."""

FAN_IN_SMALLEST = 32
"""How many of those there may be: to write them anew costs nothing, but each time is a commit and a snapshot."""

SMALLEST_TARGET_BYTES = 8 * 1024 * 1024
PARTS = 16
"""A keyed table is kept in about so many files, below the target size: cleaning one is then a small piece of work."""

MOST_FILES = 1_000
"""Files in one piece of work at most."""

NOTICED_DEAD_ROWS = 20_000
"""Fewer dead rows than this slow no reader down."""

SMALLEST_DELETES = 1_000


@dataclass(frozen=True, slots=True)
class FileState:
    """A data file as a plan sees it.

    dead: rows that delete files name. age: the data sequence number; a file made of others has their highest.
    """

    location: str
    size: int
    rows: int
    dead: int = 0
    age: int = 0

    @property
    def live_bytes(self) -> int:
        """About how large the file would be without its dead rows."""
        return self.size * (self.rows - self.dead) // max(1, self.rows)

    @property
    def dead_share(self) -> float:
        return self.dead / max(1, self.rows)


@dataclass(frozen=True, slots=True)
class DeleteFileState:
    """A delete file as a plan sees it. positions: how many dead rows it names."""

    location: str
    size: int
    positions: int


def neighbours(files: Iterable[FileState], target_bytes: int) -> list[FileState]:
    """Files of an append-only table to be made into one, oldest first; empty when none are due.

    Only neighbours by age are merged, so that files go on having narrow bounds of time.
    """
    ordered = sorted(files, key=lambda one: one.age)
    for size_class in sorted({size_of(one.size, SMALLEST_BYTES) for one in ordered if not _full(one, target_bytes)}):
        for run in _runs(ordered, size_class, target_bytes):
            if sum(size_of(one.size, SMALLEST_BYTES) == size_class for one in run) >= _fan_in(size_class):
                return _limited(run, target_bytes)
    return []


def _runs(ordered: Sequence[FileState], size_class: int, target_bytes: int) -> list[list[FileState]]:
    """Stretches of files that are not above a size class and not full."""
    runs: list[list[FileState]] = [[]]
    for one in ordered:
        if _full(one, target_bytes) or size_of(one.size, SMALLEST_BYTES) > size_class:
            runs.append([])
        else:
            runs[-1].append(one)
    return runs


def alike(files: Iterable[FileState], target_bytes: int) -> list[FileState]:
    """Small files of a keyed table, of one size, to be merged; with them those that have no live row any more."""
    classes: dict[int, list[FileState]] = {}
    wholly_dead = [one for one in files if one.dead >= one.rows]
    for one in files:
        if one.dead < one.rows and one.live_bytes * 2 < target_bytes:
            classes.setdefault(size_of(one.live_bytes, SMALLEST_BYTES), []).append(one)
    for size_class, members in sorted(classes.items()):
        if len(members) >= _fan_in(size_class):
            return [*_limited(sorted(members, key=lambda one: one.age), target_bytes), *wholly_dead]
    enough = len(wholly_dead) >= FAN_IN_SMALLEST or sum(one.rows for one in wholly_dead) >= NOTICED_DEAD_ROWS
    return wholly_dead if enough else []


def deadest(files: Iterable[FileState], target_bytes: int, dead_row_percent: float) -> list[FileState]:
    """The files with the largest share of dead rows, about a target file's worth; empty while the table has few."""
    all_files = list(files)
    dead, rows = sum(one.dead for one in all_files), sum(one.rows for one in all_files)
    if not too_many_dead(dead, rows, dead_row_percent):
        return []
    chosen: list[FileState] = []
    size = 0
    for one in sorted(all_files, key=lambda one: one.dead_share, reverse=True):
        if chosen and (size + one.live_bytes > target_bytes or one.dead_share * 100 < dead_row_percent):
            break
        chosen.append(one)
        size += one.live_bytes
    return chosen


def too_many_dead(dead: int, rows: int, dead_row_percent: float) -> bool:
    """Are so many of a table's rows dead that files with many of them are worth writing anew?"""
    return dead >= NOTICED_DEAD_ROWS and dead * 100 >= rows * dead_row_percent


def part_bytes(files: Iterable[FileState], target_bytes: int) -> int:
    """How large the files of a keyed table should be."""
    live = sum(one.live_bytes for one in files)
    return min(target_bytes, max(SMALLEST_TARGET_BYTES, live // PARTS))


def delete_files(files: Iterable[DeleteFileState], dead: int) -> list[DeleteFileState]:
    """Delete files to be made into one. dead: rows that they name in files that are still there.

    By size class, as data files; and all of them once much of what they name is gone.
    """
    all_files = list(files)
    if 2 * sum(one.positions for one in all_files) > 3 * dead + 2 * NOTICED_DEAD_ROWS:
        return all_files
    classes: dict[int, list[DeleteFileState]] = {}
    for one in all_files:
        classes.setdefault(size_of(one.positions, SMALLEST_DELETES), []).append(one)
    # A reader opens each of them for nearly every data file: here few are worth a commit.
    return next((members for _, members in sorted(classes.items()) if len(members) >= FAN_IN), [])


def size_of(size: int, smallest: int) -> int:
    """The size class: 0 below `smallest`, then one more for every factor of `FAN_IN`."""
    found = 0
    while size >= smallest:
        smallest *= FAN_IN
        found += 1
    return found


def _fan_in(size_class: int) -> int:
    return FAN_IN if size_class else FAN_IN_SMALLEST


def _full(file: FileState, target_bytes: int) -> bool:
    return file.size * 2 >= target_bytes


def _limited(run: Sequence[FileState], target_bytes: int) -> list[FileState]:
    """The beginning of a run, about a target file's worth, and two files at least."""
    chosen: list[FileState] = []
    size = 0
    for one in run[:MOST_FILES]:
        if len(chosen) >= 2 and size + one.live_bytes > target_bytes + target_bytes // 4:
            break
        chosen.append(one)
        size += one.live_bytes
    return chosen
