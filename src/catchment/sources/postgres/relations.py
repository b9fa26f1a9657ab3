"""From relation messages and the catalog to table schemas."""

from __future__ import annotations

from dataclasses import dataclass

from catchment.errors import SourceRefused
from catchment.schema import Column, TableId, TableSchema, version_of
from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.pgoutput import Relation, RelationColumn, RelationMessage
from catchment.sources.postgres.publication import SourceTable
from catchment.sources.postgres.slot import Connection
from catchment.sources.postgres.types import LogicalType, logical_type


@dataclass(frozen=True, slots=True)
class _Type:
    """A type with domains taken off."""

    oid: int
    typmod: int
    name: str
    output: str | None


_TYPE = """
WITH RECURSIVE base AS (
  SELECT oid, typbasetype, typtypmod, typtype, typoutput, 0 AS depth FROM pg_type WHERE oid = %s
  UNION ALL
  SELECT t.oid, t.typbasetype, CASE WHEN base.typtypmod >= 0 THEN base.typtypmod ELSE t.typtypmod END, t.typtype,
         t.typoutput, depth + 1
  FROM base JOIN pg_type t ON t.oid = base.typbasetype WHERE base.typtype = 'd'
)
SELECT base.oid::int8, typtypmod, format_type(base.oid, NULL),
       CASE WHEN EXISTS (SELECT FROM pg_cast
                         WHERE castsource = base.oid AND casttarget = 'text'::regtype AND castmethod = 'f')
            THEN format('%%I.%%I', n.nspname, p.proname) END
FROM base JOIN pg_proc p ON p.oid = typoutput JOIN pg_namespace n ON n.oid = p.pronamespace
ORDER BY depth DESC LIMIT 1
"""

_COLUMNS = """
SELECT a.attname::text, a.atttypid::int8, a.atttypmod,
       CASE c.relreplident WHEN 'f' THEN true
            WHEN 'i' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident
                                  AND a.attnum = ANY(i.indkey::int2[]))
            WHEN 'd' THEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
                                  AND a.attnum = ANY(i.indkey::int2[])) ELSE false END,
       c.relreplident::text, format_type(a.atttypid, a.atttypmod), n.nspname::text, c.relname::text
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
ORDER BY a.attnum
"""

_PRIMARY_KEY = """
SELECT a.attname::text FROM pg_index i
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[])
WHERE i.indrelid = %s AND i.indisprimary
"""


class Relations:
    """Resolves relation messages with the catalog's help: types of domains and enums, keys under FULL.

    One thread uses it. The catalog may be newer than the message: names and order of columns are the
    message's, only types are looked up, by oid.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._types: dict[int, _Type] = {}

    def describe(self, table: SourceTable) -> RelationMessage:
        """What a relation message would say of the table now. Raises SourceRefused where there is nothing to say."""
        with translated("reading the catalog"):
            rows = self._connection.execute(_COLUMNS, (table.oid,)).fetchall()
        if not rows:
            raise SourceRefused(f"{table.id} has no columns that could be captured, or is gone. Exclude it.")
        columns = tuple(RelationColumn(row[0], row[1], row[2], row[3]) for row in rows)
        return RelationMessage(table.oid, rows[0][6], rows[0][7], rows[0][4], columns)

    def resolve(self, message: RelationMessage) -> Relation:
        """The schema and the types of a relation. Raises SourceRefused for a type that was dropped since."""
        table = TableId(message.namespace, message.name)
        key = self._key(message)
        columns, types = [], []
        for column in message.columns:
            name, kept = self._type(table, column)
            types.append(kept)
            columns.append(Column(column.name, kept.arrow, name, column.name in key))
        return Relation(TableSchema(table, tuple(columns), version_of(columns)), tuple(types))

    def _key(self, message: RelationMessage) -> set[str]:
        if message.identity in "di":
            return {column.name for column in message.columns if column.identity}
        if message.identity == "n":
            return set()
        with translated("reading the catalog"):
            rows = self._connection.execute(_PRIMARY_KEY, (message.oid,)).fetchall()
        return {row[0] for row in rows}

    def _type(self, table: TableId, column: RelationColumn) -> tuple[str, LogicalType]:
        base = self._types.get(column.type_oid)
        if base is None:
            with translated("reading the catalog"):
                row = self._connection.execute(_TYPE, (column.type_oid,)).fetchone()
            if row is None:
                raise SourceRefused(
                    f"{table}.{column.name} had a type (oid {column.type_oid}) that was dropped since. "
                    "Run with --resnapshot to read the table as it is now."
                )
            base = self._types[column.type_oid] = _Type(*row)
        typmod = column.typmod if column.typmod >= 0 else base.typmod
        return base.name, logical_type(base.oid, typmod, base.output)
