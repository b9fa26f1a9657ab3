"""Files in a table's folder that no kept snapshot names: what a killed process had written, and did not commit.

Looked for on this machine's disks. Only files of the kinds that a table has are ever deleted, only old ones, and
none that this process has begun and not yet committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyiceberg.io import FileIO
from pyiceberg.table.metadata import TableMetadata

from catchment.lakehouse.catalog import local_path

KINDS = {"data": (".parquet",), "metadata": (".avro", ".metadata.json")}
"""Folder → how the names of a table's files end there."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file that nothing names. size: bytes."""

    path: str
    size: int


def orphans(
    metadata: TableMetadata, location: str, io: FileIO, uncommitted: frozenset[str], before: float
) -> list[Orphan]:
    """Files last written before `before` (epoch seconds) that no kept snapshot names.

    metadata, location, uncommitted: the table's, its metadata file's, and the new files that no commit has yet, all
    of one moment: take them under the writer's lock. Reads every manifest of every kept snapshot.
    """
    folder = local_path(metadata.location)
    if folder is None:
        return []
    # Listed last: a file that is committed after the metadata was taken is younger than `before`.
    named = {_plain(one) for one in (*_named(metadata, location, io), *uncommitted)}
    return [one for one in _old_files(folder, before) if one.path not in named]


def _named(metadata: TableMetadata, location: str, io: FileIO) -> Iterator[str]:
    """Every file that the table's metadata names, in any way."""
    yield location
    yield from (entry.metadata_file for entry in metadata.metadata_log)
    yield from (one.statistics_path for one in (*metadata.statistics, *metadata.partition_statistics))
    seen: set[str] = set()
    for snapshot in metadata.snapshots:
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(io):
            if manifest.manifest_path not in seen:
                seen.add(manifest.manifest_path)
                yield manifest.manifest_path
                for entry in manifest.fetch_manifest_entry(io, discard_deleted=True):
                    yield entry.data_file.file_path


def _old_files(folder: Path, before: float) -> Iterator[Orphan]:
    for name, endings in KINDS.items():
        for directory, _, files in os.walk(folder / name):
            for file in files:
                path = Path(directory, file)
                if file.endswith(endings) and not path.is_symlink():
                    try:
                        stat = path.stat()
                    except FileNotFoundError:
                        continue  # The writer deletes files too.
                    if stat.st_mtime < before:
                        yield Orphan(str(path), stat.st_size)


def _plain(location: str) -> str:
    path = local_path(location)
    return str(path) if path is not None else location
