"""A table's manifests, kept in memory between commits and merged before they become many.

Manifests are merged by size: once there are `FAN_OUT` of one size class they become one of the next. So a
table of n flushes has in the order of log n manifests, and each entry is written again only log n times.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence

from pyiceberg.avro.codecs import AvroCompressionCodec
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    DataFile,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.table.metadata import TableMetadata

from catchment.lakehouse.storage import MemoryFile

FAN_OUT = 16
"""How many manifests of a size class there may be before they are merged."""

LARGEST = 32_768
"""A manifest of so many entries (about 8 MB) is left alone."""

_CODEC: AvroCompressionCodec = "deflate"

Put = Callable[[str, bytes], None]


class Manifests:
    """The manifests of a table's current snapshot."""

    def __init__(self, io: FileIO, files: Iterable[ManifestFile] = ()) -> None:
        self._io = io
        self.files = tuple(files)
        self._entries: dict[str, tuple[ManifestEntry, ...]] = {}

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(one.manifest_path for one in self.files)

    def live(self) -> list[ManifestEntry]:
        """The entries of all data files that a reader of the current snapshot sees."""
        return [entry for one in self.files for entry in self.entries(one)]

    def entries(self, manifest: ManifestFile) -> tuple[ManifestEntry, ...]:
        """A manifest's live entries; those of small ones written here are still in memory."""
        known = self._entries.get(manifest.manifest_path)
        return known if known is not None else tuple(manifest.fetch_manifest_entry(self._io))

    def replaced_by(self, files: Sequence[ManifestFile], entries: dict[str, tuple[ManifestEntry, ...]]) -> Manifests:
        """What follows when a commit succeeded."""
        after = Manifests(self._io, files)
        kept = {**self._entries, **entries}
        after._entries = {
            path: known for path in after.paths if (known := kept.get(path)) is not None and len(known) < FAN_OUT**2
        }
        return after


class ManifestDraft:
    """The manifests of a snapshot that is being made. Files go to `put`; nothing points to them yet."""

    def __init__(
        self, base: Manifests, metadata: TableMetadata, snapshot_id: int, sequence_number: int, folder: str, put: Put
    ) -> None:
        self._base = base
        self._metadata = metadata
        self._snapshot_id = snapshot_id
        self._sequence_number = sequence_number
        self._folder = folder
        self._put = put
        self.entries: dict[str, tuple[ManifestEntry, ...]] = {}

    def append(self, files: Sequence[DataFile]) -> list[ManifestFile]:
        """The manifests after adding these data files; merged where it is time."""
        added = [self._write(self._added(files), ())] if files else []
        return self._merge([*added, *self._base.files])

    def replace(self, files: Sequence[DataFile]) -> list[ManifestFile]:
        """The manifests after replacing every data file by these."""
        removed = [self._with(entry, ManifestEntryStatus.DELETED) for entry in self._base.live()]
        added = self._added(files)
        return [self._write(added, removed)] if added or removed else []

    def write_list(self, manifests: Sequence[ManifestFile], parent: int | None) -> str:
        """Write the manifest list; its location."""
        location = f"{self._folder}/snap-{self._snapshot_id}-{uuid.uuid4()}.avro"
        output = MemoryFile(location)
        writer = write_manifest_list(2, output, self._snapshot_id, parent, self._sequence_number, _CODEC)
        with writer:
            if manifests:
                writer.add_manifests(list(manifests))
        self._put(location, output.content)
        return location

    def _merge(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        classes: dict[int, list[ManifestFile]] = {}
        for one in manifests:
            classes.setdefault(_size_class(one), []).append(one)
        due = next((group for group in classes.values() if _is_due(group)), None)
        if due is None:
            return manifests
        # Newest first, as the list is: readers that follow it meet rows in the same order as before.
        chosen = {one.manifest_path for one in due}
        entries = [entry for one in due for entry in self._entries_of(one)]
        merged = self._write([self._again(entry) for entry in entries], ())
        place = next(i for i, one in enumerate(manifests) if one.manifest_path in chosen)
        rest = [one for one in manifests if one.manifest_path not in chosen]
        return self._merge([*rest[:place], merged, *rest[place:]])

    def _entries_of(self, manifest: ManifestFile) -> tuple[ManifestEntry, ...]:
        mine = self.entries.get(manifest.manifest_path)
        return mine if mine is not None else self._base.entries(manifest)

    def _write(self, live: Sequence[ManifestEntry], removed: Sequence[ManifestEntry]) -> ManifestFile:
        location = f"{self._folder}/{uuid.uuid4()}-m0.avro"
        output = MemoryFile(location)
        metadata = self._metadata
        writer: ManifestWriter = write_manifest(
            2, metadata.spec(), metadata.schema(), output, self._snapshot_id, _CODEC
        )
        with writer:
            for entry in (*live, *removed):
                writer.add_entry(entry)
        manifest = writer.to_manifest_file()
        # The list's writer would give these to a copy; ours is kept for the commits to come.
        manifest.sequence_number = self._sequence_number
        if manifest.min_sequence_number < 0:
            manifest.min_sequence_number = self._sequence_number
        self._put(location, output.content)
        self.entries[location] = tuple(self._with(entry, ManifestEntryStatus.EXISTING) for entry in live)
        return manifest

    def _added(self, files: Sequence[DataFile]) -> list[ManifestEntry]:
        return [
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED,
                snapshot_id=self._snapshot_id,
                sequence_number=None,
                file_sequence_number=None,
                data_file=file,
            )
            for file in files
        ]

    def _again(self, entry: ManifestEntry) -> ManifestEntry:
        """An entry in a merged manifest: still ADDED if this very snapshot adds its file."""
        mine = entry.snapshot_id == self._snapshot_id
        return self._with(entry, ManifestEntryStatus.ADDED if mine else ManifestEntryStatus.EXISTING)

    def _with(self, entry: ManifestEntry, status: ManifestEntryStatus) -> ManifestEntry:
        """The entry with another status; a deleted one carries the snapshot that deleted it."""
        deleted = status == ManifestEntryStatus.DELETED
        sequence = entry.sequence_number if entry.sequence_number is not None else self._sequence_number
        file_sequence = entry.file_sequence_number if entry.file_sequence_number is not None else sequence
        return ManifestEntry.from_args(
            status=status,
            snapshot_id=self._snapshot_id if deleted else entry.snapshot_id,
            sequence_number=sequence,
            file_sequence_number=file_sequence,
            data_file=entry.data_file,
        )


def _live_files(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)


def _size_class(manifest: ManifestFile) -> int:
    size, entries = 0, _live_files(manifest)
    while entries >= FAN_OUT:
        entries //= FAN_OUT
        size += 1
    return size


def _is_due(group: Sequence[ManifestFile]) -> bool:
    return len(group) >= FAN_OUT and _live_files(group[0]) < LARGEST
