"""The views of a DuckDB connection: one for each table of a lake, and those that are made of others."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from catchment.lakehouse import bronze, current, history_view
from catchment.lakehouse.bronze import Unreadable
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.moment import TableSnapshot


def show(connection: DuckDBPyConnection, tables: Iterable[TableSnapshot]) -> None:
    """Make or replace the views of these tables: the table's own, `current.<table>` of a bronze one, and
    `silver.<table>_history` of versions.

    What cannot be shown faithfully becomes a view that raises the reason when it is queried.
    """
    shown = list(tables)
    spellings = Counter((table.layer, table.name.lower()) for table in shown)
    names = {table.name for table in shown if table.layer == "silver"}
    for table in shown:
        if spellings[table.layer, table.name.lower()] > 1:
            refuse(
                connection,
                f"{identifier(table.layer)}.{identifier(table.name)}",
                f"{table} has the name of another table but for the case, which DuckDB does not tell apart; read it "
                "with PyIceberg",
                table,
            )
            continue
        if table.dead:
            load_dead_rows(connection, table)
        make_view(connection, table.layer, table, bronze.relation)
        if table.layer == "bronze":
            make_view(connection, "current", table, current.relation)
        if (history := history_view.history_name(table)) is not None and history not in names:
            make_view(connection, "silver", table, history_view.relation, name=history)


def make_view(
    connection: DuckDBPyConnection,
    schema: str,
    table: TableSnapshot,
    relation: Callable[[TableSnapshot], str],
    name: str | None = None,
) -> None:
    """Make or replace a view of a table, or of something made of it; `name`: where that is not the table's."""
    import duckdb

    at = f"{identifier(schema)}.{identifier(name or table.name)}"
    try:
        connection.execute(f"CREATE OR REPLACE VIEW {at} AS {relation(table)}")
    except Unreadable as reason:
        refuse(connection, at, str(reason), table if name is None else None)
    except duckdb.Error as error:
        first = str(error).partition("\n")[0]
        reason_ = f"{schema}.{name or table.name} cannot be shown in DuckDB; read it with PyIceberg. {first}"
        refuse(connection, at, reason_, table if name is None else None)


def load_dead_rows(connection: DuckDBPyConnection, table: TableSnapshot) -> None:
    """Put a table's bitmaps where the SELECT of `bronze.relation` looks for them."""
    connection.register("dead_rows", bronze.dead_rows(table))
    connection.execute(
        f"CREATE OR REPLACE TABLE {bronze.dead_rows_name(table)} AS SELECT file_index, bits::BIT AS bits FROM dead_rows"
    )
    connection.unregister("dead_rows")


def refuse(connection: DuckDBPyConnection, name: str, reason: str, table: TableSnapshot | None) -> None:
    """A view that gives the reason whatever is asked of it, also a count. table: whose columns it has."""
    import duckdb

    error = f"error({literal(reason)})"
    refused = f"{error} AS refused"
    try:
        columns = [
            f"CAST({error} AS {bronze.duck_type(f.field_type)}) AS {identifier(f.name)}"
            for f in (table.schema.fields if table is not None else ())
        ]
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {', '.join(columns) or refused} WHERE {error}")
    except (duckdb.Error, KeyError):
        # Types or names that DuckDB does not have may be why the table is refused.
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {refused} WHERE {error}")
