"""One embedded PostgreSQL for a run; each benchmark gets a database and slots of its own in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from benchmarks import orders
from catchment.demo.postgres import EmbeddedPostgres

CACHE = Path(__file__).parent.parent / ".cache"
"""What outlives a run; git ignores it."""

SCRATCH = CACHE / "benchmarks" / str(os.getpid())
"""Everything that this run writes; gone at its end."""

SETTINGS = {
    # The WAL of a backlog is read several times: no checkpoint or autovacuum in the middle of a figure.
    "max_wal_size": "32GB",
    "checkpoint_timeout": "60min",
    "autovacuum": "off",
    "shared_buffers": "512MB",
    # Decoding is read for minutes without an answer by baselines that only read.
    "wal_sender_timeout": "10min",
}


@dataclass(frozen=True, slots=True)
class Database:
    """A database with an empty `orders` table and a publication `orders`."""

    server: EmbeddedPostgres
    name: str

    @property
    def dsn(self) -> str:
        """Over TCP: what most sources are reached by."""
        return self.server.dsn_of(self.name)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection in autocommit mode."""
        return psycopg.connect(self.dsn, autocommit=True)

    def create_slot(self, slot: str) -> None:
        """A slot from here on."""
        with self.connect() as connection:
            connection.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))

    @contextmanager
    def copied_slot(self, slot: str, copy: str) -> Iterator[str]:
        """A second slot at the same place, dropped at the end: reading it leaves the first as it is."""
        with self.connect() as connection:
            connection.execute("select pg_copy_logical_replication_slot(%s, %s)", (slot, copy))
        try:
            yield copy
        finally:
            self.drop_slot(copy)

    def drop_slot(self, slot: str) -> None:
        """Drop it once its reader is gone from the server."""
        with self.connect() as connection:
            # A client that has just gone still holds its slot for a moment: ask until the server noticed.
            connection.execute(
                "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots"
                " where slot_name = %s and active_pid is not null",
                (slot,),
            )
            connection.execute("select pg_drop_replication_slot(%s)", (slot,))


@contextmanager
def embedded_server() -> Iterator[EmbeddedPostgres]:
    """A fresh server in `SCRATCH`, which is removed with everything in it at the end."""
    for left in SCRATCH.parent.glob("*"):
        # Of runs that were killed: a backlog's WAL is gigabytes.
        if not (left.name.isdigit() and psutil.pid_exists(int(left.name))):
            _remove(left)
    try:
        with EmbeddedPostgres(SCRATCH / "server", settings=SETTINGS) as server:
            yield server
    finally:
        _remove(SCRATCH)


def _remove(scratch: Path) -> None:
    data = scratch / "server" / "data"
    if data.is_symlink():
        shutil.rmtree(data.resolve().parent, ignore_errors=True)
    shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def database(server: EmbeddedPostgres, name: str) -> Iterator[Database]:
    """A fresh database with the empty table; it and its slots are dropped at the end."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f'drop database if exists "{name}" with (force)')
        connection.execute(f'create database "{name}"')
    made = Database(server, name)
    with made.connect() as connection:
        orders.create(connection)
    try:
        yield made
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            rows = connection.execute(
                "select slot_name from pg_replication_slots where database = %s", (name,)
            ).fetchall()
        for (slot,) in rows:
            made.drop_slot(slot)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(f'drop database "{name}" with (force)')
            connection.execute("checkpoint")
