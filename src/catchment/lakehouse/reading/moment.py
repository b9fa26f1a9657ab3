"""The lake at one moment: every table's schema and the data files of its snapshot.

Readers take all tables' snapshots first and the file lists after that, so that queries over several
tables see one state of the lake, however long they take.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from catchment.errors import SinkUnavailable
from catchment.lakehouse.reading.dead_rows import DeadRows, LakeFile
from catchment.lakehouse.reading.dead_rows import local_path as local_path

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestEntry, ManifestFile
    from pyiceberg.schema import Schema
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

    from catchment.lakehouse.position_delete import Positions

LAYERS = ("bronze", "silver", "gold")

T = TypeVar("T")

_ATTEMPTS = 5
_MANIFESTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """One table at one snapshot.

    files: paths of the data files, oldest first. dead: of files with deleted rows, a bit for each row (see
    `DeadRows`). version: the metadata file this was read from; equal versions are equal tables. schemas: all
    schemas the table ever had; older files may have any of them. log: which snapshot was the table's when, as
    (milliseconds since 1970, snapshot), as far back as snapshots are kept. landed: when each file was there at the
    latest, in such milliseconds. unreadable: why this cannot be shown.
    """

    layer: str
    name: str
    version: str
    snapshot: int | None
    schema: Schema
    schemas: tuple[Schema, ...]
    properties: Mapping[str, str]
    files: tuple[str, ...]
    dead: Mapping[str, bytes] = field(default_factory=dict)
    log: tuple[tuple[int, int], ...] = ()
    landed: tuple[int, ...] = ()
    unreadable: str | None = None

    def __str__(self) -> str:
        return f"{self.layer}.{self.name}"


class LakeReader:
    """Reads moments of a lake; what it has read once (manifests and delete files never change) it keeps.

    One thread at a time.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tables: dict[tuple[str, str], TableSnapshot] = {}
        self._dead: dict[tuple[str, str], DeadRows] = {}
        self._manifests: OrderedDict[str, tuple[_Entry, ...]] = OrderedDict()

    def tables(
        self, layers: Iterable[str] = LAYERS, only: Container[tuple[str, str]] | None = None
    ) -> list[TableSnapshot]:
        """Every table of these layers as it is now, in the order of their names.

        only: no others than these (layer, table). A writer that expires old snapshots may take files away
        between two reads: it is then read again.
        """
        wanted = tuple(layers)
        return self._patiently(lambda: self._read(wanted, only))

    def past(self, table: TableSnapshot, snapshot: int) -> TableSnapshot:
        """The table as it was at one of the snapshots in its `log`."""
        at = (table.layer, table.name)
        return self._patiently(lambda: self._load(at, table.version, None, snapshot))

    def _patiently(self, read: Callable[[], T]) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                return read()
            except FileNotFoundError as gone:
                if attempt + 1 == _ATTEMPTS:
                    raise SinkUnavailable(
                        "The lake's metadata names a file that does not exist; if it stays so, the warehouse "
                        f"was moved or damaged: {gone}"
                    ) from gone
                time.sleep(0.05 * (attempt + 1))
        raise AssertionError

    def versions(self, layers: Iterable[str] = LAYERS) -> dict[tuple[str, str], str]:
        """(layer, table) → metadata file, without reading any: equal answers mean that nothing changed."""
        return {at: version for at, (version, _) in self._locations(tuple(layers)).items()}

    def _read(self, layers: tuple[str, ...], only: Container[tuple[str, str]] | None) -> list[TableSnapshot]:
        found: dict[tuple[str, str], TableSnapshot] = {}
        for at, (version, metadata) in sorted(self._locations(layers).items()):
            if only is not None and at not in only:
                continue
            known = self._tables.get(at)
            if known is None or known.version != version:
                known = self._load(at, version, metadata)
            found[at] = known
        self._tables.update(found)
        return list(found.values())

    def _locations(self, layers: tuple[str, ...]) -> dict[tuple[str, str], tuple[str, TableMetadata | None]]:
        from pyiceberg.catalog.sql import SqlCatalog

        if isinstance(self._catalog, SqlCatalog):
            return _sql_locations(self._catalog, layers)
        return _locations(self._catalog, layers)

    def _load(
        self, at: tuple[str, str], version: str, metadata: TableMetadata | None, snapshot_id: int | None = None
    ) -> TableSnapshot:
        from pyiceberg.io import load_file_io
        from pyiceberg.serializers import FromInputFile

        io = load_file_io(self._catalog.properties, version)
        if metadata is None:
            metadata = FromInputFile.table_metadata(io.new_input(version))
        snapshot = metadata.current_snapshot() if snapshot_id is None else metadata.snapshot_by_id(snapshot_id)
        entries = self._entries(snapshot, io)
        unreadable = _unreadable(entries)
        files = {one.file.path: one.file for one in entries if one.content == _DATA}
        landed = {one.snapshot_id: one.timestamp_ms for one in metadata.snapshots}
        oldest = min(landed.values(), default=metadata.last_updated_ms)
        layer, name = at
        return TableSnapshot(
            layer=layer,
            name=name,
            version=version,
            snapshot=snapshot.snapshot_id if snapshot else None,
            schema=metadata.schema() if snapshot_id is None else _schema_at(metadata, snapshot),
            schemas=tuple(metadata.schemas),
            properties=dict(metadata.properties),
            files=tuple(files),
            dead={} if unreadable else self._dead_rows(at, files, entries, io, keep=snapshot_id is None),
            log=tuple((one.timestamp_ms, one.snapshot_id) for one in metadata.snapshot_log),
            landed=tuple(landed.get(one.snapshot or 0, oldest) for one in files.values()),
            unreadable=unreadable,
        )

    def _entries(self, snapshot: Snapshot | None, io: FileIO) -> list[_Entry]:
        manifests = snapshot.manifests(io) if snapshot else []
        ordered = sorted(manifests, key=lambda one: one.sequence_number)
        return [entry for manifest in ordered for entry in self._manifest_entries(manifest, io)]

    def _manifest_entries(self, manifest: ManifestFile, io: FileIO) -> tuple[_Entry, ...]:
        path = manifest.manifest_path
        known = self._manifests.get(path)
        if known is None:
            entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
            entries.sort(key=lambda entry: entry.sequence_number or 0)
            known = tuple(map(_entry, entries))
            self._manifests[path] = known
            if len(self._manifests) > _MANIFESTS_KEPT:
                self._manifests.popitem(last=False)
        else:
            self._manifests.move_to_end(path)
        return known

    def _dead_rows(
        self, at: tuple[str, str], files: Mapping[str, LakeFile], entries: Sequence[_Entry], io: FileIO, *, keep: bool
    ) -> Mapping[str, bytes]:
        """keep: for the next moment; a look into the past leaves what is known as it is."""
        deletes = [one.file for one in entries if one.content == _POSITION_DELETES]
        if not deletes or any(not path.startswith("/") for path in files):
            # Files that are not on this machine are not shown.
            return {}
        known = self._dead.get(at) if keep else None
        if known is None:
            known = DeadRows()
            if keep:
                self._dead[at] = known
        return known.at(files, deletes, lambda path: _positions(io, path))


