"""One database of the embedded catalog in place of another: whole at every moment, the old one kept aside."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from catchment.durable import make_durable, replace_durably
from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import CATALOG_NAME
from catchment.lakehouse.recovery.backup import Name
from catchment.lakehouse.storage import writing
from catchment.progress import Progress

PATIENCE_SECONDS = 5.0
"""For other processes to close the catalog that is replaced."""

EPOCHS_LEFT_OUT = 1_000
"""When the replaced catalog cannot say which epochs there were: so many commits of old holders stay refused."""

Locations = Mapping[Name, str | None]
Progresses = Mapping[tuple[str, str], Progress]


def put_in_place(staged: Path, catalog: Path, locations: Locations, progress: Progresses) -> Path | None:
    """Make `staged`, with these metadata files and this progress, the catalog; where the old one is kept.

    locations: None takes a table out. A crash leaves the old catalog or the new one. Raises `SinkUnavailable`
    while another process has the old one open, or when the disk refuses.
    """
    with writing(f"The catalog {catalog}"):
        catalog.parent.mkdir(parents=True, exist_ok=True)
        aside = _set_aside(catalog)
        fresh = catalog.with_name(f"{catalog.name}.restoring")
        shutil.copyfile(staged, fresh)
        _point(fresh, locations, progress, _epochs(aside))
        replace_durably(fresh, catalog)
    return aside


def _epochs(aside: Path | None) -> dict[str, int] | None:
    """Pipeline → epoch in the catalog that is replaced; None when it is not there or damaged."""
    if aside is None or aside.with_name(f"{aside.name}-wal").exists():
        return None
    try:
        with closing(sqlite3.connect(aside, timeout=PATIENCE_SECONDS)) as connection:
            return dict(connection.execute("SELECT pipeline, epoch FROM ops_lease").fetchall())
    except sqlite3.Error:
        return None


def _point(
    database: Path,
    locations: Mapping[Name, str | None],
    progress: Mapping[tuple[str, str], Progress],
    epochs: Mapping[str, int] | None,
) -> None:
    """Make a catalog's database point to these metadata files, with this progress and an epoch of its own."""
    now = time.time()
    with closing(sqlite3.connect(database)) as connection, connection:
        known = {
            (layer, table): location
            for layer, table, location in connection.execute(
                "SELECT table_namespace, table_name, metadata_location FROM iceberg_tables WHERE catalog_name = ?",
                (CATALOG_NAME,),
            )
        }
        for name, location in locations.items():
            if location is None:
                connection.execute(
                    "DELETE FROM iceberg_tables WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?",
                    (CATALOG_NAME, *name),
                )
            elif name not in known:
                _add(connection, name, location)
            elif location != known[name]:
                connection.execute(
                    "UPDATE iceberg_tables SET previous_metadata_location = metadata_location, metadata_location = ?"
                    " WHERE catalog_name = ? AND table_namespace = ? AND table_name = ?",
                    (location, CATALOG_NAME, *name),
                )
        for (pipeline, sink), one in progress.items():
            connection.execute(
                "INSERT INTO ops_progress (pipeline, sink, progress, epoch, updated_at) VALUES (?, ?, ?, 0, ?)"
                " ON CONFLICT (pipeline, sink) DO UPDATE SET progress = excluded.progress",
                (pipeline, sink, one.to_json(), now),
            )
        _outlive(connection, epochs)


def _add(connection: sqlite3.Connection, name: Name, location: str | None) -> None:
    """A table that was made after the backup."""
    columns = {row[1] for row in connection.execute("PRAGMA table_info(iceberg_tables)")}
    typed = ", iceberg_type" if "iceberg_type" in columns else ""
    connection.execute(
        "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location,"
        f" previous_metadata_location{typed}) VALUES (?, ?, ?, ?, NULL{', ?' if typed else ''})",
        (CATALOG_NAME, *name, location, *(("TABLE",) if typed else ())),
    )
    connection.execute(
        "INSERT OR IGNORE INTO iceberg_namespace_properties VALUES (?, ?, 'exists', 'true')", (CATALOG_NAME, name[0])
    )


def _outlive(connection: sqlite3.Connection, epochs: Mapping[str, int] | None) -> None:
    """No commit of a process from before the restore may succeed: its epoch must not come again."""
    for pipeline, epoch in connection.execute("SELECT pipeline, epoch FROM ops_lease").fetchall():
        next_one = max(epoch, epochs.get(pipeline, 0)) + 1 if epochs is not None else epoch + EPOCHS_LEFT_OUT
        connection.execute("UPDATE ops_lease SET epoch = ? WHERE pipeline = ?", (next_one, pipeline))


def _set_aside(catalog: Path) -> Path | None:
    """Keep the catalog that is replaced, with what is only in its log. It stays in place until the new one is."""
    aside = catalog.with_name(f"{catalog.name}.replaced-{_now()}")
    logs = [catalog.with_name(catalog.name + ending) for ending in ("-wal", "-shm")]
    copies = [aside.with_name(aside.name + ending) for ending in ("-wal", "-shm")]
    # Before SQLite opens it: a damaged one it might mend in its own way.
    for file, copy in zip((catalog, *logs), (aside, *copies), strict=True):
        if file.exists():
            shutil.copyfile(file, copy)
            make_durable(copy)
    if not catalog.exists():
        _remove(logs)
        return None
    if _fold_log_in(catalog):
        shutil.copyfile(catalog, aside)
        make_durable(aside)
        _remove(copies)
    else:
        _remove(logs)
    return aside


def _fold_log_in(catalog: Path) -> bool:
    """Leave the database without a log, which would be taken for the new catalog's; False when it is damaged."""
    try:
        with closing(sqlite3.connect(catalog, timeout=PATIENCE_SECONDS)) as connection:
            # The mode alone could be set without looking into the file.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            folded = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0] == "delete"
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return False
        folded = False
    if not folded:
        raise SinkUnavailable(
            f"Another process has the catalog {catalog} open. Stop what reads the lake (serve, dashboards, queries), "
            "and repeat."
        )
    return True


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _now() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
