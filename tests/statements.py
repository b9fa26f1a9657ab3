"""Statements of a test's own, run at a PostgreSQL server."""

from __future__ import annotations

import psycopg


def run_sql(dsn: str, *statements: str) -> None:
    """Each in a transaction of its own."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