_DATA, _POSITION_DELETES = 0, 1


@dataclass(frozen=True, slots=True)
class _Entry:
    """A live entry of a manifest. content and format: Iceberg's names for them."""

    content: int
    format: str
    file: LakeFile


def _entry(entry: ManifestEntry) -> _Entry:
    file = entry.data_file
    return _Entry(
        content=int(file.content),
        format=str(getattr(file.file_format, "value", file.file_format)).upper(),
        file=LakeFile(local_path(file.file_path), file.record_count, entry.sequence_number or 0, entry.snapshot_id),
    )


def _unreadable(entries: Iterable[_Entry]) -> str | None:
    for one in entries:
        if one.content not in (_DATA, _POSITION_DELETES):
            return (
                "has equality deletes, which these views do not read; let its writer compact it, or read it with Spark"
            )
        if one.format != "PARQUET":
            return f"has files in the format {one.format}, which these views do not read; read it with Spark"
    return None


def _schema_at(metadata: TableMetadata, snapshot: Snapshot | None) -> Schema:
    found = snapshot.schema_id if snapshot is not None else None
    return next((one for one in metadata.schemas if one.schema_id == found), metadata.schema())


def _positions(io: FileIO, path: str) -> dict[str, Positions]:
    import pyarrow as pa

    from catchment.lakehouse.position_delete import read_position_deletes

    if path.startswith("/"):
        with pa.OSFile(path) as file:
            return read_position_deletes(file)
    with io.new_input(path).open() as stream:
        return read_position_deletes(pa.PythonFile(stream, mode="r"))


def _sql_locations(
    catalog: Catalog, layers: tuple[str, ...]
) -> dict[tuple[str, str], tuple[str, TableMetadata | None]]:
    # One SELECT sees one state of the whole catalog, since all tables of a flush move in one transaction.
    from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
    from sqlalchemy import select

    assert isinstance(catalog, SqlCatalog)  # noqa: S101 - tells the type checker
    query = select(IcebergTables.table_namespace, IcebergTables.table_name, IcebergTables.metadata_location).where(
        IcebergTables.catalog_name == catalog.name, IcebergTables.table_namespace.in_(layers)
    )
    with catalog.engine.connect() as connection:
        rows = connection.execute(query).all()
    return {(layer, name): (location, None) for layer, name, location in rows if location}


def _locations(catalog: Catalog, layers: tuple[str, ...]) -> dict[tuple[str, str], tuple[str, TableMetadata | None]]:
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

    found: dict[tuple[str, str], tuple[str, TableMetadata | None]] = {}
    for layer in layers:
        try:
            identifiers = catalog.list_tables(layer)
        except NoSuchNamespaceError:
            continue
        for at in identifiers:
            try:
                table = catalog.load_table(at)
            except NoSuchTableError:
                continue
            found[(layer, at[-1])] = (table.metadata_location, table.metadata)
    return found
