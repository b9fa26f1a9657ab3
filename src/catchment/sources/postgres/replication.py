"""The streaming replication protocol, over libpq's own connection.

Source: PostgreSQL's manual, "Streaming Replication Protocol". libpq does authentication and TLS.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psycopg import pq

from catchment.errors import SourceRefused, SourceUnavailable
from catchment.sources.postgres.connection import refusal, translated
from catchment.sources.postgres.pgoutput import lsn_text
from catchment.sources.postgres.types import EPOCH_2000_US

WAL_HEADER = 25
"""Bytes before the message in an XLogData payload."""
KEEPALIVE_LENGTH = 18
"""A keepalive has exactly this length; every XLogData is longer."""


def publication_names(publications: Sequence[str]) -> str:
    """What pgoutput's option of that name takes, as a literal of SQL."""
    names = ",".join('"' + name.replace('"', '""') + '"' for name in publications)
    return "'" + names.replace("'", "''") + "'"


def parse_lsn(text: str) -> int:
    """`16/B374D848` as a number."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


@dataclass(frozen=True, slots=True)
class ExportedSnapshot:
    """A slot's consistent point, and the snapshot that shows the database at it."""

    lsn: int
    name: str


class ReplicationConnection:
    """One connection in replication mode. Used by one thread."""

    def __init__(self, info: str) -> None:
        with translated("opening a replication connection"):
            self.pgconn = pq.PGconn.connect(info.encode())
            if self.pgconn.status != pq.ConnStatus.OK:
                raise refusal("opening a replication connection", self._error())
            self.pgconn.nonblocking = 0

    def _error(self) -> str:
        return self.pgconn.get_error_message().strip().removeprefix("FATAL:").strip()

    def system_identifier(self) -> str:
        """Which cluster this is: a copy restored elsewhere keeps it, another server has another."""
        return self._row(b"IDENTIFY_SYSTEM", "identifying the server")[0]

    def create_slot(
        self, name: str, *, temporary: bool, waiting: Callable[[float], None] = lambda _: None
    ) -> ExportedSnapshot:
        """Create a logical slot and export its snapshot, valid until the next command on this connection.

        The server waits for every transaction that is running now; `waiting` is called with the seconds
        since the start, about once a second, and may raise to give up.
        """
        kind = "TEMPORARY " if temporary else ""
        command = f'CREATE_REPLICATION_SLOT "{name}" {kind}LOGICAL pgoutput EXPORT_SNAPSHOT'
        self.pgconn.send_query(command.encode())
        started = time.monotonic()
        while self.pgconn.is_busy():
            ready, _, _ = select.select([self.pgconn.socket], [], [], 1.0)
            if not ready:
                waiting(time.monotonic() - started)
            self._consume()
        result = self.pgconn.get_result()
        while self.pgconn.get_result() is not None:
            pass
        row = self._values(result, f"creating the replication slot {name}")
        return ExportedSnapshot(parse_lsn(row[1]), row[2])

    def start(self, slot: str, lsn: int, publications: tuple[str, ...]) -> None:
        """Start streaming at the first transaction that commits at or after `lsn`."""
        command = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL {lsn_text(lsn)} '
            f"(proto_version '1', publication_names {publication_names(publications)})"
        )
        result = self.pgconn.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise refusal(f"starting to stream from slot {slot}", _result_error(result))

    def feedback(self, lsn: int) -> None:
        """Tell the server that everything below `lsn` is durable here, and that we are alive."""
        now = int(time.time() * 1e6) - EPOCH_2000_US
        self.pgconn.put_copy_data(struct.pack(">cQQQqB", b"r", lsn, lsn, lsn, now, 0))
        self.pgconn.flush()

    def wait(self, seconds: float, wake: int) -> None:
        """Wait until there is something to read, `wake` (a file descriptor) is readable, or time is up."""
        readable, _, _ = select.select([self.pgconn.socket, wake], [], [], max(0.0, seconds))
        if self.pgconn.socket in readable:
            self._consume()

    def _consume(self) -> None:
        with translated("reading"):
            self.pgconn.consume_input()

    def ended(self) -> SourceUnavailable | SourceRefused:
        """Why the server ended the stream."""
        result = self.pgconn.get_result()
        said = _result_error(result) if result is not None else self._error()
        return refusal("streaming", said or "the server ended the stream")

    def close(self) -> None:
        """Hang up. Temporary slots of this connection go with it."""
        self.pgconn.finish()

    def _row(self, command: bytes, doing: str) -> list[str]:
        return self._values(self.pgconn.exec_(command), doing)

    def _values(self, result: pq.abc.PGresult | None, doing: str) -> list[str]:
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise refusal(doing, _result_error(result) if result is not None else self._error())
        return [(result.get_value(0, column) or b"").decode() for column in range(result.nfields)]


def _result_error(result: pq.abc.PGresult) -> str:
    primary = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY)
    return primary.decode(errors="replace") if primary else result.get_error_message().strip()
