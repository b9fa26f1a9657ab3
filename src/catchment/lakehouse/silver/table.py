"""Silver: the current rows of one source table, merged from its changes as they come.

Changes are queued until there are enough for a segment or a flush asks; then they are folded, the rows they
replace are found and deleted by position, the new ones appended: to `silver.<table>`, or to its quarantine where
they break a rule. A snapshot's rows and the stream may overtake each other: wherever that is possible versions are
compared, and keys that were left are remembered until the snapshot is done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.lakehouse.column_versions import key_columns
from catchment.lakehouse.data_file import ParquetSettings
from catchment.lakehouse.file_schema import Arrangement, file_schema
from catchment.lakehouse.properties import KEY, KIND, PINNED, PIPELINE, TABLE, marker_of
from catchment.lakehouse.silver.bronze_changes import bronze_changes
from catchment.lakehouse.silver.fold import (
    DELETE,
    READ,
    TRUNCATE,
    UPDATE,
    Fold,
    Indices,
    Mask,
    ascending,
    in_order,
    operations,
    stretches,
)
from catchment.lakehouse.silver.key_hash import Keys
from catchment.lakehouse.silver.key_index import NOWHERE
from catchment.lakehouse.silver.keyed_table import UNREPRESENTABLE, KeyedTable, whole
from catchment.lakehouse.silver.stored import Stored
from catchment.lakehouse.silver.tombstones import Tombstones
from catchment.lakehouse.silver.versions import VersionsTable, versions_schema
from catchment.lakehouse.table import Change, Draft, LakeTable
from catchment.lakehouse.writer import LakeWriter
from catchment.progress import ALL_CHUNKS, Progress
from catchment.quality.bitmask import RowRules
from catchment.quality.config import Severity
from catchment.quality.rules import TableRules
from catchment.schema import UTC_MICROSECONDS
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

SILVER = "silver"
NEWEST_VERSIONS_PROPERTY = "catchment.newest-versions"
"""Lane → the version of the newest change that was merged, as JSON: an older one that comes has been overtaken.
Stands in the snapshots' summaries too."""
SNAPSHOT_VERSION_PROPERTY = "catchment.snapshot-version"
"""The highest version of a snapshot row that was merged, in hex: later changes need no comparison."""

TRUNCATED_PROPERTY = "catchment.truncated-version"
"""The version of the latest truncate that was merged, in hex: older changes that come after it bring no row."""

UNRESOLVED_PROPERTY = "catchment.unresolved"
"""`true` while rows lack values that a snapshot that goes on will bring."""

OUR_COLUMNS = ("_version", "_committed_at", UNREPRESENTABLE, "_quality")
"""What stands beside a table's own columns."""

CLOCK_MICROSECONDS = 600 * 1_000_000
"""A source's commit times may be off by so much, from one change to another."""
REMEMBERED_MICROSECONDS = 24 * 3600 * 1_000_000
"""After so much of the source's time, left keys are forgotten; a change that comes late has them looked up again."""

SEGMENT_ROWS = 65_536
"""So many changes are folded at once at most."""
SEGMENT_BYTES = 48 * 1024 * 1024

LABELS = pa.list_(pa.string())

Each = Callable[[int], None]
"""Is told of each so many changes that are read again, and may raise to give that up."""

Submit = Callable[[Callable[[], None]], None]
"""Has a task run, in order, on the thread that merges."""


@dataclass(frozen=True)
class SilverPlan:
    """What is kept of a table.

    rules: of quality.yaml; history: columns whose versions are kept, empty for all of them, None for no history.
    """

    settings: ParquetSettings = field(default_factory=ParquetSettings)
    target_file_bytes: int = 256 * 1024 * 1024
    rules: TableRules | None = None
    history: tuple[str, ...] | None = None


