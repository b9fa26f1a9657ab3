"""How much WAL the server keeps for a pipeline, what holds it, and when it would be lost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from catchment.sources.administration import Retention
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import connect, conninfo, translated
from catchment.sources.postgres.slot import Connection

LONG_SECONDS = 60.0
"""A transaction that has been open for longer may be what holds the WAL."""
MUCH_BYTES = 64 << 20

_SLOT = """
SELECT s.active_pid, s.wal_status, s.confirmed_flush_lsn::text,
       pg_wal_lsn_diff(now_at.lsn, s.confirmed_flush_lsn)::int8, pg_wal_lsn_diff(now_at.lsn, s.restart_lsn)::int8,
       pg_wal_lsn_diff(s.confirmed_flush_lsn, s.restart_lsn)::int8, s.safe_wal_size,
       pg_wal_lsn_diff(now_at.lsn, '0/0')::int8
FROM pg_replication_slots s,
     (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END) now_at (lsn)
WHERE s.slot_name = %s
"""

_OLDEST = """
SELECT what, seconds FROM (
  SELECT 'The transaction of process ' || pid, extract(epoch FROM now() - xact_start)::float8 FROM pg_stat_activity
  WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
  UNION ALL
  SELECT 'The prepared transaction ' || quote_literal(gid), extract(epoch FROM now() - prepared)::float8
  FROM pg_prepared_xacts) open (what, seconds)
ORDER BY seconds DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class _Sample:
    """The slot at one moment; sizes in bytes."""

    active_pid: int | None
    wal_status: str | None
    confirmed: str | None
    lag: int | None
    kept: int | None
    read_again: int | None
    safe: int | None
    written: int


def ask_retention(config: PostgresSourceConfig, pipeline: str, seconds: float = 1.0) -> Retention:
    """Ask the server, twice, `seconds` apart, for the rate. Raises SourceUnavailable without an answer."""
    slot = config.slot_name(pipeline)
    with connect(conninfo(config.dsn.get_secret_value(), f"catchment {pipeline}")) as connection:
        first = _sample(connection, slot)
        if first is None:
            return Retention("missing", notes=[f"There is no replication slot {slot}: the pipeline has not run yet."])
        began = time.monotonic()
        time.sleep(seconds)
        last = _sample(connection, slot) or first
        rate = max(0.0, (last.written - first.written) / (time.monotonic() - began))
        return Retention(
            state=_state(last),
            position=last.confirmed,
            lag_bytes=last.lag,
            kept_bytes=last.kept,
            bytes_per_second=rate,
            left_bytes=last.safe,
            seconds_left=last.safe / rate if last.safe is not None and rate > 0 else None,
            notes=_notes(connection, slot, last),
        )


def _sample(connection: Connection, slot: str) -> _Sample | None:
    with translated("asking about the slot"):
        row: Any = connection.execute(_SLOT, (slot,)).fetchone()
    return None if row is None else _Sample(*row)


def _state(sample: _Sample) -> str:
    if sample.wal_status == "lost" or sample.kept is None:
        return "lost"
    return "active" if sample.active_pid is not None else "waiting"


def _notes(connection: Connection, slot: str, sample: _Sample) -> list[str]:
    notes = []
    if _state(sample) == "lost":
        notes.append("The slot was invalidated: what it had not delivered is lost. Run with --resnapshot.")
    elif sample.wal_status == "unreserved":
        notes.append("The slot is about to be invalidated: the server may remove its WAL at the next checkpoint.")
    if sample.safe is None and _state(sample) != "lost":
        notes.append("max_slot_wal_keep_size sets no limit: WAL is kept until it is read or the server's disk is full.")
    with translated("asking what holds the WAL"):
        oldest: Any = connection.execute(_OLDEST).fetchone()
        copies = connection.execute(
            "SELECT count(*)::int FROM pg_replication_slots WHERE temporary AND starts_with(slot_name, %s)",
            (f"{slot[:40]}_ahead_",),
        ).fetchone()
    if oldest is not None and oldest[1] >= LONG_SECONDS:
        notes.append(
            f"{oldest[0]} has been open for {oldest[1]:,.0f} s: WAL from its start on is kept, and read "
            "again by each pull of catch-up."
        )
    elif (sample.read_again or 0) > MUCH_BYTES:
        notes.append(
            f"The server keeps {(sample.read_again or 0) / 1e6:,.0f} MB before the position reached: a large "
            "transaction, or a burst of writes since its last checkpoint."
        )
    if copies is not None and copies[0]:
        notes.append("Catch-up is reading now, through a temporary copy of the slot.")
    return notes
