"""Orders in Arrow, and mixed changes of them as a source gives them; knows what the table must be in the end.

A row's values come from its number and from which merge wrote it, so that a table can be checked without keeping it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.change import ChangeBatch
from catchment.progress import Progress
from catchment.schema import UTC_MICROSECONDS, Column, TableId, TableSchema

LANE = "benchmark"
INSERTED, UPDATED = 0.10, 0.75
"""Of the changes; the others delete."""

ORDERS = TableSchema(
    TableId("public", "orders"),
    (
        Column("order_id", pa.int64(), "bigint", key=True),
        Column("user_id", pa.int64(), "bigint"),
        Column("product_id", pa.int32(), "integer"),
        Column("quantity", pa.int32(), "integer"),
        Column("unit_price", pa.decimal128(10, 2), "numeric(10,2)"),
        Column("total_amount", pa.decimal128(12, 2), "numeric(12,2)"),
        Column("status", pa.string(), "text"),
        Column("city", pa.string(), "text"),
        Column("created_at", UTC_MICROSECONDS, "timestamp with time zone"),
        Column("updated_at", UTC_MICROSECONDS, "timestamp with time zone"),
    ),
)

_STATUSES = pa.array(["PENDING", "SHIPPED", "DELIVERED", "CANCELLED"])
_CITIES = pa.array([f"City {number}" for number in range(24)])
_BEGIN = 1_767_225_600_000_000  # 2026-01-01, in microseconds
_GONE = -1

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MixedChanges:
    """One merge's worth. rows: what it writes, in silver's plain columns; deleted: the keys that it deletes."""

    batch: ChangeBatch
    progress: Progress
    rows: pa.Table
    deleted: Numbers


class OrderChanges:
    """A table that begins with `rows` orders, numbered from 0, and goes through mixed changes of uniform keys."""

    def __init__(self, rows: int, seed: int = 1) -> None:
        self._random = np.random.default_rng(seed)
        self._written_by = np.zeros(rows, np.int64)
        self._live = np.arange(rows)
        self._number = 0

    @property
    def rows(self) -> int:
        """How many there are now."""
        return len(self._live)

    def beginning(self, first: int, count: int) -> pa.RecordBatch:
        """Rows of the beginning, in silver's plain columns."""
        ids = np.arange(first, first + count)
        return _rows(ids, np.zeros(count, np.int64), _versions(0, first, count))

    def next(self, changes: int) -> MixedChanges:
        """The next changes, each of another key, in random order; the table is now as they leave it."""
        self._number += 1
        inserts, updates = int(changes * INSERTED), int(changes * UPDATED)
        touched = self._random.choice(len(self._live), changes - inserts, replace=False)
        old, deleted_at = self._live[touched[:updates]], touched[updates:]
        deleted = self._live[deleted_at]
        new = len(self._written_by) + np.arange(inserts)
        self._written_by = np.concatenate([self._written_by, np.full(inserts, self._number)])
        self._written_by[old] = self._number
        self._written_by[deleted] = _GONE
        self._live = np.concatenate([np.delete(self._live, deleted_at), new])
        return self._mixed(new, old, deleted)

    def _mixed(self, new: Numbers, old: Numbers, deleted: Numbers) -> MixedChanges:
        count = len(new) + len(old) + len(deleted)
        order = self._random.permutation(count)
        ids = np.concatenate([new, old, deleted])[order]
        operations = np.repeat(np.array(["c", "u", "d"]), [len(new), len(old), len(deleted)])[order]
        gone = operations == "d"
        rows = _rows(ids, np.full(count, self._number), _versions(self._number, 1, count))
        records = _envelope(rows, operations, gone)
        end = self._number.to_bytes(8, "big") + count.to_bytes(8, "big")
        written = pa.Table.from_batches([rows]).filter(pa.array(~gone))
        return MixedChanges(ChangeBatch(ORDERS, LANE, records), Progress({LANE: end}), written, deleted)

    def check(self, found: pa.Table) -> None:
        """A figure counts only when the table has these rows and no others. found: its rows, in any order."""
        ids = np.flatnonzero(self._written_by != _GONE)
        assert found.num_rows == len(ids), f"the table has {found.num_rows} rows instead of {len(ids)}"
        written_by = self._written_by[ids]
        order = np.argsort(found.column("order_id").to_numpy())
        wanted = {"order_id": ids, "updated_at": _updated(ids, written_by), "total_amount": _cents(ids, written_by)}
        for name, values in wanted.items():
            wrong = int(np.count_nonzero(_whole_numbers(found.column(name))[order] != values))
            assert not wrong, f"{wrong} rows have another {name} than they must"


