"""Athena's SQL read and turned into DuckDB's: the same question, the same names, the same numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from catchment.errors import ConfigError, SourceRefused
from catchment.glue import athena_sql, gadgets
from catchment.glue.athena_sql import Name
from catchment.glue.column_types import ColumnType, in_duckdb, parse
from catchment.glue.view import View, presto_view, view_of

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "a": parse("int"),
    "b": parse("int"),
    "price": parse("decimal(10,2)"),
    "at": parse("timestamp"),
    "date": parse("date"),
    "name": parse("string"),
    "list": parse("array<int>"),
    "more": parse("map<string,string>"),
}


def columns(name: Name) -> Mapping[str, ColumnType] | None:
    return COLUMNS if name.table == "t" else None


def answer(sql: str) -> list[tuple[object, ...]]:
    """The answer over one table of two rows."""
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE SCHEMA db")
        typed = ", ".join(f'"{name}" {in_duckdb(kind)}' for name, kind in COLUMNS.items())
        connection.execute(f"CREATE TABLE db.t ({typed})")
        connection.execute(
            "INSERT INTO db.t VALUES "
            "(7, 2, 10.01, '2026-11-21 10:20:30.123', '2026-11-21', 'x', [1, 2], MAP {'k': 'v'}), "
            "(-7, 2, 10.02, '2026-11-20 23:59:59.999', '2026-11-20', NULL, [], MAP {})"
        )
        found = connection.execute(athena_sql.in_duckdb_sql(athena_sql.parse(sql, "db"), columns))
        names = tuple(column[0] for column in found.description or ())
        return [names, *found.fetchall()]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a / b FROM t ORDER BY a DESC", [("_col0",), (3,), (-3,)]),
        (
            "SELECT name, COUNT(*), SUM(a) AS total FROM t GROUP BY 1 ORDER BY 1",
            [("name", "_col1", "total"), ("x", 1, 7), (None, 1, -7)],
        ),
        ("SELECT AVG(price) FROM t", [("_col0",), (Decimal("10.02"),)]),
        ("SELECT price / 3 AS third FROM t WHERE a > 0", [("third",), (Decimal("3.34"),)]),
        ("SELECT a FROM t WHERE date = DATE '2026-11-21'", [("a",), (7,)]),
        ("SELECT a FROM t WHERE at > TIMESTAMP '2026-11-21 10:20:30.122'", [("a",), (7,)]),
        ("SELECT date_trunc('hour', at) = TIMESTAMP '2026-11-21 10:00:00' FROM t WHERE a = 7", [("_col0",), (True,)]),
        (
            "SELECT more['k'], element_at(more, 'none'), cardinality(list) FROM t WHERE a = 7",
            [("_col0", "_col1", "_col2"), ("v", None, 2)],
        ),
        ("SELECT date_diff('day', date, DATE '2026-11-25') AS days FROM t WHERE a = 7", [("days",), (4,)]),
        ("WITH x AS (SELECT a FROM t) SELECT MAX(a) AS a FROM AwsDataCatalog.DB.T JOIN x USING (a)", [("a",), (7,)]),
        ("SELECT name FROM t ORDER BY name", [("name",), ("x",), (None,)]),
        ("SELECT name FROM t ORDER BY name DESC", [("name",), ("x",), (None,)]),
    ],
)
def test_an_answer_is_what_athena_would_say(sql: str, expected: list[tuple[object, ...]]) -> None:
    assert answer(sql) == expected


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("", "these are 0"),
        ("SELECT 1; SELECT 2", "these are 2"),
        ("INSERT INTO t VALUES (1)", "only be read"),
        ("SHOW TABLES", "only be read"),
        ("SELECT ( FROM t", "not Athena's SQL"),
        ("SELECT * FROM other.db.t", "only the catalog awsdatacatalog"),
    ],
)
def test_what_is_no_question_is_refused(sql: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        athena_sql.parse(sql, "db")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM t WHERE year = 2026 AND month > 3 AND a = 1", ["year = 2026", "month > 3"]),
        ("SELECT * FROM t AS x WHERE x.year IN (2025, 2026) OR x.month = 1", ["year IN (2025, 2026) OR month = 1"]),
        ("SELECT * FROM t WHERE year = 2026 OR a = 1", None),
        ("SELECT * FROM t WHERE a = 1", None),
        ("SELECT * FROM t", None),
        ("SELECT * FROM t JOIN u ON t.a = u.a WHERE year = 2026", None),
        ("SELECT * FROM t WHERE year = 2026 UNION ALL SELECT * FROM t", None),
        ("SELECT * FROM (SELECT * FROM t) AS s WHERE year = 2026", None),
        ("SELECT * FROM t WHERE year = (SELECT MAX(a) FROM u)", None),
        ("WITH w AS (SELECT * FROM t WHERE year = 2026) SELECT * FROM w WHERE month = 1", ["year = 2026"]),
    ],
)
def test_conditions_on_partitions_are_found_where_they_hold_for_all_rows(sql: str, expected: list[str] | None) -> None:
    tree = athena_sql.parse(sql, "db")
    found = athena_sql.conditions(tree, Name("db", "t"), ("year", "month"))
    assert (None if found is None else [one.sql() for one in found]) == expected


def test_a_view_is_read_as_it_was_written() -> None:
    view = View("SELECT 'ü' AS a", "db")
    written = presto_view("v", view, {"a": parse("string")})
    assert view_of({"DatabaseName": "db", **written}) == view
    assert view_of({"TableType": "EXTERNAL_TABLE"}) is None
    with pytest.raises(SourceRefused, match="not made by Athena"):
        view_of({"DatabaseName": "db", "Name": "v", "TableType": "VIRTUAL_VIEW", "ViewOriginalText": "SELECT 1"})


def test_terraform_makes_the_same_table_and_view() -> None:
    infra = ROOT / "infra" / "terraform" / "gadgets"
    assert (infra / "gadget_sales.sql").read_text(encoding="utf-8").strip() == gadgets.ORDERS_SQL
    text = (infra / "catalog.tf").read_text(encoding="utf-8")
    made = {name: dict(re.findall(r'\["(\w+)", +"([^"]+)"', block)) for name, block in _lists(text).items()}
    assert made["change_columns"] == {name: str(kind) for name, kind in gadgets.CHANGE_COLUMNS.items()}
    assert made["order_columns"] == {name: str(kind) for name, kind in gadgets.ORDER_COLUMNS.items()}
    table = gadgets.changes_table("s3://gadget-sales-data/")
    for key, value in table["Parameters"].items():
        if key not in ("projection.datehour.range", "storage.location.template"):
            assert re.search(rf'"?{re.escape(key)}"? *= *"{re.escape(value)}"', text), key
    assert '"storage.location.template"         = "${local.location}$${datehour}/"' in text
    assert table["Parameters"]["storage.location.template"] == "s3://gadget-sales-data/${datehour}/"
    assert table["StorageDescriptor"]["SerdeInfo"]["SerializationLibrary"] in text


def _lists(text: str) -> dict[str, str]:
    return dict(re.findall(r"^  (\w+_columns) = \[\n(.*?)^  \]", text, re.DOTALL | re.MULTILINE))
