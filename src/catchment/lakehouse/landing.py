"""Gold tables: a model's rows, computed by DuckDB and landed as an Iceberg table that is replaced whole."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING

from catchment.errors import CatchmentError, ConfigError, Retriable
from catchment.lakehouse.connection import open_duckdb, show
from catchment.lakehouse.current import KEY_PROPERTY
from catchment.lakehouse.gold import Model
from catchment.lakehouse.moment import LakeReader, TableSnapshot
from catchment.lakehouse.sql import identifier
from catchment.telemetry import LOGGER

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection
    from duckdb.sqltypes import DuckDBPyType
    from pyiceberg.catalog import Catalog

    from catchment.lakehouse.table import LakeTable

log = logging.getLogger(LOGGER)

SNAPSHOTS_KEPT = 30
"""A reader's view of a gold table works for so many refreshes that changed it; then its files go."""

DIGEST_PROPERTY = "catchment.digest"

MEMORY_LIMIT = "256MB"
"""What DuckDB may take while models run. Aggregates over a million changes need half of it."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How a model is. error: of the last refresh; the table then has what it had before.

    rows: in the table, None when it was never landed by this process. refreshed_at, changed_at: epoch
    seconds of the last refresh and of the last that gave other rows. seconds: what the last one took.
    """

    rows: int | None = None
    refreshed_at: float | None = None
    changed_at: float | None = None
    seconds: float = 0.0
    error: str | None = None


@dataclass
class _Landed:
    """What is known of a model's table between refreshes."""

    inputs: tuple[object, ...] | None = None
    digest: str | None = None
    again: bool = False
    table: LakeTable | None = None
    status: ModelStatus = field(default_factory=ModelStatus)


class _NotYet(ConfigError):
    """A model reads a table that is not there: most likely it has not been captured yet."""


class _Interrupted(ConfigError):
    """A refresh was broken off because capture ends: nothing is wrong with the model."""


class GoldLayer:
    """The gold tables of some models, refreshed when asked. One thread at a time, except `interrupt`.

    A model runs when one of its inputs has a new snapshot, and commits when its rows have changed.
    """

    def __init__(self, models: Sequence[Model], catalog: Catalog, *, memory_limit: str = MEMORY_LIMIT) -> None:
        self._models = tuple(models)
        self._catalog = catalog
        self._reader = LakeReader(catalog)
        self._memory_limit = memory_limit
        self._landed = {model.name: _Landed() for model in models}
        self._seen: dict[tuple[str, str], str] | None = None
        self._connection: DuckDBPyConnection | None = None

    def status(self) -> dict[str, ModelStatus]:
        """Each model's state after the last refresh."""
        return {name: landed.status for name, landed in self._landed.items()}

    def stale(self) -> bool:
        """Has bronze a snapshot that the last refresh did not see, or has landing failed? Cheap with a SQL catalog."""
        if any(landed.again for landed in self._landed.values()):
            return True
        return self._seen != self._reader.versions(("bronze",))

    def refresh(self, stopping: Event | None = None) -> dict[str, ModelStatus]:
        """Bring every model up to date with the snapshots of this moment; no further one once `stopping` is set.

        A model's error is kept in its status and stops no other model. Raises `Retriable` when the lake
        itself cannot be read.
        """
        tables = {(table.layer, table.name): table for table in self._reader.tables(("bronze", "gold"))}
        self._connection = open_duckdb(threads=1, memory_limit=self._memory_limit)
        try:
            self._connection.execute("SET enable_external_file_cache = false")
            show(self._connection, self._wanted(tables))
            for model in self._models:
                if stopping is not None and stopping.is_set():
                    return self.status()
                self._refresh_model(self._connection, model, tables)
        finally:
            connection, self._connection = self._connection, None
            connection.close()
        self._seen = {at: table.version for at, table in tables.items() if table.layer == "bronze"}
        return self.status()

    def interrupt(self) -> None:
        """Break off the query that runs now; its model fails. May be called from any thread."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def _wanted(self, tables: Mapping[tuple[str, str], TableSnapshot]) -> list[TableSnapshot]:
        names = {
            _table_of(reference.layer, reference.table) for model in self._models for reference in model.references
        }
        return [table for at, table in tables.items() if at in names]

    def _refresh_model(
        self, connection: DuckDBPyConnection, model: Model, tables: Mapping[tuple[str, str], TableSnapshot]
    ) -> None:
        landed = self._landed[model.name]
        started = time.monotonic()
        try:
            inputs = self._inputs(model, tables)
            if inputs == landed.inputs:
                return
            rows, changed = self._run(connection, model, landed)
        except CatchmentError as error:
            landed.table, landed.again = None, isinstance(error, Retriable)
            message = str(error)
            if landed.status.error != message:
                level = logging.DEBUG if isinstance(error, _NotYet | _Interrupted) else logging.WARNING
                log.log(level, "Gold model %s keeps its last rows: %s", model.name, message)
            landed.status = replace(landed.status, error=message, refreshed_at=time.time())
            return
        landed.inputs, landed.again = inputs, False
        now = time.time()
        landed.status = ModelStatus(
            rows=rows,
            refreshed_at=now,
            changed_at=now if changed else landed.status.changed_at,
            seconds=time.monotonic() - started,
        )

    def _inputs(self, model: Model, tables: Mapping[tuple[str, str], TableSnapshot]) -> tuple[object, ...]:
        """What the model's rows depend on: equal inputs give equal rows."""
        versions: list[object] = [model.sql]
        for reference in model.references:
            table = tables.get(_table_of(reference.layer, reference.table))
            upstream = self._landed.get(reference.table) if reference.layer == "gold" else None
            if upstream is not None and upstream.digest is not None:
                versions.append(upstream.digest)
            elif table is not None:
                versions.append(table.version)
            else:
                raise _NotYet(
                    f"{model.file.name}:{reference.line}: there is no table {reference} yet. If it is not about to "
                    "come, correct the name."
                )
        return tuple(versions)

    def _run(self, connection: DuckDBPyConnection, model: Model, landed: _Landed) -> tuple[int, bool]:
        name = identifier(model.name)
        with _sql_errors(model):
            columns = _landable(connection, model)
            connection.execute(f"CREATE TABLE main.{name} AS SELECT {columns} FROM ({model.sql}\n) AS model")
            _check_key(connection, model)
            rows, digest = _digest(connection, model)
            connection.execute(f"CREATE OR REPLACE VIEW gold.{name} AS FROM main.{name}")
        changed = self._land(connection, model, landed, digest)
        landed.digest = digest
        return rows, changed

    def _land(self, connection: DuckDBPyConnection, model: Model, landed: _Landed, digest: str) -> bool:
        from catchment.lakehouse.commit import open_or_create
        from catchment.lakehouse.commit import replace as replace_rows

        def rows() -> pa.Table:
            return connection.execute(f"FROM main.{identifier(model.name)}").to_arrow_table()

        if landed.table is None:
            at, schema = ("gold", model.name), rows().schema
            landed.table = open_or_create(self._catalog, at, schema, {}, snapshots_kept=SNAPSHOTS_KEPT, owns_data=True)
        if landed.table.metadata.properties.get(DIGEST_PROPERTY) == digest:
            return False
        properties = {
            DIGEST_PROPERTY: digest,
            KEY_PROPERTY: json.dumps(model.key),
            "comment": model.description,
        }
        replace_rows(self._catalog, landed.table, rows(), properties)
        return True


