"""The rows of a table as rules see them: silver with its quarantine, `current` while there is no silver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from catchment.lakehouse.sql import identifier, literal
from catchment.quality.condition import UNREPRESENTABLE, Unfit

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

OURS = ("_version", "_committed_at", UNREPRESENTABLE, "_quality")
"""Columns of the lake's, not of the source's."""
QUARANTINED = "_quarantined"


@dataclass(frozen=True, slots=True)
class Relation:
    """A table's rows in SQL, with a column `_quarantined`; and its schema as Arrow."""

    table: str
    layer: str
    sql: str
    schema: pa.Schema

    @property
    def columns(self) -> list[str]:
        """The source's columns."""
        return [name for name in self.schema.names if name not in OURS]

    @property
    def keeps_text(self) -> bool:
        """May rows have values that their columns could not hold?"""
        return UNREPRESENTABLE in self.schema.names


def relation(connection: DuckDBPyConnection, table: str) -> Relation:
    """The table's rows. Raises `Unfit` saying why there are none to be judged."""
    there = _relations(connection, table)
    if ("silver", table) in there:
        quarantine = f"{table}_quarantine"
        sql = f"SELECT *, false AS {QUARANTINED} FROM {_name('silver', table)}"
        if ("silver", quarantine) in there:
            sql += f" UNION ALL BY NAME SELECT *, true AS {QUARANTINED} FROM {_name('silver', quarantine)}"
        layer = "silver"
    elif ("current", table) in there:
        sql, layer = f"SELECT *, false AS {QUARANTINED} FROM {_name('current', table)}", "current"
    else:
        raise Unfit(f"the lake has no table {table} yet")
    return Relation(table, layer, f"({sql})", _schema(connection, layer, table))


def _relations(connection: DuckDBPyConnection, table: str) -> set[tuple[str, str]]:
    names = f"{literal(table)}, {literal(f'{table}_quarantine')}"
    query = (
        "SELECT table_schema, table_name FROM information_schema.tables "
        f"WHERE table_schema IN ('silver', 'current') AND table_name IN ({names})"
    )
    return {(str(schema), str(name)) for schema, name in connection.execute(query).fetchall()}


def _schema(connection: DuckDBPyConnection, layer: str, table: str) -> pa.Schema:
    # A view that only raises why it cannot be shown has columns like any other; its comment tells.
    refused = connection.execute(
        f"SELECT comment FROM duckdb_views() WHERE schema_name = {literal(layer)} AND view_name = {literal(table)} "
        "AND comment IS NOT NULL"
    ).fetchone()
    if refused:
        raise Unfit(str(refused[0]))
    try:
        return connection.execute(f"FROM {_name(layer, table)} LIMIT 0").to_arrow_table().schema
    except duckdb.Error as error:
        raise Unfit(str(error).partition("\n")[0].removeprefix("Invalid Input Error: ").rstrip(".")) from None


def _name(layer: str, table: str) -> str:
    return f"{identifier(layer)}.{identifier(table)}"
