"""Gold models mean the same in DuckDB and in Spark: every function of the list, and every model that ships."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest

import catchment
import catchment.demo
from catchment.config import load
from catchment.demo.outcome import read_source
from catchment.demo.shop import TABLES, ShopSize, open_shop
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.gold.dialect import Dialect, transpile
from catchment.lakehouse.gold.landing import GoldLayer
from catchment.lakehouse.gold.model import Model, load_models, read_model
from catchment.lakehouse.gold.portable import FUNCTIONS
from catchment.lakehouse.reading.connection import open_duckdb
from catchment.lakehouse.rest.endpoint import RestEndpoint
from catchment.lakehouse.rest.published import PublishedLake
from catchment.lakehouse.rest.server import RestServer
from pipelines.lake import catch_up, write_pipeline
from readers.spark import Spark

SHOP_MODELS = Path(catchment.demo.__file__).parent / "gold"

ROW_FUNCTIONS = {
    "abs": ["abs(whole)", "abs(money)", "abs(ratio)"],
    "case": ["CASE WHEN whole > 2 THEN 'many' WHEN whole IS NULL THEN 'none' ELSE 'few' END", "if(flag, 1, 2)"],
    "cast": [
        *("CAST(money AS DOUBLE)", "CAST(moment AS DATE)", "CAST(floor(ratio) AS BIGINT)", "CAST(7 AS DECIMAL(9,2))"),
        *("CAST('2026-03-04 05:06:07.5+00' AS TIMESTAMPTZ)", "CAST('2026-03-04 05:06:07' AS TIMESTAMP)"),
    ],
    "ceil": ["ceil(ratio)", "ceil(money)"],
    "coalesce": ["coalesce(whole, 0)", "coalesce(text, 'nothing')", "coalesce(money, 0)"],
    "contains": ["contains(text, 'b')"],
    "day": ["day(moment)", "day(day)"],
    "date_diff": ["date_diff('day', CAST(moment AS DATE), CAST('2026-03-01' AS DATE))"],
    "date_trunc": [
        f"date_trunc('{unit}', moment)" for unit in ("minute", "hour", "day", "week", "month", "quarter", "year")
    ]
    + ["date_trunc('week', local)"],
    "epoch": ["epoch(moment)", "epoch(moment) - epoch(CAST('2026-01-01 00:00:00+00' AS TIMESTAMPTZ))"],
    "exists": ["EXISTS (SELECT 1 FROM silver.samples AS other WHERE other.whole = samples.id)"],
    "extract": [
        f"extract({unit} FROM moment)" for unit in ("year", "quarter", "month", "week", "day", "hour", "minute")
    ],
    "floor": ["floor(ratio)", "floor(money)"],
    "greatest": ["greatest(whole, id)", "greatest(text, 'b')"],
    "hour": ["hour(moment)"],
    "least": ["least(whole, id)", "least(money, 1)"],
    "left": ["left(text, 1)", "left(text, 3)", "left(text, 0)"],
    "length": ["length(text)"],
    "minute": ["minute(moment)"],
    "month": ["month(moment)", "month(local)"],
    "nullif": ["nullif(whole, 0)", "nullif(text, '')"],
    "quarter": ["quarter(moment)"],
    "replace": ["replace(text, 'b', '--')"],
    "round": [
        *("round(CAST(ratio AS DOUBLE), 2)", "round(CAST(ratio AS DOUBLE))", "round(CAST(money AS DOUBLE) / 8, 2)"),
        *("round(CAST(ratio AS DOUBLE), 1)", "round(coalesce(CAST(ratio AS DOUBLE), 0.0), 3)"),
    ],
    "starts_with": ["starts_with(text, 'a')"],
    "substring": ["substring(text, 2)", "substring(text, 1, 3)"],
    "year": ["year(moment)", "year(day)"],
    "operators": [
        *("whole / 7", "money / 3", "money / nullif(whole, 0)", "whole % 3", "money * 1.19", "whole + money", "-ratio"),
        *("text || '!'", "text LIKE 'a%'", "whole BETWEEN 1 AND 3", "whole IN (1, 2, NULL)", "NOT flag", "text < 'b'"),
        *("moment + INTERVAL 36 HOURS", "moment - INTERVAL 1 MONTH", "local + INTERVAL 90 SECONDS", "moment > local"),
        *(
            "whole IS DISTINCT FROM 1",
            "1e3 * ratio",
            "'it''s a \\'",
            "money > ratio",
            "(whole + 1) / nullif(whole, 0) / 3",
        ),
    ],
}
GROUP_FUNCTIONS = {
    "avg": ["avg(money)", "avg(whole)", "avg(ratio)"],
    "bool_and": ["bool_and(flag)"],
    "bool_or": ["bool_or(flag)"],
    "count": ["count(*)", "count(text)", "count(DISTINCT whole)", "count(*) FILTER (WHERE flag)"],
    "max": ["max(money)", "max(text)", "max(moment)", "max(whole) FILTER (WHERE NOT flag)"],
    "median": ["median(CAST(money AS DOUBLE))"],
    "min": ["min(money)", "min(text)", "min(day)", "min(ratio)"],
    "quantile_cont": ["quantile_cont(CAST(ratio AS DOUBLE), 0.9)"],
    "stddev_samp": ["stddev_samp(CAST(money AS DOUBLE))"],
    "stddev": ["stddev(CAST(money AS DOUBLE))"],
    "sum": [
        "sum(money)",
        "sum(whole)",
        "sum(ratio)",
        "sum(money) FILTER (WHERE flag)",
        "sum(money) / nullif(count(*), 0)",
    ],
}
WINDOW_FUNCTIONS = {
    "cume_dist": ["cume_dist() OVER (ORDER BY whole)"],
    "dense_rank": ["dense_rank() OVER (ORDER BY whole)", "dense_rank() OVER (ORDER BY text DESC)"],
    "first_value": ["first_value(id) OVER (PARTITION BY flag ORDER BY id)"],
    "lag": ["lag(money) OVER (ORDER BY id)", "lag(id, 2, 0) OVER (PARTITION BY flag ORDER BY id DESC)"],
    "last_value": ["last_value(id) OVER (ORDER BY whole)"],
    "lead": ["lead(text) OVER (ORDER BY id)"],
    "ntile": ["ntile(3) OVER (ORDER BY id)"],
    "percent_rank": ["percent_rank() OVER (ORDER BY whole)"],
    "rank": ["rank() OVER (ORDER BY whole)", "rank() OVER (PARTITION BY flag ORDER BY text DESC NULLS FIRST)"],
    "row_number": ["row_number() OVER (ORDER BY whole, id)", "row_number() OVER (ORDER BY ratio DESC, id)"],
    "frames": [
        "sum(money) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND 1 PRECEDING)",
        "avg(money) OVER (ORDER BY moment RANGE BETWEEN INTERVAL 23 HOURS PRECEDING AND CURRENT ROW)",
        "sum(whole) OVER (ORDER BY whole)",
        "count(*) OVER (ORDER BY local RANGE BETWEEN INTERVAL 6 DAYS PRECEDING AND INTERVAL 1 DAY FOLLOWING)",
        "stddev_samp(CAST(money AS DOUBLE)) OVER (PARTITION BY flag ORDER BY id)",
    ],
}
WHOLE_QUERIES = [
    "SELECT a.id, b.id AS other FROM silver.samples AS a FULL JOIN silver.samples AS b ON b.whole = a.id",
    "SELECT whole, count(*) AS n FROM silver.samples GROUP BY whole HAVING count(*) > 1 ORDER BY whole DESC LIMIT 2",
    "SELECT id FROM silver.samples ORDER BY money, id LIMIT 5",
    "SELECT id FROM silver.samples ORDER BY text DESC, id LIMIT 5",
    "SELECT flag FROM silver.samples UNION SELECT NULL UNION ALL SELECT TRUE",
    "SELECT DISTINCT flag, whole FROM silver.samples WHERE id IN (SELECT whole FROM silver.samples)",
    "SELECT v.word, s.id FROM silver.samples AS s JOIN (VALUES ('a', 1), ('b', NULL)) AS v(word, n) ON v.n = s.id",
    "WITH w AS (SELECT id, (SELECT max(id) FROM silver.samples) AS top FROM silver.samples) SELECT * FROM w",
]


def samples() -> pa.Table:
    """Rows that engines are known to see in different ways: NULLs, halves, other alphabets, ends of months."""
    texts = ["a", "ab", "b", "", None, "ÅØ", "it's", "a b", "𝔘x", "a%", "Z"]
    start = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    rows = []
    for number in range(1, 61):
        at = start + timedelta(hours=7 * number, microseconds=number)
        rows.append(
            {
                "id": number,
                "text": texts[number % len(texts)],
                "flag": None if number % 11 == 0 else number % 3 == 0,
                "whole": None if number % 7 == 0 else number % 5 - 2,
                "money": None if number % 13 == 0 else Decimal(number * number * 37 - 9000) / 100,
                # Halves of the second digit, which no DOUBLE has exactly.
                "ratio": None if number % 17 == 0 else (number * 1013 - 30000) / 8 / 1000 + 0.005,
                "moment": at,
                "local": at.replace(tzinfo=None),
                "day": date(2026, 1, 1) + timedelta(days=number),
            }
        )
    types: list[tuple[str, pa.DataType]] = [
        *(("id", pa.int64()), ("text", pa.string()), ("flag", pa.bool_()), ("whole", pa.int64())),
        *(("money", pa.decimal128(12, 2)), ("ratio", pa.float64()), ("moment", pa.timestamp("us", "UTC"))),
        *(("local", pa.timestamp("us")), ("day", pa.date32())),
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(types))


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_duckdb() as one:
        one.execute("CREATE SCHEMA IF NOT EXISTS silver")
        yield one


@pytest.fixture(scope="module")
def engines(connection: duckdb.DuckDBPyConnection, spark: Spark) -> Engines:
    engines = Engines(connection, spark)
    engines.show("silver", "samples", samples())
    return engines


class Engines:
    """DuckDB and Spark with the same tables."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, spark: Spark) -> None:
        self._connection = connection
        self._spark = spark

    def show(self, layer: str, name: str, rows: pa.Table) -> None:
        self._connection.register("rows", rows)
        self._connection.execute(f"CREATE OR REPLACE TABLE {layer}.{name} AS FROM rows")
        self._connection.unregister("rows")
        self._spark.view(f"{layer}_{name}", rows)

    def duckdb(self, model: Model) -> pa.Table:
        return self._connection.execute(model.sql).to_arrow_table()

    def spark(self, model: Model) -> pa.Table:
        # Temporary views have no namespace; all else is as it is printed.
        sql = re.sub(r"\b(bronze|silver|gold)\.(\w+)", r"\1_\2", transpile(model, Dialect.SPARK))
        return self._spark.sql(sql)

    def compare(self, model: Model) -> int:
        """Fails when the rows differ; else how many there are."""
        return expect_equal(self.duckdb(model), self.spark(model))


