"""Reading the WAL in one thread, in one of two ways, with a change of way at commit boundaries.

*Live*: the replication stream; low latency. *Catch-up*, when far behind: whole transactions pulled with
`pg_logical_slot_get_binary_changes` as one Arrow column, two to four times as fast. The pulls go through a
temporary *copy* of the slot, so that reading ahead consumes nothing that is not durable yet: the slot itself
only moves on acknowledgement (docs/adr/0001-catch-up-through-a-copied-slot.md).
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from catchment import failpoint
from catchment.errors import CatchmentError
from catchment.sources.postgres.connection import connect, translated
from catchment.sources.postgres.inbox import Inbox, Reached
from catchment.sources.postgres.pgoutput import Block, lsn_text
from catchment.sources.postgres.replication import (
    KEEPALIVE_LENGTH,
    WAL_HEADER,
    ReplicationConnection,
    parse_lsn,
    publication_names,
)
from catchment.sources.postgres.slot import Connection, advance_slot, current_lsn
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

BLOCK_MESSAGES = 20_000
BLOCK_BYTES = 8 << 20
LINGER_SECONDS = 0.05
"""How long a first message waits for company: a decode has a fixed cost."""
FEEDBACK_SECONDS = 10.0
ADVANCE_SECONDS = 30.0
"""How often the real slot is advanced while pulls go through its copy."""
FIRST_PULL = 250_000
PULLED_BLOCK_MESSAGES = 100_000
MOST_PULL = 8_000_000
_COMMIT = ord("C")


@dataclass(frozen=True, slots=True)
class WalPlan:
    """What to read, from where, and when catch-up is worth it.

    catch_up_bytes: lag above which pulls are used; live falls back to them at four times as much. pulls_only: never
    touch the slot itself (a dry run).
    """

    conninfo: str
    replication_conninfo: str
    slot: str
    publications: tuple[str, ...]
    start: int
    catch_up_bytes: int
    pulls_only: bool = False


class WalReader(threading.Thread):
    """Reads from `plan.start` until stopped; leaves blocks and positions in the inbox."""

    def __init__(self, plan: WalPlan, inbox: Inbox) -> None:
        super().__init__(name="catchment-wal", daemon=True)
        self._plan = plan
        self._inbox = inbox
        self._stop_requested = threading.Event()
        self._behind = threading.Event()
        self._acknowledged = plan.start
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._cancel: Callable[[], None] | None = None
        self.mode = "starting"
        self.notes: tuple[str, ...] = ()
        self.can_catch_up = True
        self.started_at = plan.start

    def acknowledge(self, lsn: int) -> None:
        """Everything below `lsn` is durable; the server hears of it soon."""
        self._acknowledged = max(self._acknowledged, lsn)
        if self._stop_requested.is_set():
            return
        self._wake()

    def fall_behind(self) -> None:
        """Ask for catch-up at the next commit, where it is possible."""
        if self.can_catch_up:
            self._behind.set()

    def stop(self) -> None:
        """End the thread and wait for it. A second call does nothing."""
        if self._stop_requested.is_set():
            return
        self._stop_requested.set()
        self._inbox.close()
        self._wake()
        cancel = self._cancel
        if cancel is not None:
            with suppress(CatchmentError):
                cancel()
        if self.ident is not None:
            self.join(timeout=30.0)
        if not self.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _wake(self) -> None:
        # Pulls do not look at the pipe: it may be full, and wakes the stream all the same.
        with suppress(BlockingIOError):
            os.write(self._wake_write, b"w")

    def run(self) -> None:
        try:
            self._run()
        except CatchmentError as error:
            self._inbox.fail(error)
        except Exception as error:  # noqa: BLE001 - a thread's bug must reach the pipeline, not vanish
            self._inbox.fail(error)
        finally:
            if self.mode == "catch-up" and self._stop_requested.is_set() and not self._plan.pulls_only:
                # The stream would have told the server; the pulls went through a copy of the slot.
                with suppress(CatchmentError), connect(self._plan.conninfo) as connection:
                    advance_slot(connection, self._plan.slot, self._acknowledged)

    def _run(self) -> None:
        at = self._plan.start
        with connect(self._plan.conninfo) as connection:
            lag = current_lsn(connection) - at
            while not self._stop_requested.is_set():
                if self._plan.pulls_only:
                    at = _Pulls(self, self._plan, self._inbox, connection).read(at)
                    self._stop_requested.wait(1.0)
                    continue
                if lag > self._plan.catch_up_bytes:
                    at = _Pulls(self, self._plan, self._inbox, connection).read(at)
                if not self._stop_requested.is_set():
                    at = self._live(at)
                    lag = self._plan.catch_up_bytes + 1

    # -- live

    def _live(self, at: int) -> int:
        """Stream from `at`; returns at the end of a transaction when catch-up was asked for, or when stopped."""
        self.mode = "live"
        if self.can_catch_up:
            self.notes = ()
        self._behind.clear()
        connection = ReplicationConnection(self._plan.replication_conninfo)
        try:
            connection.start(self._plan.slot, at, self._plan.publications)
            return self._stream(connection, at)
        finally:
            connection.close()

    def _stream(self, connection: ReplicationConnection, at: int) -> int:
        get = connection.pgconn.get_copy_data
        payloads: list[bytes | memoryview] = []
        size, reached, told, told_at, first_at = 0, 0, 0, time.monotonic(), 0.0
        behind = False
        while not self._stop_requested.is_set():
            count, data = get(1)
            if count > KEEPALIVE_LENGTH:
                # The hot path: a message costs these few lines.
                payloads.append(data)
                size += count
                if size < BLOCK_BYTES and not behind and len(payloads) != 1 and len(payloads) < BLOCK_MESSAGES:
                    continue
                if behind and data[WAL_HEADER] == _COMMIT:
                    self._ship(connection, payloads)
                    return int(struct.unpack_from(">Q", data, WAL_HEADER + 10)[0])
            elif count == KEEPALIVE_LENGTH:
                reached = struct.unpack_from(">Q", data, 1)[0]
                if data[17]:
                    told_at = 0.0
            elif count < 0:
                raise connection.ended()
            now = time.monotonic()
            behind = self._behind.is_set()
            if len(payloads) == 1 and count > 0:
                first_at = now
            full = size >= BLOCK_BYTES or len(payloads) >= BLOCK_MESSAGES
            if payloads and (full or now - first_at >= LINGER_SECONDS):
                self._ship(connection, payloads)
                payloads, size = [], 0
            if reached and not payloads:
                self._put(connection, Reached(reached))
                reached = 0
            if self._acknowledged != told or now - told_at >= FEEDBACK_SECONDS:
                told, told_at = self._acknowledged, now
                connection.feedback(told)
            if count == 0:
                wait = first_at + LINGER_SECONDS - now if payloads else told_at + FEEDBACK_SECONDS - now
                connection.wait(wait, self._wake_read)
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
        connection.feedback(self._acknowledged)
        return at

    def _ship(self, connection: ReplicationConnection, payloads: list[bytes | memoryview]) -> None:
        failpoint.reach("received")
        self._put(connection, Block.from_stream(payloads, WAL_HEADER))

    def _put(self, connection: ReplicationConnection, item: Block | Reached) -> None:
        """Wait for room, and stay alive for the server meanwhile."""
        while not self._inbox.put_wal(item, timeout=FEEDBACK_SECONDS / 2):
            if self._stop_requested.is_set():
                return
            connection.feedback(self._acknowledged)


class _Pulls:
    """Catch-up through a temporary copy of the slot."""

    def __init__(self, reader: WalReader, plan: WalPlan, inbox: Inbox, connection: Connection) -> None:
        self._reader = reader
        self._plan = plan
        self._inbox = inbox
        self._connection = connection
        self._copy = f"{plan.slot[:40]}_ahead_{os.getpid()}"
        self._size = FIRST_PULL
        self._advanced_at = time.monotonic()

    def read(self, at: int) -> int:
        """Pull from `at` until little is left; returns the position reached, a commit boundary."""
        import adbc_driver_postgresql.dbapi as adbc

        reader = self._reader
        with (
            translated("reading the WAL by pulls"),
            adbc.connect(self._plan.conninfo, autocommit=True) as session,
            session.cursor() as cursor,
        ):
            if not self._copy_slot(cursor, at):
                return at
            reader.mode = "catch-up"
            pid = int(str(_one(cursor, "SELECT pg_backend_pid()")))
            reader._cancel = lambda: _cancel(self._plan.conninfo, pid)
            try:
                last = False
                while not last and not reader._stop_requested.is_set():
                    at, last = self._pull(cursor, at)
            finally:
                reader._cancel = None
        return at

    def _copy_slot(self, cursor: object, at: int) -> bool:
        """A private slot at the position; False (with a note) when the server has none to spare."""
        import adbc_driver_manager

        try:
            _one(
                cursor,
                f"SELECT lsn::text FROM pg_copy_logical_replication_slot('{self._plan.slot}', '{self._copy}', true)",
            )
        except adbc_driver_manager.Error as error:
            if "replication slots are in use" not in str(error):
                raise
            self._reader.can_catch_up = False
            self._reader.notes = ("no free replication slot for catch-up: reading the stream instead",)
            log.warning("%s: raise max_replication_slots.", self._reader.notes[0])
            return False
        confirmed = parse_lsn(str(_one(cursor, self._slot_query("confirmed_flush_lsn"))))
        if confirmed < at:
            _one(
                cursor,
                f"SELECT end_lsn::text FROM pg_replication_slot_advance('{self._copy}', '{lsn_text(at)}')",
            )
        return True

    def _slot_query(self, column: str) -> str:
        return f"SELECT {column}::text FROM pg_replication_slots WHERE slot_name = '{self._copy}'"

    def _pull(self, cursor: object, at: int) -> tuple[int, bool]:
        """One pull into the inbox; the position after it, and whether little is left."""
        names = publication_names(self._plan.publications)
        cursor.execute(  # type: ignore[attr-defined]
            f"SELECT data FROM pg_logical_slot_get_binary_changes('{self._copy}', NULL, {self._size},"
            f" 'proto_version', '1', 'publication_names', {names})"
        )
        for batch in cursor.fetch_record_batch():  # type: ignore[attr-defined]
            failpoint.reach("received")
            messages = batch.column(0)
            # A batch has 16 MiB; of narrow rows these are half a million, each with the whole envelope.
            for first in range(0, len(messages), PULLED_BLOCK_MESSAGES):
                if not self._inbox.put_wal(Block.from_arrow(messages.slice(first, PULLED_BLOCK_MESSAGES))):
                    return at, True
        reached = parse_lsn(str(_one(cursor, self._slot_query("confirmed_flush_lsn"))))
        restart = parse_lsn(str(_one(cursor, self._slot_query("restart_lsn"))))
        self._inbox.put_wal(Reached(reached))
        self._adapt(read_again=reached - restart, new=reached - at)
        if time.monotonic() - self._advanced_at > ADVANCE_SECONDS and not self._plan.pulls_only:
            advance_slot(self._connection, self._plan.slot, self._reader._acknowledged)
            self._advanced_at = time.monotonic()
        return reached, current_lsn(self._connection) - reached < self._plan.catch_up_bytes // 4 or reached == at

    def _adapt(self, read_again: int, new: int) -> None:
        """Each pull reads again from restart_lsn, which a long transaction or a burst holds: pull more at a time."""
        if read_again > max(new, 1) and self._size < MOST_PULL:
            self._size = min(MOST_PULL, self._size * 2)
            self._reader.notes = (
                f"each catch-up pull reads {read_again >> 20} MiB of WAL again, because a long-running transaction or "
                f"a burst of writes holds the slot's restart_lsn: pulling {self._size:,} changes at a time",
            )
        elif read_again * 4 < new and self._size > FIRST_PULL:
            self._size = max(FIRST_PULL, self._size // 2)
            self._reader.notes = ()


def _one(cursor: object, query: str) -> object:
    cursor.execute(query)  # type: ignore[attr-defined]
    return cursor.fetchone()[0]  # type: ignore[attr-defined]


def _cancel(info: str, pid: int) -> None:
    """End a pull that the server is still preparing."""
    with connect(info) as connection, translated("cancelling"):
        connection.execute("SELECT pg_cancel_backend(%s)", (pid,))