def refresh(models: Sequence[Model], catalog: Catalog) -> dict[str, int]:
    """Bring these models up to date once; model → rows. Raises ConfigError naming each model that failed."""
    status = GoldLayer(models, catalog).refresh()
    failed = [f"{name}: {one.error}" for name, one in status.items() if one.error is not None]
    if failed:
        raise ConfigError("Gold models failed. " + " ".join(failed))
    return {name: one.rows or 0 for name, one in status.items()}


def _table_of(layer: str, table: str) -> tuple[str, str]:
    """Where the rows of a reference come from: `current` is made of bronze."""
    return ("bronze" if layer == "current" else layer, table)


def _landable(connection: DuckDBPyConnection, model: Model) -> str:
    """The model's columns, cast to types that Iceberg has."""
    import duckdb

    columns = []
    for name, kind, *_ in connection.execute(f"DESCRIBE {model.sql}").fetchall():
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


def _check_key(connection: DuckDBPyConnection, model: Model) -> None:
    if not model.key:
        return
    key = ", ".join(identifier(column) for column in model.key)
    query = f"SELECT count(*) FROM (FROM main.{identifier(model.name)} SELECT {key} GROUP BY ALL HAVING count(*) > 1)"
    repeated = connection.execute(query).fetchall()[0][0]
    if repeated:
        raise ConfigError(
            f"{model.file.name}: {repeated} values of its key ({', '.join(model.key)}) have several rows. Correct "
            "the query, or the `key` header."
        )


def _digest(connection: DuckDBPyConnection, model: Model) -> tuple[int, str]:
    """How many rows there are, and a text that is equal for the same rows in the same order."""
    table = f"main.{identifier(model.name)}"
    columns = connection.execute(f"DESCRIBE {table}").fetchall()
    row = "rowid, " + ", ".join(identifier(column[0]) for column in columns)
    rows, total = connection.execute(f"SELECT count(*), sum(hash({row})::HUGEINT)::VARCHAR FROM {table}").fetchall()[0]
    text = json.dumps([[column[:2] for column in columns], rows, total, model.key, model.description])
    return int(rows), hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _sql_errors(model: Model) -> Iterator[None]:
    """DuckDB's errors as ConfigError. Messages about data may hold values of rows: those are left out."""
    import duckdb

    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException) as error:
        # The first line says what is wrong; the others repeat the statement.
        raise ConfigError(f"{model.file.name}: {str(error).partition(chr(10))[0]}") from None
    except duckdb.InterruptException:
        raise _Interrupted(f"{model.file.name}: was interrupted.") from None
    except duckdb.OutOfMemoryException:
        raise ConfigError(
            f"{model.file.name}: needs more memory or disk than gold models may take. Make it smaller: aggregate "
            "earlier, select fewer columns."
        ) from None
    except duckdb.Error as error:
        raise ConfigError(
            f"{model.file.name}: DuckDB stopped with {type(error).__name__}. Its message may hold values of rows; to "
            "see it, run the SELECT with `catchment query`."
        ) from None
