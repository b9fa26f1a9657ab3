"""One Iceberg table and the commits to it, by a writer that remembers.

PyIceberg's own commit loads the table, copies its metadata for every update and never deletes anything, so
that it takes longer the more commits there were. A pipeline is the only writer of its tables: what a table
looks like stays in memory between commits, and each commit asserts that it still looks so (docs/adr/0003).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRef
from pyiceberg.table.snapshots import (
    MetadataLogEntry,
    Operation,
    Snapshot,
    SnapshotLogEntry,
    SnapshotSummaryCollector,
    Summary,
    update_snapshot_summaries,
)
from pyiceberg.table.update import (
    AddSchemaUpdate,
    AddSnapshotUpdate,
    AssertLastAssignedFieldId,
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotsUpdate,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from catchment.errors import SinkRefused
from catchment.lakehouse.manifests import ManifestDraft, Manifests
from catchment.lakehouse.snapshots_kept import SnapshotsKept
from catchment.lakehouse.storage import storage, writing
from catchment.lakehouse.table_schema import Fit, fit

METADATA_FILES_KEPT = 10
SNAPSHOTS_KEPT = 100

TABLE_PROPERTIES: Mapping[str, str] = {
    "format-version": "2",
    # Our own check of the snapshot decides; a writer that retries on its own would build on another's snapshot.
    "commit.retry.num-retries": "0",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": str(METADATA_FILES_KEPT),
    "write.metadata.metrics.default": "none",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "1",
}


@dataclass(frozen=True)
class Change:
    """What a commit does to a table.

    files: data files to add; with `replace` they take the place of all there are. deletes: position-delete files
    to add; they may name rows of `files`. removed: locations of data and delete files that leave, their rows being
    dead or in `files` too (compaction). age: the data sequence number of `files`, where they take the place of old
    ones and must not look newer than what came after those. drops: rows leave with `removed` that no new file has.
    schema: the table's new schema, if it changes.
    """

    files: Sequence[DataFile] = ()
    deletes: Sequence[DataFile] = ()
    removed: Collection[str] = ()
    age: int | None = None
    drops: bool = False
    replace: bool = False
    schema: Schema | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    summary: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Draft:
    """A commit whose files are written, and which nothing points to yet.

    written: metadata to make durable first. added: the data files, which are durable. garbage: what to delete
    once the commit has succeeded.
    """

    table: LakeTable
    snapshot: Snapshot
    manifests: Manifests
    requirements: tuple[TableRequirement, ...]
    updates: tuple[TableUpdate, ...]
    metadata: TableMetadata
    written: tuple[str, ...]
    added: tuple[str, ...]
    garbage: tuple[str, ...]


class LakeTable:
    """A table that this process alone writes."""

    def __init__(
        self,
        table: Table,
        *,
        snapshots_kept: int = SNAPSHOTS_KEPT,
        snapshot_hours: float | None = None,
        owns_data: bool = False,
    ) -> None:
        """snapshots_kept, snapshot_hours: see `SnapshotsKept`.

        owns_data: data files that no kept snapshot has any more are deleted with it (tables replaced whole);
        those of other tables are maintenance's to delete.
        """
        if table.metadata.format_version != 2:
            raise SinkRefused(f"Table {'.'.join(table.name())} has format v{table.metadata.format_version}, not v2.")
        if len(table.spec().fields):
            raise SinkRefused(f"Table {'.'.join(table.name())} is partitioned; it was not made by Catchment.")
        self.table = table
        self.metadata: TableMetadata = table.metadata
        self.metadata_location = table.metadata_location
        self.storage = storage(table.io, table.metadata.location)
        self._keeping = SnapshotsKept(snapshots_kept, snapshot_hours)
        self._owns_data = owns_data
        self._paths: dict[int, frozenset[str]] = {}
        self._locations = table.location_provider()
        self.uncommitted: set[str] = set()
        """Data files that were begun here, and that no commit has named yet."""
        current = self.metadata.current_snapshot()
        self.manifests = Manifests(table.io, current.manifests(table.io) if current is not None else ())

    @classmethod
    def load(
        cls,
        catalog: Catalog,
        identifier: tuple[str, ...],
        *,
        snapshots_kept: int = SNAPSHOTS_KEPT,
        snapshot_hours: float | None = None,
        owns_data: bool = False,
    ) -> LakeTable:
        """The table as the catalog has it now. Raises PyIceberg's NoSuchTableError."""
        return cls(
            catalog.load_table(identifier),
            snapshots_kept=snapshots_kept,
            snapshot_hours=snapshot_hours,
            owns_data=owns_data,
        )

    @property
    def name(self) -> str:
        return ".".join(self.table.name())

    def new_data_location(self) -> str:
        """Where a new data file goes."""
        location = self._locations.new_data_location(f"{uuid.uuid4()}.parquet")
        self.uncommitted.add(location)
        return location

    def delete_uncommitted(self, locations: Sequence[str]) -> None:
        """Delete data files that no commit was tried with, and none will be."""
        self.storage.delete(locations)
        self.uncommitted.difference_update(locations)

    def fit(self, arrow: pa.Schema, onto: Schema | None = None, version: int = 1) -> Fit:
        """The table's schema, or `onto`, a later one that is not committed yet, made to take these columns too."""
        base = onto if onto is not None else self.metadata.schema()
        return fit(
            base,
            arrow,
            last_column_id=max(self.metadata.last_column_id, base.highest_field_id),
            schema_id=max(one.schema_id for one in self.metadata.schemas) + 1,
            version=version,
        )

    def draft(self, change: Change) -> Draft:
        """Write a commit's manifests. Changes nothing: the table is as before until `adopt`."""
        written: list[str] = []

        def put(location: str, content: bytes) -> None:
            with writing(f"Metadata of table {self.name}"):
                self.storage.write(location, content)
            written.append(location)

        before = self.metadata
        schema = change.schema
        layout = before if schema is None else _with_schema(before, schema)
        parent = before.current_snapshot_id
        snapshot_id, sequence_number = before.new_snapshot_id(), before.next_sequence_number()
        folder = self._locations.new_metadata_location("").rstrip("/")
        drafting = ManifestDraft(self.manifests, layout, snapshot_id, sequence_number, folder, put)
        manifests = (
            drafting.replace(change.files, change.deletes)
            if change.replace
            else drafting.append(change.files, change.deletes, change.removed, change.age)
        )
        snapshot = Snapshot.model_validate(
            {
                "snapshot-id": snapshot_id,
                "parent-snapshot-id": parent,
                "sequence-number": sequence_number,
                "timestamp-ms": max(int(time.time() * 1000), before.last_updated_ms),
                "manifest-list": drafting.write_list(manifests, parent),
                "summary": self._summary(change),
                "schema-id": layout.current_schema_id,
            }
        )
        expired = self._expired(snapshot, snapshot.timestamp_ms)
        after = self.manifests.replaced_by(manifests, drafting.entries)
        metadata = _advance(
            layout, snapshot, expired, change.properties, self.metadata_location, before.last_updated_ms
        )
        return Draft(
            table=self,
            snapshot=snapshot,
            manifests=after,
            requirements=self._requirements(schema),
            updates=_updates(snapshot, expired, change),
            metadata=metadata,
            written=tuple(written),
            added=tuple(file.file_path for file in (*change.files, *change.deletes)),
            garbage=tuple(self._garbage(expired, after)),
        )

    def draft_expiry(self, now_ms: int) -> Draft | None:
        """A commit that only lets go of snapshots, for a table that others no longer are made of; None without one.

        now_ms: epoch milliseconds, by which they are too old.
        """
        current = self.metadata.current_snapshot()
        expired = self._expired(current, now_ms) if current is not None else []
        if current is None or not expired:
            return None
        return Draft(
            table=self,
            snapshot=current,
            manifests=self.manifests,
            requirements=self._requirements(None),
            updates=(_removal(expired),),
            metadata=_without(self.metadata, expired, self.metadata_location),
            written=(),
            added=(),
            garbage=tuple(self._garbage(expired, self.manifests)),
        )

    def write_metadata(self, draft: Draft) -> str:
        """Write the metadata file of a commit, for catalogs where that is the writer's part; its location."""
        version = int(self.metadata_location.rpartition("/")[2].partition("-")[0]) + 1
        location = self._locations.new_table_metadata_file_location(version)
        with writing(f"Metadata of table {self.name}"):
            self.storage.write(location, draft.metadata.model_dump_json(exclude_none=True).encode())
        return location

    def adopt(self, draft: Draft, metadata: TableMetadata, location: str) -> None:
        """The commit has succeeded: this is what the table is now."""
        self.metadata, self.metadata_location = metadata, location
        self.table.metadata, self.table.metadata_location = metadata, location
        self.manifests = draft.manifests
        self.uncommitted.difference_update(draft.added)
        self._paths[draft.snapshot.snapshot_id] = draft.manifests.paths
        held = {snapshot.snapshot_id for snapshot in metadata.snapshots}
        self._paths = {key: paths for key, paths in self._paths.items() if key in held}

    def dropped_metadata(self, draft: Draft) -> list[str]:
        """Metadata files that fell off the end of the log with this commit."""
        kept = {entry.metadata_file for entry in draft.metadata.metadata_log}
        return [entry.metadata_file for entry in self.metadata.metadata_log if entry.metadata_file not in kept]

    def _requirements(self, schema: Schema | None) -> tuple[TableRequirement, ...]:
        same = AssertTableUUID(uuid=self.metadata.table_uuid)
        unmoved = AssertRefSnapshotId.model_validate(
            {"ref": MAIN_BRANCH, "snapshot-id": self.metadata.current_snapshot_id}
        )
        if schema is None:
            return (same, unmoved)
        unchanged = AssertLastAssignedFieldId.model_validate({"last-assigned-field-id": self.metadata.last_column_id})
        return (same, unmoved, unchanged)

    def _summary(self, change: Change) -> Summary:
        collector = SnapshotSummaryCollector()
        for file in (*change.files, *change.deletes):
            collector.add_file(file, self.metadata.schema())
        if change.replace or change.removed:
            for entry in self.manifests.live() if change.replace else self.manifests.only(change.removed):
                collector.remove_file(entry.data_file, self.metadata.schema())
        current = self.metadata.current_snapshot()
        before = current.summary.additional_properties if current is not None and current.summary is not None else None
        operation = Operation.OVERWRITE if change.replace or change.deletes else Operation.APPEND
        summary = update_snapshot_summaries(Summary(operation=operation, **collector.build(), **change.summary), before)
        if change.removed and not change.replace:
            # PyIceberg refuses to count for this operation, though the sums are the same.
            operation = Operation.DELETE if change.drops else Operation.REPLACE
            return Summary(operation=operation, **summary.additional_properties)
        return summary

    def _expired(self, new: Snapshot, now_ms: int) -> list[Snapshot]:
        """Snapshots beyond what is kept, except those that a branch or tag names."""
        named = {ref.snapshot_id for name, ref in self.metadata.refs.items() if name != MAIN_BRANCH}
        before = [one for one in self.metadata.snapshots if one.snapshot_id != new.snapshot_id]
        ours = [*sorted(before, key=lambda one: one.sequence_number or 0), new]
        return [one for one in self._keeping.expired(ours, now_ms) if one.snapshot_id not in named]

    def _garbage(self, expired: Sequence[Snapshot], after: Manifests) -> list[str]:
        """What only expired snapshots need.

        While history is linear a manifest never comes back: one that the next kept snapshot does not have, and
        no older one, is in no later one either. After a rollback every kept snapshot is asked.
        """
        if not expired:
            return []
        gone = {one.snapshot_id for one in expired}
        last = max(one.sequence_number or 0 for one in expired)
        kept = [one for one in self.metadata.snapshots if one.snapshot_id not in gone]
        following = sorted((s for s in kept if (s.sequence_number or 0) > last), key=lambda s: s.sequence_number or 0)
        linear = _is_linear(self.metadata.snapshots)
        needed = [s for s in kept if (s.sequence_number or 0) < last] + following[: 1 if linear else None]
        in_use = frozenset[str]().union(*(self._manifest_paths(one) for one in needed))
        if not following or not linear:
            in_use |= after.paths
        dead = frozenset[str]().union(*(self._manifest_paths(one) for one in expired)) - in_use
        garbage = [one.manifest_list for one in expired] + sorted(dead)
        return garbage + (self._dead_data(expired, dead, needed, after) if self._owns_data else [])

    def _dead_data(
        self, expired: Sequence[Snapshot], dead: frozenset[str], needed: Sequence[Snapshot], after: Manifests
    ) -> list[str]:
        def files(snapshots: Sequence[Snapshot], among: frozenset[str] | None) -> set[str]:
            return {
                entry.data_file.file_path
                for one in snapshots
                for manifest in one.manifests(self.table.io)
                if among is None or manifest.manifest_path in among
                for entry in manifest.fetch_manifest_entry(self.table.io)
            }

        in_use = files(needed, None) | {entry.data_file.file_path for entry in after.live()}
        return sorted(files(expired, dead) - in_use)

    def _manifest_paths(self, snapshot: Snapshot) -> frozenset[str]:
        known = self._paths.get(snapshot.snapshot_id)
        if known is None:
            known = frozenset(one.manifest_path for one in snapshot.manifests(self.table.io))
            self._paths[snapshot.snapshot_id] = known
        return known


