"""A real source's past: what `--as-of` shows is what the source's own clients saw then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

import catchment
from catchment.testing.lake import expect_silver_equals_current
from pipelines.lake import catch_up, run, write_pipeline
from waiting import wait_for

TABLE = """
CREATE TABLE orders (
    order_id int PRIMARY KEY, status text NOT NULL, note text, due date, total numeric(12, 2)
)"""
LARGE = "SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) n"
"""A value of 12 kB, which PostgreSQL stores apart and does not send with an update of other columns."""

Moments = list[tuple[datetime, list[tuple[Any, ...]]]]


@pytest.fixture
def pipeline(tmp_path: Path, database_18: str) -> Path:
    path = write_pipeline(tmp_path, database_18)
    text = path.read_text()
    path.write_text(text.replace("lakehouse:\n", "lakehouse:\n  history: [orders]\n"))
    return path


class Source:
    """One client, whose every statement commits, and who remembers what it saw and when."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.connection.execute("SET TimeZone = 'UTC'")
        self.moments: Moments = []

    def run(self, *statements: str) -> None:
        """In one transaction; then look."""
        with self.connection.transaction():
            for one in statements:
                self.connection.execute(one)
        rows = self.connection.execute("SELECT order_id, status, md5(note), due::text, total FROM orders ORDER BY 1")
        seen = rows.fetchall()
        now = self.connection.execute("SELECT clock_timestamp()").fetchall()[0][0]
        self.moments.append((now, seen))


@pytest.fixture
def source(database_18: str) -> Iterator[Source]:
    one = Source(database_18)
    one.connection.execute(TABLE)
    yield one
    one.connection.close()


def life(source: Source, pipeline: Path, in_the_middle: Callable[[], None] = lambda: None) -> None:
    """Everything that can happen to rows; read once at the beginning, and captured in several runs."""
    source.connection.execute(
        f"INSERT INTO orders SELECT n, 'new', ({LARGE}), '2026-01-01', n FROM generate_series(1, 20) n"
    )
    catch_up(pipeline)
    source.run("INSERT INTO orders VALUES (21, 'new', 'x', 'infinity', 1.5)")
    source.run("UPDATE orders SET status = 'paid' WHERE order_id < 6", "DELETE FROM orders WHERE order_id = 20")
    source.run("UPDATE orders SET order_id = order_id + 100 WHERE order_id < 4")
    catch_up(pipeline)
    in_the_middle()
    source.run("UPDATE orders SET order_id = 20 WHERE order_id = 101", "UPDATE orders SET due = NULL, total = 0")
    source.run("DELETE FROM orders WHERE order_id = 20", "INSERT INTO orders VALUES (20, 'again', NULL, NULL, NULL)")
    source.run("ALTER TABLE orders ADD COLUMN city text", "UPDATE orders SET city = 'Oslo' WHERE order_id = 7")
    catch_up(pipeline)
    source.run("TRUNCATE orders", "INSERT INTO orders VALUES (7, 'new', 'after', NULL, 7)")
    source.run("UPDATE orders SET status = 'shipped'")
    catch_up(pipeline)


SEEN = (
    "SELECT order_id, status, md5(note), coalesce(due::VARCHAR, _unrepresentable['due']), total "
    "FROM {} ORDER BY order_id"
)


def shown(pipeline: Path, moment: datetime, view: str) -> tuple[list[tuple[Any, ...]], str]:
    """What a view has as of a moment, and where from."""
    with catchment.connect(pipeline, as_of=moment) as lake:
        rows = lake.execute(SEEN.format(view)).fetchall()
        read_from = lake.execute("SELECT read_from FROM ops.as_of WHERE name = ?", [view]).fetchall()[0][0]
    return rows, read_from


def test_the_lake_as_of_a_moment_is_what_the_sources_client_saw(source: Source, pipeline: Path) -> None:
    life(source, pipeline)
    expect_silver_equals_current(pipeline)
    for moment, seen in source.moments:
        assert shown(pipeline, moment, "silver.orders") == (seen, "bronze")
        assert shown(pipeline, moment, "current.orders") == (seen, "bronze")


