"""What a table's files are, as plans see them; a manifest never changes, so each is read once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pyiceberg.manifest import DataFile, ManifestContent, ManifestEntry, ManifestFile

from catchment.lakehouse.catalog import local_path
from catchment.lakehouse.maintenance.plan import DeleteFileState, FileState
from catchment.lakehouse.manifests import Manifests
from catchment.lakehouse.position_delete import Positions, read_position_deletes
from catchment.lakehouse.table import LakeTable

COMMITTED_AT = "_committed_at"


@dataclass(frozen=True, slots=True)
class Age:
    """How old a data file's rows are. last: the newest commit time, microseconds; None when no row has one.

    undated: rows without a commit time (snapshot rows) are among them.
    """

    last: int | None
    undated: bool


@dataclass(frozen=True)
class TableFiles:
    """The files of one snapshot.

    ages: of the data files, by location. named: delete file → the data files whose rows it names.
    """

    manifests: Manifests
    data: tuple[FileState, ...]
    deletes: tuple[DeleteFileState, ...]
    ages: Mapping[str, Age]
    named: Mapping[str, frozenset[str]]

    def idle(self, leaving: Collection[str]) -> list[str]:
        """Delete files that name no row any more once these data files have left."""
        there = {one.location for one in self.data}.difference(leaving)
        return [path for path, named in self.named.items() if there.isdisjoint(named)]

    @property
    def rows(self) -> int:
        return sum(one.rows for one in self.data)

    @property
    def dead(self) -> int:
        return sum(one.dead for one in self.data)

    @property
    def size(self) -> int:
        return sum(one.size for one in self.data)


class FileLister:
    """Lists a table's files again and again; remembers what it has read of those that are still there."""

    def __init__(self) -> None:
        self._data: dict[str, tuple[tuple[FileState, Age], ...]] = {}
        self._deletes: dict[str, tuple[DeleteFileState, ...]] = {}
        self._named: dict[str, Mapping[str, int]] = {}

    def files(self, table: LakeTable, manifests: Manifests) -> TableFiles:
        """The files of a snapshot. May read: call it without the writer's lock."""
        ids = {field.name: field.field_id for field in table.metadata.schema().fields}
        data: dict[str, tuple[tuple[FileState, Age], ...]] = {}
        deletes: dict[str, tuple[DeleteFileState, ...]] = {}
        for one in manifests.files:
            path = one.manifest_path
            # Now, so that the commit need not read it while it holds the lock.
            manifests.named(one)
            if one.content == ManifestContent.DATA:
                data[path] = self._data.get(path) or _data(one, manifests.entries(one), ids)
            else:
                deletes[path] = self._deletes.get(path) or _deletes(manifests.entries(one))
        self._data, self._deletes = data, deletes
        named = [one for manifest in deletes.values() for one in manifest]
        dead = self._dead(table, named)
        listed = [pair for manifest in data.values() for pair in manifest]
        return TableFiles(
            manifests=manifests,
            data=tuple(replace(one, dead=dead[one.location]) if one.location in dead else one for one, _ in listed),
            deletes=tuple(named),
            ages={one.location: age for one, age in listed},
            named={path: frozenset(counts) for path, counts in self._named.items()},
        )

    def _dead(self, table: LakeTable, deletes: Sequence[DeleteFileState]) -> dict[str, int]:
        """Data file → how many of its rows are dead."""
        self._named = {one.location: self._named.get(one.location) or _counts(table, one.location) for one in deletes}
        dead: dict[str, int] = {}
        for counts in self._named.values():
            for location, count in counts.items():
                dead[location] = dead.get(location, 0) + count
        return dead


def read_deletes(table: LakeTable, location: str) -> dict[str, Positions]:
    """A delete file's content: data file → positions of its dead rows, ascending."""
    path = local_path(location)
    source = str(path) if path is not None else table.table.io.new_input(location).open()
    return read_position_deletes(source)


def _counts(table: LakeTable, location: str) -> Mapping[str, int]:
    return {path: len(positions) for path, positions in read_deletes(table, location).items()}


def _data(
    manifest: ManifestFile, entries: Sequence[ManifestEntry], ids: Mapping[str, int]
) -> tuple[tuple[FileState, Age], ...]:
    return tuple(
        (
            FileState(
                entry.data_file.file_path,
                entry.data_file.file_size_in_bytes,
                entry.data_file.record_count,
                age=entry.sequence_number if entry.sequence_number is not None else manifest.sequence_number,
            ),
            _age(entry.data_file, ids.get(COMMITTED_AT)),
        )
        for entry in entries
    )


def _deletes(entries: Sequence[ManifestEntry]) -> tuple[DeleteFileState, ...]:
    return tuple(
        DeleteFileState(one.data_file.file_path, one.data_file.file_size_in_bytes, one.data_file.record_count)
        for one in entries
    )


def _age(file: DataFile, committed_at: int | None) -> Age:
    upper = _upper(file, committed_at)
    nulls = (file.null_value_counts or {}).get(committed_at, 0) if committed_at is not None else 0
    last = int.from_bytes(upper, "little", signed=True) if upper is not None else None
    return Age(last, undated=last is None or nulls > 0)


def _upper(file: DataFile, field_id: int | None) -> bytes | None:
    return (file.upper_bounds or {}).get(field_id) if field_id is not None else None
