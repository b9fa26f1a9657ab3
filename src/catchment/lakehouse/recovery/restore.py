"""Putting a backup of the embedded catalog in place of what is there, and saying what that means.

A backup points to metadata files. A pipeline that ran on has moved its tables to newer ones, and deleted the old
ones after a while. So there are three cases, and nothing is done before it is clear which one it is:

* nothing moved since the backup: the catalog is put in place as it is;
* tables moved on, and what the backup points to is still whole: *as it was* sets the lake back. What was captured
  since is not in it any more, and the source does not send it again;
* *newest*: the tables as the warehouse's newest whole files have them, and the progress that they amount to.

The progress that is put in place is never ahead of the tables.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from catchment.errors import ConfigError, SinkRefused
from catchment.lakehouse.catalog import catalog_properties, local_path
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.lease import held
from catchment.lakehouse.properties import PIPELINE
from catchment.lakehouse.recovery.backup import Manifest, Name, catalog_file, opened, table_locations
from catchment.lakehouse.recovery.catalog_swap import put_in_place
from catchment.lakehouse.recovery.warehouse import TableState, Warehouse
from catchment.progress import Progress

CAPTURED = "bronze"
VERSIONS, QUARANTINE = "_versions", "_quarantine"


class Mode(StrEnum):
    """Which state of the tables is put in place."""

    EXACT = "exact"
    AS_IT_WAS = "as it was"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class TableOutlook:
    """One table: where the backup points, the first file that is gone there, and the newest whole state.

    gap: a file that an even newer state, or the one that the backup knew, would need.
    """

    name: Name
    backed_up: str | None
    missing: str | None
    newest: TableState | None
    gap: str | None

    @property
    def whole(self) -> bool:
        """Is the newest state what the table was last?"""
        return self.newest is not None and self.gap is None

    @property
    def moved_on(self) -> bool:
        """Does the warehouse have a newer state than the backup?"""
        return self.newest is not None and self.newest.location != self.backed_up

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "table": ".".join(self.name),
            "backed_up": self.backed_up,
            "missing": self.missing,
            "newest": self.newest.location if self.newest is not None else None,
            "gap": self.gap,
            "moved_on": self.moved_on,
        }


class Restore:
    """A restore that is looked at first (`outlook`), and then carried out in one of its modes. See `restoring`."""

    def __init__(self, manifest: Manifest, staged: Path, catalog: Path, warehouse: Path | None) -> None:
        self.manifest = manifest
        self._staged = staged
        self._catalog = catalog
        self._files = Warehouse(warehouse) if warehouse is not None else None
        self.outlook = self._look()

    @property
    def usual_mode(self) -> Mode | None:
        """The mode that needs no decision; None when there is one to take."""
        settled = all(one.missing is None and not one.moved_on for one in self.outlook)
        return Mode.EXACT if settled else None

    def refusal(self, mode: Mode | None) -> str | None:
        """Why the catalog cannot be put in place in this mode; None when it can."""
        if mode is None:
            return self._undecided()
        if mode is Mode.NEWEST:
            return self._no_newest()
        gone = [one for one in self.outlook if one.missing is not None]
        if not gone:
            return None
        named = ", ".join(f"{'.'.join(one.name)} ({one.missing})" for one in gone[:5])
        return (
            f"What the backup points to is not whole any more: {_count(gone)} miss files, {named}. Snapshots expire "
            "while a pipeline runs. Take `--newest`: the tables as the warehouse has them."
        )

    def progress(self, mode: Mode) -> dict[tuple[str, str], Progress]:
        """(pipeline, sink) → how far its tables are, in this mode."""
        kept = _progress_of(self._staged)
        if mode is not Mode.NEWEST:
            return kept
        # Tables and progress only ever move together and forwards. So the tables, each as it was last, hold all
        # that the backup's progress says and all that any table's own marker says, and no change beyond.
        for one in self.outlook:
            state = one.newest
            marker = state.marker if state is not None else None
            if state is None or marker is None or one.name[0] != CAPTURED:
                continue
            pipeline = state.metadata.properties.get(PIPELINE, self.manifest.pipeline)
            sinks = [key for key in kept if key[0] == pipeline] or [(pipeline, "iceberg")]
            for key in sinks:
                kept[key] = kept.get(key, Progress()).join(marker)
        return kept

    def carry_out(self, mode: Mode, progress: Mapping[tuple[str, str], Progress]) -> Path | None:
        """Put the catalog in place with this progress; where the replaced one is kept, if there was one.

        A crash leaves the old catalog or the new one. Raises `SinkRefused` when `refusal` has a reason.
        """
        reason = self.refusal(mode)
        if reason is not None:
            raise SinkRefused(reason)
        left_out = set(self.left_out(mode))
        locations = {
            one.name: None
            if one.name in left_out
            else one.newest.location
            if mode is Mode.NEWEST and one.newest is not None
            else one.backed_up
            for one in self.outlook
        }
        return put_in_place(self._staged, self._catalog, locations, progress)

    def _look(self) -> list[TableOutlook]:
        backed_up = table_locations(self._staged)
        if self._files is None:
            return [TableOutlook(name, location, None, None, None) for name, location in backed_up.items()]
        folders = {**self._files.folders(), **_folders_of(backed_up)}
        newest = self._files.newest(folders)
        found = []
        there = {name for name, one in newest.items() if one.state is not None or one.gap is not None}
        for name in sorted({*backed_up, *there}):
            location, state, gap = backed_up.get(name), newest[name].state, newest[name].gap
            if location is not None and state is not None and _version(state.location) < _version(location):
                gap = gap or location
            found.append(TableOutlook(name, location, self._missing(name, location), state, gap))
        return found

    def _missing(self, name: Name, location: str | None) -> str | None:
        if location is None or self._files is None:
            return None
        state = self._files.read(name, location)
        return location if state is None else self._files.missing(state)

    def _undecided(self) -> str | None:
        if self.usual_mode is not None:
            return None
        moved = [one for one in self.outlook if one.moved_on or one.missing is not None]
        possible = self.refusal(Mode.AS_IT_WAS) is None
        named = ", ".join(".".join(one.name) for one in moved[:8])
        text = (
            f"The lake moved on after the backup was made ({_count(moved)}: {named}). Nothing was changed. Choose: "
            "`--newest` takes the tables as the warehouse has them now, and loses nothing"
        )
        return text + (
            "; `--as-it-was` sets them back: what was captured since is then not in the lake, and the source does not "
            "send it again."
            if possible
            else ". The state of the backup itself is gone: its snapshots have expired."
        )

    def _no_newest(self) -> str | None:
        if self._files is None:
            return "The warehouse is not on this machine: the newest state of its tables cannot be looked for."
        lost = [one for one in self.outlook if not one.whole and _irreplaceable(one)]
        if not lost:
            return None
        named = ", ".join(f"{'.'.join(one.name)} (misses {one.gap or 'all'})" for one in lost[:5])
        return (
            f"The last state of {_count(lost)} is not whole: {named}. With the progress of the others, changes would "
            "be missing without a word. Bring the files back. If it is known that a power cut broke that commit off, "
            "remove its metadata file. Or begin a new lake."
        )

    def left_out(self, mode: Mode) -> list[Name]:
        """Tables that are made anew from others, and are not put in place because they are not whole."""
        if mode is not Mode.NEWEST:
            return []
        broken = {one.name for one in self.outlook if not one.whole}
        # The two move together: a row is in one of them.
        halves = {_other_half(name) for name in broken if name[0] == "silver"}
        return sorted(one.name for one in self.outlook if one.name in broken | halves)


@contextmanager
def restoring(lakehouse: LakehouseConfig, directory: Path, pipeline: str, file: Path) -> Iterator[Restore]:
    """A restore from this backup, while no process can run any pipeline of the lake.

    Raises ConfigError for a file that is no whole backup, `LeaseHeld` while a pipeline of it runs.
    """
    catalog = catalog_file(lakehouse, directory)
    warehouse = local_path(catalog_properties(lakehouse.catalog, directory).get("warehouse"))
    with opened(file) as (manifest, staged), ExitStack() as stack:
        for one in sorted({pipeline, *_pipelines(staged)}):
            stack.enter_context(held(one, directory))
        if pipeline not in (manifest.pipeline, *_pipelines(staged)):
            raise ConfigError(
                f"{file} is a backup of the lake of pipeline {manifest.pipeline}; {pipeline} has nothing in it. "
                "Choose another backup."
            )
        yield Restore(manifest, staged, catalog, warehouse)


def _irreplaceable(one: TableOutlook) -> bool:
    """Can this table not be made again from others? Bronze is the truth; history may reach back further."""
    return one.name[0] == CAPTURED or (one.name[0] == "silver" and one.name[1].endswith(VERSIONS))


def _other_half(name: Name) -> Name:
    layer, table = name
    return layer, table.removesuffix(QUARANTINE) if table.endswith(QUARANTINE) else table + QUARANTINE


def _version(location: str) -> int:
    """How many commits led to a metadata file, by its name."""
    number = location.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdigit() else 0


def _folders_of(locations: Mapping[Name, str]) -> dict[Name, Path]:
    folders = {name: local_path(location.rpartition("/")[0]) for name, location in locations.items()}
    return {name: folder for name, folder in folders.items() if folder is not None}


def _pipelines(database: Path) -> list[str]:
    return [row[0] for row in _rows(database, "SELECT DISTINCT pipeline FROM ops_lease")]


def _progress_of(database: Path) -> dict[tuple[str, str], Progress]:
    rows = _rows(database, "SELECT pipeline, sink, progress FROM ops_progress")
    return {(pipeline, sink): Progress.from_json(text) for pipeline, sink, text in rows}


def _rows(database: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a query of the operations data gives; nothing where no run has made its table."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return []


def _count(tables: list[TableOutlook]) -> str:
    return f"{len(tables)} table{'s' if len(tables) != 1 else ''}"


def positions_json(progress: Mapping[tuple[str, str], Progress]) -> list[dict[str, Any]]:
    """For JSON: how far each pipeline's sinks are."""
    return [
        {"pipeline": pipeline, "sink": sink, **json.loads(one.to_json())} for (pipeline, sink), one in progress.items()
    ]
