"""DDL that changes rows without sending changes: noticed by a table's form, so that it can be read again.

PostgreSQL sends nothing for the rows that are there when a column is added with a default, when ALTER TYPE rewrites the
table, or when a column is renamed. The catalog tells: each column has a number for life, a rewrite gives the table
another file, and DDL on columns writes their catalog rows anew, which VACUUM FULL and CLUSTER do not.

What a table's form was when it was last looked at is kept in `Progress.chunks`, under a name that is no snapshot's:
so DDL is noticed across restarts, and as durably as the rows that it concerns.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from catchment.progress import Progress
from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.publication import SourceTable
from catchment.sources.postgres.slot import Connection
from catchment.sources.postgres.types import logical_type

_DROPPED = "0000"

_FORMS = """
SELECT c.oid::int8,
  (SELECT string_agg(f.relfilenode::text, ',' ORDER BY f.oid) FROM pg_class f WHERE f.oid IN (
     SELECT c.oid UNION SELECT relid::oid FROM pg_partition_tree(c.oid))),
  (SELECT string_agg(a.xmin::text, ',' ORDER BY a.attnum) FROM pg_attribute a
   WHERE a.attrelid = c.oid AND a.attnum > 0),
  (SELECT array_agg(CASE WHEN a.attisdropped OR a.attgenerated <> '' THEN NULL ELSE a.attname::text END
                    ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
  (SELECT array_agg(DISTINCT a.attname::text) FROM pg_attribute a WHERE a.atthasmissing AND a.attrelid IN (
     SELECT c.oid UNION SELECT relid::oid FROM pg_partition_tree(c.oid))),
  (SELECT string_agg(a.attname::text, ',' ORDER BY a.attnum) FROM pg_index i JOIN pg_attribute a
     ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[])
   WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END),
  (SELECT string_agg(a.xmin::text, ',' ORDER BY a.attnum) FROM pg_index i JOIN pg_attribute a
     ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[]) AND a.atttypid NOT IN (20, 21, 23)
   WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END),
  (SELECT array_agg(ARRAY[a.atttypid::int8, a.atttypmod] ORDER BY a.attnum) FROM pg_index i JOIN pg_attribute a
     ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey::int2[])
   WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END)
FROM pg_class c WHERE c.oid = ANY(%s::oid[])
"""


@dataclass(frozen=True, slots=True)
class TableForm:
    """A table's files, its columns by number, and which DDL wrote them: as digests, small enough for every progress.

    key: of the key's columns' names. columns: four hex digits of each column's name, `0000` for one that is no more.
    late: names of columns that rows from before have by a default alone; known of the catalog as it is now, not of
    what was kept. key_ddl: which DDL wrote those of the key's columns that are no integers (integers only grow wider).
    key_types: the types that the lake has for the key's columns. Both are empty where an older Catchment kept the form.
    """

    files: str
    ddl: str
    key: str
    columns: tuple[str, ...]
    late: frozenset[str] = frozenset()
    key_ddl: str = ""
    key_types: str = ""

    def __str__(self) -> str:
        return f"{self.files}.{self.ddl}.{self.key}.{''.join(self.columns)}.{self.key_ddl}.{self.key_types}"

    @classmethod
    def parse(cls, text: str) -> TableForm:
        """The inverse of str(), without `late`."""
        files, ddl, key, columns, *later = text.split(".")
        names = tuple(columns[at : at + 4] for at in range(0, len(columns), 4))
        key_ddl, key_types = (*later, "", "")[:2]
        return cls(files, ddl, key, names, key_ddl=key_ddl, key_types=key_types)

    def changed_rows_since(self, old: TableForm) -> str | None:
        """What has changed rows, since the table had the old form, without a change being sent; None for nothing."""
        if self.key != old.key:
            return "it has another key"
        if self.tells_rows_apart_otherwise(old):
            return "its key has another type"
        if self._rewritten_since(old):
            return "it was rewritten"
        known = list(zip(old.columns, self.columns, strict=False))
        if any(before != now for before, now in known if _DROPPED not in (before, now)):
            return "a column was renamed"
        added = self.columns[len(old.columns) :]
        if any(one in old.columns for one in added if one != _DROPPED):
            return "a column was dropped and added again"
        if set(added) & {_digest(name) for name in self.late}:
            return "a column was added with a default"
        return None

    def tells_rows_apart_otherwise(self, old: TableForm) -> bool:
        """Have rows other keys than they had? Then the old rows have to go first."""
        if self.key != old.key:
            return True
        # PostgreSQL rewrites no table for timestamp → timestamptz in UTC, nor for numeric(12,2) → numeric.
        if old.key_types and self.key_types != old.key_types:
            return True
        return self._rewritten_since(old) and bool(old.key_ddl) and self.key_ddl != old.key_ddl

    def _rewritten_since(self, old: TableForm) -> bool:
        return self.files != old.files and self.ddl != old.ddl


def read_forms(connection: Connection, tables: Iterable[SourceTable]) -> dict[int, TableForm]:
    """The forms of these tables now, by oid."""
    with translated("looking at the tables' columns"):
        rows = connection.execute(_FORMS, ([table.oid for table in tables],)).fetchall()
    return {
        oid: TableForm(
            f"{zlib.crc32((files or '').encode()):08x}",
            f"{zlib.crc32((ddl or '').encode()):08x}",
            f"{zlib.crc32((key or '').encode()):08x}",
            tuple(_DROPPED if name is None else _digest(name) for name in columns or ()),
            frozenset(late or ()),
            f"{zlib.crc32((key_ddl or '').encode()):08x}",
            f"{zlib.crc32(' '.join(_lake_type(*one) for one in key_types or ()).encode()):08x}",
        )
        for oid, files, ddl, columns, late, key, key_ddl, key_types in rows
    }


def _lake_type(oid: int, typmod: int) -> str:
    """The lake's type for a column of this type, where it is not one that the column can widen from."""
    kind = logical_type(oid, typmod).arrow
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind):
        return "floating"
    return f"decimal {kind.scale}" if pa.types.is_decimal(kind) else str(kind)


def form_key(table: SourceTable) -> str:
    """What a table's forms are called in `Progress.chunks`."""
    return f"{table.id}#{table.oid}"


def known_form(table: SourceTable, chunks: Mapping[str, frozenset[str]]) -> TableForm | None:
    """The form that was kept last."""
    kept = chunks.get(form_key(table))
    if not kept:
        return None
    newest = max(kept, key=lambda name: int(name.partition("/")[0], 16))
    return TableForm.parse(newest.partition("/")[2])


def keeping(table: SourceTable, form: TableForm, lsn: int) -> Progress:
    """What says that at `lsn` the table had this form."""
    return Progress({}, {form_key(table): frozenset({f"{lsn:X}/{form}"})})


def _digest(name: str) -> str:
    # Never that of a dropped column.
    return f"{zlib.crc32(name.encode()) % 0xFFFF + 1:04x}"
