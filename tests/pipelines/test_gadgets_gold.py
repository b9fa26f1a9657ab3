"""The gadgets' gold models: what they say of orders, and that Spark and Athena are told the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import catchment.demo
from catchment.lakehouse.gold.dialect import Dialect, transpile
from catchment.lakehouse.gold.model import Model, load_models
from catchment.lakehouse.reading.connection import open_duckdb
from pipelines.test_gold_engines import Engines
from readers.spark import Spark

MODELS = Path(catchment.demo.__file__).parent / "gadgets" / "gold"
START = datetime(2026, 11, 20, 8, 0, 5, 250_000, tzinfo=UTC)
COMMITTED = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)

ORDER = pa.struct(
    [
        ("orderid", pa.string()),
        ("product_name", pa.string()),
        ("quantity", pa.int32()),
        ("price", pa.decimal128(10, 2)),
        ("payment_method", pa.string()),
        ("order_timestamp", pa.timestamp("us")),
        ("status", pa.string()),
    ]
)
ENVELOPE = [
    ("_op", pa.string()),
    ("_committed_at", pa.timestamp("us", "UTC")),
    ("_event_id", pa.string()),
    ("_sequence_number", pa.string()),
]


def order(number: int, at: datetime | None, product: str | None = "Laptop", **changed: Any) -> dict[str, Any]:
    return {
        "orderid": f"{number:04d}",
        "product_name": product,
        "quantity": 2,
        "price": Decimal("429.99"),
        "payment_method": "UPI",
        "order_timestamp": at.replace(tzinfo=None) if at is not None else None,
        "status": "placed",
        **changed,
    }


def orders() -> list[dict[str, Any]]:
    """Two products for half an hour, steadily; Laptops peak in minute 20 and Phones drop in minute 25."""
    rows: list[dict[str, Any]] = []
    for minute in range(30):
        at = START + timedelta(minutes=minute)
        for product in ("Laptop", "Phone"):
            quantity = 4 + minute % 2
            if (product, minute) == ("Laptop", 20):
                quantity = 90
            if (product, minute) == ("Phone", 25):
                quantity = 1
            rows.append(order(1000 + len(rows), at, product, quantity=quantity))
    rows.append(order(2000, START, "Tablet", status="cancelled", quantity=7))
    rows.append(order(2001, None, "Charger", quantity=None, price=None, status=None))
    rows.append(order(2002, datetime(2026, 11, 20, 23, 59, 59, 999_000, tzinfo=UTC), "Smartwatch", quantity=9900))
    rows.append(order(2003, START, None, quantity=1))  # a document without a product
    return rows


def silver(rows: list[dict[str, Any]]) -> pa.Table:
    committed = pa.array([COMMITTED] * len(rows), pa.timestamp("us", "UTC"))
    return pa.Table.from_pylist(rows, pa.schema(list(ORDER))).append_column("_committed_at", committed)


def bronze() -> pa.Table:
    """An order scanned, inserted, changed, removed; a removal of which only the key is known; a truncation."""
    first = order(7421, START, price=Decimal("10.99"))
    second = {**first, "status": "paid"}
    changes = [
        ("r", None, first),
        ("c", None, first),
        ("u", first, second),
        ("d", second, None),
        ("d", dict.fromkeys(first) | {"orderid": "0007"}, None),
        ("t", None, None),
    ]
    rows = [
        {
            "_op": op,
            "_committed_at": COMMITTED,
            "_event_id": f"e{n}",
            "_sequence_number": f"{n}" * 21,
            "before": b,
            "after": a,
        }
        for n, (op, b, a) in enumerate(changes)
    ]
    return pa.Table.from_pylist(rows, pa.schema([*ENVELOPE, ("before", ORDER), ("after", ORDER)]))


def models() -> list[Model]:
    return load_models(MODELS)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_duckdb() as one:
        for layer in ("bronze", "silver", "gold"):
            one.execute(f"CREATE SCHEMA IF NOT EXISTS {layer}")
        yield one


@pytest.fixture
def gold(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Every model's rows, as tables of schema gold."""
    for table, rows in (("silver.dynamodb_OrderTable", silver(orders())), ("bronze.dynamodb_OrderTable", bronze())):
        connection.register("rows", rows)
        connection.execute(f"CREATE TABLE {table} AS FROM rows")
        connection.unregister("rows")
    for one in models():
        connection.execute(f"CREATE TABLE gold.{one.name} AS {one.sql}")
    return connection