def _rows(ids: Numbers, written_by: Numbers, versions: pa.Array) -> pa.RecordBatch:
    """Rows in silver's plain columns: the source's, `_version` and `_committed_at`."""
    columns: dict[str, pa.Array] = {
        "order_id": pa.array(ids),
        "user_id": pa.array(1 + ids * 2_654_435_761 % 1_000_000),
        "product_id": pa.array((1 + ids * 40_503 % 20_000).astype(np.int32)),
        "quantity": pa.array(_quantities(ids).astype(np.int32)),
        "unit_price": _decimals(_prices(ids, written_by), 10),
        "total_amount": _decimals(_cents(ids, written_by), 12),
        "status": _STATUSES.take(pa.array((ids * 31 + written_by) % 4)),
        "city": _CITIES.take(pa.array(ids * 97 % 24)),
        "created_at": _instants(_updated(ids, np.zeros(len(ids), np.int64))),
        "updated_at": _instants(_updated(ids, written_by)),
        "_version": versions,
        "_committed_at": _instants(_BEGIN + written_by * 1_000_000),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def _envelope(rows: pa.RecordBatch, operations: npt.NDArray[np.str_], gone: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """The changes as bronze has them; of a deleted row the source sends the key."""
    count, fields = rows.num_rows, list(ORDERS.row_type)
    after = [rows.column(field.name) for field in fields]
    before = [
        column if field.name in ORDERS.key else pa.nulls(count, field.type)
        for column, field in zip(after, fields, strict=True)
    ]
    given = {
        "_op": pa.array(operations),
        "_lane": pa.repeat(pa.scalar(LANE), count),
        "_position": rows.column("_version"),
        "_version": rows.column("_version"),
        "_committed_at": rows.column("_committed_at"),
        "_schema_version": pa.repeat(pa.scalar(1, pa.int32()), count),
        "before": pa.StructArray.from_arrays(before, fields=fields, mask=pa.array(~gone)),
        "after": pa.StructArray.from_arrays(after, fields=fields, mask=pa.array(gone)),
    }
    columns = [given.get(field.name, pa.nulls(count, field.type)) for field in ORDERS.envelope]
    return pa.RecordBatch.from_arrays(columns, schema=ORDERS.envelope)


def _quantities(ids: Numbers) -> Numbers:
    return 1 + ids % 9


def _prices(ids: Numbers, written_by: Numbers) -> Numbers:
    return 100 + (ids * 7919 + written_by * 104_729) % 99_900


def _cents(ids: Numbers, written_by: Numbers) -> Numbers:
    return _quantities(ids) * _prices(ids, written_by)


def _updated(ids: Numbers, written_by: Numbers) -> Numbers:
    return _BEGIN + ids * 1_234_567 + written_by * 1_000_001


def _instants(microseconds: Numbers) -> pa.Array:
    return pa.array(microseconds).view(UTC_MICROSECONDS)


def _decimals(cents: Numbers, precision: int) -> pa.Array:
    """Cents as decimals: 16 bytes each, of which the lower eight hold all of it."""
    wide = np.zeros((len(cents), 2), np.int64)
    wide[:, 0] = cents
    return pa.Array.from_buffers(pa.decimal128(precision, 2), len(cents), [None, pa.py_buffer(wide)])


def _whole_numbers(column: pa.ChunkedArray) -> Numbers:
    """Microseconds, cents, or the numbers themselves."""
    if pa.types.is_decimal(column.type):
        column = pc.multiply(column, pa.scalar(100, pa.int32())).cast(pa.decimal128(38, 0))
    numbers: Numbers = column.cast(pa.int64()).to_numpy()
    return numbers


def _versions(number: int, first: int, count: int) -> pa.Array:
    """Like PostgreSQL's: the commit's position, and the change's number in the transaction; 16 bytes."""
    wide = np.empty((count, 2), ">u8")
    wide[:, 0] = number
    wide[:, 1] = np.arange(first, first + count)
    offsets = 16 * np.arange(count + 1, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(wide)])
