"""Which tables are captured, and the publications that say so to the server.

A published table without replica identity makes the application's own UPDATE and DELETE fail. Such tables
go into a second publication that carries only inserts and truncates, or are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from psycopg import sql

from catchment.schema import TableId
from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.slot import Connection
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table as the catalog has it. identified: UPDATE and DELETE can be published."""

    oid: int
    id: TableId
    partitioned: bool
    identity: str
    primary_key: tuple[str, ...]
    identified: bool
    has_toast: bool
    rows_estimate: int

    @property
    def has_key(self) -> bool:
        """Does it have current rows in the lake, told apart by a key?"""
        return self.identified and (self.identity != "f" or bool(self.primary_key))


# When the server lets UPDATE and DELETE of a published table pass (CheckCmdReplicaIdentity): the identity's index
# must not be deferrable; every partition needs an identity of its own, and the next partition has one only if
# it comes with the table's primary key; since version 18 no generated column may be part of the identity.
_TABLES = """
WITH generated AS (
  SELECT attrelid, attnum FROM pg_attribute
  WHERE attgenerated <> '' AND current_setting('server_version_num')::int >= 180000)
SELECT c.oid::int8, n.nspname, c.relname, c.relkind = 'p', c.relreplident::text,
       coalesce(array(SELECT a.attname::text FROM pg_index i JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, at) ON true
                      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
                      WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY k.at), '{}'),
       (c.relkind = 'r'
          OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate))
         AND NOT EXISTS (
           SELECT FROM (SELECT c.oid UNION SELECT relid::oid FROM pg_partition_tree(c.oid) WHERE isleaf) leaf (oid)
           JOIN pg_class p ON p.oid = leaf.oid
           WHERE NOT CASE p.relreplident WHEN 'n' THEN false
             WHEN 'f' THEN NOT EXISTS (SELECT FROM generated g WHERE g.attrelid = p.oid)
             ELSE EXISTS (
               SELECT FROM pg_index i
               WHERE i.indrelid = p.oid AND i.indimmediate AND i.indisvalid
                 AND CASE p.relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END
                 AND NOT EXISTS (SELECT FROM generated g WHERE g.attrelid = p.oid AND g.attnum = ANY(i.indkey::int2[])))
             END),
       c.reltoastrelid <> 0 OR c.relkind = 'p', greatest(c.reltuples, 0)::int8
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%%'
ORDER BY 2, 3
"""


def find_tables(connection: Connection, patterns: Sequence[str], exclude: Sequence[str]) -> list[SourceTable]:
    """The tables that the patterns select, by name. A partitioned table counts as one."""
    with translated("listing the tables"):
        rows = connection.execute(_TABLES).fetchall()
    tables = [
        SourceTable(row[0], TableId(row[1], row[2]), row[3], row[4], tuple(row[5]), row[6], row[7], row[8])
        for row in rows
    ]
    return [table for table in tables if selected(str(table.id), patterns, exclude)]


def selected(name: str, patterns: Sequence[str], exclude: Sequence[str]) -> bool:
    """Does `schema.table` match a pattern and no exclusion?"""
    return any(fnmatchcase(name, one) for one in patterns) and not any(fnmatchcase(name, one) for one in exclude)


@dataclass(frozen=True, slots=True)
class Publications:
    """The pair of publications of a pipeline."""

    name: str

    @property
    def inserts(self) -> str:
        """The one for tables without replica identity."""
        return f"{self.name}_inserts"[:63]

    @property
    def names(self) -> tuple[str, str]:
        return self.name, self.inserts

    def published(self, connection: Connection, table: SourceTable) -> bool:
        """Are all changes of the table published that can be?"""
        with translated(f"looking at the publication {self.name}"):
            if table.oid in self._members(connection, self.name):
                return True
            return not table.identified and table.oid in self._members(connection, self.inserts)

    def synchronise(self, connection: Connection, tables: Sequence[SourceTable]) -> None:
        """Make the publications carry exactly these tables."""
        whole = [table for table in tables if table.identified]
        partial = [table for table in tables if not table.identified]
        # In one transaction: a table that goes from one publication to the other is never in neither.
        with translated(f"setting up the publication {self.name}"), connection.transaction():
            before = self._members(connection, self.name) | self._members(connection, self.inserts)
            # Taking out first: a table that has lost its identity must not stay published whole.
            for name, wanted, publish in (
                (self.name, whole, "insert, update, delete, truncate"),
                (self.inserts, partial, "insert, truncate"),
            ):
                self._reconcile(connection, name, wanted, publish)
        for table in partial:
            if table.oid not in before:
                log.warning(
                    "%s has no replica identity: its updates and deletes are not captured. "
                    "Add a primary key, or ALTER TABLE … REPLICA IDENTITY FULL.",
                    table.id,
                )

    def _members(self, connection: Connection, name: str) -> set[int]:
        rows = connection.execute(
            "SELECT r.prrelid::int8 FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"
            " WHERE p.pubname = %s",
            (name,),
        ).fetchall()
        return {row[0] for row in rows}

    def _reconcile(self, connection: Connection, name: str, wanted: Sequence[SourceTable], publish: str) -> None:
        exists = connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (name,)).fetchone()
        if exists is None:
            options = sql.SQL(" WITH (publish = {}, publish_via_partition_root = true)").format(sql.Literal(publish))
            connection.execute(sql.SQL("CREATE PUBLICATION {}").format(sql.Identifier(name)) + options)
        members = self._members(connection, name)
        gone = members - {table.oid for table in wanted}
        if gone:
            self._drop(connection, name, gone)
        new = [table for table in wanted if table.oid not in members]
        if new:
            listed = sql.SQL(", ").join(sql.Identifier(table.id.namespace, table.id.name) for table in new)
            connection.execute(sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(sql.Identifier(name), listed))

    def _drop(self, connection: Connection, name: str, oids: set[int]) -> None:
        rows: list[Any] = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = ANY(%s::oid[])",
            (list(oids),),
        ).fetchall()
        if rows:
            listed = sql.SQL(", ").join(sql.Identifier(*row) for row in rows)
            connection.execute(sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(sql.Identifier(name), listed))

    def drop(self, connection: Connection) -> list[str]:
        """Drop both; the names of those that were there."""
        dropped = []
        with translated("dropping the publications"):
            for name in self.names:
                if connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (name,)).fetchone():
                    connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name)))
                    dropped.append(name)
        return dropped

    def remove(self, connection: Connection, table: TableId) -> list[str]:
        """Take one table out; the publications it was in."""
        removed = []
        with translated(f"taking {table} out of the publications"):
            for name in self.names:
                found = connection.execute(
                    "SELECT 1 FROM pg_publication_tables WHERE pubname = %s AND schemaname = %s AND tablename = %s",
                    (name, table.namespace, table.name),
                ).fetchone()
                if found:
                    connection.execute(
                        sql.SQL("ALTER PUBLICATION {} DROP TABLE {}").format(
                            sql.Identifier(name), sql.Identifier(table.namespace, table.name)
                        )
                    )
                    removed.append(name)
        return removed