def expect_equal(ours: pa.Table, theirs: pa.Table) -> int:
    """DuckDB's rows and Spark's are equal, whatever their order; how many there are."""
    assert theirs.column_names == ours.column_names
    expected, found = (sorted(map(_row, table.to_pylist()), key=repr_key) for table in (ours, theirs))
    assert len(found) == len(expected)
    for left, right in zip(expected, found, strict=True):
        different = {name: (left[name], right[name]) for name in left if not _same(left[name], right[name])}
        assert different == {}, f"DuckDB and Spark differ in {different}, first in this row: {left}"
    return len(expected)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    return value


def repr_key(row: dict[str, Any]) -> list[tuple[bool, str]]:
    """Numbers that are equal sort alike, whatever their type."""
    return [(one is None, f"{one:+.6f}" if _is_number(one) else str(one)) for one in row.values()]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _same(left: Any, right: Any) -> bool:
    """Equal; sums of floating point may be taken in another order, so their last digits may differ."""
    if isinstance(left, float) or isinstance(right, float):
        if left is None or right is None:
            return left is right
        return math.isclose(left, right, rel_tol=1e-12, abs_tol=1e-12)
    return bool(left == right)


def model(directory: Path, sql: str) -> Model:
    file = directory / "model.sql"
    file.write_text(sql)
    return read_model(file)


