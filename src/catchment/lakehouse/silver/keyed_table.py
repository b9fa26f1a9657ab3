"""A table with one row a key, merged on read: new rows are appended, the rows they replace are deleted by position.

What a commit costs depends on the change, not on the table: old rows are found through a `KeyIndex`. Changes wait
in two generations: the rows before the last boundary, which the next commit takes, and those after it, which it
must not take.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema

from catchment.errors import SinkRefused
from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings, open_parquet
from catchment.lakehouse.file_schema import Arrangement, file_schema
from catchment.lakehouse.position_delete import Positions, read_position_deletes, write_position_deletes
from catchment.lakehouse.silver.key_hash import SEED_BYTES, KeyHash, Keys
from catchment.lakehouse.silver.key_index import NOWHERE, Flags, KeyIndex, Places, index_directory
from catchment.lakehouse.table import Change, Draft, LakeTable

UNREPRESENTABLE = "_unrepresentable"
ROLLBACK = "catchment.rollback"
"""In a snapshot's summary: to which earlier snapshot it set the table back."""

OWN_DELETE_FILE = 1_024
"""A data file with so many dead rows gets a consolidated delete file of its own."""
RECENT_BYTES = 48 * 1024 * 1024
"""Rows of the file being written are kept in memory, where a later change may ask for them; then it is closed."""
SAVE_EVERY = 64
"""Commits between two savings of the index."""
_SPARE_PLACES = 4_000_000


@dataclass(eq=False)
class PlacedFile:
    """A data file and the places of its rows: base, base + 1, …"""

    path: str
    base: int
    rows: int
    bytes: int = 0

    @property
    def places(self) -> slice:
        """The places of its rows."""
        return slice(self.base, self.base + self.rows)


@dataclass(eq=False)
class Generation:
    """What one commit will take. replace: every row from before it goes."""

    files: list[DataFile] = field(default_factory=list)
    kills: list[Places] = field(default_factory=list)
    replace: bool = False

    def __bool__(self) -> bool:
        return self.replace or bool(self.files or self.kills)


@dataclass(frozen=True)
class Rewrite:
    """Data files that are being rewritten, and which of their rows were dead when that began."""

    files: tuple[PlacedFile, ...]
    dead: Mapping[str, Flags]


@dataclass(frozen=True)
class Rewritten:
    """A new data file: where each of its rows came from. source: index into `Rewrite.files`; row: position there."""

    file: DataFile
    source: np.ndarray[tuple[int], np.dtype[np.int32]]
    row: Positions
    keys: Keys


