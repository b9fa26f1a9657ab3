"""Reads a replication stream through libpq and throws it away: `DSN SLOT END_LSN` → seconds.

The fastest that a Python program can read the stream: no copy, no decoding, one call a message.
"""

from __future__ import annotations

import struct
import sys
import time

from psycopg import pq

_SHORT = 48
"""A begin message with its header is 46 bytes, a keepalive 18: only those tell us where we are."""

_STATUS_EVERY = 200_000


def read(dsn: str, slot: str, end: int) -> float:
    """Seconds from the start of the stream until a transaction or keepalive beyond `end`."""
    connection = pq.PGconn.connect(f"{dsn}?replication=database".encode())
    assert connection.status == pq.ConnStatus.OK, connection.get_error_message()
    start = time.perf_counter()
    command = f"START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names 'orders')"
    result = connection.exec_(command.encode())
    assert result.status == pq.ExecStatus.COPY_BOTH, connection.get_error_message()
    get = connection.get_copy_data
    count = 0
    while True:
        size, data = get(0)
        assert size > 0, connection.get_error_message()
        count += 1
        if size <= _SHORT and _reached(bytes(data)) >= end:
            break
        if count % _STATUS_EVERY == 0:
            # "Received nothing yet", which keeps the server from hanging up.
            connection.put_copy_data(b"r" + struct.pack(">QQQqB", 0, 0, 0, 0, 0))
            connection.flush()
    seconds = time.perf_counter() - start
    connection.finish()
    return seconds


def _reached(message: bytes) -> int:
    """A keepalive's end of the WAL, or the final LSN of a transaction that begins; else 0."""
    if message[:1] == b"k":
        return int(struct.unpack_from(">Q", message, 1)[0])
    return int(struct.unpack_from(">Q", message, 26)[0]) if message[25:26] == b"B" else 0


def main() -> None:
    """Read as the arguments say and print the seconds."""
    dsn, slot, end_lsn = sys.argv[1:]
    high, low = end_lsn.split("/")
    print(read(dsn, slot, (int(high, 16) << 32) + int(low, 16)))


if __name__ == "__main__":
    main()
