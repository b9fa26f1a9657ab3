"""The snapshots of a lake's tables that are still kept, and how one of them is named by a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from catchment.errors import ConfigError
from catchment.lakehouse.catalog import catalog_errors
from catchment.lakehouse.properties import PINNED, TABLE, marker_of
from catchment.progress import Progress

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table.metadata import TableMetadata
    from pyiceberg.table.snapshots import Snapshot

LAYERS = ("bronze", "silver", "gold")

Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """One snapshot. rows: those that a reader sees. positions: lane → how far the table had come, in hex."""

    id: int
    at: datetime
    operation: str
    rows: int | None
    files: int | None
    delete_files: int
    added_rows: int
    deleted_rows: int
    positions: dict[str, str]
    current: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "at"} | {"at": iso(self.at)}


@dataclass(frozen=True, slots=True)
class SnapshotsOfTable:
    """A table's kept snapshots, oldest first. pinned: set back by a rollback, and not merged since."""

    table: str
    source: str | None
    pinned: bool
    snapshots: tuple[KeptSnapshot, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "table": self.table,
            "source": self.source,
            "pinned": self.pinned,
            "snapshots": [one.to_dict() for one in self.snapshots],
        }


def kept_snapshots(catalog: Catalog, table: str | None = None) -> list[SnapshotsOfTable]:
    """Of every table, or of those that `table` names (`find`). Reads metadata only.

    Raises ConfigError when there is no such table, `SinkUnavailable` when the catalog cannot be read.
    """
    with catalog_errors("The tables could not be read"):
        names = list_tables(catalog, LAYERS)
        loaded = {name: catalog.load_table(name).metadata for name in names}
    found = list(loaded) if table is None else find({name: one.properties for name, one in loaded.items()}, table)
    return [_of(name, loaded[name]) for name in found]


def list_tables(catalog: Catalog, layers: Iterable[str]) -> list[Name]:
    """The tables of these namespaces that there are, by name."""
    from pyiceberg.exceptions import NoSuchNamespaceError

    names: list[Name] = []
    for layer in layers:
        try:
            names += [(layer, one[-1]) for one in catalog.list_tables(layer)]
        except NoSuchNamespaceError:
            continue
    return sorted(names)


def find(tables: dict[Name, dict[str, str]], wanted: str) -> list[Name]:
    """The tables that a person means: `silver.orders`, `orders`, or the source's name `public.orders`.

    tables: name → properties. A name without its layer means the table in every layer. Raises ConfigError.
    """
    exact = [name for name in tables if ".".join(name) == wanted]
    if exact:
        return exact
    meant = [name for name, one in tables.items() if wanted in (name[1], one.get(TABLE))]
    if not meant:
        known = ", ".join(sorted(".".join(name) for name in tables)) or "none yet"
        raise ConfigError(f"There is no table {wanted} in the lake. Its tables: {known}.")
    return meant


def by_id(snapshots: Sequence[Snapshot], wanted: int, table: str) -> Snapshot:
    """The kept snapshot of this id. Raises ConfigError."""
    found = next((one for one in snapshots if one.snapshot_id == wanted), None)
    if found is None:
        raise ConfigError(f"{table} has no snapshot {wanted} any more, or never had. {see(table)}")
    return found


def by_time(snapshots: Sequence[Snapshot], wanted: datetime, table: str) -> Snapshot:
    """The last kept snapshot that was committed at this time or before. Raises ConfigError."""
    ordered = sorted(snapshots, key=lambda one: one.sequence_number or 0)
    found = [one for one in ordered if moment(one.timestamp_ms) <= wanted]
    if not found:
        oldest = f"the oldest is of {iso(moment(ordered[0].timestamp_ms))}" if ordered else "there is none"
        raise ConfigError(f"No snapshot of {table} from {iso(wanted)} or before is kept: {oldest}. {see(table)}")
    return found[-1]


def see(table: str) -> str:
    """Where the snapshots are listed."""
    return f"`catchment snapshots PIPELINE {table}` lists them."


def moment(milliseconds: int) -> datetime:
    """Iceberg's time of a commit."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def iso(at: datetime) -> str:
    """`2026-11-20T10:00:00.123Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def positions(snapshot: Snapshot) -> Progress | None:
    """How far the table had come, where the writer said so."""
    return marker_of(snapshot.summary) if snapshot.summary is not None else None


def _of(name: Name, metadata: TableMetadata) -> SnapshotsOfTable:
    ordered = sorted(metadata.snapshots, key=lambda one: one.sequence_number or 0)
    return SnapshotsOfTable(
        ".".join(name),
        metadata.properties.get(TABLE),
        bool(metadata.properties.get(PINNED)),
        tuple(_kept(one, one.snapshot_id == metadata.current_snapshot_id) for one in ordered),
    )


def _kept(snapshot: Snapshot, current: bool) -> KeptSnapshot:
    def count(name: str) -> int | None:
        text = snapshot.summary.get(name) if snapshot.summary is not None else None
        return int(text) if text is not None else None

    stored, progress = count("total-records"), positions(snapshot)
    return KeptSnapshot(
        id=snapshot.snapshot_id,
        at=moment(snapshot.timestamp_ms),
        operation=snapshot.summary.operation.value if snapshot.summary is not None else "",
        rows=stored - (count("total-position-deletes") or 0) if stored is not None else None,
        files=count("total-data-files"),
        delete_files=count("total-delete-files") or 0,
        added_rows=count("added-records") or 0,
        deleted_rows=(count("deleted-records") or 0) + (count("added-position-deletes") or 0),
        positions={lane: at.hex() for lane, at in progress.positions.items()} if progress is not None else {},
        current=current,
    )
