"""The views of a DuckDB connection: one for each table of a lake, and those that are made of others."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from catchment.lakehouse.reading import bronze, current
from catchment.lakehouse.reading import history as history_view
from catchment.lakehouse.reading.bronze import Unreadable
from catchment.lakehouse.reading.replay import ENVELOPE
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.reading.moment import TableSnapshot


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
        refuse(connection, at, str(reason), _columns(schema, table))
    except duckdb.Error as error:
        first = str(error).partition("\n")[0]
        reason_ = f"{schema}.{name or table.name} cannot be shown in DuckDB; read it with PyIceberg. {first}"
        refuse(connection, at, reason_, _columns(schema, table))


def load_dead_rows(connection: DuckDBPyConnection, table: TableSnapshot) -> None:
    """Put a table's bitmaps where the SELECT of `bronze.relation` looks for them."""
    connection.register("dead_rows", bronze.dead_rows(table))
    connection.execute(
        f"CREATE OR REPLACE TABLE {bronze.dead_rows_name(table)} AS SELECT file_index, bits::BIT AS bits FROM dead_rows"
    )
    connection.unregister("dead_rows")


def refuse(
    connection: DuckDBPyConnection, name: str, reason: str, columns: Callable[[], Iterable[tuple[str, str]]] = tuple
) -> None:
    """Make a view that gives the reason whatever is asked of it, also a count. Its comment is the reason, too.

    columns: names and types that it would have, so that a query of one of them is told the reason too.
    """
    import duckdb

    error = f"error({literal(reason)})"
    refused = f"{error} AS refused"
    try:
        shown = ", ".join(f"CAST({error} AS {kind}) AS {identifier(column)}" for column, kind in columns())
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {shown or refused} WHERE {error}")
    except (duckdb.Error, KeyError):
        # Types or names that DuckDB does not have may be why the table is refused.
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT {refused} WHERE {error}")
    connection.execute(f"COMMENT ON VIEW {name} IS {literal(reason)}")


def _columns(schema: str, table: TableSnapshot) -> Callable[[], Iterable[tuple[str, str]]]:
    """What a view of the table would show, as well as can be told."""

    def columns() -> Iterable[tuple[str, str]]:
        fields = table.schema.fields
        inner = next((field.field_type for field in fields if field.name == "after"), None)
        if schema == "current" and isinstance(inner, StructType):
            fields = (*inner.fields, *(field for field in fields if field.name in ENVELOPE))
        return [(field.name, bronze.duck_type(field.field_type)) for field in fields]

    from pyiceberg.types import StructType

    return columns