def _updates(snapshot: Snapshot, expired: Sequence[Snapshot], change: Change) -> tuple[TableUpdate, ...]:
    updates: list[TableUpdate] = []
    if change.schema is not None:
        updates.append(AddSchemaUpdate(schema=change.schema))
        updates.append(SetCurrentSchemaUpdate.model_validate({"schema-id": change.schema.schema_id}))
    updates.append(AddSnapshotUpdate(snapshot=snapshot))
    main = {"ref-name": MAIN_BRANCH, "type": "branch", "snapshot-id": snapshot.snapshot_id}
    updates.append(SetSnapshotRefUpdate.model_validate(main))
    if expired:
        updates.append(_removal(expired))
    if change.properties:
        updates.append(SetPropertiesUpdate(updates=dict(change.properties)))
    return tuple(updates)


def _removal(expired: Sequence[Snapshot]) -> RemoveSnapshotsUpdate:
    return RemoveSnapshotsUpdate.model_validate({"snapshot-ids": [one.snapshot_id for one in expired]})


def _is_linear(snapshots: Sequence[Snapshot]) -> bool:
    """Is each snapshot made of the one before it, as far as that is still there?"""
    ours = sorted(snapshots, key=lambda one: one.sequence_number or 0)
    return all(one.parent_snapshot_id in (None, before.snapshot_id) for before, one in pairwise(ours))


