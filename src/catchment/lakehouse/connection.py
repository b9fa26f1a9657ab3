"""A DuckDB connection that shows a lake: schemas bronze, current, silver, gold and ops, fixed at one moment."""

from __future__ import annotations

import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import ConfigError
from catchment.lakehouse import bronze, current, history_view
from catchment.lakehouse.bronze import Unreadable
from catchment.lakehouse.moment import LakeReader, TableSnapshot
from catchment.lakehouse.sql import identifier, literal, literals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.config import LakehouseConfig
    from catchment.lakehouse.ops import OpsStore

SCHEMAS = ("bronze", "current", "silver", "gold", "ops")


def connect(pipeline: str | os.PathLike[str]) -> DuckDBPyConnection:
    """Connect to the lake of a pipeline.yaml; see `connect_lake`. Raises ConfigError when it cannot be read."""
    from catchment.config import load

    path = Path(pipeline)
    config = load(path)
    return connect_lake(config.lakehouse, path.resolve().parent, config.name)


def connect_lake(lakehouse: LakehouseConfig, directory: Path, pipeline: str | None = None) -> DuckDBPyConnection:
    """Connect to a lake as it is now; paths in `lakehouse` are relative to `directory`.

    The views stay at the snapshots of this moment. `pipeline` limits `ops` to one pipeline's rows.
    Nothing but the lake's files can be read through the connection, its settings are locked, and no new
    file can be written; tables of one's own live in memory.
    """
    from catchment.lakehouse.catalog import load_catalog
    from catchment.lakehouse.ops import OpsStore

    tables = LakeReader(load_catalog(lakehouse.catalog, directory)).tables()
    connection = open_duckdb()
    show(connection, tables)
    store = OpsStore.open(lakehouse, directory)
    try:
        _show_ops(connection, store, pipeline)
    finally:
        store.close()
    confine(connection, (file for table in tables for file in table.files))
    return connection


def open_duckdb(threads: int | None = None, memory_limit: str | None = None) -> DuckDBPyConnection:
    """DuckDB in memory with our schemas, in UTC, that loads no extension and spills to the temporary directory."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "temp_directory": str(Path(tempfile.gettempdir()) / f"catchment-{os.getpid()}"),
    }
    if threads is not None:
        config["threads"] = threads
    if memory_limit is not None:
        config["memory_limit"] = memory_limit
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone = 'UTC'")
    for schema in (*SCHEMAS, bronze.DEAD_ROWS_SCHEMA):
        connection.execute(f"CREATE SCHEMA {schema}")
    return connection


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
            _refusal(
                connection,
                f"{identifier(table.layer)}.{identifier(table.name)}",
                f"{table} has the name of another table but for the case, which DuckDB does not tell apart; read it "
                "with PyIceberg",
                table,
            )
            continue
        if table.dead:
            _load_dead_rows(connection, table)
        _view(connection, table.layer, table, bronze.relation)
        if table.layer == "bronze":
            _view(connection, "current", table, current.relation)
        if (history := history_view.history_name(table)) is not None and history not in names:
            _view(connection, "silver", table, history_view.relation, name=history)


def confine(connection: DuckDBPyConnection, files: Iterable[str]) -> None:
    """From here on the connection reaches these files and no others, and its settings stay as they are."""
    connection.execute(f"SET allowed_paths = {literals(file for file in files if file.startswith('/'))}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def refuse_writes(sql: str) -> None:
    """Raise ConfigError unless every statement only reads: what a read-only command runs first."""
    import duckdb
    from duckdb import StatementType

    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise ConfigError(f"The query cannot be parsed: {error}") from error
    for statement in statements:
        explains_a_copy = statement.type == StatementType.EXPLAIN and _EXPLAINED_COPY.match(statement.query)
        if explains_a_copy or statement.type not in (StatementType.SELECT, StatementType.EXPLAIN, StatementType.CALL):
            raise ConfigError(
                f"{statement.type.name} is not allowed: the lake can only be read here. Write SELECT …, DESCRIBE …, "
                "SHOW … or EXPLAIN …"
            )


_EXPLAINED_COPY = re.compile(r"\s*explain\s+(\([^)]*\)\s*|analyze\s+)*copy\b", re.IGNORECASE)


def _view(
    connection: DuckDBPyConnection,
    schema: str,
    table: TableSnapshot,
    relation: Callable[[TableSnapshot], str],
    name: str | None = None,
) -> None:
    import duckdb

    at = f"{identifier(schema)}.{identifier(name or table.name)}"
    try:
        connection.execute(f"CREATE OR REPLACE VIEW {at} AS {relation(table)}")
    except Unreadable as reason:
        _refusal(connection, at, str(reason), table if name is None else None)
    except duckdb.Error as error:
        first = str(error).partition("\n")[0]
        reason_ = f"{schema}.{name or table.name} cannot be shown in DuckDB; read it with PyIceberg. {first}"
        _refusal(connection, at, reason_, table if name is None else None)


def _load_dead_rows(connection: DuckDBPyConnection, table: TableSnapshot) -> None:
    connection.register("dead_rows", bronze.dead_rows(table))
    connection.execute(
        f"CREATE OR REPLACE TABLE {bronze.dead_rows_name(table)} AS SELECT file_index, bits::BIT AS bits FROM dead_rows"
    )
    connection.unregister("dead_rows")


def _refusal(connection: DuckDBPyConnection, name: str, reason: str, table: TableSnapshot | None) -> None:
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


def _show_ops(connection: DuckDBPyConnection, store: OpsStore, pipeline: str | None) -> None:
    for name, rows in store.tables().items():
        connection.register("ops_rows", rows)
        mine = "WHERE pipeline = $pipeline" if pipeline is not None and "pipeline" in rows.column_names else ""
        connection.execute(
            f"CREATE TABLE ops.{identifier(name)} AS SELECT * FROM ops_rows {mine}",
            {"pipeline": pipeline} if mine else None,
        )
        connection.unregister("ops_rows")
