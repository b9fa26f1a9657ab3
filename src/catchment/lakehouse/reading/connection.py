"""A DuckDB connection that shows a lake: schemas bronze, current, silver, gold and ops, fixed at one moment."""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import ConfigError
from catchment.lakehouse.reading.bronze import HIDDEN_SCHEMA
from catchment.lakehouse.reading.mentions import mentioned
from catchment.lakehouse.reading.moment import LakeReader, TableSnapshot
from catchment.lakehouse.reading.time_travel import Past, in_utc
from catchment.lakehouse.reading.views import show as show
from catchment.lakehouse.sql import identifier, literals

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.config import LakehouseConfig

SCHEMAS = ("bronze", "current", "silver", "gold", "ops")


def connect(
    pipeline: str | os.PathLike[str], *, as_of: datetime | str | None = None, snapshot: int | None = None
) -> DuckDBPyConnection:
    """Connect to the lake of a pipeline.yaml; see `connect_lake`. Raises ConfigError when it cannot be read."""
    from catchment.config import load

    path = Path(pipeline)
    config = load(path)
    return connect_lake(config.lakehouse, path.resolve().parent, config.name, as_of=as_of, snapshot=snapshot)


def connect_lake(
    lakehouse: LakehouseConfig,
    directory: Path,
    pipeline: str | None = None,
    *,
    as_of: datetime | str | None = None,
    snapshot: int | None = None,
    query: str | None = None,
) -> DuckDBPyConnection:
    """Connect to a lake as it is now, or was; paths in `lakehouse` are relative to `directory`.

    The views stay at the snapshots of this moment. `pipeline` limits `ops` to one pipeline's rows.
    Nothing but the lake's files can be read through the connection, its settings are locked, and no new
    file can be written; tables of one's own live in memory.

    as_of: the lake at a moment of the source's clock (without a time zone: UTC); the table `ops.as_of` then says
    where each view's rows come from. snapshot: the table that has this Iceberg snapshot is shown at it, the others
    as they are. query: an SQL text that is to be run; tables that it does not name need not be there.

    Raises ConfigError for a snapshot that no table has.
    """
    from catchment.lakehouse.catalog import load_catalog

    if as_of is not None and snapshot is not None:
        raise ConfigError("A lake is shown as of a moment or at a snapshot, not both.")
    with closing(load_catalog(lakehouse.catalog, directory)) as catalog:
        reader = LakeReader(catalog)
        only = mentioned(query, reader.versions(), with_kin=as_of is not None) if query is not None else None
        tables = reader.tables(only=only if snapshot is None else None)
        if snapshot is not None:
            tables = [_at_snapshot(reader, table, snapshot) for table in _having(tables, snapshot)]
        connection = open_duckdb()
        show(connection, tables)
        files = {file for table in tables for file in table.files}
        if as_of is not None:
            files |= _turn_back(connection, reader, tables, in_utc(as_of), all_are_there=only is None)
    _show_ops(connection, lakehouse, directory, pipeline)
    confine(connection, files)
    return connection


def _having(tables: list[TableSnapshot], snapshot: int) -> list[TableSnapshot]:
    if not any(kept == snapshot for table in tables for _, kept in table.log):
        raise ConfigError(
            f"No table has a snapshot {snapshot} any more; `catchment snapshots` lists those that are kept."
        )
    return tables


def _at_snapshot(reader: LakeReader, table: TableSnapshot, snapshot: int) -> TableSnapshot:
    return reader.past(table, snapshot) if any(kept == snapshot for _, kept in table.log) else table


def _turn_back(
    connection: DuckDBPyConnection,
    reader: LakeReader,
    tables: list[TableSnapshot],
    moment: datetime,
    *,
    all_are_there: bool,
) -> set[str]:
    """Show the lake as of a moment; the further files that this takes."""
    import pyarrow as pa

    every = tables if all_are_there else reader.tables(("bronze",))
    past = Past(connection, reader, tables, [one for one in every if one.layer == "bronze"], moment)
    past.show()
    columns = {name: pa.array([getattr(one, name) for one in past.accounts], pa.string()) for name in _ACCOUNT}
    connection.register("accounts", pa.table(columns))
    connection.execute("CREATE TABLE ops.as_of AS SELECT * FROM accounts ORDER BY name")
    connection.unregister("accounts")
    return past.files


_ACCOUNT = ("name", "read_from", "detail")


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
    for schema in (*SCHEMAS, HIDDEN_SCHEMA):
        connection.execute(f"CREATE SCHEMA {schema}")
    return connection


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
    if not statements:
        raise ConfigError("There is no statement in the query. Write SELECT …, DESCRIBE …, SHOW … or EXPLAIN …")
    for statement in statements:
        explains_a_copy = statement.type == StatementType.EXPLAIN and _EXPLAINED_COPY.match(statement.query)
        if explains_a_copy or statement.type not in (StatementType.SELECT, StatementType.EXPLAIN, StatementType.CALL):
            raise ConfigError(
                f"{statement.type.name} is not allowed: the lake can only be read here. Write SELECT …, DESCRIBE …, "
                "SHOW … or EXPLAIN …"
            )


_EXPLAINED_COPY = re.compile(r"\s*explain\s+(\([^)]*\)\s*|analyze\s+)*copy\b", re.IGNORECASE)


def _show_ops(
    connection: DuckDBPyConnection, lakehouse: LakehouseConfig, directory: Path, pipeline: str | None
) -> None:
    from catchment.lakehouse.ops import OpsStore

    store = OpsStore.open(lakehouse, directory)
    try:
        found = store.tables()
    finally:
        store.close()
    for name, rows in found.items():
        connection.register("ops_rows", rows)
        mine = "WHERE pipeline = $pipeline" if pipeline is not None and "pipeline" in rows.column_names else ""
        connection.execute(
            f"CREATE TABLE ops.{identifier(name)} AS SELECT * FROM ops_rows {mine}",
            {"pipeline": pipeline} if mine else None,
        )
        connection.unregister("ops_rows")
