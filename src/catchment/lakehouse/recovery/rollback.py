"""Setting a silver table back to one of its snapshots, together with its quarantine.

The table gets a new snapshot with the files of the old one, so that history stays a line and can be read further.
It is pinned: merging leaves it alone, and gold goes on reading it, until it is resumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pyiceberg.manifest import DataFile, ManifestContent
from pyiceberg.table.snapshots import Operation, Snapshot

from catchment.errors import ConfigError, SinkRefused
from catchment.lakehouse.properties import BRONZE_SINCE, KIND, MARKER, PINNED, marker_of
from catchment.lakehouse.reading.time_travel import parse_moment
from catchment.lakehouse.recovery.snapshot_listing import (
    by_id,
    by_time,
    find,
    iso,
    moment,
    positions,
    see,
)
from catchment.lakehouse.recovery.tasks import Task
from catchment.lakehouse.silver.keyed_table import ROLLBACK
from catchment.lakehouse.silver.table import NEWEST_VERSIONS_PROPERTY, UNRESOLVED_PROPERTY
from catchment.lakehouse.table import Change, Draft, LakeTable
from catchment.lakehouse.writer import LakeWriter
from catchment.progress import Progress

SILVER, QUARANTINE = "silver", "_quarantine"
CLOCK_MICROSECONDS = 60_000_000

_REFUSED = {
    "bronze": "{table} stays as it is: bronze is what was captured, and what everything else is made from.",
    "gold": (
        "{table} stays as it is: the next refresh would make it again from what it reads. Name the silver tables that "
        "it reads; gold follows."
    ),
}


@dataclass(frozen=True, slots=True)
class Target:
    """The snapshot that a table is set back to, and what the table held then."""

    snapshot: Snapshot
    held: Progress


def roll_back(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    """The work of `catchment rollback`. Raises ConfigError and `SinkRefused` for what cannot be done."""
    with writer.lock:
        silver = silver_table(writer, task.arguments["table"])
        target = _target(silver, task.arguments)
        _check(writer, silver, target)
        quarantine = quarantine_at(writer, silver, target)
        drafts = [set_back(quarantine[0], quarantine[1], {})] if quarantine is not None else []
        pinned = json.dumps({"snapshot": target.snapshot.snapshot_id, "at": iso(moment(target.snapshot.timestamp_ms))})
        drafts.append(set_back(silver, target, {PINNED: pinned}))
        writer.commit(drafts)
        writer.retire(f"{silver.name} was set back by a command.")
    return {
        "table": silver.name,
        "snapshot": target.snapshot.snapshot_id,
        "at": iso(moment(target.snapshot.timestamp_ms)),
        "rows": _rows(target.snapshot),
        "quarantine": quarantine[0].name if quarantine is not None else None,
        "positions": {lane: at.hex() for lane, at in target.held.positions.items()},
    }


def silver_table(writer: LakeWriter, wanted: str) -> LakeTable:
    """The one silver table that is meant. Raises ConfigError for a name that means none, or another layer's."""
    tables = {one.table.name(): one for one in writer.tables(("bronze", SILVER))}
    properties = {(name[0], name[-1]): dict(one.metadata.properties) for name, one in tables.items()}
    layer = wanted.partition(".")[0]
    if layer == "gold" or (layer in _REFUSED and (layer, wanted.partition(".")[2]) in properties):
        raise ConfigError(_REFUSED[layer].format(table=wanted))
    found = [name for name in find(properties, wanted) if properties[name].get(KIND) == "silver"]
    if not found:
        names = [".".join(name) for name in properties if name[0] == SILVER and properties[name].get(KIND) == "silver"]
        raise ConfigError(
            f"{wanted} is no silver table with current rows. There are: {', '.join(sorted(names)) or 'none yet'}."
        )
    return tables[found[0]]


def set_back(table: LakeTable, target: Target | None, properties: Mapping[str, str]) -> Draft:
    """The commit that gives a table the files of an earlier snapshot, or none at all."""
    files, deletes = files_at(table, target.snapshot) if target is not None else ((), ())
    held = target.held if target is not None else Progress()
    number = str(target.snapshot.snapshot_id if target is not None else 0)
    newest = {NEWEST_VERSIONS_PROPERTY: newest_at(table, target.snapshot) if target is not None else "{}"}
    change = Change(
        files=files,
        deletes=deletes,
        replace=True,
        properties={**properties, **newest, MARKER: held.to_json()},
        summary={**newest, MARKER: held.brief().to_json(), ROLLBACK: number},
    )
    # The files are old ones: a commit that fails must not delete them as its own.
    return replace(table.draft(change), added=())


def reaches_back(bronze: LakeTable, silver: LakeTable, target: Target) -> bool:
    """Does bronze still have every change that came after this snapshot of silver?

    Retention takes away what was committed before a moment; what came after the snapshot was committed after the
    newest row in it, but for a minute in which the source's clock may have gone wrong.
    """
    since = bronze.metadata.properties.get(BRONZE_SINCE)
    if since is None:
        return True
    field = next((one for one in silver.metadata.schema().fields if one.name == "_committed_at"), None)
    bounds = [
        int.from_bytes(bound, "little", signed=True)
        for file in files_at(silver, target.snapshot)[0]
        if field is not None and (bound := (file.upper_bounds or {}).get(field.field_id)) is not None
    ]
    cut = datetime.fromisoformat(since).timestamp() * 1_000_000
    return bool(bounds) and max(bounds) - CLOCK_MICROSECONDS > cut