def test_history_alone_gives_the_same(source: Source, pipeline: Path) -> None:
    life(source, pipeline)
    forget_bronze(pipeline)
    for moment, seen in source.moments:
        assert shown(pipeline, moment, "silver.orders") == (seen, "history")
    with catchment.connect(pipeline) as lake:
        spans = lake.execute(
            "SELECT status, valid_to IS NULL, is_current FROM silver.orders_history "
            "WHERE order_id = 7 ORDER BY _version"
        ).fetchall()
        overlaps = lake.execute(
            "SELECT count(*) FROM silver.orders_history one JOIN silver.orders_history other USING (order_id) "
            "WHERE one._version < other._version AND coalesce(one.valid_to > other.valid_from, true)"
        ).fetchall()
    # Read by the snapshot; without total and due; with a city; after the truncate; shipped.
    assert spans == [
        ("new", False, False),
        ("new", False, False),
        ("new", False, False),
        ("new", False, False),
        ("shipped", True, True),
    ]
    assert overlaps == [(0,)]


def test_after_retention_a_snapshot_of_silver_and_the_rest_of_bronze_give_the_same(
    source: Source, pipeline: Path
) -> None:
    keep = "lakehouse:\n  maintenance: {enabled: false, bronze_retention_days: 0.000001}\n"
    pipeline.write_text(pipeline.read_text().replace("lakehouse:\n  history: [orders]\n", keep))

    def retention() -> None:
        def let_go() -> bool:
            done = run("maintain", str(pipeline))
            assert done.returncode == 0, done.stderr
            with catchment.connect(pipeline) as lake:
                return lake.execute("SELECT count(*) FROM bronze.orders").fetchall() == [(0,)]

        wait_for(let_go, what="the end of all changes so far")

    life(source, pipeline, retention)
    with (
        catchment.connect(pipeline) as lake,
        pytest.raises(duckdb.InvalidInputException, match="no longer has the changes"),
    ):
        lake.execute("SELECT count(*) FROM current.orders").fetchall()
    for moment, seen in source.moments[3:]:
        assert shown(pipeline, moment, "silver.orders") == (seen, "snapshot")
        assert shown(pipeline, moment, "current.orders") == (seen, "snapshot")


def test_the_command_says_which_way_was_taken(source: Source, pipeline: Path) -> None:
    life(source, pipeline)
    moment, seen = source.moments[3]
    text = moment.isoformat()
    done = run("query", str(pipeline), "SELECT count(*) AS n FROM silver.orders", "--as-of", text, "--json")
    document = json.loads(done.stdout)
    assert document["rows"] == [{"n": len(seen)}]
    assert [(one["table"], one["read_from"]) for one in document["tables"]] == [("silver.orders", "bronze")]
    done = run("query", str(pipeline), "FROM gold.x", "--as-of", "noon")
    assert done.returncode == 2
    assert "is no moment" in done.stderr
    done = run(
        "query", str(pipeline), "SELECT order_id FROM current.orders ORDER BY 1", "--as-of", text, "--format", "csv"
    )
    assert done.stdout.split() == ["order_id", *(str(row[0]) for row in seen)]
    assert done.stderr.startswith("current.orders: bronze replayed until ")
    done = run("query", str(pipeline), "SELECT order_id FROM silver.orders", "--as-of", "2020-01-01")
    assert done.returncode == 2
    assert "nothing is known of bronze.orders before it was first read" in done.stderr


def forget_bronze(pipeline: Path) -> None:
    """As retention does when it lets old changes go."""
    from catchment import config
    from catchment.lakehouse.catalog import load_catalog

    loaded = config.load(pipeline)
    catalog = load_catalog(loaded.lakehouse.catalog, loaded.directory)
    with catalog.load_table("bronze.orders").transaction() as transaction:
        transaction.set_properties({"catchment.bronze-since": "2026-11-20T00:00:00+00:00"})
    catalog.close()
