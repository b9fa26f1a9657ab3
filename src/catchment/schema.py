"""A table's schema, its versions, and the envelope that a change of it has.

A column's type is an Arrow type out of a closed set that maps to Iceberg v2 without loss: bool, int32,
int64, float32, float64, decimal128(p, s), string, binary, date32, timestamp[us], timestamp[us, UTC].
What none of these holds exactly is a string.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True, order=True)
class TableId:
    """A table's name at its source: `public.orders`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}.{self.name}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, the source's own name for its type, and whether it is of the key."""

    name: str
    type: pa.DataType
    source_type: str = ""
    key: bool = False


@dataclass(frozen=True)
class TableSchema:
    """One version of a table's schema. Without key columns a table lives in bronze only."""

    table: TableId
    columns: tuple[Column, ...]
    version: int = 1

    @cached_property
    def row_type(self) -> pa.StructType:
        """The type of `before` and `after`."""
        return pa.struct([pa.field(c.name, c.type) for c in self.columns])

    @cached_property
    def key(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns if c.key)

    @cached_property
    def envelope(self) -> pa.Schema:
        """The Arrow schema of a `ChangeBatch` of this table."""
        return envelope(self.row_type)


def version_of(columns: Sequence[Column]) -> int:
    """A version that is the same in every replay, whatever was running: made of names, types and key alone."""
    text = repr([(column.name, str(column.type), column.key) for column in columns])
    return zlib.crc32(text.encode()) & 0x7FFFFFFF


def envelope(row: pa.StructType) -> pa.Schema:
    """The columns of a change whose `before` and `after` are `row`. Their meaning: ARCHITECTURE.md."""
    return pa.schema(
        [
            pa.field("_op", pa.string(), nullable=False),
            pa.field("_lane", pa.string(), nullable=False),
            pa.field("_position", pa.binary(), nullable=False),
            pa.field("_version", pa.binary(), nullable=False),
            pa.field("_transaction", pa.string()),
            pa.field("_committed_at", UTC_MICROSECONDS),
            pa.field("_schema_version", pa.int32(), nullable=False),
            pa.field("_unchanged", pa.list_(pa.string())),
            pa.field("_unrepresentable", pa.map_(pa.string(), pa.string())),
            pa.field("before", row),
            pa.field("after", row),
        ]
    )
