"""`silver.<table>_versions`: the rows, or some columns of them, that a table's keys had, one version after the other.

Append-only. What is a key's history follows from `_version` alone: versions may come late (a snapshot's) or twice
(after a replay). `silver.<table>_history` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema

from catchment.lakehouse.data_file import DataFileWriter, ParquetSettings
from catchment.lakehouse.file_schema import Arrangement
from catchment.lakehouse.silver.fold import Find, Fold, Indices
from catchment.lakehouse.table import Change, Draft, LakeTable
from catchment.schema import UTC_MICROSECONDS

_OURS = ("_version", "_committed_at", "_unrepresentable", "_quality")
_NULLABLE_MAP = pa.map_(pa.string(), pa.string())


def versions_schema(row: pa.Schema) -> pa.Schema:
    """The columns of a versions table for rows of these columns."""
    return pa.schema(
        [
            *row,
            pa.field("_op", pa.string()),
            pa.field("_version", pa.binary()),
            pa.field("_lane", pa.string()),
            pa.field("_position", pa.binary()),
            pa.field("_valid_from", UTC_MICROSECONDS),
            pa.field("_unrepresentable", _NULLABLE_MAP),
        ]
    )


class VersionsTable:
    """The history of one table. columns: those that are followed, beside the key; None for all."""

    def __init__(
        self, lake: LakeTable, key: Sequence[str], columns: Sequence[str] | None, settings: ParquetSettings
    ) -> None:
        self.lake = lake
        self._key = tuple(key)
        self._columns = tuple(columns) if columns is not None else None
        self._settings = settings
        self._iceberg: Schema = lake.metadata.schema()
        self._arrangement: Arrangement | None = None
        self._shape: pa.Schema | None = None
        self._writing: DataFileWriter | None = None
        self._bounded: list[DataFile] = []
        self._open: list[DataFile] = []
        self._tried = False

    @property
    def dirty(self) -> bool:
        """Is there something that the next commit takes?"""
        return bool(self._bounded)

    def append(self, fold: Fold, names: Sequence[str], find: Find) -> None:
        """Keep what a run of changes made of each key, one version after the other."""
        events = fold.history
        followed = [name for name in names if self._columns is None or name in self._columns or name in self._key]
        gone = fold.gone[events]
        lives = pa.array(gone)
        columns: dict[str, pa.Array] = {}
        for name in followed:
            if name in self._key:
                columns[name] = fold.key_column(name, events)
            else:
                values = fold.after(name, events, find)
                columns[name] = pc.if_else(lives, pa.scalar(None, values.type), values)
        changes = fold.changes
        where = pa.array(fold.change[events])
        columns["_op"] = pc.if_else(lives, "d", changes.column("_op").take(where))
        columns["_version"] = changes.column("_version").take(where)
        columns["_lane"] = changes.column("_lane").take(where)
        columns["_position"] = changes.column("_position").take(where)
        columns["_valid_from"] = changes.column("_committed_at").take(where)
        texts = fold.unrepresentable(events, find)
        columns["_unrepresentable"] = texts if self._columns is None else _of_columns(texts, followed)
        rows = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        self._write(self._news(fold, events, rows))

    def begin(self, rows: pa.Table) -> None:
        """Keep rows of the table as it is as the first versions that are known, as if a snapshot had read them."""
        count = rows.num_rows
        names = [name for name in rows.column_names if name not in _OURS]
        followed = [name for name in names if self._columns is None or name in self._columns or name in self._key]
        columns = {name: rows.column(name) for name in followed}
        columns["_op"] = pa.chunked_array([pa.repeat("r", count)])
        columns["_version"] = columns["_position"] = rows.column("_version")
        columns["_lane"] = pa.chunked_array([pa.repeat("silver", count)])
        columns["_valid_from"] = rows.column("_committed_at")
        texts = rows.column("_unrepresentable").combine_chunks()
        columns["_unrepresentable"] = pa.chunked_array(
            [texts if self._columns is None else _of_columns(texts, followed)], texts.type
        )
        order = [*followed, *versions_schema(pa.schema([])).names]
        for batch in pa.table({name: columns[name] for name in order}).combine_chunks().to_batches():
            self._write(batch)

    def truncate(self, row: pa.RecordBatch) -> None:
        """Every key ends here; `row` is the truncate's change."""
        names = [field.name for field in versions_schema(pa.schema([]))]
        values = {
            "_op": row.column("_op"),
            "_version": row.column("_version"),
            "_lane": row.column("_lane"),
            "_position": row.column("_position"),
            "_valid_from": row.column("_committed_at"),
            "_unrepresentable": pa.nulls(1, _NULLABLE_MAP),
        }
        self._write(pa.RecordBatch.from_arrays([values[name] for name in names], names))

    def _news(self, fold: Fold, events: Indices, rows: pa.RecordBatch) -> pa.RecordBatch:
        """Without versions that say what the key's last one before them in these changes said."""
        if self._columns is None:
            return rows
        before = fold.same_key_before[events]
        place = np.full(len(fold.change), -1, np.intp)
        place[events] = np.arange(len(events))
        earlier = np.where(before >= 0, place[before], -1)
        same = (earlier >= 0) & ~fold.gone[events]
        same[same] &= ~fold.gone[events][earlier[same]]
        mine = np.flatnonzero(same)
        if not len(mine):
            return rows
        for name in (*self._columns, "_unrepresentable"):
            if name not in rows.schema.names or not len(mine):
                continue
            now, then = (_comparable(rows.column(name).take(pa.array(at))) for at in (mine, earlier[mine]))
            equal = pc.or_(pc.fill_null(pc.equal(now, then), False), pc.and_(now.is_null(), then.is_null()))
            mine = mine[np.asarray(equal)]
        keep = np.ones(len(events), np.bool_)
        keep[mine] = False
        return rows.filter(pa.array(keep))

    def _write(self, rows: pa.RecordBatch) -> None:
        if not rows.num_rows:
            return
        if self._shape is None or rows.schema != self._shape or self._arrangement is None:
            self._fit(rows.schema)
        assert self._arrangement is not None  # noqa: S101 - tells the type checker
        if self._writing is None:
            self._writing = DataFileWriter(
                self.lake.storage, self.lake.new_data_location(), self._arrangement.file, self._settings
            )
        self._writing.write([self._arrangement.apply(rows)])

    def _fit(self, arrow: pa.Schema) -> None:
        self.cut()
        fitted = self.lake.fit(arrow, self._iceberg)
        self._iceberg, self._shape = fitted.schema, arrow
        self._arrangement = Arrangement(arrow, fitted.schema, fitted.places)

    def cut(self) -> None:
        """Close the file that is being written."""
        if self._writing is not None:
            self._open.append(self._writing.close())
            self._writing = None

    def advance(self) -> None:
        """A boundary: all that was appended so far may be committed."""
        self.cut()
        self._bounded += self._open
        self._open = []

    def draft(self, properties: Mapping[str, str], summary: Mapping[str, str]) -> Draft:
        """The commit of what was appended before the last boundary."""
        self._tried = True
        changed = self._iceberg != self.lake.metadata.schema()
        schema = self._iceberg if changed else None
        return self.lake.draft(Change(self._bounded, schema=schema, properties=properties, summary=summary))

    def settle(self) -> None:
        """The commit has happened."""
        self._bounded, self._tried = [], False

    def close(self) -> None:
        """Give up what was not committed; files that no commit was tried with are deleted."""
        if self._writing is not None:
            self._writing.abort()
        files = [*self._open, *([] if self._tried else self._bounded)]
        self.lake.storage.delete([file.file_path for file in files])


def _of_columns(texts: pa.Array, names: Sequence[str]) -> pa.Array:
    """Only the texts of these columns. Few rows ever have any: they are gone through one by one."""
    if texts.null_count == len(texts):
        return texts
    kept = ([entry for entry in one or () if entry[0] in names] or None for one in texts.to_pylist())
    return pa.array(kept, texts.type)


def _comparable(column: pa.Array) -> pa.Array:
    """Arrow has no equality of maps: an entry is compared as text."""
    if pa.types.is_map(column.type):
        return pa.array([None if one is None else repr(sorted(one)) for one in column.to_pylist()], pa.string())
    return column
