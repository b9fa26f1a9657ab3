"""pgoutput as text against `binary 'true'`: bytes, the server's work, ours. `python -m benchmarks.pgoutput_modes`

The figures behind docs/adr/0002. CPU seconds stand beside wall time, because the latter suffers from
neighbours: the server's is its backend's, ours is this process's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import orders
from benchmarks.server import Database, database, embedded_server

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

MODES = ("text", "binary")
_EPOCH_2000_US = 946_684_800_000_000
_UTC = pa.timestamp("us", tz="UTC")
_TYPES: dict[str, pa.DataType] = {
    "order_id": pa.int64(),
    "user_id": pa.int64(),
    "product_id": pa.int32(),
    "quantity": pa.int32(),
    "unit_price": pa.decimal128(10, 2),
    "total_amount": pa.decimal128(12, 2),
    "status": pa.string(),
    "city": pa.string(),
    "created_at": _UTC,
    "updated_at": _UTC,
}


@dataclass(frozen=True, slots=True)
class Figures:
    """One mode's. All seconds are for the whole backlog."""

    changes: int
    message_bytes: int
    peek_seconds: float
    peek_server_cpu: float
    recvlogical_seconds: float
    recvlogical_server_cpu: float
    decode_cpu: float
    decode_cpu_by_type: dict[str, float]


def _options(mode: str) -> dict[str, str]:
    common = {"proto_version": "1", "publication_names": "orders"}
    return common | ({"binary": "true"} if mode == "binary" else {})


# -- reading -----------------------------------------------------------------------------------------


