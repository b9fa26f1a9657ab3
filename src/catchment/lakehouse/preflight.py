"""Would landing work? The catalog is asked, and the warehouse tried, before anything runs."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from catchment.errors import CatchmentError
from catchment.finding import Finding, error, ok, warning
from catchment.lakehouse.catalog import catalog_errors, catalog_properties, load_catalog, local_path, sqlite_file
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.lease import holder

LITTLE_BYTES = 1_000_000_000


def check_lake(lakehouse: LakehouseConfig, directory: Path, pipeline: str) -> list[Finding]:
    """The catalog, the warehouse and the lease. Leaves nothing behind, not even an empty catalog."""
    return [
        *_check_catalog(lakehouse, directory),
        *_check_warehouse(lakehouse, directory),
        *_check_lease(pipeline, directory),
    ]


def _check_catalog(lakehouse: LakehouseConfig, directory: Path) -> Iterator[Finding]:
    subject = "catalog"
    file = sqlite_file(catalog_properties(lakehouse.catalog, directory).get("uri"))
    if file is not None and not file.exists():
        yield _abandoned(file, lakehouse, directory) or _writable(
            subject, file.parent, f"{file} does not exist yet and will be created."
        )
        return
    try:
        with catalog_errors("The catalog cannot be read"):
            namespaces = load_catalog(lakehouse.catalog, directory).list_namespaces()
    except CatchmentError as refused:
        yield error(subject, str(refused))
    else:
        yield ok(subject, f"The {lakehouse.catalog.type} catalog answers; it has {len(namespaces)} namespaces.")


def _abandoned(file: Path, lakehouse: LakehouseConfig, directory: Path) -> Finding | None:
    """A warehouse with tables and no catalog: a run would begin a new lake among them."""
    warehouse = local_path(catalog_properties(lakehouse.catalog, directory).get("warehouse"))
    if warehouse is None or not any(warehouse.glob("bronze/*/metadata/*.metadata.json")):
        return None
    return warning(
        "catalog",
        f"{file} is not there, and {warehouse} holds the tables of a lake. If it was lost, put it back before the next "
        "run: `catchment restore PIPELINE FILE --newest`. A run would begin a new lake and make the slot anew.",
    )


def _check_warehouse(lakehouse: LakehouseConfig, directory: Path) -> Iterator[Finding]:
    subject = "warehouse"
    location = catalog_properties(lakehouse.catalog, directory).get("warehouse")
    if location is None:
        yield ok(subject, "The catalog chooses where tables are.")
        return
    path = local_path(location)
    if path is None:
        yield _try_object(location, lakehouse, directory)
        return
    finding = _writable(subject, path, f"{path} can be written.")
    yield finding
    if finding.severity == "ok":
        free = shutil.disk_usage(_existing(path)).free
        if free < LITTLE_BYTES:
            yield warning(subject, f"Its disk has only {free / 1e6:,.0f} MB free.")


def _try_object(location: str, lakehouse: LakehouseConfig, directory: Path) -> Finding:
    """Write one object and delete it again: what may be written cannot be asked."""
    from pyiceberg.io import load_file_io

    probe = f"{location.rstrip('/')}/.catchment-probe-{uuid.uuid4().hex}"
    try:
        io = load_file_io(catalog_properties(lakehouse.catalog, directory), probe)
        with io.new_output(probe).create() as stream:
            stream.write(b"probe")
        io.delete(probe)
    except Exception as failed:  # noqa: BLE001 - every storage has errors of its own
        return error(
            "warehouse",
            f"{location} cannot be written ({type(failed).__name__}). Check "
            "`lakehouse.catalog.warehouse` and the credentials.",
        )
    return ok("warehouse", f"{location} can be written.")


def _check_lease(pipeline: str, directory: Path) -> Iterator[Finding]:
    running = holder(pipeline, directory)
    if running is not None:
        yield warning("lease", f"Process {running} runs this pipeline now; a second one would be refused.")


def _writable(subject: str, path: Path, said: str) -> Finding:
    there = _existing(path)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ok(subject, said)
    what = "is not a directory" if not there.is_dir() else "may not be written by this user"
    return error(subject, f"{there} {what}: {path} cannot be used. Change `lakehouse.catalog`, or its rights.")


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that exists."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())