def test_gadget_sales_has_the_columns_of_the_serverless_view(gold: duckdb.DuckDBPyConnection) -> None:
    columns = dict(gold.execute("SELECT column_name, column_type FROM (DESCRIBE gold.gadget_sales)").fetchall())
    assert columns == {
        "orderid": "VARCHAR",
        "product_name": "VARCHAR",
        "quantity": "INTEGER",
        "price": "DECIMAL(10,2)",
        "payment_method": "VARCHAR",
        "order_timestamp": columns["order_timestamp"],
        "status": "VARCHAR",
        "date": "DATE",
    }


def test_the_date_of_an_order_is_utcs_and_without_one_its_changes(gold: duckdb.DuckDBPyConnection) -> None:
    gold.execute("SET TimeZone = 'Asia/Kolkata'")
    rows = gold.execute("SELECT orderid, date FROM gold.gadget_sales WHERE orderid IN ('2001', '2002')").fetchall()
    assert sorted(rows) == [("2001", date(2026, 11, 21)), ("2002", date(2026, 11, 20))]


def test_every_change_is_a_row_and_a_removed_order_is_what_it_was(gold: duckdb.DuckDBPyConnection) -> None:
    rows = gold.execute(
        "SELECT event_type, orderid, status, order_date FROM gold.sales_data_table ORDER BY sequence_number"
    ).fetchall()
    day = date(2026, 11, 20)
    assert rows == [
        ("UNKNOWN", "7421", "placed", day),
        ("INSERT", "7421", "placed", day),
        ("MODIFY", "7421", "paid", day),
        ("REMOVE", "7421", "paid", day),
        ("REMOVE", "0007", None, date(2026, 11, 21)),
    ]


def test_a_spike_and_a_drop_are_found_and_nothing_else(gold: duckdb.DuckDBPyConnection) -> None:
    rows = gold.execute("SELECT period, product_name, starts_at, kind, units FROM gold.sales_anomalies").fetchall()
    begin = START.replace(second=0, microsecond=0, tzinfo=None)
    assert [(*row[:2], row[2].replace(tzinfo=None), *row[3:]) for row in rows] == [
        ("minute", "Phone", begin + timedelta(minutes=25), "drop", 1),
        ("minute", "Laptop", begin + timedelta(minutes=20), "spike", 90),
    ]


def test_cancelled_orders_take_nothing_out_of_the_stock(gold: duckdb.DuckDBPyConnection) -> None:
    rows = gold.execute("SELECT product_name, ordered_units, units_left, state FROM gold.inventory").fetchall()
    assert rows == [
        ("Smartwatch", 9900, 100, "low"),
        ("Laptop", 221, 8779, "in stock"),
        ("Tablet", 0, 9000, "in stock"),
        ("Phone", 131, 11869, "in stock"),
        ("Headphones", 0, 15000, "in stock"),
        ("Charger", 0, 20000, "in stock"),
    ]


def test_sales_by_hour_and_performance_add_up(gold: duckdb.DuckDBPyConnection) -> None:
    both = """SELECT (SELECT sum(units) FROM gold.sales_by_product_hour),
        (SELECT sum(units) FROM gold.product_performance),
        (SELECT sum(revenue) FROM gold.sales_by_product_hour), (SELECT sum(revenue) FROM gold.product_performance)"""
    row = gold.execute(both).fetchone()
    assert row == (10_252, 10_252, 10_252 * Decimal("429.99"), 10_252 * Decimal("429.99"))
    cancelled = "SELECT orders, units, cancelled_percent FROM gold.product_performance WHERE product_name = 'Tablet'"
    assert gold.execute(cancelled).fetchall() == [(1, 0, 100.0)]


def test_each_model_can_be_asked_in_athena(tmp_path: Path) -> None:
    for one in models():
        assert transpile(one, Dialect.ATHENA), one.name


def test_spark_gives_the_same_rows(gold: duckdb.DuckDBPyConnection, spark: Spark) -> None:
    engines = Engines(gold, spark)
    engines.show("silver", "dynamodb_OrderTable", silver(orders()))
    engines.show("bronze", "dynamodb_OrderTable", bronze())
    for one in models():
        assert engines.compare(one) > 0, one.name
        engines.show("gold", one.name, engines.duckdb(one))
