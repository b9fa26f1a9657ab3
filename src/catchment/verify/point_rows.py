"""A table's rows in the lake at the source's point, as a relation.

What a reader sees of silver just before the point is brought up to it by the few changes between: they come out of
bronze, where a running pipeline lands them, or are read beside the slot when none runs. Only keys that these
changes touch are replayed, by the replay of `current`, the oracle; all other rows are as silver has them. A
table without silver is what all of its bronze amounts to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
from pyiceberg.types import StructType

from catchment.lakehouse.file_schema import Arrangement
from catchment.lakehouse.properties import key_of, marker_of
from catchment.lakehouse.reading import bronze
from catchment.lakehouse.reading.bronze import Unreadable, duck_type
from catchment.lakehouse.reading.connection import show
from catchment.lakehouse.reading.current import may_be_unrepresentable
from catchment.lakehouse.reading.moment import TableSnapshot
from catchment.lakehouse.reading.replay import ENVELOPE, KeyColumn, Replay
from catchment.lakehouse.sql import identifier, literal
from catchment.lakehouse.table_schema import Places, fit
from catchment.progress import Progress
from catchment.schema import envelope
from catchment.verify.lake import LakeTable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.change import ChangeBatch
    from catchment.schema import TableSchema

_CHANGES = "verify_changes"


@dataclass(frozen=True, slots=True)
class RowsAtPoint:
    """A relation of the rows at the point. row: its columns; places: which of the source's columns fills which.

    It has the lake's columns, `_unrepresentable` (unless the table has such a column) and the boolean `quarantined`.
    """

    relation: str
    row: StructType
    places: Places
    quarantined: str


@dataclass(frozen=True, slots=True)
class Passage:
    """From the lake before the point to the point.

    before: the table's tables just before. later: the same once all before the point had landed; None when nobody runs
    the pipeline. pulled: then, the changes that were not there yet. lane, version: of the point.
    """

    before: LakeTable
    later: LakeTable | None
    pulled: Sequence[ChangeBatch]
    lane: str
    version: bytes


@contextmanager
def rows_at(connection: DuckDBPyConnection, passage: Passage, schema: TableSchema) -> Iterator[RowsAtPoint]:
    """The table's rows after every change at or below the point's version; valid within.

    schema: the source's, transformed. Raises `Unreadable` where DuckDB cannot be shown the lake's tables.
    """
    newest = passage.before.bronze if passage.later is None else passage.later.bronze
    changes, places = _with_room(newest, [schema, *(batch.schema for batch in passage.pulled)])
    table = _TableAt(connection, passage, changes)
    try:
        silver = passage.before.silver
        relation = table.of_bronze() if silver is None or table.shadowed else table.of_silver(silver)
        yield RowsAtPoint(relation, table.row, places, table.quarantined)
    finally:
        table.forget()


class _TableAt:
    """Makes the views of one table."""

    def __init__(self, connection: DuckDBPyConnection, passage: Passage, changes: TableSnapshot) -> None:
        self._connection = connection
        self._passage = passage
        self._bronze = changes
        row = changes.schema.find_field("after").field_type
        assert isinstance(row, StructType)  # noqa: S101 - bronze is made so
        self.row = row
        self._types = {field.name: field.field_type for field in row.fields}
        self._key = key_of(changes.properties)
        self._textual = [name for name in self._key if may_be_unrepresentable(self._types[name])]
        lower = [name.lower() for name in self._types]
        if len(set(lower)) < len(lower):
            raise Unreadable("it has columns whose names differ in case alone, which DuckDB does not tell apart")
        self.shadowed = any(name in ENVELOPE for name in lower)
        """Does the table have columns with our names? Then only its bronze tells them apart."""
        self.quarantined = identifier(max(["_quarantined", *(f"{name}_" for name in lower)], key=len))
        """A name that no column has."""

    def of_bronze(self) -> str:
        """The rows that all changes up to the point amount to."""
        self._show_changes(self._bronze, self._up_to(), keep=False)
        return f"SELECT *, false AS {self.quarantined} FROM ({self._replay(_CHANGES)})"

    def of_silver(self, silver: TableSnapshot) -> str:
        """Silver's rows, and those of keys that changed since brought up to the point."""
        self._show_changes(*self._since(silver), keep=True)
        self._show_base(silver)
        columns = ", ".join((*map(identifier, self._types), "_unrepresentable"))
        row = f"after.*, _unrepresentable, {self.quarantined}"
        (changed,) = self._connection.execute(f"SELECT count(*) FROM {_CHANGES}").fetchall()
        if not changed[0]:
            return f"SELECT {columns}, {self.quarantined} FROM (SELECT {row} FROM verify_base)"
        self._show_events()
        untouched = (
            f"SELECT {row} FROM (SELECT *, {self._keys('now')} FROM verify_base) "
            f"ANTI JOIN verify_touched USING ({self._names()}) "
            f"WHERE coalesce(_version > (SELECT max(_version) FROM {_CHANGES} WHERE _op = 't'), true)"
        )
        return (
            f"SELECT {columns}, {self.quarantined} FROM ({untouched}) "
            f"UNION ALL SELECT {columns}, false FROM ({self._replay('verify_events')})"
        )

    def forget(self) -> None:
        """Drop the largest of what was made; all of it goes with the connection."""
        self._connection.execute("DROP TABLE IF EXISTS verify_pulled")

    # -- changes

    def _up_to(self) -> str:
        return f"_version <= unhex('{self._passage.version.hex()}')"

    def _since(self, silver: TableSnapshot) -> tuple[TableSnapshot, str]:
        """Bronze, without files that silver has all rows of, and the condition of what silver does not have."""
        held = _position(silver, self._passage.lane)
        condition = f"_lane = {literal(self._passage.lane)} AND _position > unhex('{held.hex()}') AND {self._up_to()}"
        before = self._passage.before.bronze
        if held < _position(before, self._passage.lane):
            return self._bronze, condition
        known = set(before.files)
        return replace(self._bronze, files=tuple(file for file in self._bronze.files if file not in known)), condition

    def _show_changes(self, source: TableSnapshot, condition: str, *, keep: bool) -> None:
        """The changes as a view; keep: as a table, for few that are asked for again and again."""
        relation = f"SELECT * FROM {self._shown(source)} WHERE {condition}"
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE verify_pulled AS {relation} LIMIT 0")
        for batch in self._passage.pulled:
            fitted = fit(self._bronze.schema, batch.records.schema, **_numbers(self._bronze, batch.schema.version))
            records = Arrangement(batch.records.schema, fitted.schema, fitted.places).apply(batch.records)
            self._connection.register("verify_batch", pa.Table.from_batches([records]))
            self._connection.execute("INSERT INTO verify_pulled BY NAME SELECT * FROM verify_batch")
            self._connection.unregister("verify_batch")
        kind = "TABLE" if keep else "VIEW"
        self._connection.execute(
            f"CREATE OR REPLACE TEMP {kind} {_CHANGES} AS {relation} UNION ALL BY NAME SELECT * FROM verify_pulled"
        )

    def _shown(self, table: TableSnapshot) -> str:
        """The name of a view of the table. Raises `Unreadable`."""
        bronze.relation(table)
        show(self._connection, [table])
        return f"{identifier(table.layer)}.{identifier(table.name)}"

    # -- silver

    def _show_base(self, silver: TableSnapshot) -> None:
        """Silver and its quarantine as if each row were a change that reads it."""
        parts = [self._as_changes(silver, quarantined=False)]
        if self._passage.before.quarantine is not None:
            parts.append(self._as_changes(self._passage.before.quarantine, quarantined=True))
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW verify_base AS {' UNION ALL '.join(parts)}")

    def _as_changes(self, table: TableSnapshot, *, quarantined: bool) -> str:
        there = {field.name for field in table.schema.fields}
        fields = ", ".join(
            f"{identifier(name)} := CAST({identifier(name) if name in there else 'NULL'} AS {duck_type(kind)})"
            for name, kind in self._types.items()
        )
        nothing = f"CAST(NULL AS {duck_type(self.row)})"
        return f"""
        SELECT 'r' AS _op, '' AS _lane, ''::BLOB AS _position, _version, NULL::VARCHAR AS _transaction,
            _committed_at, 0::INTEGER AS _schema_version, NULL::VARCHAR[] AS _unchanged, _unrepresentable,
            {nothing} AS before, struct_pack({fields}) AS after, {str(quarantined).lower()} AS {self.quarantined}
        FROM {self._shown(table)}"""

    def _show_events(self) -> None:
        """The changes since, on top of the rows as they were of every key that they touch."""
        touched = " UNION ".join(
            f"SELECT {self._keys(side)} FROM {_CHANGES} WHERE _op <> 't'" for side in ("now", "old")
        )
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE verify_touched AS {touched}")
        names = ", ".join(envelope(pa.struct([])).names)
        self._connection.execute(f"""
        CREATE OR REPLACE TEMP VIEW verify_events AS
        SELECT {names} FROM (SELECT *, {self._keys("now")} FROM verify_base)
        SEMI JOIN verify_touched USING ({self._names()})
        UNION ALL SELECT {names} FROM {_CHANGES}""")

    def _keys(self, side: str) -> str:
        """The key of a change, after it or before it, as the replay takes it."""
        columns = [KeyColumn(name, tuple(self._types), as_text=name in self._textual) for name in self._key]
        return ", ".join(
            f"{column.now() if side == 'now' else column.old()} AS touched_{i}" for i, column in enumerate(columns)
        )

    def _names(self) -> str:
        return ", ".join(f"touched_{i}" for i in range(len(self._key)))

    def _replay(self, changes: str) -> str:
        return Replay(changes, self._key, tuple(self._types), as_text=self._textual).sql()


def _position(table: TableSnapshot, lane: str) -> bytes:
    """Up to where a table has the changes of a lane, by its own marker."""
    return (marker_of(table.properties) or Progress()).positions.get(lane, b"")


def _with_room(snapshot: TableSnapshot, schemas: Sequence[TableSchema]) -> tuple[TableSnapshot, Places]:
    """The table with the columns that it will have once it takes rows of these schemas; where the first one's go."""
    for schema in (*schemas, schemas[0]):
        fitted = fit(snapshot.schema, schema.envelope, **_numbers(snapshot, schema.version))
        if fitted.changed:
            snapshot = replace(snapshot, schema=fitted.schema, schemas=(*snapshot.schemas, fitted.schema))
    return snapshot, fitted.places["after"].fields


def _numbers(snapshot: TableSnapshot, version: int) -> dict[str, int]:
    return {
        "last_column_id": max(schema.highest_field_id for schema in snapshot.schemas),
        "schema_id": max(schema.schema_id for schema in snapshot.schemas) + 1,
        "version": version,
    }
