"""What the server was told is durable: where the slot stands, as a position in the lake's lane."""

from __future__ import annotations

from catchment.progress import Progress
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import connect, conninfo
from catchment.sources.postgres.pgoutput import position
from catchment.sources.postgres.replication import ReplicationConnection
from catchment.sources.postgres.slot import find_slot


def ask_acknowledged(config: PostgresSourceConfig, pipeline: str, held: Progress) -> Progress | None:
    """Where the slot stands, in the newest lane of `held` that is this server's and slot's; None without either.

    Raises SourceUnavailable when the server does not answer.
    """
    name, dsn, application = config.slot_name(pipeline), config.dsn.get_secret_value(), f"catchment {pipeline}"
    with connect(conninfo(dsn, application)) as connection:
        slot = find_slot(connection, name)
    if slot is None or slot.confirmed_lsn is None:
        return None
    server = ReplicationConnection(conninfo(dsn, application, replication=True))
    try:
        prefix = f"{name}@{server.system_identifier()}/"
    finally:
        server.close()
    lanes = [lane for lane in held.positions if lane.startswith(prefix)]
    if not lanes:
        return None
    lane = max(lanes, key=lambda one: int(one.rpartition("/")[2], 16))
    return Progress({lane: position(slot.confirmed_lsn)})