@dataclass(frozen=True, eq=False)
class _Queued:
    """A batch of changes in bronze's columns. snapshot: the key of the snapshot whose chunk it is of."""

    records: pa.RecordBatch
    snapshot: str | None


def silver_schema(row: pa.StructType) -> pa.Schema:
    """The columns of a silver table of these rows; none of them has a name of `OUR_COLUMNS`."""
    ours = [
        pa.field("_version", pa.binary()),
        pa.field("_committed_at", UTC_MICROSECONDS),
        pa.field(UNREPRESENTABLE, pa.map_(pa.string(), pa.string())),
        pa.field("_quality", LABELS),
    ]
    return pa.schema([*row, *ours])


class SilverTable:
    """Merges one table's changes. `write`, `advance` and `finish` are the capturing thread's; what they submit runs
    under the writer's lock, as everything else here must.
    """

    def __init__(
        self,
        writer: LakeWriter,
        bronze: LakeTable,
        key: Sequence[str],
        directory: Path,
        plan: SilverPlan,
        submit: Submit,
        name: str | None = None,
    ) -> None:
        """key: the source's. name: of the silver table, where it is not that of bronze's."""
        self.name = name or bronze.table.name()[-1]
        row = file_schema(bronze.metadata.schema()).field("after").type
        self.source_key = tuple(key)
        self.key = key_columns(key, row.names)
        self._writer = writer
        self._bronze = bronze
        self._directory = directory
        self._plan = plan
        self._submit = submit
        self.main = self._keyed(self.name, "silver", row)
        rules = plan.rules.row_rules if plan.rules is not None else ()
        quarantines = any(rule.severity is Severity.QUARANTINE for rule in rules)
        existing = writer.existing((SILVER, f"{self.name}_quarantine"))
        self.quarantine = (
            self._keyed(f"{self.name}_quarantine", "quarantine", row) if quarantines or existing is not None else None
        )
        self.versions = self._versions(row) if plan.history is not None else None
        properties = self.main.lake.metadata.properties
        self._snapshot_version = bytes.fromhex(properties.get(SNAPSHOT_VERSION_PROPERTY, ""))
        self._truncated = bytes.fromhex(properties.get(TRUNCATED_PROPERTY, ""))
        self._unresolved = UNRESOLVED_PROPERTY in properties and properties[UNRESOLVED_PROPERTY] == "true"
        self._newest: dict[str, bytes] = {}
        self.begin_after(properties.get(NEWEST_VERSIONS_PROPERTY, "{}"))
        self._lanes: Collection[str] | None = None
        self._remembered_since: int | None = None
        self._latest = 0
        self._complete = _finished(self._bronze_marker)
        self._rebuilding = False
        self._versions_known = self.versions is not None and self.versions.lake.metadata.current_snapshot() is not None
        self._stones = Tombstones()
        self._snapshots: set[str] = set()
        self._reading: set[str] = set()
        self._bounded: list[_Queued] = []
        self._open: list[_Queued] = []
        self._bounded_size = [0, 0]
        self._open_size = [0, 0]
        self._open_spilled = False
        self._shape: pa.Schema | None = None
        self._arrangements: list[Arrangement] = []
        self._rules: RowRules | None = None

    # -- the capturing thread

    @property
    def pinned(self) -> bool:
        """Was the table rolled back? Then it is left alone until it is resumed."""
        return bool(self.main.lake.metadata.properties.get(PINNED))

    @property
    def marker(self) -> Progress | None:
        """What the table holds."""
        return marker_of(self.main.lake.metadata.properties)

    @property
    def _bronze_marker(self) -> Progress:
        return marker_of(self._bronze.metadata.properties) or Progress()

    @property
    def tables(self) -> list[KeyedTable]:
        """The tables with one row a key."""
        return [self.main, *([self.quarantine] if self.quarantine is not None else [])]

    @property
    def _all(self) -> list[KeyedTable | VersionsTable]:
        return [*self.tables, *([self.versions] if self.versions is not None else [])]

    @property
    def size(self) -> int:
        """Arrow bytes that wait to be merged."""
        return self._bounded_size[1] + self._open_size[1]

    @property
    def reading(self) -> bool:
        """Does a snapshot go on, as far as boundaries have said?"""
        return bool(self._reading)

    def write(self, records: pa.RecordBatch, size: int, snapshot: str | None = None) -> None:
        """Accept changes, in bronze's columns, after the last boundary. snapshot: whose chunk they are of."""
        if snapshot is not None:
            self._reading.add(snapshot)
        self._open.append(_Queued(records, snapshot))
        self._open_size[0] += records.num_rows
        self._open_size[1] += size
        if self._open_size[0] >= SEGMENT_ROWS or self._open_size[1] >= SEGMENT_BYTES:
            self.spill()

    def spill(self) -> None:
        """Have all that waits merged, what is after the last boundary too: apart, it is not committed yet."""
        self._merge_bounded()
        if self._open:
            batches, self._open, self._open_size = self._open, [], [0, 0]
            self._open_spilled = True
            self._submit(lambda: self.merge(batches))

    def advance(self, progress: Progress) -> None:
        """A boundary: all that was written may be committed."""
        if self._open_spilled:
            batches, self._open, self._open_size, self._open_spilled = self._open, [], [0, 0], False
            self._submit(lambda: self.merge(batches, boundary=True))
        else:
            self._bounded += self._open
            self._bounded_size = [a + b for a, b in zip(self._bounded_size, self._open_size, strict=True)]
            self._open, self._open_size = [], [0, 0]
            if self._bounded_size[0] >= SEGMENT_ROWS or self._bounded_size[1] >= SEGMENT_BYTES:
                self._merge_bounded()
        if self._reading and all(progress.chunks.get(one) == ALL_CHUNKS for one in self._reading):
            self._reading.clear()
            self._merge_bounded()  # The last chunks are in it.
            self._submit(self._snapshots_done)

    def finish(self, held: Progress) -> None:
        """Begin to merge all that the next commit takes; the table then holds `held`."""
        self._merge_bounded()
        self._lanes = held.positions.keys()
        if not self._reading and _finished(held):
            self._submit(self._snapshots_done)

    def _merge_bounded(self) -> None:
        if self._bounded:
            batches, self._bounded, self._bounded_size = self._bounded, [], [0, 0]
            self._submit(lambda: self.merge(batches, boundary=True))

    # -- the merging thread

    @property
    def dirty(self) -> bool:
        """Is there something that the next commit takes?"""
        return any(table.dirty for table in self.tables) or (self.versions is not None and self.versions.dirty)

    def drafts(self, properties: dict[str, str], summary: dict[str, str]) -> list[Draft]:
        """The commits of what was merged before the last boundary; silver's own comes last.

        Where tables are committed one by one, silver's marker then never says more than the others hold.
        """
        found = []
        if self.versions is not None and self.versions.dirty:
            found.append(self.versions.draft({**properties, **self._kind("versions")}, summary))
        if self.quarantine is not None and self.quarantine.dirty:
            found.append(self.quarantine.draft({**properties, **self._kind("quarantine")}, summary))
        if self._lanes is not None:
            self._newest = {lane: version for lane, version in self._newest.items() if lane in self._lanes}
        newest = json.dumps({lane: version.hex() for lane, version in self._newest.items()})
        mine = {
            **self._kind("silver"),
            SNAPSHOT_VERSION_PROPERTY: self._snapshot_version.hex(),
            TRUNCATED_PROPERTY: self._truncated.hex(),
            NEWEST_VERSIONS_PROPERTY: newest,
            UNRESOLVED_PROPERTY: str(self._unresolved).lower(),
        }
        # Said in the snapshot too: it is no state to go back to.
        said = {
            **summary,
            **({UNRESOLVED_PROPERTY: "true"} if self._unresolved else {}),
            NEWEST_VERSIONS_PROPERTY: newest,
        }
        return [*found, self.main.draft({**properties, **mine}, said)]

    def settle(self) -> None:
        """The commits have happened."""
        if self.versions is not None and self.versions.dirty:
            self._versions_known = True
        for table in self._all:
            if table.dirty or table is self.main:
                table.settle()
        if self._remembered_since is not None and self._latest - self._remembered_since > REMEMBERED_MICROSECONDS:
            # Should a change come late again, bronze still has who was left since.
            self._remembered_since = None
        if not self._snapshots and self._remembered_since is None:
            # Bronze has the others now. It has not what a transaction left that is still open.
            old, self._stones = self._stones, self._stones.after_boundary()
            old.close()

    def close(self) -> None:
        """Let go; what was not committed is given up."""
        for table in self._all:
            table.close()
        self._stones.close()
        if self._rules is not None:
            self._rules.close()

    def merge(self, batches: Sequence[_Queued], *, boundary: bool = False) -> None:
        """Merge batches, in order. boundary: what is merged until then may be committed."""
        with self._writer.lock:
            for (snapshot, _), run in groupby(batches, lambda one: (one.snapshot, one.records.schema)):
                changes = _one([one.records for one in run])
                if snapshot is not None:
                    self._begin_snapshot(snapshot)
                self._merge(changes, chunk=snapshot is not None)
            if boundary:
                self._advance_tables()

    def begin_after(self, newest: str) -> None:
        """The table is in another state than before. newest: `NEWEST_VERSIONS_PROPERTY` of that one."""
        self._newest = {lane: bytes.fromhex(version) for lane, version in json.loads(newest).items()}

    def replay(
        self, since: Progress, bronze: LakeTable | None = None, *, snapshots: bool = True, each: Each | None = None
    ) -> None:
        """Merge what bronze has after `since`; as far as the next commit takes.

        bronze: as it was loaded at another moment. snapshots: False where `since` holds all snapshots' rows.
        """
        if snapshots:
            self._load_tombstones()
        for changes in bronze_changes(bronze or self._bronze, since):
            if each is not None:
                each(changes.num_rows)
            if not snapshots:
                changes = changes.filter(pa.array(operations(changes) != READ))
                if not changes.num_rows:
                    continue
            chunk = operations(changes) == READ
            edges = [0, *(np.flatnonzero(np.diff(chunk.astype(np.int8))) + 1).tolist(), changes.num_rows]
            for first, last in pairwise(edges):
                self._merge(changes.slice(first, last - first), chunk=bool(chunk[first]))
        self._advance_tables()

    def rebuild(self, each: Each | None = None) -> None:
        """Make all rows anew from what bronze has committed; everything that was merged must be.

        Snapshots' rows come first: so a value that a change did not send is always there before it is asked for.
        """
        for table in self.tables:
            table.truncate()
        self._stones.close()
        self._stones = Tombstones()
        self._unresolved, self._snapshot_version, self._truncated = False, b"", b""
        self._newest.clear()
        self._remembered_since = None
        self._rebuilding = self._versions_known
        try:
            for chunk in (True, False):
                for changes in bronze_changes(self._bronze, None):
                    if each is not None:
                        each(changes.num_rows)
                    mine = changes.filter(pa.array((operations(changes) == READ) == chunk))
                    self._merge(mine, chunk=chunk)
        finally:
            self._rebuilding = False
        if self._complete:
            # What no snapshot has is nowhere: looking again would not find it.
            self._unresolved = False
        self._advance_tables()

    @property
    def bronze(self) -> LakeTable:
        """The table of the changes."""
        return self._bronze

    @property
    def lacks_history(self) -> bool:
        """Is history kept from now on, of a table that has changes already? Its rows may all have left by now."""
        fresh = self.versions is not None and not self._versions_known and not self.versions.dirty
        return fresh and self.marker is not None

    def begin_history(self) -> None:
        """Make the rows that are there the first versions; as far as the next commit takes."""
        if self.versions is None:
            return
        for table in self.tables:
            for rows in table.live_batches():
                self.versions.begin(rows)
        self.versions.advance()

    @property
    def unresolved(self) -> bool:
        """Do rows lack values that changes did not send?"""
        return self._unresolved

    @property
    def half_committed(self) -> bool:
        """Is quarantine further than silver itself? They are committed one by one where the catalog knows no other."""
        beyond = marker_of(self.quarantine.lake.metadata.properties) if self.quarantine is not None else None
        return beyond is not None and not (self.marker or Progress()).covers(beyond)

    @property
    def mend_due(self) -> bool:
        """Do changes that overtook their snapshot lack values that are in bronze by now?"""
        return self._unresolved and self._complete and not self._open_spilled

    def _advance_tables(self) -> None:
        for table in self._all:
            table.advance()
        self._stones.bound()

    def _merge(self, changes: pa.RecordBatch, *, chunk: bool) -> None:
        if not changes.num_rows:
            return
        self._fit(changes.schema)
        if chunk:
            self._snapshot_version = max(self._snapshot_version, pc.max(changes.column("_version")).as_py())
        start = 0
        for stretch in stretches(changes):
            if stretch.truncated is not None:
                self._truncate(stretch.truncated, changes.slice(start - 1, 1))
            if stretch.changes.num_rows:
                self._fold(stretch.changes, chunk=chunk)
            start += stretch.changes.num_rows + 1

    def _fold(self, changes: pa.RecordBatch, *, chunk: bool) -> None:
        overtaken = not chunk and self._is_overtaken(changes)
        if overtaken:
            self._remember_left_keys(changes)
            changes = in_order(changes)
        fold = Fold(changes, self.key, self.main.keys_of)
        settled = max(self._snapshot_version, self._truncated)
        if not overtaken and (chunk or pc.min(changes.column("_version")).as_py() <= settled):
            fold.drop(self._late(fold, remembered=chunk))
        stored = Stored(self.tables, fold, self._miss)
        if self.versions is not None and not self._rebuilding:
            self.versions.append(fold, self._row_names(), stored.find)
        if overtaken:
            # What was overtaken is history all the same.
            fold.drop(self._late(fold, remembered=True))
        last = fold.last
        keys = fold.keys(last)
        places = [table.find(keys) for table in self.tables]
        gone = fold.gone[last]
        if gone.any():
            left = np.flatnonzero(gone)
            self._stones.add(keys.take(left), fold.versions(last[left]))
        written = np.flatnonzero(~gone)
        rows = self._rows(fold, last[written], stored)
        for table, found in zip(self.tables, places, strict=True):
            table.kill(found[found != NOWHERE])
        self._append(rows, keys.take(written))

    def _is_overtaken(self, changes: pa.RecordBatch) -> bool:
        """Has one of these changes a version that its lane was past? A transport repeats or reorders.

        Between lanes versions say nothing: a key's changes are in one of them, or in one that follows it. Which a new
        lane follows nobody says: it is taken to follow all.
        """
        lanes, versions = changes.column("_lane"), changes.column("_version")
        before, overtaken = max(self._newest.values(), default=b""), False
        for lane in pc.unique(lanes):
            mine = versions if pc.all(pc.equal(lanes, lane)).as_py() else versions.filter(pc.equal(lanes, lane))
            name, straight = lane.as_py(), ascending(mine)
            known = self._newest.get(name, before)
            overtaken |= mine[0].as_py() <= known or not straight
            self._newest[name] = max(known, (mine[-1] if straight else pc.max(mine)).as_py())
        if self._remembered_since is not None:
            self._latest = max(self._latest, _microseconds(pc.max(changes.column("_committed_at"))))
        return overtaken

    def _remember_left_keys(self, changes: pa.RecordBatch) -> None:
        """From here on every key that is left is remembered, and all that were left since these changes were made."""
        committed = changes.column("_committed_at")
        oldest = 0 if committed.null_count else _microseconds(pc.min(committed)) - CLOCK_MICROSECONDS
        if self._remembered_since is None or oldest < self._remembered_since:
            self._remembered_since = oldest
            self._latest = max(self._latest, oldest)
            if not self._snapshots:
                self._load_tombstones(oldest)

    def _late(self, fold: Fold, *, remembered: bool) -> Mask:
        """Which events does the table have a newer row of, or, where that is remembered, was their key left later?"""
        events = np.arange(len(fold))
        keys, versions = fold.keys(events), fold.versions(events)
        # A change by which a key is left may be remembered already, from bronze: made anew, the row is still there.
        late = self._stones.cover(keys, versions, fold.gone) if remembered else np.zeros(len(fold), np.bool_)
        # A table that is read anew is truncated in a lane of its own, before the stream has come so far.
        late[np.asarray(pc.less_equal(versions, pa.scalar(self._truncated, pa.binary())))] = True
        for table in self.tables:
            found = table.find(keys)
            known = np.flatnonzero(found != NOWHERE)
            if len(known):
                held = whole(table.take(found[known], ["_version"]).column(0))
                late[known] |= np.asarray(pc.greater(held, versions.take(pa.array(known))))
        return late

    def _rows(self, fold: Fold, events: Indices, stored: Stored) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {}
        for name in self._row_names():
            columns[name] = fold.key_column(name, events) if name in self.key else fold.after(name, events, stored.find)
        where = pa.array(fold.change[events])
        columns["_version"] = fold.changes.column("_version").take(where)
        columns["_committed_at"] = fold.changes.column("_committed_at").take(where)
        columns[UNREPRESENTABLE] = fold.unrepresentable(events, stored.find)
        return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))

    def _append(self, rows: pa.RecordBatch, keys: Keys) -> None:
        labels: pa.Array = pa.nulls(rows.num_rows, LABELS)
        aside = np.zeros(rows.num_rows, np.bool_)
        if self._rules is not None and rows.num_rows:
            bits = self._rules.evaluate(rows)
            labels = self._rules.labels(bits)
            aside = (bits & np.uint64(self._rules.quarantine_mask)) != 0
        rows = pa.RecordBatch.from_arrays([*rows.columns, labels], [*rows.schema.names, "_quality"])
        # The tables were made at different times: their columns may have other places and field ids.
        for table, arrangement, mine in zip(self.tables, self._arrangements, (~aside, aside), strict=False):
            if mine.all():
                table.append(arrangement.apply(rows), keys)
            elif mine.any():
                table.append(arrangement.apply(rows.filter(pa.array(mine))), keys.take(np.flatnonzero(mine)))

    def _truncate(self, version: bytes, change: pa.RecordBatch) -> None:
        self._stones.truncate(version)
        self._truncated = max(self._truncated, version)
        if self.versions is not None:
            self.versions.truncate(change)
        for table in self.tables:
            if version > self._snapshot_version:
                table.truncate()
            else:
                table.kill_up_to(version)

    # -- snapshots

    def _begin_snapshot(self, snapshot: str) -> None:
        """A snapshot's first chunk: from here on, and from bronze, every key that is left is remembered."""
        if snapshot in self._snapshots:
            return
        if not self._snapshots:
            self._load_tombstones()
        self._complete = False
        self._snapshots.add(snapshot)

    def _snapshots_done(self) -> None:
        with self._writer.lock:
            self._snapshots.clear()
            self._complete = True

    def _miss(self) -> None:
        """A value that a change did not send is not there; the snapshot that goes on will have it."""
        self._unresolved = True

    def _load_tombstones(self, since: int | None = None) -> None:
        """since: microseconds of UTC; who left before is of no interest."""
        # What was merged here, and may not be in bronze yet, is later than what bronze has.
        later, self._stones = self._stones, Tombstones()
        columns = ("_op", "_version", "_committed_at", "before", "after", "_unrepresentable")
        for changes in bronze_changes(self._bronze, None, columns, committed_since=since):
            ops = operations(changes)
            moved = (ops == UPDATE) & np.asarray(changes.column("before").is_valid())
            leaving = changes.filter(pa.array((ops == DELETE) | (ops == TRUNCATE) | moved))
            for stretch in stretches(leaving):
                if stretch.truncated is not None:
                    self._stones.truncate(stretch.truncated)
                if stretch.changes.num_rows:
                    fold = Fold(in_order(stretch.changes), self.key, self.main.keys_of)
                    # An update that only names its key before leaves none.
                    fold.drop(~fold.gone)
                    gone = fold.last[~self._stones.cover(fold.keys(fold.last), fold.versions(fold.last))]
                    self._stones.add(fold.keys(gone), fold.versions(gone))
        self._stones.take_over(later)
        later.close()

    # -- the table

    def _fit(self, envelope: pa.Schema) -> None:
        if self._shape is not None and envelope.equals(self._shape):
            return
        self._shape = envelope
        wanted = silver_schema(envelope.field("after").type)
        self._arrangements = [table.fit(wanted, 1) for table in self.tables]
        self._rules = self._compiled(wanted)

    def _compiled(self, wanted: pa.Schema) -> RowRules | None:
        if self._rules is not None:
            self._rules.close()
        if self._plan.rules is None:
            return None
        return RowRules.compile(self._plan.rules, pa.schema([one for one in wanted if one.name != "_quality"]))

    def _row_names(self) -> list[str]:
        assert self._shape is not None  # noqa: S101 - tells the type checker
        return list(self._shape.field("after").type.names)

    def _kind(self, kind: str) -> dict[str, str]:
        return {KIND: kind, KEY: json.dumps(list(self.key))}

    def _properties(self, kind: str) -> dict[str, str]:
        source = self._bronze.metadata.properties
        kept = (PIPELINE, TABLE)
        return {
            **{name: source[name] for name in kept if name in source},
            **self._kind(kind),
        }

    def _keyed(self, name: str, kind: str, row: pa.StructType) -> KeyedTable:
        schema = _bare(silver_schema(row))
        lake = self._with_key(self._writer.table((SILVER, name), schema, self._properties(kind)), schema)
        return KeyedTable(lake, self.key, self._directory, self._plan.settings, self._plan.target_file_bytes)

    def _with_key(self, lake: LakeTable, wanted: pa.Schema) -> LakeTable:
        """The table with the key's columns: after a rename they are added at once, since its index is made of them."""
        if not {field.name for field in lake.metadata.schema().fields} >= set(self.key):
            self._writer.commit([lake.draft(Change(schema=lake.fit(wanted).schema))])
        return lake

    def _versions(self, row: pa.StructType) -> VersionsTable:
        followed = self._plan.history or None
        columns = [one for one in row if followed is None or one.name in followed or one.name in self.key]
        schema = _bare(versions_schema(pa.schema(columns)))
        lake = self._with_key(
            self._writer.table((SILVER, f"{self.name}_versions"), schema, self._properties("versions")), schema
        )
        return VersionsTable(lake, self.key, followed, self._plan.settings)


def _microseconds(moment: pa.Scalar) -> int:
    return int(moment.value or 0) if moment.is_valid else 0


def _finished(held: Progress) -> bool:
    """Is there a snapshot, and none that is still being read?"""
    return bool(held.chunks) and held.snapshots_finished


def _bare(schema: pa.Schema) -> pa.Schema:
    """Without the field ids of the files that it came from."""
    return pa.schema([pa.field(one.name, one.type) for one in schema])


def _one(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)
