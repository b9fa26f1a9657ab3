"""A table's manifests, kept in memory between commits and merged before they become many.

Manifests are merged by size: once there are `FAN_OUT` of one size class they become one of the next. So a
table of n flushes has in the order of log n manifests, and each entry is written again only log n times.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from pyiceberg.avro.codecs import AvroCompressionCodec
from pyiceberg.io import FileIO
from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    ManifestWriterV2,
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

    def __init__(
        self, io: FileIO, files: Iterable[ManifestFile] = (), named: dict[str, frozenset[str]] | None = None
    ) -> None:
        self._io = io
        self.files = tuple(files)
        self._entries: dict[str, tuple[ManifestEntry, ...]] = {}
        # Shared by all states of a table: what one thread has read while it planned, a commit need not read.
        self._named: dict[str, frozenset[str]] = named if named is not None else {}

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(one.manifest_path for one in self.files)

    def live(self) -> list[ManifestEntry]:
        """The entries of all files, of data and of deletes, that a reader of the current snapshot needs."""
        return [entry for one in self.files for entry in self.entries(one)]

    def data(self) -> list[ManifestEntry]:
        """The entries of the data files."""
        return [entry for one in self.files if one.content == ManifestContent.DATA for entry in self.entries(one)]

    def deletes(self) -> list[ManifestEntry]:
        """The entries of the delete files."""
        return [entry for one in self.files if one.content == ManifestContent.DELETES for entry in self.entries(one)]

    def entries(self, manifest: ManifestFile) -> tuple[ManifestEntry, ...]:
        """A manifest's live entries; those of small ones written here are still in memory."""
        known = self._entries.get(manifest.manifest_path)
        return known if known is not None else tuple(manifest.fetch_manifest_entry(self._io))

    def named(self, manifest: ManifestFile) -> frozenset[str]:
        """The locations of a manifest's live files; read once, a manifest never changes."""
        path = manifest.manifest_path
        known = self._named.get(path)
        if known is None:
            known = self._named[path] = frozenset(entry.data_file.file_path for entry in self.entries(manifest))
        return known

    def has_all(self, locations: Collection[str]) -> bool:
        """Are all of these among the live files?"""
        left = set(locations)
        for one in self.files:
            left -= self.named(one)
        return not left

    def only(self, locations: Collection[str]) -> list[ManifestEntry]:
        """The entries of these files. Reads only manifests that have one."""
        wanted = frozenset(locations)
        holding = [one for one in self.files if not wanted.isdisjoint(self.named(one))]
        return [entry for one in holding for entry in self.entries(one) if entry.data_file.file_path in wanted]

    def replaced_by(self, files: Sequence[ManifestFile], entries: dict[str, tuple[ManifestEntry, ...]]) -> Manifests:
        """What follows when a commit succeeded."""
        after = Manifests(self._io, files, self._named)
        if len(self._named) > 4 * len(files) + FAN_OUT:
            after._named = {path: names for path, names in list(self._named.items()) if path in after.paths}
        kept = {**self._entries, **entries}
        after._entries = {
            path: known for path in after.paths if (known := kept.get(path)) is not None and len(known) < FAN_OUT**2
        }
        return after


