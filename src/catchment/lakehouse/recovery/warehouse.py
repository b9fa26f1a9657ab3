"""The tables that a warehouse's files make up, found without a catalog.

Each commit leaves a metadata file, so the newest one that is whole is what the table was last, or what a process
was about to make of it when it was killed. The latter counts only if the files of the whole commit are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.serializers import FromInputFile

from catchment.lakehouse.catalog import local_path
from catchment.lakehouse.commit_stamp import Stamp, stamp_of
from catchment.lakehouse.properties import marker_of
from catchment.lakehouse.recovery.snapshot_listing import positions
from catchment.progress import Progress

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata

Name = tuple[str, str]
LAYERS = ("bronze", "silver", "gold")
LOOKED_AT = 50
"""Metadata files of a table that are looked at, the newest ones."""


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as one metadata file has it."""

    name: Name
    location: str
    metadata: TableMetadata

    @property
    def marker(self) -> Progress | None:
        """What the table holds."""
        return marker_of(self.metadata.properties)

    @property
    def stamp(self) -> Stamp | None:
        """The commit that made this state."""
        snapshot = self.metadata.current_snapshot()
        return stamp_of(snapshot) if snapshot is not None else None

    def has(self, commit: str) -> bool:
        """Does a kept snapshot come from this commit?"""
        return any(
            (one := stamp_of(snapshot)) is not None and one.commit == commit for snapshot in self.metadata.snapshots
        )


@dataclass(frozen=True, slots=True)
class NewestState:
    """The newest whole state of a table, if any; gap: a file that an even newer one misses, if there is one.

    A gap is damage, or a commit that a power cut broke off: which of them, the files do not tell.
    """

    state: TableState | None
    gap: str | None


class Warehouse:
    """A directory of tables: `<layer>/<table>/metadata` and `…/data`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._io = PyArrowFileIO()

    def folders(self) -> dict[Name, Path]:
        """Where the tables are whose place is the usual one."""
        return {
            (layer, metadata.parent.name): metadata
            for layer in LAYERS
            for metadata in sorted(self._root.glob(f"{layer}/*/metadata"))
        }

    def read(self, name: Name, location: str) -> TableState | None:
        """The state that a metadata file describes; None when it is not there or cut off."""
        try:
            return TableState(name, location, FromInputFile.table_metadata(self._io.new_input(location)))
        except (OSError, ValidationError, ValueError):
            return None

    def missing(self, state: TableState) -> str | None:
        """The first file that a reader of the table as it is there would miss; None when all are there."""
        snapshot = state.metadata.current_snapshot()
        if snapshot is None:
            return None
        try:
            manifests = snapshot.manifests(self._io)
        except (OSError, ValueError):
            return snapshot.manifest_list
        for manifest in manifests:
            try:
                entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            except (OSError, ValueError):
                return manifest.manifest_path
            for entry in entries:
                path = local_path(entry.data_file.file_path)
                if path is None or not path.exists():
                    return entry.data_file.file_path
        return None

    def newest(self, folders: Mapping[Name, Path]) -> dict[Name, NewestState]:
        """The newest whole state of each table, such that every commit is in all of its tables or in none."""
        lines = {name: iter(self._states(name, folder)) for name, folder in folders.items()}
        found = {name: self._next(line, None) for name, line in lines.items()}
        while torn := _torn([one.state for one in found.values() if one.state is not None]):
            for name in torn:
                found[name] = self._next(lines[name], found[name].gap)
        return found

    def _next(self, line: Iterator[TableState | str], gap: str | None) -> NewestState:
        for state in line:
            if isinstance(state, str):
                gap = gap or state
                continue
            missing = self.missing(state)
            if missing is None:
                return NewestState(state, gap)
            gap = gap or missing
        return NewestState(None, gap)

    def _states(self, name: Name, folder: Path) -> list[TableState | str]:
        """What the newest metadata files say, the newest first; the place of one that cannot be read."""
        files = sorted(folder.glob("*.metadata.json"), key=lambda one: one.stat().st_mtime_ns)[-LOOKED_AT:]
        found: list[tuple[tuple[int, str], TableState | str]] = []
        for file in files:
            state = self.read(name, f"file://{file}")
            changed = state.metadata.last_updated_ms if state is not None else file.stat().st_mtime_ns // 1_000_000
            found.append(((changed, file.name), state if state is not None else f"file://{file}"))
        return [state for _, state in sorted(found, key=lambda one: one[0], reverse=True)]


def _torn(states: Iterable[TableState]) -> list[Name]:
    """Tables whose last commit other tables should have as well, and do not: it never came to be."""
    everything = list(states)
    return [
        state.name
        for state in everything
        if (stamp := state.stamp) is not None and not _came_to_be(state, stamp, everything)
    ]


def _came_to_be(state: TableState, stamp: Stamp, everything: list[TableState]) -> bool:
    reached = _reached(state)
    together = 0
    for one in everything:
        if one.has(stamp.commit):
            together += 1
        elif reached is not None and (there := _reached(one)) is not None and there.covers(reached):
            if not reached.covers(there):
                # It went on beyond: had this commit failed, its rows would have been written again, in later files.
                return True
            together += 1
    return together >= stamp.tables


def _reached(state: TableState) -> Progress | None:
    snapshot = state.metadata.current_snapshot()
    marker = (positions(snapshot) if snapshot is not None else None) or state.marker
    return Progress(marker.positions) if marker is not None else None
