"""Would capture work for these tables? Privileges, replica identity, key and columns of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from psycopg import sql

from catchment.errors import SourceRefused
from catchment.finding import Finding, error, ok, warning
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.publication import SourceTable, selected
from catchment.sources.postgres.relations import Relations
from catchment.sources.postgres.slot import Connection


@dataclass(frozen=True, slots=True)
class _Access:
    """What the catalog says of one table, for the role we connect as."""

    oid: int
    may_enter: bool
    may_read: bool
    filtered: bool
    generated: list[str]


_ACCESS = """
SELECT c.oid::int8, has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
       row_security_active(c.oid),
       array(SELECT attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '' ORDER BY attnum)
FROM pg_class c WHERE c.oid = ANY(%s::oid[])
"""

_NOT_LOGGED = """
SELECT n.nspname::text || '.' || c.relname, CASE c.relkind WHEN 'f' THEN 'a foreign table' ELSE 'unlogged' END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT c.relispartition AND (c.relkind = 'f' OR c.relkind IN ('r', 'p') AND c.relpersistence = 'u') ORDER BY 1
"""


def check_tables(
    connection: Connection, config: PostgresSourceConfig, role: str, tables: Sequence[SourceTable]
) -> list[Finding]:
    """One finding or more for each table, and for patterns that select nothing."""
    findings = list(_check_patterns(connection, config, tables))
    with translated("checking the tables"):
        rows = connection.execute(_ACCESS, ([table.oid for table in tables],)).fetchall()
    access = {one.oid: one for one in (_Access(*row) for row in rows)}
    relations = Relations(connection)
    for table in tables:
        if table.oid not in access:
            continue  # dropped a moment ago
        found = [
            *_check_access(table, access[table.oid], role),
            *_check_identity(table, refuse=config.without_identity == "refuse"),
            *_check_columns(table, relations, access[table.oid]),
        ]
        findings += found or [ok(f"table {table.id}", f"Key: {', '.join(table.primary_key) or 'the identity index'}.")]
    return findings


def captured_columns(connection: Connection, tables: Sequence[SourceTable]) -> Mapping[str, Sequence[str]]:
    """The columns of each table that changes of it will have."""
    relations = Relations(connection)
    return {str(table.id): [column.name for column in relations.describe(table).columns] for table in tables}


def _check_patterns(
    connection: Connection, config: PostgresSourceConfig, tables: Sequence[SourceTable]
) -> Iterator[Finding]:
    names = [str(table.id) for table in tables]
    for pattern in config.tables:
        if not any(fnmatchcase(name, pattern) for name in names):
            there = "Check its spelling, and that the DSN names the right database."
            said = f"The pattern {pattern} selects no table. {there}"
            yield error("tables", said) if not tables else warning("tables", said)
    with translated("looking for tables without WAL"):
        rows = connection.execute(_NOT_LOGGED).fetchall()
    for name, what in rows:
        if selected(str(name), config.tables, config.exclude):
            yield warning(f"table {name}", f"It is {what}: its changes are not in the WAL, and are not captured.")


def _check_access(table: SourceTable, access: _Access, role: str) -> Iterator[Finding]:
    subject, to = f"table {table.id}", sql.Identifier(role).as_string(None)
    if not access.may_enter:
        namespace = sql.Identifier(table.id.namespace).as_string(None)
        yield error(subject, f"{role} may not use its schema.", f"GRANT USAGE ON SCHEMA {namespace} TO {to};")
    if not access.may_read:
        yield error(subject, f"{role} may not read it.", f"GRANT SELECT ON {_sql(table)} TO {to};")
    if access.filtered:
        yield error(
            subject,
            f"Row security hides rows of it from {role}: the snapshot would miss them.",
            f"ALTER ROLE {to} BYPASSRLS;",
        )


def _check_identity(table: SourceTable, *, refuse: bool) -> Iterator[Finding]:
    subject, name = f"table {table.id}", _sql(table)
    if not table.identified:
        # A partition has an identity of its own, which the table's does not reach.
        where = " (every partition needs one)" if table.partitioned else ""
        said = f"It has no replica identity{where}: its updates and deletes cannot be published"
        remedy = (
            f"ALTER TABLE {name} ADD PRIMARY KEY (…); -- or, without a key: ALTER TABLE {name} REPLICA IDENTITY FULL;"
        )
        if refuse:
            yield error(subject, f"{said}, and `without_identity: refuse` is set.", remedy)
        else:
            yield warning(subject, f"{said}; only its inserts and truncates are captured.", remedy)
    elif table.identity == "f" and not table.primary_key:
        yield warning(
            subject,
            "It has no primary key: every change is captured, but there are no current rows of it in the lake.",
            f"ALTER TABLE {name} ADD PRIMARY KEY (…);",
        )


def _check_columns(table: SourceTable, relations: Relations, access: _Access) -> Iterator[Finding]:
    try:
        relations.describe(table)
    except SourceRefused as refused:
        yield error(f"table {table.id}", str(refused))
    if access.generated:
        yield warning(f"table {table.id}", f"Generated columns are not captured: {', '.join(access.generated)}.")


def _sql(table: SourceTable) -> str:
    return sql.Identifier(table.id.namespace, table.id.name).as_string(None)
