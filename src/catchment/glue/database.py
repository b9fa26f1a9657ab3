"""A Glue database asked on this machine: DuckDB over the objects that Athena would read, by the same definitions."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from catchment.errors import ConfigError, SourceRefused, SourceUnavailable
from catchment.glue import athena_sql
from catchment.glue.athena_sql import Name
from catchment.glue.column_types import STRING, ColumnType, in_duckdb
from catchment.glue.fetch import Batch, check_readable, fetch
from catchment.glue.iceberg import current, read
from catchment.glue.json_lines import MALFORMED
from catchment.glue.layout import S3Object, Wanted, objects_of
from catchment.glue.pruning import Pruning
from catchment.glue.segments import PATH, Part, SegmentStore, default_base, forget_unused, store_directory
from catchment.glue.session import client
from catchment.glue.table import GlueTable, table_of, tables_of
from catchment.lakehouse.sql import identifier, literal, literals
from catchment.telemetry import LOGGER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from sqlglot import exp

    Conditions = list[exp.Expr] | None

log = logging.getLogger(LOGGER)


_ATTEMPTS = 5


@dataclass(frozen=True)
class Refreshed:
    """What a refresh saw: the objects of the tables, how many of them were fetched (others had been by then, or by
    another process), and whether they are others than before."""

    objects: int
    fetched: int
    changed: bool


@dataclass(frozen=True)
class _ReadTable:
    """What was read of a table: the segments that have it, and the conditions on its partitions; None: all of it."""

    parts: list[Part]
    conditions: Conditions
    etags: Mapping[str, str]
    seen: Refreshed

    def has(self, conditions: Conditions) -> bool:
        """Is all that is wanted under these conditions there?"""
        return self.conditions is None or self.conditions == conditions


class GlueDatabase:
    """A database of Glue's, to be asked in Athena's SQL. Use from one thread at a time.

    Nothing is read before the first question. `refresh` shows the objects that came since, at the cost of these only.
    """

    def __init__(self, name: str, *, cache: Path | None = None) -> None:
        """name: of the Glue database. cache: where read objects are kept; `$XDG_CACHE_HOME/catchment/athena`."""
        self.name = name.lower()
        self.cache = (cache or default_base()).resolve()
        self._glue, self._s3 = client("glue"), client("s3")
        self._connection: DuckDBPyConnection | None = None
        self._described: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._tables: dict[Name, GlueTable] = {}
        self._read_tables: dict[Name, _ReadTable] = {}
        self._stores: dict[Path, SegmentStore] = {}
        self._shown: dict[Name, str] = {}
        self._unfit: dict[Name, Counter[str]] = {}

    def execute(self, sql: str) -> DuckDBPyConnection:
        """Ask in Athena's SQL; the answer is DuckDB's (`fetchall`, `to_arrow_reader`, …), until the next question.

        Tables that no question named before are read now; the others are as of the last `refresh`.
        Raises ConfigError for what is no question, SourceRefused for tables that are not there or cannot be read.
        """
        import duckdb

        tree = athena_sql.parse(sql, self.name)
        self._need(athena_sql.names(tree))
        self._show(tree)
        text = athena_sql.in_duckdb_sql(tree, self._columns)
        try:
            try:
                return self.connection.execute(text)
            except duckdb.IOException:
                # Another process has merged the files that are named here, and removed them: they are named anew.
                self.refresh()
                self._show(tree)
                return self.connection.execute(text)
        except duckdb.Error as error:
            raise ConfigError(f"The query failed: {error}") from error

    def refresh(self) -> Refreshed:
        """See what is new: definitions in Glue, and the objects of every table that was asked for before."""
        self._described.clear()
        self._tables.clear()
        known = dict(self._read_tables)
        self._need(known)
        read = [self._read(name, self._tables[name], state.conditions).seen for name, state in known.items()]
        self._need(self._shown)
        return Refreshed(
            sum(one.objects for one in read), sum(one.fetched for one in read), any(one.changed for one in read)
        )

    def in_duckdb_sql(self, sql: str) -> str:
        """The same question in DuckDB's SQL, as it is run here. Reads definitions, no objects."""
        tree = athena_sql.parse(sql, self.name)
        self._need(athena_sql.names(tree))
        return athena_sql.in_duckdb_sql(tree, self._columns)

    def unfit(self) -> dict[str, dict[str, int]]:
        """By table, how often something in its lines did not fit its columns; malformed lines stand under ''."""
        return {str(name): dict(found) for name, found in self._unfit.items() if found}

    def parts(self, table: str) -> list[Part]:
        """The kept segments that a table of this database was last read from."""
        return list(self._read_tables[Name(self.name, table)].parts)

    @property
    def connection(self) -> DuckDBPyConnection:
        """DuckDB's own connection. It reads the kept objects, nothing else."""
        if self._connection is None:
            self._connection = _open(self.cache)
            forget_unused(self.cache)
        return self._connection

    def close(self) -> None:
        """Close the connection; what was read stays kept."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._glue.close()
        self._s3.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _columns(self, name: Name) -> Mapping[str, ColumnType] | None:
        table = self._tables.get(name)
        return {**table.columns, **table.keys} if table is not None else None

    def _need(self, names: Iterable[Name]) -> None:
        """Know the definitions of these tables, and of what their views are made of."""
        for name in names:
            if name in self._tables:
                continue
            answers = self._described.get(name.database)
            if answers is None:
                answers = self._described[name.database] = tables_of(self._glue, name.database)
            if name.table not in answers:
                there = ", ".join(sorted(answers)) or "none yet"
                raise SourceRefused(f"Glue has no table {name}. In {name.database} are: {there}.")
            table = self._tables[name] = table_of({"DatabaseName": name.database, **answers[name.table]})
            if table.view is not None:
                self._need(athena_sql.names(athena_sql.parse(table.view.sql, table.view.database)))
            else:
                check_readable(table)

    def _show(self, tree: exp.Query) -> None:
        """Have every table and view of the question in DuckDB, what views are made of first."""
        with_path = athena_sql.asks_for_path(tree)
        for name in sorted(athena_sql.names(tree), key=str):
            table = self._tables[name]
            if table.view is None:
                self._show_table(table, name, tree, with_path=with_path)
                continue
            inner = athena_sql.parse(table.view.sql, table.view.database)
            self._show(inner)
            text = athena_sql.in_duckdb_sql(inner, self._columns)
            columns = ", ".join(_column(column, kind) for column, kind in table.columns.items())
            self._make_view(name, f"SELECT {columns} FROM ({text}) AS shown")

    def _show_table(self, table: GlueTable, name: Name, tree: exp.Query, *, with_path: bool) -> None:
        conditions = athena_sql.conditions(tree, name, tuple(table.keys))
        state = self._read_tables.get(name)
        if state is None or not state.has(conditions):
            state = self._read(name, table, conditions)
        self._make_view(name, _select(table, state.parts, with_path=with_path))

    def _read(self, name: Name, table: GlueTable, conditions: Conditions) -> _ReadTable:
        """Fetch what is not kept yet of the objects that are there now."""
        store = self._store(table)
        wanted = Pruning(self.connection, conditions, table.keys) if conditions is not None else None
        fetched = 0
        for _ in range(_ATTEMPTS):
            objects = {one.location: one for one in self._objects(table, wanted)}
            store.load()
            etags = {place: one.etag for place, one in objects.items()}
            parts, missing = store.parts(etags)
            for batch in self._fetch(table, [objects[place] for place in sorted(missing)]):
                store.add(batch.rows, batch.objects)
                missing -= batch.objects.keys()
                fetched += len(batch.objects)
            if not missing:
                break
        else:
            raise SourceUnavailable(f"The objects of {table.full_name} keep changing while they are read. Try again.")
        parts, _ = store.parts(etags)
        if conditions is None:
            store.tidy(parts)
        before = self._read_tables.get(name)
        seen = Refreshed(len(objects), fetched, changed=before is None or before.etags != etags)
        state = self._read_tables[name] = _ReadTable(parts, conditions, etags, seen)
        self._tell(name, table, store.unfit(parts))
        return state

    def _objects(self, table: GlueTable, wanted: Wanted | None) -> list[S3Object]:
        return [current(table)] if table.is_iceberg else objects_of(self._s3, self._glue, table, wanted)

    def _fetch(self, table: GlueTable, objects: Sequence[S3Object]) -> Iterator[Batch]:
        if not table.is_iceberg:
            return fetch(self._s3, table, objects)
        return chain.from_iterable(read(table, one) for one in objects)

    def _tell(self, name: Name, table: GlueTable, unfit: Counter[str]) -> None:
        """Say what is wrong with lines, once as long as it stays the same."""
        if unfit and unfit != self._unfit.get(name):
            lines = unfit.get(MALFORMED, 0)
            if lines:
                log.warning("%s: %s malformed lines are rows of NULLs, as in Athena.", table.full_name, f"{lines:,}")
            for column, count in sorted(unfit.items()):
                if column != MALFORMED:
                    log.warning(
                        "%s.%s: %s values are no %s and are NULL here.",
                        table.full_name,
                        column,
                        f"{count:,}",
                        table.columns[column],
                    )
        self._unfit[name] = unfit

    def _store(self, table: GlueTable) -> SegmentStore:
        columns = json.dumps({column: str(kind) for column, kind in {**table.columns, **table.keys}.items()})
        directory = store_directory(
            self.cache,
            os.environ.get("AWS_ENDPOINT_URL", ""),
            table.location,
            table.serde,
            columns,
            table.parameters.get("storage.location.template", ""),
        )
        return self._stores.setdefault(directory, SegmentStore(directory))

    def _make_view(self, name: Name, select: str) -> None:
        if self._shown.get(name) != select:
            self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(name.database)}")
            self.connection.execute(
                f"CREATE OR REPLACE VIEW {identifier(name.database)}.{identifier(name.table)} AS {select}"
            )
            self._shown[name] = select


def _column(name: str, kind: ColumnType) -> str:
    return f"CAST(shown.{identifier(name)} AS {in_duckdb(kind)}) AS {identifier(name)}"


def _select(table: GlueTable, parts: Sequence[Part], *, with_path: bool) -> str:
    """The rows of a table, out of the segments."""
    kinds = {**table.columns, **table.keys, **({PATH: STRING} if with_path else {})}
    columns = ", ".join(map(identifier, kinds))
    whole = [str(part.segment.path) for part in parts if part.only is None]
    selects = [f"SELECT {columns} FROM read_parquet({literals(whole)})"] if whole else []
    selects += [
        f"SELECT {columns} FROM read_parquet({literal(str(part.segment.path))}) "
        f"WHERE {identifier(PATH)} IN {literals(sorted(part.only))}"
        for part in parts
        if part.only is not None
    ]
    if not selects:
        empty = ", ".join(f"CAST(NULL AS {in_duckdb(kind)}) AS {identifier(name)}" for name, kind in kinds.items())
        return f"SELECT {empty} WHERE false"
    return " UNION ALL ".join(selects)


def _open(cache: Path) -> DuckDBPyConnection:
    """DuckDB in memory, in UTC, that reads the kept objects and nothing else."""
    import duckdb

    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "temp_directory": str(Path(tempfile.gettempdir()) / f"catchment-{os.getpid()}"),
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET allowed_directories = {literals([f'{cache}/'])}")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection
