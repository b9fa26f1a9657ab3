"""The server and the role we connect as: what the checks want to know of them, asked at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import sql

from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.slot import Connection


@dataclass(frozen=True, slots=True)
class Server:
    """What the server says of itself and of the role we connect as."""

    version: str
    major: int
    standby: bool
    wal_level: str
    database: str
    role: str
    superuser: bool
    replication: bool
    managed: bool
    may_create: bool
    max_slots: int
    slots: int
    max_senders: int
    senders: int
    kept_mb: int
    idle_timeout: int
    encoding: str


_SERVER = """
SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, pg_is_in_recovery(),
       current_setting('wal_level'), current_database()::text, current_user::text, r.rolsuper,
       r.rolsuper OR r.rolreplication
         OR coalesce((SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles
                      WHERE rolname = 'rds_replication'), false),
       EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication'),
       has_database_privilege(current_database(), 'CREATE'),
       current_setting('max_replication_slots')::int, (SELECT count(*)::int FROM pg_replication_slots),
       current_setting('max_wal_senders')::int, (SELECT count(*)::int FROM pg_stat_replication),
       coalesce((SELECT setting::int FROM pg_settings WHERE name = 'max_slot_wal_keep_size'), -1),
       coalesce((SELECT setting::int FROM pg_settings WHERE name = 'idle_replication_slot_timeout'), 0),
       pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database()))
FROM pg_roles r WHERE r.rolname = current_user
"""


def ask_server(connection: Connection) -> Server:
    """What the server says now."""
    with translated("checking the server"):
        row: Any = connection.execute(_SERVER).fetchone()
    return Server(*row)


def quoted(*names: str) -> str:
    """An identifier as SQL."""
    return sql.Identifier(*names).as_string(None)