def held_at(table: LakeTable, snapshot: Snapshot) -> Progress | None:
    """What the table held at a snapshot; None where nobody has said so."""
    said = _last_said(table, snapshot)
    return positions(said) if said is not None else None


def newest_at(table: LakeTable, snapshot: Snapshot) -> str:
    """`NEWEST_VERSIONS_PROPERTY` as it was at a snapshot."""
    said = _last_said(table, snapshot)
    newest = said.summary.get(NEWEST_VERSIONS_PROPERTY) if said is not None and said.summary is not None else None
    return newest or "{}"


def _last_said(table: LakeTable, snapshot: Snapshot) -> Snapshot | None:
    """The snapshot that says what the table held: this one, or one before it that has the same rows.

    Compaction arranges rows anew, and a new holder of the lease (other catalogs than SQL) leaves an empty commit.
    """
    known = {one.snapshot_id: one for one in table.metadata.snapshots}
    at: Snapshot | None = snapshot
    while at is not None and positions(at) is None:
        if not _keeps_rows(at) or at.parent_snapshot_id is None:
            return None
        at = known.get(at.parent_snapshot_id)
    return at


def _keeps_rows(snapshot: Snapshot) -> bool:
    if snapshot.summary is None:
        return False
    said = snapshot.summary.additional_properties
    counts = ("added-data-files", "deleted-data-files", "added-delete-files", "removed-delete-files")
    return snapshot.summary.operation is Operation.REPLACE or not any(int(said.get(name) or 0) for name in counts)


def was_at_source(bronze: LakeTable, silver: LakeTable, target: Target) -> bool:
    """Is the snapshot a state that the source's table once had? Not while its first copy was still being read."""
    held, said = target.held, _last_said(silver, target.snapshot)
    copied = bool((marker_of(bronze.metadata.properties) or Progress()).chunks)
    resolved = said is not None and said.summary is not None and said.summary.get(UNRESOLVED_PROPERTY) != "true"
    return resolved and held.snapshots_finished and bool(held.chunks or not copied)


def _target(silver: LakeTable, arguments: Mapping[str, Any]) -> Target:
    snapshots = silver.metadata.snapshots
    if arguments.get("snapshot") is not None:
        snapshot = by_id(snapshots, int(arguments["snapshot"]), silver.name)
    else:
        snapshot = by_time(snapshots, parse_moment(arguments["to"]), silver.name)
    held = held_at(silver, snapshot)
    if held is None:
        raise SinkRefused(
            f"Snapshot {snapshot.snapshot_id} of {silver.name} does not say how far the table had come, so that it "
            f"could not be resumed. Choose another. {see(silver.name)}"
        )
    return Target(snapshot, held)


def quarantine_at(writer: LakeWriter, silver: LakeTable, target: Target) -> tuple[LakeTable, Target | None] | None:
    """The quarantine, and how it was at the same flush: a key is in one of the two only. None without a quarantine.

    No target: it was empty then. Raises `SinkRefused` when nobody knows any more.
    """
    table = writer.existing((SILVER, silver.table.name()[-1] + QUARANTINE))
    if table is None or table.metadata.current_snapshot() is None:
        return None
    ordered = sorted(table.metadata.snapshots, key=lambda one: one.sequence_number or 0)
    found = [one for one in ordered if _at_or_before(table, one, target)]
    if not found and ordered[0].parent_snapshot_id is not None:
        raise SinkRefused(
            f"What {table.name} was at that time has expired, and a row is in one of the two tables only. Choose a "
            f"later snapshot. {see(table.name)}"
        )
    return table, Target(found[-1], target.held) if found else None


def _check(writer: LakeWriter, silver: LakeTable, target: Target) -> None:
    """Raise `SinkRefused` for a state that never was, or that could not be resumed."""
    bronze = writer.existing(("bronze", silver.table.name()[-1]))
    number = target.snapshot.snapshot_id
    if bronze is None:
        raise SinkRefused(f"{silver.name} has no bronze table, so that it could not be resumed.")
    if not was_at_source(bronze, silver, target):
        raise SinkRefused(
            f"At snapshot {number} the first copy of the source's table was not finished: {silver.name} was never like "
            f"that at the source. Choose a later one. {see(silver.name)}"
        )
    if not reaches_back(bronze, silver, target):
        raise SinkRefused(
            f"{bronze.name} was cut at {bronze.metadata.properties[BRONZE_SINCE]}: {silver.name}, set back to snapshot "
            f"{number}, could not be resumed. Choose a later one. {see(silver.name)}"
        )


def _at_or_before(table: LakeTable, snapshot: Snapshot, target: Target) -> bool:
    """Was the quarantine like that when the silver table's snapshot was committed? The two move together."""
    held = held_at(table, snapshot)
    return (
        held is not None
        and target.held.covers(Progress(held.positions))
        and snapshot.timestamp_ms <= target.snapshot.timestamp_ms
    )


def files_at(table: LakeTable, snapshot: Snapshot) -> tuple[Sequence[DataFile], Sequence[DataFile]]:
    """A snapshot's data files and delete files."""
    data: list[DataFile] = []
    deletes: list[DataFile] = []
    for manifest in snapshot.manifests(table.table.io):
        wanted = data if manifest.content == ManifestContent.DATA else deletes
        wanted += [entry.data_file for entry in manifest.fetch_manifest_entry(table.table.io, discard_deleted=True)]
    return data, deletes


def _rows(snapshot: Snapshot) -> int | None:
    said = snapshot.summary.additional_properties if snapshot.summary is not None else {}
    if "total-records" not in said:
        return None
    return int(said["total-records"]) - int(said.get("total-position-deletes") or 0)