def _peek(base: Database, slot: str, mode: str) -> tuple[list[pa.BinaryArray], float, float]:
    """All messages as Arrow through ADBC; wall seconds, and CPU seconds of the server's backend."""
    import adbc_driver_postgresql.dbapi as adbc

    options = ", ".join(f"'{name}', '{value}'" for name, value in _options(mode).items())
    with adbc.connect(base.dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        backend = psutil.Process(cursor.fetchall()[0][0])
        cpu, start = _cpu(backend), time.perf_counter()
        cursor.execute(f"select data from pg_logical_slot_peek_binary_changes('{slot}', null, null, {options})")
        batches = [batch.column(0) for batch in cursor.fetch_record_batch()]
        return batches, time.perf_counter() - start, _cpu(backend) - cpu


def _recvlogical(base: Database, slot: str, mode: str, end: str) -> tuple[float, float]:
    """Wall seconds of `pg_recvlogical`, and CPU seconds of the server's walsender."""
    program = str(base.server.bin_dir / "pg_recvlogical")
    options = [f"--option={name}={value}" for name, value in _options(mode).items()]
    with base.connect() as connection, base.copied_slot(slot, f"{slot}_{mode}") as copy:
        where = ["--dbname", base.dsn, "--slot", copy, "--start", "--no-loop", "--endpos", end]
        start = time.perf_counter()
        reader = subprocess.Popen([program, *where, "--file", "/dev/null", *options])
        sender: psutil.Process | None = None
        spent = 0.0
        while reader.poll() is None:
            sender = sender or _sender(connection, copy)
            if sender is not None:
                try:
                    spent = _cpu(sender)
                except psutil.NoSuchProcess:
                    break
            time.sleep(0.02)
        assert reader.wait() == 0
        return time.perf_counter() - start, spent


def _sender(connection: psycopg.Connection[Any], slot: str) -> psutil.Process | None:
    row = connection.execute(
        "select active_pid from pg_replication_slots where slot_name = %s and active_pid is not null", (slot,)
    ).fetchone()
    return psutil.Process(row[0]) if row else None


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


# -- decoding ----------------------------------------------------------------------------------------


def _new_rows(messages: pa.BinaryArray) -> tuple[Bytes, Ints]:
    """The buffer, padded, and where the column count of each insert's and update's new row lies."""
    _, edges, data = messages.buffers()
    offsets = np.frombuffer(edges, np.int32)[messages.offset : messages.offset + len(messages) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    buffer = np.zeros(last - first + 64, np.uint8)
    buffer[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    starts = offsets[:-1].astype(np.int64) - first
    letters = buffer[starts]
    # The key is not changed in this workload: no old tuple stands before the new one.
    return buffer, starts[(letters == ord("I")) | (letters == ord("U"))] + 6


def _integers(buffer: Bytes, at: Ints, kind: str) -> npt.NDArray[Any]:
    view = np.ndarray((len(buffer) - np.dtype(kind).itemsize + 1,), kind, buffer, strides=(1,))
    return view[at].astype(np.dtype(kind).newbyteorder("="))


def _columns(buffer: Bytes, at: Ints) -> Iterator[tuple[str, Ints, Ints]]:
    """Each column's name, and where its values begin and how long they are."""
    place = at + 2
    for name in _TYPES:
        length = _integers(buffer, place + 1, ">i4").astype(np.int64)
        yield name, place + 5, length
        place = place + 5 + length


def _texts(buffer: Bytes, starts: Ints, lengths: Ints) -> pa.Array:
    """Values copied together: Arrow takes every second piece of an array over the whole buffer."""
    count = len(starts)
    edges = np.empty(2 * count, np.int32)
    edges[0::2], edges[1::2] = starts, starts + lengths
    pieces = pa.Array.from_buffers(pa.binary(), 2 * count - 1, [None, pa.py_buffer(edges), pa.py_buffer(buffer)])
    taken = pieces.take(pa.array(np.arange(0, 2 * count, 2, dtype=np.int32)))
    _, offsets, data = taken.buffers()
    return pa.Array.from_buffers(pa.string(), count, [None, offsets, data])


def _from_text(buffer: Bytes, starts: Ints, lengths: Ints, kind: pa.DataType) -> pa.Array:
    if kind == _UTC:
        # Every value ends in +00 where the session's time zone is UTC: cut off, a plain timestamp is left.
        return pc.cast(_texts(buffer, starts, lengths - 3), pa.timestamp("us")).view(_UTC)
    texts = _texts(buffer, starts, lengths)
    return texts if kind == pa.string() else pc.cast(texts, kind)


def _from_binary(buffer: Bytes, starts: Ints, lengths: Ints, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return _texts(buffer, starts, lengths)
    if pa.types.is_decimal(kind):
        return _decimals(buffer, starts, kind)
    if kind == _UTC:
        return pa.array(_integers(buffer, starts, ">i8") + _EPOCH_2000_US).view(_UTC)
    return pa.array(_integers(buffer, starts, f">i{kind.bit_width // 8}"))


def _decimals(buffer: Bytes, starts: Ints, kind: pa.Decimal128Type) -> pa.Array:
    """`numeric_send` → decimal128 of at most 18 digits: digits of base 10000, the first's weight, a sign."""
    assert kind.precision <= 18
    count = _integers(buffer, starts, ">i2")
    weight = _integers(buffer, starts + 2, ">i2").astype(np.int64)
    sign = _integers(buffer, starts + 4, ">u2")
    assert (sign <= 0x4000).all(), "NaN and infinity would be kept apart"
    total = np.zeros(len(starts), np.int64)
    for index in range(int(count.max(initial=0))):
        digit = _integers(buffer, starts + 8 + 2 * index, ">i2").astype(np.int64)
        exponent = 4 * (weight - index) + kind.scale
        up, down = _POWERS[np.clip(exponent, 0, 18)], _POWERS[np.clip(-exponent, 0, 18)]
        total += np.where(count > index, digit * up // down, 0)
    total = np.where(sign == 0x4000, -total, total)
    halves = np.empty((len(total), 2), np.int64)
    halves[:, 0], halves[:, 1] = total, total >> 63
    return pa.Array.from_buffers(kind, len(total), [None, pa.py_buffer(halves)])


_POWERS = 10 ** np.arange(19, dtype=np.int64)


def _decode(batches: Sequence[pa.BinaryArray], mode: str) -> tuple[pa.Table, float, dict[str, float]]:
    """The rows, CPU seconds altogether (walking included), and CPU seconds by type."""
    one: Callable[[Bytes, Ints, Ints, pa.DataType], pa.Array]
    one = _from_text if mode == "text" else _from_binary
    by_type: dict[str, float] = {}
    parts = []
    start = time.process_time()
    for messages in batches:
        buffer, at = _new_rows(messages)
        columns = {}
        for name, starts, lengths in _columns(buffer, at):
            kind = _TYPES[name]
            began = time.process_time()
            columns[name] = one(buffer, starts, lengths, kind)
            by_type[str(kind)] = by_type.get(str(kind), 0.0) + time.process_time() - began
        parts.append(pa.table(columns))
    spent = time.process_time() - start
    return pa.concat_tables(parts), spent, by_type


# -- the run -----------------------------------------------------------------------------------------


def measure(base: Database, backlog: orders.Backlog) -> dict[str, Figures]:
    """Both modes over one backlog; asserts that they give the same rows."""
    result: dict[str, Figures] = {}
    rows: dict[str, pa.Table] = {}
    for mode in MODES:
        _recvlogical(base, "waiting", mode, backlog.end_lsn)  # a first reading warms the file cache
        received, sender_cpu = _recvlogical(base, "waiting", mode, backlog.end_lsn)
        batches, peeked, backend_cpu = _peek(base, "waiting", mode)
        decoded = [_decode(batches, mode) for _ in range(3)]
        rows[mode], decode_cpu, by_type = min(decoded, key=lambda one: one[1])
        result[mode] = Figures(
            changes=backlog.changes,
            message_bytes=sum(int(pc.sum(pc.binary_length(batch)).as_py()) for batch in batches),
            peek_seconds=peeked,
            peek_server_cpu=backend_cpu,
            recvlogical_seconds=received,
            recvlogical_server_cpu=sender_cpu,
            decode_cpu=decode_cpu,
            decode_cpu_by_type=by_type,
        )
    assert rows["text"].equals(rows["binary"]), "the two modes gave different rows"
    return result


@contextmanager
def _waiting(changes: int, per_transaction: int) -> Iterator[tuple[Database, orders.Backlog]]:
    with embedded_server() as server, database(server, "modes") as base:
        base.create_slot("waiting")
        with base.connect() as connection:
            if per_transaction == 1:
                backlog = orders.one_row_transactions(base.connect, changes)
            else:
                backlog = orders.large_transactions(connection, changes, per_transaction)
        yield base, backlog


def main() -> None:
    """Measure both modes and print them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=1_000_000)
    parser.add_argument("--transaction-rows", type=int, default=100_000)
    arguments = parser.parse_args()
    with _waiting(arguments.changes, arguments.transaction_rows) as (base, backlog):
        figures = measure(base, backlog)
    print(json.dumps({mode: asdict(one) for mode, one in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