def _with_schema(metadata: TableMetadata, schema: Schema) -> TableMetadata:
    return metadata.model_copy(
        update={
            "schemas": [*metadata.schemas, schema],
            "current_schema_id": schema.schema_id,
            "last_column_id": max(metadata.last_column_id, schema.highest_field_id),
        }
    )


def _advance(
    metadata: TableMetadata,
    snapshot: Snapshot,
    expired: Sequence[Snapshot],
    properties: Mapping[str, str],
    location: str,
    updated_ms: int,
) -> TableMetadata:
    """What `update_table_metadata` makes of `_updates` (a test holds it to that), without its deep copies.

    Those take three milliseconds with a hundred snapshots, and nothing with one: commits would slow down.
    """
    gone = {one.snapshot_id for one in expired}
    snapshots = [
        one.model_copy(update={"parent_snapshot_id": None}) if one.parent_snapshot_id in gone else one
        for one in (*metadata.snapshots, snapshot)
        if one.snapshot_id not in gone
    ]
    entry = SnapshotLogEntry.model_validate(
        {"snapshot-id": snapshot.snapshot_id, "timestamp-ms": snapshot.timestamp_ms}
    )
    log = [one for one in (*metadata.snapshot_log, entry) if one.snapshot_id not in gone]
    main = SnapshotRef.model_validate({"snapshot-id": snapshot.snapshot_id, "type": "branch"})
    return metadata.model_copy(
        update={
            "last_updated_ms": snapshot.timestamp_ms,
            "last_sequence_number": snapshot.sequence_number,
            "snapshots": snapshots,
            "current_snapshot_id": snapshot.snapshot_id,
            "snapshot_log": log,
            "refs": {**metadata.refs, MAIN_BRANCH: main},
            "properties": {**metadata.properties, **properties},
            "metadata_log": _log(metadata, location, updated_ms),
        }
    )


def _without(metadata: TableMetadata, expired: Sequence[Snapshot], location: str) -> TableMetadata:
    """The metadata less these snapshots, none of which is current."""
    gone = {one.snapshot_id for one in expired}
    snapshots = [
        one.model_copy(update={"parent_snapshot_id": None}) if one.parent_snapshot_id in gone else one
        for one in metadata.snapshots
        if one.snapshot_id not in gone
    ]
    return metadata.model_copy(
        update={
            "snapshots": snapshots,
            "snapshot_log": [one for one in metadata.snapshot_log if one.snapshot_id not in gone],
            "metadata_log": _log(metadata, location, metadata.last_updated_ms),
        }
    )


def _log(metadata: TableMetadata, location: str, updated_ms: int) -> list[MetadataLogEntry]:
    """The earlier metadata files, with the one at `location` as the last."""
    previous = MetadataLogEntry.model_validate({"metadata-file": location, "timestamp-ms": updated_ms})
    kept = int(metadata.properties.get("write.metadata.previous-versions-max", METADATA_FILES_KEPT))
    return [*metadata.metadata_log, previous][-max(1, kept) :]
