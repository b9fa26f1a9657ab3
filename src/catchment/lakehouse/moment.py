"""The lake at one moment: every table's schema and the data files of its snapshot.

Readers take all tables' snapshots first and the file lists after that, so that queries over several
tables see one state of the lake, however long they take.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catchment.errors import SinkUnavailable

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.io import FileIO
    from pyiceberg.manifest import ManifestFile
    from pyiceberg.schema import Schema
    from pyiceberg.table.metadata import TableMetadata

LAYERS = ("bronze", "silver", "gold")

_ATTEMPTS = 5
_MANIFESTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """One table at one snapshot.

    files: paths of the data files, oldest first. version: the metadata file this was read from; equal
    versions are equal tables. schemas: all schemas the table ever had; older files may have any of them.
    readable: False when rows are deleted by delete files, which a plain file list does not show.
    """

    layer: str
    name: str
    version: str
    snapshot: int | None
    schema: Schema
    schemas: tuple[Schema, ...]
    properties: Mapping[str, str]
    files: tuple[str, ...]
    readable: bool = True

    def __str__(self) -> str:
        return f"{self.layer}.{self.name}"


class LakeReader:
    """Reads moments of a lake; what it has read once (a manifest never changes) it does not read again.

    One thread at a time.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._tables: dict[tuple[str, str], TableSnapshot] = {}
        self._manifests: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def tables(self, layers: Iterable[str] = LAYERS) -> list[TableSnapshot]:
        """Every table of these layers as it is now, in the order of their names.

        A writer that expires old snapshots may take files away between two reads: it is then read again.
        """
        wanted = tuple(layers)
        for attempt in range(_ATTEMPTS):
            try:
                return self._read(wanted)
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

    def _read(self, layers: tuple[str, ...]) -> list[TableSnapshot]:
        found: dict[tuple[str, str], TableSnapshot] = {}
        for at, (version, metadata) in sorted(self._locations(layers).items()):
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

    def _load(self, at: tuple[str, str], version: str, metadata: TableMetadata | None) -> TableSnapshot:
        from pyiceberg.io import load_file_io
        from pyiceberg.serializers import FromInputFile

        io = load_file_io(self._catalog.properties, version)
        if metadata is None:
            metadata = FromInputFile.table_metadata(io.new_input(version))
        snapshot = metadata.current_snapshot()
        manifests = snapshot.manifests(io) if snapshot else []
        files, readable = self._files(manifests, io)
        layer, name = at
        return TableSnapshot(
            layer=layer,
            name=name,
            version=version,
            snapshot=snapshot.snapshot_id if snapshot else None,
            schema=metadata.schema(),
            schemas=tuple(metadata.schemas),
            properties=dict(metadata.properties),
            files=tuple(files),
            readable=readable,
        )

    def _files(self, manifests: list[ManifestFile], io: FileIO) -> tuple[list[str], bool]:
        from pyiceberg.manifest import ManifestContent

        files: list[str] = []
        readable = True
        for manifest in sorted(manifests, key=lambda one: one.sequence_number):
            if manifest.content == ManifestContent.DATA:
                files.extend(self._manifest_files(manifest, io))
            else:
                readable = False
        return files, readable

    def _manifest_files(self, manifest: ManifestFile, io: FileIO) -> tuple[str, ...]:
        path = manifest.manifest_path
        known = self._manifests.get(path)
        if known is None:
            entries = manifest.fetch_manifest_entry(io, discard_deleted=True)
            entries.sort(key=lambda entry: entry.sequence_number or 0)
            known = tuple(local_path(entry.data_file.file_path) for entry in entries)
            self._manifests[path] = known
            if len(self._manifests) > _MANIFESTS_KEPT:
                self._manifests.popitem(last=False)
        else:
            self._manifests.move_to_end(path)
        return known


def local_path(location: str) -> str:
    """A file's path where the location is local; any other location as it is."""
    # PyIceberg writes paths into locations as they are, without quoting: nothing is undone but the scheme.
    return location.removeprefix("file://").removeprefix("file:")


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
