"""Replication slots: what the server keeps for us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from catchment.errors import PositionLost
from catchment.sources.postgres.connection import translated
from catchment.sources.postgres.pgoutput import lsn_text
from catchment.sources.postgres.replication import parse_lsn

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as pg_replication_slots shows it; LSNs as numbers."""

    name: str
    plugin: str
    database: str
    active_pid: int | None
    restart_lsn: int | None
    confirmed_lsn: int | None
    wal_status: str | None

    @property
    def lost(self) -> bool:
        """Has the server removed WAL that the slot needs?"""
        return self.wal_status == "lost" or self.restart_lsn is None


def find_slot(connection: Connection, name: str) -> Slot | None:
    """The slot of that name, if there is one."""
    with translated("looking for the slot"):
        row = connection.execute(
            "SELECT slot_name, plugin, database, active_pid, restart_lsn::text, confirmed_flush_lsn::text, wal_status"
            " FROM pg_replication_slots WHERE slot_name = %s",
            (name,),
        ).fetchone()
    if row is None:
        return None
    restart, confirmed = (None if lsn is None else parse_lsn(lsn) for lsn in row[4:6])
    return Slot(row[0], row[1] or "", row[2] or "", row[3], restart, confirmed, row[6])


def check_slot(slot: Slot | None, name: str, resume_lsn: int) -> Slot:
    """The slot, if it can continue at `resume_lsn`; else PositionLost says what is missing and what to do."""
    again = "`catchment run --resnapshot` makes a new slot and reads every table again."
    if slot is None:
        raise PositionLost(
            f"The replication slot {name} is gone, and with it what was written after {lsn_text(resume_lsn)}. {again}"
        )
    if slot.lost:
        raise PositionLost(
            f"The replication slot {name} was invalidated (the server removed WAL it needed): what was written "
            f"after {lsn_text(resume_lsn)} is missing. {again}"
        )
    if slot.confirmed_lsn is not None and slot.confirmed_lsn > resume_lsn:
        raise PositionLost(
            f"The replication slot {name} stands at {lsn_text(slot.confirmed_lsn)}, beyond what the lake holds "
            f"({lsn_text(resume_lsn)}): it was re-created or read by someone else, and what is between is missing. "
            f"{again}"
        )
    return slot


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop the slot; False when there was none. Raises SourceUnavailable while somebody reads from it."""
    if find_slot(connection, name) is None:
        return False
    with translated(f"dropping the slot {name}"):
        connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    return True


def advance_slot(connection: Connection, name: str, lsn: int) -> None:
    """Let the server forget what is below `lsn`. Does nothing when the slot stands there already."""
    slot = find_slot(connection, name)
    if slot is None or slot.confirmed_lsn is None or slot.confirmed_lsn >= lsn:
        return
    with translated(f"advancing the slot {name}"):
        connection.execute("SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", (name, lsn_text(lsn)))


def current_lsn(connection: Connection) -> int:
    """Where the server's WAL ends now (flushed)."""
    with translated("asking for the WAL position"):
        return parse_lsn(connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchall()[0][0])