def columns(cases: dict[str, list[str]]) -> str:
    named = [f"{sql} AS c{number}" for number, sql in enumerate(one for sqls in cases.values() for one in sqls)]
    return ",\n    ".join(named)


def test_the_cases_cover_the_list() -> None:
    cases = {**ROW_FUNCTIONS, **GROUP_FUNCTIONS, **WINDOW_FUNCTIONS}
    assert cases.keys() - {"operators", "frames"} == set(FUNCTIONS)


def test_functions_of_a_row_are_equal(engines: Engines, tmp_path: Path) -> None:
    sql = f"SELECT id, {columns(ROW_FUNCTIONS)} FROM silver.samples AS samples"
    assert engines.compare(model(tmp_path, sql)) == 60


def test_aggregates_are_equal(engines: Engines, tmp_path: Path) -> None:
    sql = f"SELECT whole AS grp, {columns(GROUP_FUNCTIONS)} FROM silver.samples GROUP BY whole"
    assert engines.compare(model(tmp_path, sql)) == 6
    assert engines.compare(model(tmp_path, f"SELECT {columns(GROUP_FUNCTIONS)} FROM silver.samples WHERE id = 1")) == 1
    assert engines.compare(model(tmp_path, f"SELECT {columns(GROUP_FUNCTIONS)} FROM silver.samples WHERE id = 0")) == 1


