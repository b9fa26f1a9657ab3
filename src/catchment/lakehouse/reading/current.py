"""`current.<table>`: the rows that a table has now, by replaying its bronze changes in SQL.

Slow, simple and correct: it keeps no state of its own, and is what faster layers are compared with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from catchment.lakehouse.properties import BRONZE_SINCE, key_of
from catchment.lakehouse.reading.bronze import Unreadable
from catchment.lakehouse.reading.replay import Replay
from catchment.lakehouse.sql import identifier

if TYPE_CHECKING:
    from pyiceberg.types import StructType

    from catchment.lakehouse.reading.moment import TableSnapshot


def relation(table: TableSnapshot) -> str:
    """A SELECT of the current rows of a bronze table, which must be in view as `bronze.<table>`.

    Raises `Unreadable` for a table without a key, which has changes but no current rows, and for one that has let
    old changes go.
    """
    gone = table.properties.get(BRONZE_SINCE)
    if gone is not None:
        raise Unreadable(f"{table} no longer has the changes from before {gone}; query silver.{table.name}")
    return replay_of(table, f"{identifier(table.layer)}.{identifier(table.name)}")


def replay_of(table: TableSnapshot, changes: str) -> str:
    """A SELECT of what a bronze table's changes amount to, as far as they are in the relation `changes`.

    Raises `Unreadable` for a table without a key.
    """
    after = row_type(table)
    types = {field.name: field.field_type for field in after.fields}
    key = key_of(table.properties)
    if not key or not types.keys() >= set(key):
        raise Unreadable(f"{table} has no key, so it has no current rows; query its changes in {table}")
    uncertain = [name for name in key if may_be_unrepresentable(types[name])]
    return Replay(changes, key, tuple(types), as_text=uncertain).sql()


def row_type(table: TableSnapshot) -> StructType:
    """The columns of a bronze table's rows. Raises `Unreadable` for a table that has none."""
    from pyiceberg.types import StructType

    after = next((field.field_type for field in table.schema.fields if field.name == "after"), None)
    if not isinstance(after, StructType):
        raise Unreadable(f"{table} holds no changes: it has no struct `after`")
    return after


def may_be_unrepresentable(kind: object) -> bool:
    """Has this Iceberg type values that PostgreSQL has and it cannot hold (infinity, NaN)?"""
    from pyiceberg.types import DateType, DecimalType, TimestampType, TimestamptzType

    return isinstance(kind, DateType | TimestampType | TimestamptzType | DecimalType)