class KeyedTable:
    """One row a key. Every method needs the writer's lock; what it changes is visible after `draft` is committed."""

    def __init__(
        self, lake: LakeTable, key: Sequence[str], directory: Path, settings: ParquetSettings, target_file_bytes: int
    ) -> None:
        self.lake = lake
        self.key = tuple(key)
        self._settings = settings
        self._target = target_file_bytes
        self._iceberg: Schema = lake.metadata.schema()
        self._file_schema = file_schema(self._iceberg)
        self.hash = KeyHash([self._file_schema.field(name).type for name in key], seed(directory))
        self._index = KeyIndex(index_directory(directory, lake.metadata.table_uuid))
        self._files: dict[str, PlacedFile] = {}
        self._ordered: list[PlacedFile] = []
        self._dead: Flags = np.zeros(0, np.bool_)
        self._end = 0
        self._live = 0
        self._bounded = Generation()
        self._open = Generation()
        self._writing: DataFileWriter | None = None
        self._placing: PlacedFile | None = None
        self._recent: list[tuple[int, pa.RecordBatch]] = []
        self._recent_bytes = 0
        self._commits = 0
        self._tried: set[str] = set()
        self._closed = False
        self._reconcile()
        # What the index is saved for: a rollback since then brings rows back that it has let go.
        self._merged_at = lake.metadata.current_snapshot_id

    # -- reading

    @property
    def rows(self) -> int:
        """Live rows, those not yet committed too."""
        return self._live

    @property
    def dirty(self) -> bool:
        """Is there something that the next commit takes?"""
        return bool(self._bounded)

    def files(self) -> list[PlacedFile]:
        """The committed data files."""
        pending = {one.file_path for gen in (self._bounded, self._open) for one in gen.files}
        return [file for file in self._ordered if file.path not in pending and file is not self._placing]

    def dead_rows(self, file: PlacedFile) -> int:
        """How many of a file's rows are dead, by changes not yet committed too."""
        return int(np.count_nonzero(self._dead[file.places]))

    def find(self, keys: Keys) -> Places:
        """Where the row of each key is; `NOWHERE` for a key that has none."""
        return self._index.find(keys, self._dead)

    def take(self, places: Places, columns: Sequence[str]) -> pa.Table:
        """These columns of the rows at these places, in that order. A column that a file lacks is NULL."""
        schema = pa.schema([self._file_schema.field(name) for name in columns])
        if not len(places):
            return schema.empty_table()
        order = np.argsort(places, kind="stable")
        parts = [self._take(file, at, schema) for file, at in self._by_file(places[order])]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))

    def live_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All live rows, a row group at a time, in the order in which they were written."""
        for file in list(self._ordered):
            if file is self._placing:
                continue
            reader = self._open_parquet(file)
            start = file.base
            for group in range(reader.num_row_groups):
                part = reader.read_row_group(group, columns=self._there(reader, columns))
                alive = ~self._dead[start : start + part.num_rows]
                start += part.num_rows
                yield part if alive.all() else part.filter(pa.array(alive))

    def keys_of(self, rows: pa.Table | pa.RecordBatch) -> Keys:
        """The keys of rows of this table; they have the key's columns and, where it matters, `_unrepresentable`."""
        columns = [whole(rows.column(name)) for name in self.key]
        texts: list[pa.Array | None] = []
        for name, column in zip(self.key, columns, strict=True):
            uncertain = column.null_count and UNREPRESENTABLE in rows.schema.names and not self.hash.exact
            texts.append(
                pc.map_lookup(whole(rows.column(UNREPRESENTABLE)), query_key=name, occurrence="first")
                if uncertain
                else None
            )
        return self.hash.of(columns, texts)

    # -- changing

    def fit(self, arrow: pa.Schema, version: int) -> Arrangement:
        """Make the table's schema take these columns; the table itself has it from the next commit on."""
        fitted = self.lake.fit(arrow, self._iceberg, version)
        arrangement = Arrangement(arrow, fitted.schema, fitted.places)
        if fitted.schema != self._iceberg:
            self.cut()
            self._iceberg, self._file_schema = fitted.schema, arrangement.file
        return arrangement

    def kill(self, places: Places) -> None:
        """The rows at these places go: each is alive, and named once."""
        if len(places):
            self._dead[places] = True
            self._live -= len(places)
            self._open.kills.append(places)

    def append(self, rows: pa.RecordBatch, keys: Keys) -> None:
        """Add rows, of the file's schema; none of their keys has a live row."""
        count = rows.num_rows
        if not count:
            return
        if self._writing is None or self._placing is None:
            self._writing = DataFileWriter(
                self.lake.storage, self.lake.new_data_location(), self._file_schema, self._settings
            )
            self._placing = PlacedFile(self._writing.location, self._end, 0)
            self._add_file(self._placing)
        self._writing.write([rows])
        first = self._end
        self._end += count
        self._live += count
        self._placing.rows += count
        self._reserve()
        self._index.add(keys, np.arange(first, first + count), self._dead)
        self._recent.append((first, rows))
        self._recent_bytes += int(rows.nbytes)
        if self._recent_bytes >= RECENT_BYTES or self._writing.size >= self._target:
            self.cut()

    def truncate(self) -> None:
        """Every row goes."""
        self.cut()
        # Nothing points to the files of this very generation, and nothing ever will.
        dropped = self._open.files
        self._dead[: self._end] = True
        self._live = 0
        self._index.clear()
        self._open = Generation(replace=True)
        for file in dropped:
            self._forget(self._files[file.file_path])
        self.lake.delete_uncommitted([file.file_path for file in dropped])

    def kill_up_to(self, version: bytes) -> None:
        """Every row goes whose `_version` is at most this one."""
        self.cut()
        found = []
        for file in self._ordered:
            reader, start = self._open_parquet(file), file.base
            for group in range(reader.num_row_groups):
                versions = reader.read_row_group(group, columns=["_version"]).column(0)
                old = np.asarray(pc.less_equal(versions, pa.scalar(version, versions.type)))
                found.append(np.flatnonzero(old & ~self._dead[start : start + len(old)]) + start)
                start += len(old)
        if found:
            self.kill(np.concatenate(found))

    def cut(self) -> None:
        """Close the file that is being written."""
        if self._writing is None or self._placing is None:
            return
        file = self._writing.close()
        self._placing.bytes = file.file_size_in_bytes
        self._open.files.append(file)
        self._writing, self._placing = None, None
        self._recent, self._recent_bytes = [], 0

    def advance(self) -> None:
        """A boundary: all that was changed so far may be committed."""
        self.cut()
        late = self._open
        self._open = Generation()
        if late.replace:
            dropped = self._bounded.files
            self._bounded = late
            for file in dropped:
                self._forget(self._files[file.file_path])
            self.lake.delete_uncommitted([file.file_path for file in dropped])
        else:
            self._bounded.files += late.files
            self._bounded.kills += late.kills

    # -- committing

    def draft(self, properties: Mapping[str, str], summary: Mapping[str, str]) -> Draft:
        """The commit of what was changed before the last boundary."""
        generation = self._bounded
        self._tried |= {file.file_path for file in generation.files}
        kills = np.sort(np.concatenate(generation.kills)) if generation.kills else np.empty(0, np.int64)
        deletes = self._write_deletes(kills)
        changed = self._iceberg != self.lake.metadata.schema()
        return self.lake.draft(
            Change(
                files=generation.files,
                deletes=deletes,
                replace=generation.replace,
                schema=self._iceberg if changed else None,
                properties=properties,
                summary=summary,
            )
        )

    def settle(self) -> None:
        """The commit has happened."""
        replaced = self._bounded.replace
        kept = {one.file_path for gen in (self._bounded, self._open) for one in gen.files}
        self._bounded = Generation()
        self._tried.clear()
        self._merged_at = self.lake.metadata.current_snapshot_id
        if replaced:
            gone = [file for file in self._ordered if file.path not in kept and file is not self._placing]
            for file in gone:
                self._forget(file)
        self._commits += 1
        if self._end > 3 * self._live + _SPARE_PLACES and not self._open and self._writing is None:
            self._renumber()
        if self._commits % SAVE_EVERY == 0:
            self.save()

    def save(self) -> None:
        """Keep the index for the next process."""
        if self._bounded or self._open or self._writing is not None:
            return  # It would name files that no snapshot has.
        files = [{"path": one.path, "base": one.base, "rows": one.rows} for one in self._ordered]
        # Runs still name places of files that left: nothing else may have these.
        stamp = {"snapshot": self._merged_at, "seed": self.hash.seed.hex(), "key": list(self.key)}
        self._index.save({**stamp, "files": files, "end": self._end})

    def close(self) -> None:
        """Keep the index and let go. Of what was not committed, files that no commit was tried with are deleted."""
        self._closed = True
        if self._writing is not None:
            self._writing.abort()
        pending = [file.file_path for generation in (self._bounded, self._open) for file in generation.files]
        self.lake.storage.delete([path for path in pending if path not in self._tried])
        self.save()
        self._index.close()

    # -- rewriting (compaction)

    def begin_rewrite(self, paths: Collection[str]) -> Rewrite:
        """Begin to rewrite committed data files; the dead rows of this moment need not be written again.

        Raises `SinkRefused` while the table is being emptied: try again after the next commit.
        """
        self._refuse_rewriting()
        files = tuple(self._files[path] for path in paths)
        pending = self._pending()
        dead = {}
        for file in files:
            flags = self._dead[file.places].copy()
            # A change that is not committed must not become visible by the rewrite.
            inside = pending[(pending >= file.base) & (pending < file.base + file.rows)]
            flags[inside - file.base] = False
            dead[file.path] = flags
        return Rewrite(files, dead)

    def draft_rewrite(
        self,
        rewrite: Rewrite,
        rewritten: Sequence[Rewritten],
        summary: Mapping[str, str] | None = None,
        *,
        consolidate: bool = True,
        idle: Collection[str] = (),
    ) -> Draft:
        """The commit that puts new files in the place of old ones. Rows that died meanwhile are dead in the new ones.

        consolidate: replace all delete files by few. idle: delete files that name no row of any other data file than
        those rewritten; they leave too. From here on the draft must be committed, or the table opened
        anew. Raises `SinkRefused`, with nothing changed, when one of the files is no longer there: begin again.
        """
        self._refuse_rewriting()
        for file in rewrite.files:
            if self._files.get(file.path) is not file:
                raise SinkRefused(f"{file.path} of {self.lake.name} left while it was rewritten.")
        moved = {file.path: np.full(file.rows, NOWHERE, np.int64) for file in rewrite.files}
        for one in rewritten:
            self._place_rewritten(one, rewrite.files, moved)
        late = self._late_deaths(rewrite, moved)
        for generation in (self._bounded, self._open):
            generation.kills = [self._translated(kills, rewrite.files, moved) for kills in generation.kills]
        committed = np.setdiff1d(late, self._pending())
        removed = {file.path for file in rewrite.files} | set(idle)
        for file in rewrite.files:
            self._forget(file)
        if consolidate:
            removed |= {entry.data_file.file_path for entry in self.lake.manifests.deletes()}
            committed = self._committed_dead()
        deletes = self._write_deletes(np.sort(committed), apart=consolidate)
        files = [one.file for one in rewritten]
        return self.lake.draft(Change(files=files, deletes=deletes, removed=removed, summary=summary or {}))

    def _refuse_rewriting(self) -> None:
        if self._closed:
            raise SinkRefused(f"{self.lake.name} was closed; who has it open now knows nothing of this rewrite.")
        if self._bounded.replace or self._open.replace:
            raise SinkRefused(f"{self.lake.name} is being emptied; its files are not rewritten now.")

    def _place_rewritten(self, one: Rewritten, sources: Sequence[PlacedFile], moved: Mapping[str, Places]) -> None:
        self.cut()  # A growing file's places must stay without a gap.
        placed = PlacedFile(one.file.file_path, self._end, one.file.record_count, one.file.file_size_in_bytes)
        self._end += placed.rows
        self._reserve()
        self._add_file(placed)
        places = np.arange(placed.base, self._end)
        for i, source in enumerate(sources):
            mine = one.source == i
            moved[source.path][one.row[mine]] = places[mine]
        self._index.add(one.keys, places, self._dead)

    def _late_deaths(self, rewrite: Rewrite, moved: Mapping[str, Places]) -> Places:
        """New places of rows that died after the rewrite began, committed or not; they are dead from here on."""
        late = []
        for file in rewrite.files:
            died = self._dead[file.places] & ~rewrite.dead[file.path]
            places = moved[file.path][died]
            late.append(places[places != NOWHERE])
        found = np.concatenate(late) if late else np.empty(0, np.int64)
        self._dead[found] = True
        return found

    def _translated(self, kills: Places, sources: Sequence[PlacedFile], moved: Mapping[str, Places]) -> Places:
        result = kills.copy()
        for file in sources:
            inside = (kills >= file.base) & (kills < file.base + file.rows)
            result[inside] = moved[file.path][kills[inside] - file.base]
        kept: Places = result[result != NOWHERE]
        return kept

    def _committed_dead(self) -> Places:
        """The dead rows of committed files whose deaths are committed."""
        dead = [np.flatnonzero(self._dead[file.places]) + file.base for file in self.files()]
        found = np.concatenate(dead) if dead else np.empty(0, np.int64)
        return np.setdiff1d(found, self._pending())

    def _pending(self) -> Places:
        kills = [*self._bounded.kills, *self._open.kills]
        return np.concatenate(kills) if kills else np.empty(0, np.int64)

    # -- places

    def _add_file(self, file: PlacedFile) -> None:
        self._files[file.path] = file
        self._ordered.append(file)

    def _forget(self, file: PlacedFile) -> None:
        self._dead[file.places] = True
        del self._files[file.path]
        self._ordered.remove(file)

    def _reserve(self) -> None:
        if self._end > len(self._dead):
            grown = np.zeros(max(65_536, self._end + self._end // 2), np.bool_)
            grown[: len(self._dead)] = self._dead
            self._dead = grown

    def _by_file(self, places: Places) -> Iterator[tuple[PlacedFile, Positions]]:
        """Ascending places by data file; places of files that left are passed over."""
        bases = [file.base for file in self._ordered]
        at = 0
        while at < len(places):
            position = bisect_right(bases, int(places[at])) - 1
            file = self._ordered[position] if position >= 0 else None
            following = bases[position + 1] if position + 1 < len(bases) else self._end
            end = int(np.searchsorted(places, following))
            if end <= at:
                raise RuntimeError(f"The key index of {self.lake.name} names a place that no file has")
            if file is not None:
                inside = places[at:end]
                inside = inside[inside < file.base + file.rows]
                if len(inside):
                    yield file, inside - file.base
            at = end

    def _renumber(self) -> None:
        """Give places anew, without those of dead rows' files that left: they would only grow."""
        old = list(self._ordered)
        bases = np.array([file.base for file in old] or [0], np.int64)
        shift = np.zeros(len(bases), np.int64)
        dead, end = [], 0
        for i, file in enumerate(old):
            shift[i] = end - file.base
            dead.append(self._dead[file.places])
            end += file.rows

        def moved(places: Places) -> Places:
            return places + shift[np.searchsorted(bases, places, side="right") - 1]

        self._index.renumber(moved, self._dead)
        for i, file in enumerate(old):
            file.base += int(shift[i])
        self._dead = np.concatenate([*dead, np.zeros(65_536, np.bool_)])
        self._end = end

    # -- files

    def _write_deletes(self, places: Places, *, apart: bool = False) -> list[DataFile]:
        """Delete files for these places, ascending. apart: large ones are files of their own."""
        rows = {file.path: positions for file, positions in self._by_file(places)}
        groups: list[dict[str, Positions]] = [{}]
        for path, positions in rows.items():
            if apart and len(positions) >= OWN_DELETE_FILE:
                groups.append({path: positions})
            else:
                groups[0][path] = positions
        storage = self.lake.storage
        return [write_position_deletes(storage, self.lake.new_data_location(), one) for one in groups if one]

    def _take(self, file: PlacedFile, positions: Positions, schema: pa.Schema) -> pa.Table:
        if file is self._placing:
            return self._take_recent(positions + file.base, schema)
        reader = self._open_parquet(file)
        there = self._there(reader, schema.names)
        parts, start = [], 0
        for group in range(reader.num_row_groups):
            count = reader.metadata.row_group(group).num_rows
            wanted = positions[(positions >= start) & (positions < start + count)] - start
            start += count
            if len(wanted):
                parts.append(reader.read_row_group(group, columns=there).take(pa.array(wanted)))
        return _shaped(pa.concat_tables(parts), schema)

    def _take_recent(self, places: Places, schema: pa.Schema) -> pa.Table:
        parts = []
        for first, batch in self._recent:
            wanted = places[(places >= first) & (places < first + batch.num_rows)] - first
            if len(wanted):
                parts.append(_shaped(pa.Table.from_batches([batch]).take(pa.array(wanted)), schema))
        return pa.concat_tables(parts)

    def _open_parquet(self, file: PlacedFile) -> pq.ParquetFile:
        return open_parquet(self.lake.table.io, file.path, memory_map=True)

    def _there(self, reader: pq.ParquetFile, columns: Sequence[str] | None) -> list[str] | None:
        if columns is None:
            return None
        names = set(reader.schema_arrow.names)
        return [name for name in columns if name in names]

    def _reconcile(self) -> None:
        """Bring index and dead rows to what the table's current snapshot says."""
        entries = {e.data_file.file_path: e.data_file for e in self.lake.manifests.data()}
        known = self._saved(entries)
        for path, (base, rows) in sorted(known.items(), key=lambda one: one[1]):
            if path in entries:
                self._add_file(PlacedFile(path, base, rows, entries[path].file_size_in_bytes))
        unknown = [path for path in entries if path not in known]
        for path in unknown:
            file = PlacedFile(path, self._end, entries[path].record_count, entries[path].file_size_in_bytes)
            self._end += file.rows
            self._add_file(file)
        self._dead = np.ones(max(65_536, self._end + self._end // 4), np.bool_)
        self._dead[self._end :] = False
        for file in self._ordered:
            self._dead[file.places] = False
        for entry in self.lake.manifests.deletes():
            self._apply_deletes(entry.data_file.file_path)
        for path in unknown:
            self._index_file(self._files[path])
        self._live = sum(file.rows - self.dead_rows(file) for file in self._ordered)

    def _saved(self, entries: Mapping[str, DataFile]) -> dict[str, tuple[int, int]]:
        """The files that the saved index covers: path → base, rows. Nothing if it belongs to another history."""
        stamp = self._index.load()
        if stamp is None:
            return {}
        files = stamp.get("files")
        end = stamp.get("end")
        same = stamp.get("seed") == self.hash.seed.hex() and stamp.get("key") == list(self.key)
        ours = same and self._descends_from(stamp.get("snapshot"))
        if ours and isinstance(files, list) and isinstance(end, int):
            self._end = end
            return {one["path"]: (one["base"], one["rows"]) for one in files}
        self._index.clear()
        return {}

    def _descends_from(self, snapshot: object) -> bool:
        known = {one.snapshot_id: one for one in self.lake.metadata.snapshots}
        at = self.lake.metadata.current_snapshot()
        while at is not None:
            if at.snapshot_id == snapshot:
                return True
            if at.summary is not None and at.summary.get(ROLLBACK):
                return False  # Rows that had died live again; the index may have left them out.
            at = known.get(at.parent_snapshot_id) if at.parent_snapshot_id is not None else None
        return False

    def _apply_deletes(self, path: str) -> None:
        with self.lake.table.io.new_input(path).open() as file:
            for data_path, positions in read_position_deletes(pa.PythonFile(file, mode="r")).items():
                placed = self._files.get(data_path)
                if placed is not None:
                    self._dead[positions + placed.base] = True

    def _index_file(self, file: PlacedFile) -> None:
        reader = self._open_parquet(file)
        columns = list(self.key) if self.hash.exact else [*self.key, UNREPRESENTABLE]
        # A file from before the key's type changed lacks a column of it.
        schema = pa.schema([self._file_schema.field(name) for name in columns])
        start = file.base
        keys: list[Keys] = []
        places: list[Places] = []
        for group in range(reader.num_row_groups):
            rows = _shaped(reader.read_row_group(group, columns=self._there(reader, columns)), schema)
            alive = np.flatnonzero(~self._dead[start : start + rows.num_rows])
            keys.append(self.keys_of(rows).take(alive))
            places.append(alive + start)
            start += rows.num_rows
        if keys:
            self._index.add(Keys.join(keys), np.concatenate(places), self._dead)


def seed(directory: Path) -> bytes:
    """The secret that keys are hashed with here; made when there is none."""
    file = directory / ".catchment" / "keys" / "seed"
    # Nothing is fsynced here: after a power cut it may be there and empty.
    if not file.exists() or file.stat().st_size != SEED_BYTES:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f"seed.{secrets.token_hex(4)}")
        fresh.write_bytes(secrets.token_bytes(SEED_BYTES))
        fresh.chmod(0o600)
        fresh.replace(file)
    return file.read_bytes()


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column in one piece; not copied where it is one."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def _shaped(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with these columns; one that was written narrower is widened, one that was not there is NULL."""
    names = set(rows.column_names)
    columns = [
        rows.column(field.name).cast(field.type) if field.name in names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
