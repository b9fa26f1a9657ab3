"""Would capture work? Asked of the server before anything is set up, and answered with what would mend it.

Nothing is written: the checks read the catalog, and one replication connection is opened and closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from catchment.errors import CatchmentError
from catchment.finding import Finding, error, ok, warning
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import connect, conninfo
from catchment.sources.postgres.preflight_publications import check_publications
from catchment.sources.postgres.preflight_tables import captured_columns, check_tables
from catchment.sources.postgres.publication import Publications, find_tables
from catchment.sources.postgres.replication import ReplicationConnection
from catchment.sources.postgres.server import Server, ask_server, quoted
from catchment.sources.postgres.slot import Connection, find_slot

OLDEST, NEWEST = 14, 18
_GIB = 1024**3


def check(config: PostgresSourceConfig, pipeline: str) -> list[Finding]:
    """Everything that capture needs, found or missing. Raises SourceUnavailable or SourceRefused without an answer."""
    info = conninfo(config.dsn.get_secret_value(), f"catchment {pipeline}")
    with connect(info) as connection:
        server = ask_server(connection)
        tables = find_tables(connection, config.tables, config.exclude)
        findings = [*_check_server(server), *_check_role(server)]
        if all(finding.severity != "error" for finding in findings):
            findings.append(_check_replication(config, pipeline))
        findings += _check_slot(connection, server, config.slot_name(pipeline))
        findings += _check_room(server)
        findings += check_publications(connection, server, Publications(config.publication_name(pipeline)), tables)
        findings += check_tables(connection, config, server.role, tables)
    return findings


def columns(config: PostgresSourceConfig, pipeline: str) -> Mapping[str, Sequence[str]]:
    """The captured tables and their columns, as they are now."""
    info = conninfo(config.dsn.get_secret_value(), f"catchment {pipeline}")
    with connect(info) as connection:
        return captured_columns(connection, find_tables(connection, config.tables, config.exclude))


def _check_server(server: Server) -> Iterator[Finding]:
    subject = "server"
    if server.major < OLDEST:
        yield error(subject, f"PostgreSQL {server.version} is too old: capture works from version {OLDEST} on.")
    elif server.major > NEWEST:
        yield warning(subject, f"PostgreSQL {server.version} is newer than what was tested ({OLDEST} to {NEWEST}).")
    else:
        yield ok(subject, f"PostgreSQL {server.version}.")
    if server.standby:
        yield error(subject, "This server is a standby, where nothing can be set up. Connect to the primary.")
    if server.encoding == "SQL_ASCII":
        yield error(
            "encoding",
            f"Database {server.database} is SQL_ASCII: the server does not know what its bytes mean, so that no text "
            "can be read exactly. Move it to a database with a known encoding, such as UTF8.",
        )
    if server.wal_level == "logical":
        yield ok("wal_level", "logical.")
    elif server.managed:
        yield error(
            "wal_level",
            f"It is `{server.wal_level}`, capture needs `logical`. Set rds.logical_replication to 1 in the parameter "
            "group, and restart the server.",
        )
    else:
        yield error(
            "wal_level",
            f"It is `{server.wal_level}`, capture needs `logical`. The server must be restarted for it.",
            "ALTER SYSTEM SET wal_level = 'logical';",
        )


def _check_role(server: Server) -> Iterator[Finding]:
    if server.replication:
        yield ok("role", f"{server.role} may replicate.")
        return
    role = quoted(server.role)
    remedy = f"GRANT rds_replication TO {role};" if server.managed else f"ALTER ROLE {role} REPLICATION;"
    yield error("role", f"{server.role} may not replicate.", remedy)


def _check_replication(config: PostgresSourceConfig, pipeline: str) -> Finding:
    """Open one for real: poolers and firewalls let ordinary connections through and not these."""
    info = conninfo(config.dsn.get_secret_value(), f"catchment {pipeline}", replication=True)
    try:
        connection = ReplicationConnection(info)
        identifier = connection.system_identifier()
        connection.close()
    except CatchmentError as refused:
        return error(
            "replication connection",
            f"{refused} Connect to the server itself, not to a connection pooler, and allow the role in pg_hba.conf.",
        )
    return ok("replication connection", f"Opened; the server's system identifier is {identifier}.")


def _check_slot(connection: Connection, server: Server, name: str) -> Iterator[Finding]:
    subject = f"slot {name}"
    slot = find_slot(connection, name)
    drop = f"SELECT pg_drop_replication_slot('{name}');"
    if slot is None:
        yield ok(subject, "It does not exist yet and will be created.")
    elif slot.plugin != "pgoutput" or slot.database != server.database:
        yield error(
            subject,
            f"It exists, for plugin {slot.plugin or 'none'} in database {slot.database or 'none'}: it is somebody "
            "else's. Name another with `source.slot`, or drop it if nobody needs it.",
            drop,
        )
    elif slot.lost:
        yield error(
            subject,
            "It was invalidated: the server removed WAL that it needed. Drop it, and read every table again with "
            "`catchment run --resnapshot`.",
            drop,
        )
    elif slot.active_pid is not None:
        yield warning(subject, f"The server's process {slot.active_pid} reads from it now: the pipeline is running.")
    elif slot.wal_status == "unreserved":
        yield warning(subject, "It is about to be invalidated: start the pipeline now, or raise the limit (below).")
    else:
        yield ok(subject, "It exists and can go on.")
    yield from _check_numbers(server, exists=slot is not None)


def _check_numbers(server: Server, *, exists: bool) -> Iterator[Finding]:
    free = server.max_slots - server.slots
    wanted = server.slots + 3
    more = f"ALTER SYSTEM SET max_replication_slots = {max(wanted, 10)}; -- then restart the server"
    subject, said = "replication slots", f"{free} of {server.max_slots} are free."
    # One to follow changes; one at a time for what is read later; one for the bulk reading of WAL.
    if free < (0 if exists else 1):
        yield error(subject, f"{said} Capture needs one.", more)
    elif free < (1 if exists else 2):
        yield warning(subject, f"{said} Resuming a snapshot and catching up quickly need one more.", more)
    else:
        yield ok(subject, said)
    free = server.max_senders - server.senders
    more = f"ALTER SYSTEM SET max_wal_senders = {max(server.senders + 3, 10)}; -- then restart the server"
    subject, said = "WAL senders", f"{free} of {server.max_senders} are free."
    if free < 1:
        yield error(subject, f"{said} Capture needs one, and a second while it reads tables.", more)
    elif free < 2:
        yield warning(subject, f"{said} Capture needs a second one while it reads tables.", more)
    else:
        yield ok(subject, said)


def _check_room(server: Server) -> Iterator[Finding]:
    subject = "room for WAL"
    more = "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();"
    kept = server.kept_mb * 1024**2
    if server.kept_mb < 0:
        yield warning(
            subject,
            "max_slot_wal_keep_size is unlimited: while the pipeline is stopped, the slot keeps WAL until the "
            "server's disk is full. A limit protects the server, and ends the slot instead.",
            more,
        )
    elif kept < _GIB:
        yield warning(
            subject,
            f"The slot is ended when it keeps more than {server.kept_mb} MB of WAL: a short pause of the pipeline "
            "may be enough.",
            more,
        )
    else:
        yield ok(subject, f"The slot may keep {kept / _GIB:.0f} GB of WAL while the pipeline is stopped.")
    if server.idle_timeout > 0:
        yield warning(
            subject,
            f"idle_replication_slot_timeout ends the slot when the pipeline is stopped for {server.idle_timeout} "
            "seconds.",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();",
        )