class _DeleteManifestWriter(ManifestWriterV2):
    """PyIceberg writes manifests of data files only; this one lists delete files."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


@dataclass(frozen=True, eq=False)
class _Group:
    """A manifest, or the entries of one that is still to be written.

    size: its live entries. removed: entries that leave with this commit; a manifest says so once.
    """

    content: ManifestFile | Sequence[ManifestEntry]
    kind: ManifestContent
    size: int
    removed: Sequence[ManifestEntry] = ()

    @property
    def size_class(self) -> int:
        found, size = 0, self.size
        while size >= FAN_OUT:
            size //= FAN_OUT
            found += 1
        return found


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

    def append(
        self,
        files: Sequence[DataFile],
        deletes: Sequence[DataFile] = (),
        removed: Collection[str] = (),
        age: int | None = None,
    ) -> list[ManifestFile]:
        """The manifests after adding data and delete files and removing others; merged where it is time.

        age: the data sequence number of `files`, where that is not the new snapshot's.
        """
        # A manifest whose files have all left says so in one snapshot, and is in no later one.
        groups = [_Group(one, one.content, _live_files(one)) for one in self._base.files if _live_files(one)]
        if removed:
            groups = [self._without(one, frozenset(removed)) for one in groups]
        for kind, added in ((ManifestContent.DELETES, deletes), (ManifestContent.DATA, files)):
            if added:
                entries = self._added(added, age if kind == ManifestContent.DATA else None)
                groups.insert(0, _Group(entries, kind, len(added)))
        return [
            one.content
            if isinstance(one.content, ManifestFile)
            else self._write(one.kind, one.content, [self._with(e, ManifestEntryStatus.DELETED) for e in one.removed])
            for one in self._merged(groups)
        ]

    def replace(self, files: Sequence[DataFile], deletes: Sequence[DataFile] = ()) -> list[ManifestFile]:
        """The manifests after replacing every file by these."""
        manifests = []
        for kind, added, old in (
            (ManifestContent.DELETES, deletes, self._base.deletes()),
            (ManifestContent.DATA, files, self._base.data()),
        ):
            removed = [self._with(entry, ManifestEntryStatus.DELETED) for entry in old]
            if added or removed:
                manifests.append(self._write(kind, self._added(added), removed))
        return manifests

    def _without(self, group: _Group, removed: frozenset[str]) -> _Group:
        """The group less these files: a manifest that has one of them is written anew."""
        if isinstance(group.content, ManifestFile) and removed.isdisjoint(self._base.named(group.content)):
            return group
        entries = self._entries_of(group)
        gone = [entry for entry in entries if entry.data_file.file_path in removed]
        if not gone:
            return group
        kept = [entry for entry in entries if entry.data_file.file_path not in removed]
        return _Group(kept, group.kind, len(kept), gone)

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

    def _merged(self, groups: list[_Group]) -> list[_Group]:
        """Merge size classes that are full. Nothing is written: what is merged may be merged again."""
        classes: dict[tuple[ManifestContent, int], list[_Group]] = {}
        for one in groups:
            classes.setdefault((one.kind, one.size_class), []).append(one)
        due = next((group for group in classes.values() if len(group) >= FAN_OUT and group[0].size < LARGEST), None)
        if due is None:
            return groups
        # Newest first, as the list is: readers that follow it meet rows in the same order as before.
        merged = _Group(
            [entry for one in due for entry in self._entries_of(one)],
            due[0].kind,
            sum(one.size for one in due),
            [entry for one in due for entry in one.removed],
        )
        place = next(i for i, one in enumerate(groups) if one in due)
        rest = [one for one in groups if one not in due]
        return self._merged([*rest[:place], merged, *rest[place:]])

    def _entries_of(self, group: _Group) -> Sequence[ManifestEntry]:
        if isinstance(group.content, ManifestFile):
            return [self._with(entry, ManifestEntryStatus.EXISTING) for entry in self._base.entries(group.content)]
        return group.content

    def _write(
        self, kind: ManifestContent, live: Sequence[ManifestEntry], removed: Sequence[ManifestEntry]
    ) -> ManifestFile:
        location = f"{self._folder}/{uuid.uuid4()}-m0.avro"
        output = MemoryFile(location)
        writer: ManifestWriter = self._writer(kind, output)
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

    def _writer(self, kind: ManifestContent, output: MemoryFile) -> ManifestWriter:
        spec, schema = self._metadata.spec(), self._metadata.schema()
        if kind == ManifestContent.DELETES:
            return _DeleteManifestWriter(spec, schema, output, self._snapshot_id, _CODEC)
        return write_manifest(2, spec, schema, output, self._snapshot_id, _CODEC)

    def _added(self, files: Sequence[DataFile], age: int | None = None) -> list[ManifestEntry]:
        return [
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED,
                snapshot_id=self._snapshot_id,
                sequence_number=age,
                file_sequence_number=None,
                data_file=file,
            )
            for file in files
        ]

    def _with(self, entry: ManifestEntry, status: ManifestEntryStatus) -> ManifestEntry:
        """The entry with another status; a deleted one carries the snapshot that deleted it."""
        deleted = status == ManifestEntryStatus.DELETED
        sequence = entry.sequence_number if entry.sequence_number is not None else self._sequence_number
        # Only an entry of this very snapshot lacks it.
        file_sequence = entry.file_sequence_number if entry.file_sequence_number is not None else self._sequence_number
        return ManifestEntry.from_args(
            status=status,
            snapshot_id=self._snapshot_id if deleted else entry.snapshot_id,
            sequence_number=sequence,
            file_sequence_number=file_sequence,
            data_file=entry.data_file,
        )


def _live_files(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)
