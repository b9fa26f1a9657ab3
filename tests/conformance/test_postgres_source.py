"""The suite of sources on PostgreSQL 15 and 18: streaming, and catching up by pulls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from catchment.component import BuildContext
from catchment.schema import TableId
from catchment.sources.base import Source
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.testing.sources import (
    COLUMNS,
    Delete,
    Insert,
    RowChange,
    SourceConformance,
    SourceHarness,
    Truncate,
    Update,
)


class PostgresHarness(SourceHarness):
    """Two tables in a database of their own."""

    largest_batch = 20_000

    def __init__(self, dsn: str, catch_up_bytes: int) -> None:
        self._dsn = dsn
        self._catch_up_bytes = catch_up_bytes
        self._connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)
        self._connection.execute(
            "CREATE TABLE items (id bigint PRIMARY KEY, name text, amount numeric(12,2), note text);"
            "CREATE TABLE notes (id bigint PRIMARY KEY, body text);"
            "ALTER TABLE items ALTER note SET STORAGE EXTERNAL;"
            "CREATE TABLE elsewhere (id int)"
        )

    def close(self) -> None:
        self._connection.close()

    def source(self) -> Source:
        config = PostgresSourceConfig.model_validate(
            {
                "type": "postgres",
                "dsn": self._dsn,
                "exclude": ["public.elsewhere"],
                "catch_up_bytes": self._catch_up_bytes,
                "snapshot_chunk_bytes": 8192,
            }
        )
        return config.build(BuildContext("conformance", Path()))

    def table(self, name: str) -> TableId:
        return TableId("public", name)

    def commit(self, *changes: RowChange) -> None:
        with self._connection.transaction():
            self._make(changes)

    def roll_back(self, *changes: RowChange) -> None:
        with self._connection.transaction(force_rollback=True):
            self._make(changes)

    def _make(self, changes: Sequence[RowChange]) -> None:
        for change in changes:
            table = sql.Identifier(change.table)
            match change:
                case Insert(_, row):
                    places = sql.SQL(", ").join(map(sql.Identifier, row))
                    values = sql.SQL(", ").join(map(sql.Literal, row.values()))
                    self._connection.execute(sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(table, places, values))
                case Update(_, id_, values_):
                    sets = sql.SQL(", ").join(
                        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
                        for name, value in values_.items()
                    )
                    self._connection.execute(
                        sql.SQL("UPDATE {} SET {} WHERE id = {}").format(table, sets, sql.Literal(id_))
                    )
                case Delete(_, id_):
                    self._connection.execute(sql.SQL("DELETE FROM {} WHERE id = {}").format(table, sql.Literal(id_)))
                case Truncate():
                    self._connection.execute(sql.SQL("TRUNCATE {}").format(table))

    def insert_many(self, table: str, first_id: int, count: int) -> None:
        query = f"INSERT INTO {table} (id) SELECT generate_series({first_id}, {first_id + count - 1})"
        self._connection.execute(query)

    def rows(self, table: str) -> Sequence[Mapping[str, Any]]:
        columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
        query = sql.SQL("SELECT {} FROM {} ORDER BY id").format(columns, sql.Identifier(table))
        return self._connection.execute(query).fetchall()

    def add_column(self, table: str, column: str) -> None:
        self._connection.execute(
            sql.SQL("ALTER TABLE {} ADD {} text").format(sql.Identifier(table), sql.Identifier(column))
        )

    def pass_by(self) -> None:
        self._connection.execute("INSERT INTO elsewhere VALUES (1)")

    def cut(self) -> None:
        self._connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


class TestPostgresStream(SourceConformance):
    @pytest.fixture
    def harness(self, database: str) -> Iterator[SourceHarness]:
        harness = PostgresHarness(database, 1 << 50)
        yield harness
        harness.close()


class TestPostgresCatchUp(SourceConformance):
    @pytest.fixture
    def harness(self, database: str) -> Iterator[SourceHarness]:
        harness = PostgresHarness(database, 0)
        harness.largest_batch = 100_000
        yield harness
        harness.close()
