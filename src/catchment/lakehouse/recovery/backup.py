"""A copy of the embedded catalog in one file, made while a run writes, and read back only if it is whole.

The catalog's database has the pointers of all tables and the progress, which move together; SQLite's own backup
copies one state of it. Table files are not copied: they are in the warehouse, which needs a backup of its own.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from catchment.durable import replace_durably
from catchment.errors import ConfigError, SinkUnavailable
from catchment.lakehouse.catalog import BUSY_TIMEOUT_SECONDS, CATALOG_NAME, catalog_properties, is_sql, sqlite_file
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.storage import writing

FORMAT = 1
DATABASE, MANIFEST = "catalog.db", "manifest.json"

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself. tables: `layer.table` → its metadata file at that moment."""

    format: int
    catchment: str
    pipeline: str
    made_at: float
    bytes: int
    sha256: str
    tables: dict[str, str]


def catalog_file(lakehouse: LakehouseConfig, directory: Path) -> Path:
    """The database of the embedded catalog. Raises ConfigError for catalogs that are not a file of ours."""
    catalog = lakehouse.catalog
    file = sqlite_file(catalog_properties(catalog, directory).get("uri")) if is_sql(catalog) else None
    if file is None:
        raise ConfigError(
            f"`lakehouse.catalog` (type {catalog.type}) is not a SQLite file: backup and restore are for the embedded "
            "catalog. Back this one up with its own means."
        )
    return file


def back_up(lakehouse: LakehouseConfig, directory: Path, pipeline: str, target: Path) -> Manifest:
    """Copy the catalog as it is at one moment into `target`, which is there whole or not at all.

    Works while a run writes, and does not hold it up. Raises ConfigError when there is no catalog to copy, and
    `SinkUnavailable` when it cannot be read or the file cannot be written.
    """
    from catchment import __version__

    file = catalog_file(lakehouse, directory)
    if not file.exists():
        raise ConfigError(f"There is no catalog {file} yet: run the pipeline first.")
    with writing(f"The backup {target}"), TemporaryDirectory(dir=target.resolve().parent, prefix=".backup-") as at:
        copy = Path(at) / DATABASE
        _copy(file, copy)
        content = copy.read_bytes()
        manifest = Manifest(
            format=FORMAT,
            catchment=__version__,
            pipeline=pipeline,
            made_at=time.time(),
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            tables={".".join(name): location for name, location in table_locations(copy).items()},
        )
        packed = Path(at) / "packed"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MANIFEST, json.dumps(asdict(manifest), indent=2))
            archive.write(copy, DATABASE)
        replace_durably(packed, target)
    return manifest


@contextmanager
def opened(file: Path) -> Iterator[tuple[Manifest, Path]]:
    """A backup's manifest and its database, unpacked for as long. Raises ConfigError unless it is whole."""
    with TemporaryDirectory(prefix="catchment-restore-") as at:
        try:
            with zipfile.ZipFile(file) as archive:
                manifest = _manifest(file, json.loads(archive.read(MANIFEST)))
                content = archive.read(DATABASE)
        except FileNotFoundError:
            raise ConfigError(f"There is no file {file}. Give what `catchment backup` wrote.") from None
        except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, KeyError, ValueError, EOFError) as error:
            raise ConfigError(
                f"{file} is not a whole backup ({type(error).__name__}): it was cut off, damaged, or is something else."
            ) from error
        if len(content) != manifest.bytes or hashlib.sha256(content).hexdigest() != manifest.sha256:
            raise ConfigError(f"{file} is damaged: the catalog in it does not have the checksum of its manifest.")
        database = Path(at) / DATABASE
        database.write_bytes(content)
        yield manifest, database


def table_locations(database: Path) -> dict[Name, str]:
    """(layer, table) → metadata file, as a catalog's database has it."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables"
            " WHERE catalog_name = ? AND metadata_location IS NOT NULL ORDER BY 1, 2",
            (CATALOG_NAME,),
        ).fetchall()
    return {(layer, table): location for layer, table, location in rows}


def _copy(file: Path, copy: Path) -> None:
    """One state of the database, whoever writes meanwhile: all pages in one step, checked afterwards."""
    try:
        with (
            closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_SECONDS)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            # A file of its own, without a log beside it.
            target.execute("PRAGMA journal_mode = DELETE")
            found = target.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise SinkUnavailable(f"The catalog {file} cannot be copied: {error}.") from error
    if found != "ok":
        raise SinkUnavailable(f"The catalog {file} is damaged ({found}). `catchment restore` replaces it by a backup.")


def _manifest(file: Path, document: dict[str, Any]) -> Manifest:
    if document.get("format") != FORMAT:
        raise ConfigError(
            f"{file} has format {document.get('format')}, which this version does not read (it reads {FORMAT}). "
            f"It was made by Catchment {document.get('catchment')}."
        )
    return Manifest(**{name: document[name] for name in Manifest.__slots__})
