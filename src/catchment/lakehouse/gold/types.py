"""The types in which gold lands: those of DuckDB that Iceberg, and the engines that read it, have too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from catchment.lakehouse.sql import identifier

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from duckdb.sqltypes import DuckDBPyType


def landable(connection: DuckDBPyConnection, select: str) -> str:
    """The columns of a SELECT, as SQL that casts them to types that Iceberg has."""
    import duckdb

    columns = []
    for name, kind, *_ in connection.execute(f"DESCRIBE {select}").fetchall():
        target = _landed_type(duckdb.sqltype(kind))
        quoted = identifier(name)
        columns.append(quoted if target == kind else f"CAST({quoted} AS {target}) AS {quoted}")
    return ", ".join(columns)


def _landed_type(kind: DuckDBPyType) -> str:
    """The type a column lands as. What Iceberg v2, or an engine that reads it, does not have becomes text."""
    if kind.id in _WIDENED:
        return _WIDENED[kind.id]
    if kind.id == "decimal" or kind.id in _KEPT:
        return str(kind)
    children = {name: _landed_type(child) for name, child in _children(kind)}
    if kind.id == "list":
        return f"{children['child']}[]"
    if kind.id == "map":
        return f"MAP({children['key']}, {children['value']})"
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{identifier(name)} {child}' for name, child in children.items())})"
    return "VARCHAR"


def _children(kind: DuckDBPyType) -> Iterator[tuple[str, DuckDBPyType]]:
    from duckdb.sqltypes import DuckDBPyType

    if kind.id in ("list", "map", "struct"):
        for name, child in kind.children:
            if isinstance(child, DuckDBPyType):
                yield name, child


_KEPT = frozenset(
    ("boolean", "integer", "bigint", "float", "double", "blob", "date", "timestamp", "timestamp with time zone")
)
_WIDENED = {
    "tinyint": "INTEGER",
    "smallint": "INTEGER",
    "utinyint": "INTEGER",
    "usmallint": "INTEGER",
    "uinteger": "BIGINT",
    "ubigint": "DECIMAL(20,0)",
    "hugeint": "DECIMAL(38,0)",
    "uhugeint": "DECIMAL(38,0)",
    "timestamp_s": "TIMESTAMP",
    "timestamp_ms": "TIMESTAMP",
    "timestamp_ns": "TIMESTAMP",
}
