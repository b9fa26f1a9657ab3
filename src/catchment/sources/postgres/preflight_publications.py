"""Would the publications work? What is there, who owns it, and who may add tables to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import namedtuple_row

from catchment.finding import Finding, error, ok
from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.publication import Publications, SourceTable
from catchment.sources.postgres.server import Server, quoted
from catchment.sources.postgres.slot import Connection

_PUBLICATION = """
SELECT puballtables AS whole_database, pubinsert AND pubupdate AND pubdelete AND pubtruncate AS every_change,
       pubupdate OR pubdelete AS updates,
       pubviaroot AS by_root, pg_has_role(current_user, pubowner, 'USAGE') AS ours,
       pg_get_userbyid(pubowner)::text AS owner,
       array(SELECT prrelid::int8 FROM pg_publication_rel r WHERE r.prpubid = p.oid) AS members
FROM pg_publication p WHERE pubname = %s
"""


@dataclass(frozen=True, slots=True)
class _Publication:
    """One of the pipeline's two, as it should be."""

    name: str
    every_change: bool
    exists: bool

    def statement(self, tables: Sequence[SourceTable], role: str) -> str:
        """What puts these tables into it."""
        name = quoted(self.name)
        listed = ", ".join(quoted(table.id.namespace, table.id.name) for table in tables)
        if self.exists:
            return f"ALTER PUBLICATION {name} ADD TABLE {listed};"
        publish = "insert, update, delete, truncate" if self.every_change else "insert, truncate"
        options = f"publish = '{publish}', publish_via_partition_root = true"
        return (
            f"CREATE PUBLICATION {name} FOR TABLE {listed} WITH ({options}); "
            f"ALTER PUBLICATION {name} OWNER TO {quoted(role)};"
        )


def check_publications(
    connection: Connection, server: Server, publications: Publications, tables: Sequence[SourceTable]
) -> Iterator[Finding]:
    for name, every_change in ((publications.name, True), (publications.inserts, False)):
        members = [table for table in tables if table.identified is every_change]
        found: Any
        with translated("reading the publications"), connection.cursor(row_factory=namedtuple_row) as cursor:
            found = cursor.execute(_PUBLICATION, (name,)).fetchone()
        publication = _Publication(name, every_change, found is not None)
        if found is None:
            yield _check_absent_publication(server, name)
        else:
            members = [table for table in members if table.oid not in found.members]
            yield _check_present_publication(server, publication, found, len(members))
        yield from _check_owners(connection, server, publication, members)


def _check_absent_publication(server: Server, name: str) -> Finding:
    subject = f"publication {name}"
    if server.may_create:
        return ok(subject, "It does not exist yet and will be created.")
    return error(
        subject,
        f"It does not exist, and {server.role} may not create it.",
        f"GRANT CREATE ON DATABASE {quoted(server.database)} TO {quoted(server.role)};",
    )


def _check_present_publication(server: Server, publication: _Publication, found: Any, missing: int) -> Finding:
    subject, name = f"publication {publication.name}", quoted(publication.name)
    if found.whole_database:
        return error(
            subject,
            "It is FOR ALL TABLES: updates and deletes of tables without replica identity fail in the application. "
            "Drop it; Catchment makes one that lists its tables.",
            f"DROP PUBLICATION {name};",
        )
    if publication.every_change and not found.every_change:
        return error(
            subject,
            "It does not publish every kind of change.",
            f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');",
        )
    if not publication.every_change and found.updates:
        return error(
            subject,
            "It is for tables without replica identity and publishes updates or deletes: those fail in the "
            "application.",
            f"ALTER PUBLICATION {name} SET (publish = 'insert, truncate');",
        )
    if not found.by_root:
        return error(
            subject,
            "It publishes partitions under their own names, not under the name of the table.",
            f"ALTER PUBLICATION {name} SET (publish_via_partition_root = true);",
        )
    if not found.ours:
        return error(
            subject,
            f"It belongs to {found.owner}: {server.role} may not change it when tables come and go.",
            f"ALTER PUBLICATION {name} OWNER TO {quoted(server.role)};",
        )
    return ok(subject, f"It exists, with {len(found.members)} tables; {missing} more will be added.")


def _check_owners(
    connection: Connection, server: Server, publication: _Publication, tables: Sequence[SourceTable]
) -> Iterator[Finding]:
    """Only a table's owner may add it to a publication; a publication that has the table needs no owner's rights."""
    if server.superuser or not tables:
        return
    with translated("reading the owners"):
        rows = connection.execute(
            "SELECT oid::int8 FROM pg_class WHERE oid = ANY(%s::oid[]) "
            " AND NOT pg_has_role(current_user, relowner, 'USAGE')",
            ([table.oid for table in tables],),
        ).fetchall()
    others = {oid for (oid,) in rows}
    foreign = [table for table in tables if table.oid in others]
    if not foreign:
        return
    yield error(
        f"publication {publication.name}",
        f"Only its owner may add a table to a publication, and {server.role} does not own {_listed(foreign)}. Let an "
        "owner or a superuser do it.",
        publication.statement(tables, server.role),
    )


def _listed(tables: Sequence[SourceTable]) -> str:
    names = [str(table.id) for table in tables]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
