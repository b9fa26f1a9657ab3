"""Files that left a table, until no kept snapshot needs them any more.

Which files those are is known from the commits that took them away, so that nothing has to be listed: a file is
needed by snapshots from before that commit only. A rollback may bring one back, so before anything is deleted every
kept snapshot is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

REMOVALS = ("deleted-data-files", "removed-delete-files")
"""In a snapshot's summary: it took files away."""


@dataclass(frozen=True)
class _Leaving:
    """Files that one commit took away, with their sizes, and the snapshots that may still need them."""

    files: Mapping[str, int]
    snapshots: frozenset[int]


class LeavingFiles:
    """The files of one table that are on their way out. What an earlier process left, the first look finds.

    What is missed (snapshots that came and went between two looks, a crash) is an orphan, and goes as one.
    """

    def __init__(self) -> None:
        self._seen = -1
        self._leaving: list[_Leaving] = []
        self._kept = _KeptFiles()

    def look(self, metadata: TableMetadata, io: FileIO) -> None:
        """See what the snapshots since the last look have taken away. Reads only where something was."""
        ours = sorted(metadata.snapshots, key=lambda one: one.sequence_number or 0)
        for index, one in enumerate(ours):
            number = one.sequence_number or 0
            if number > self._seen and _takes_away(one):
                files = _taken_away(one, io)
                self._leaving.append(_Leaving(files, frozenset(other.snapshot_id for other in ours[:index])))
            self._seen = max(self._seen, number)

    def due(self, metadata: TableMetadata, io: FileIO) -> dict[str, int]:
        """Files, with their sizes, that no kept snapshot needs; they are forgotten here."""
        held = {one.snapshot_id for one in metadata.snapshots}
        over = [one for one in self._leaving if not one.snapshots & held]
        if not over:
            return {}
        try:
            needed = self._kept.named(metadata, io)
        except FileNotFoundError:
            # A commit has let snapshots go meanwhile: the next look knows.
            return {}
        self._leaving = [one for one in self._leaving if one.snapshots & held]
        return {path: size for one in over for path, size in one.files.items() if path not in needed}

    @property
    def waiting(self) -> int:
        """How many files still wait for their snapshots to expire."""
        return len({path for one in self._leaving for path in one.files})


class _KeptFiles:
    """What the kept snapshots name; a snapshot and a manifest are read once."""

    def __init__(self) -> None:
        self._manifests: dict[int, frozenset[str]] = {}
        self._files: dict[str, frozenset[str]] = {}

    def named(self, metadata: TableMetadata, io: FileIO) -> set[str]:
        """Every data and delete file that a kept snapshot has."""
        manifests: dict[int, frozenset[str]] = {}
        for snapshot in metadata.snapshots:
            known = self._manifests.get(snapshot.snapshot_id)
            manifests[snapshot.snapshot_id] = known if known is not None else self._read(snapshot, io)
        self._manifests = manifests
        in_use = frozenset[str]().union(*manifests.values())
        self._files = {path: files for path, files in self._files.items() if path in in_use}
        return {file for files in self._files.values() for file in files}

    def _read(self, snapshot: Snapshot, io: FileIO) -> frozenset[str]:
        listed = snapshot.manifests(io)
        for one in listed:
            if one.manifest_path not in self._files:
                entries = one.fetch_manifest_entry(io, discard_deleted=True)
                self._files[one.manifest_path] = frozenset(entry.data_file.file_path for entry in entries)
        return frozenset(one.manifest_path for one in listed)


def _takes_away(snapshot: Snapshot) -> bool:
    said = snapshot.summary.additional_properties if snapshot.summary is not None else {}
    return any(int(said.get(name) or 0) > 0 for name in REMOVALS)


def _taken_away(snapshot: Snapshot, io: FileIO) -> dict[str, int]:
    try:
        return dict(_entries(snapshot, io))
    except FileNotFoundError:
        # It expired between the look and the reading; its files go as orphans.
        return {}


def _entries(snapshot: Snapshot, io: FileIO) -> Iterable[tuple[str, int]]:
    for manifest in snapshot.manifests(io):
        if manifest.added_snapshot_id == snapshot.snapshot_id and manifest.deleted_files_count:
            for entry in manifest.fetch_manifest_entry(io, discard_deleted=False):
                if entry.status == ManifestEntryStatus.DELETED:
                    yield entry.data_file.file_path, entry.data_file.file_size_in_bytes