def test_windows_are_equal(engines: Engines, tmp_path: Path) -> None:
    assert engines.compare(model(tmp_path, f"SELECT id, {columns(WINDOW_FUNCTIONS)} FROM silver.samples")) == 60


@pytest.mark.parametrize("sql", WHOLE_QUERIES)
def test_whole_queries_are_equal(engines: Engines, tmp_path: Path, sql: str) -> None:
    assert engines.compare(model(tmp_path, sql)) > 0


def test_the_shops_models_are_equal(
    database_18: str, connection: duckdb.DuckDBPyConnection, engines: Engines, tmp_path: Path
) -> None:
    open_shop(database_18, seed=7, size=ShopSize(users=120, products=30, orders=3000))
    with psycopg.connect(database_18) as shop:
        # A spike, a user and a product without orders, a premium order that was cancelled.
        shop.execute("UPDATE fact_sales SET created_at = '2025-12-20 10:15+00' WHERE order_id % 40 = 0")
        shop.execute("DELETE FROM fact_sales WHERE user_id = 3 OR product_id = 4")
        shop.execute("UPDATE fact_sales SET status = 'CANCELLED', updated_at = '2026-02-01' WHERE order_id % 97 = 0")
    for name in TABLES:
        rows = read_source(database_18, name)
        committed = pa.array([datetime(2026, 2, 2, tzinfo=UTC)] * rows.num_rows, pa.timestamp("us", "UTC"))
        engines.show("silver", name, _typed(connection, rows).append_column("_committed_at", committed))
    for one in load_models(SHOP_MODELS):
        assert engines.compare(one) > 0, one.name
        engines.show("gold", one.name, engines.duckdb(one))


@pytest.mark.slow
def test_spark_runs_the_printed_models_over_the_lake_by_name(database_18: str, spark: Spark, tmp_path: Path) -> None:
    """As printed, on silver as it was merged, served by `catchment serve`: the rows that landed in gold."""
    open_shop(database_18, seed=3, size=ShopSize(users=60, products=12, orders=800))
    path = write_pipeline(tmp_path, database_18)
    path.write_text(path.read_text().replace("lakehouse:\n", f"lakehouse:\n  gold: {SHOP_MODELS}\n"))
    catch_up(path)
    with psycopg.connect(database_18) as shop:
        shop.execute("UPDATE fact_sales SET status = 'CANCELLED', updated_at = now() WHERE order_id % 9 = 0")
        shop.execute("UPDATE dim_users SET city = 'Elsewhere' WHERE user_id % 5 = 0")
        shop.execute("DELETE FROM fact_sales WHERE order_id % 11 = 0")
    catch_up(path)
    config = load(path)
    models = load_models(SHOP_MODELS)
    status = GoldLayer(models, load_catalog(config.lakehouse.catalog, config.directory)).refresh()
    assert {name: one.error for name, one in status.items() if one.error} == {}
    with RestServer(RestEndpoint(PublishedLake.open(config.lakehouse, config.directory))) as server:
        spark.attach("shop_lake", server.uri)
        spark.sql("USE shop_lake")
        try:
            with catchment.connect(path) as lake:
                for one in models:
                    landed = lake.execute(f"FROM gold.{one.name}").to_arrow_table()
                    expect_equal(landed, spark.sql(transpile(one, Dialect.SPARK)))
        finally:
            spark.sql("USE spark_catalog.default")


def _typed(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> pa.Table:
    """PostgreSQL's numeric comes as text."""
    connection.register("source_rows", rows)
    money = [name for name in ("price", "unit_price", "total_amount") if name in rows.column_names]
    typed = (
        f"SELECT * REPLACE ({', '.join(f'{name}::DECIMAL(12,2) AS {name}' for name in money)})" if money else "SELECT *"
    )
    table = connection.execute(f"{typed} FROM source_rows").to_arrow_table()
    connection.unregister("source_rows")
    return table
