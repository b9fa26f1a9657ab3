"""What is printed for Spark and Athena, and what is refused because it would not mean the same there."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlglot

from catchment.errors import ConfigError
from catchment.lakehouse.gold.dialect import Dialect, not_portable, transpile
from catchment.lakehouse.gold.model import Model, read_model


def model(directory: Path, sql: str) -> Model:
    file = directory / "m.sql"
    file.write_text(sql)
    return read_model(file)


def printed(directory: Path, expression: str, dialect: Dialect) -> str:
    text = transpile(model(directory, f"SELECT {expression} FROM silver.t"), dialect)
    words = " ".join(text.removeprefix("SELECT").removesuffix("FROM silver.t").split())
    return words.replace("( ", "(").replace(" )", ")")


@pytest.mark.parametrize(
    ("duckdb", "spark", "athena"),
    [
        ("a / 3", "(CAST(a AS DOUBLE) / CAST(3 AS DOUBLE))", "(CAST(a AS DOUBLE) / CAST(3 AS DOUBLE))"),
        ("avg(a)", "AVG(CAST(a AS DOUBLE))", "AVG(CAST(a AS DOUBLE))"),
        ("epoch(a)", "(CAST(UNIX_MICROS(a) AS DOUBLE) / 1E6)", "TO_UNIXTIME(a)"),
        (
            "round(a / 3, 2)",
            "(ROUND(((CAST(a AS DOUBLE) / CAST(3 AS DOUBLE))) * 1E2, 0) / 1E2)",
            "(ROUND(((CAST(a AS DOUBLE) / CAST(3 AS DOUBLE))) * 1E2, 0) / 1E2)",
        ),
        (
            "date_diff('day', CAST(a AS DATE), CAST(b AS DATE))",
            "DATEDIFF(CAST(b AS DATE), CAST(a AS DATE))",
            "DATE_DIFF('day', CAST(a AS DATE), CAST(b AS DATE))",
        ),
        ("CAST(a AS TIMESTAMPTZ)", "CAST(a AS TIMESTAMP)", "CAST(a AS TIMESTAMP WITH TIME ZONE)"),
        ("lag(a) OVER (ORDER BY b)", "LAG(a) OVER (ORDER BY b NULLS LAST)", "LAG(a) OVER (ORDER BY b)"),
        ('"Odd ""name"""', '`Odd "name"`', '"Odd ""name"""'),
    ],
)
def test_what_engines_say_differently_is_printed_as_each_says_it(
    tmp_path: Path, duckdb: str, spark: str, athena: str
) -> None:
    assert printed(tmp_path, duckdb, Dialect.SPARK) == spark
    assert printed(tmp_path, duckdb, Dialect.ATHENA) == athena


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("epoch_ms(a)", "the function"),
        ("my_own(a)", "the function my_own is not on the list"),
        ("now()", "not on the list"),
        ("random()", "not on the list"),
        ("concat(a, b)", "the function concat is not on the list"),
        ("lower(a)", "the function lower is not on the list"),
        ("count_if(a)", "the function count_if is not on the list"),
        ("any_value(a)", "not on the list"),
        ("string_agg(a, ',')", "not on the list"),
        ("list_value(1, 2)", "not on the list"),
        ("[1, 2]", "not on the list"),
        ("{'a': 1}", "not on the list"),
        ("a // 2", "not on the list"),
        ("a / b", "nullif(…, 0)"),
        ("a % b", "nullif(…, 0)"),
        ("a / 0", "nullif(…, 0)"),
        ("round(a, 2)", "CAST(… AS DOUBLE)"),
        ("round(a / 2, b)", "a plain number of digits"),
        ("stddev_samp(a)", "CAST(… AS DOUBLE)"),
        ("a::INTEGER", "rounds here and cuts off there"),
        ("a::TEXT", "in its own way"),
        ("a::DECIMAL(12, 2)", "rounds in different ways"),
        ("date_diff('hour', a, b)", "date_diff counts days"),
        ("date_trunc('decade', a)", "the unit decade"),
        ("date_trunc('day', a::DATE)", "date_trunc of a DATE"),
        ("extract(dow FROM a)", "the unit dow"),
        ("a::DATE + INTERVAL 1 DAY", "arithmetic with a DATE"),
        ("a + INTERVAL (b) DAY", "a plain number of one unit"),
        ("a LIKE b", "the pattern of LIKE"),
        ("substring(a, 0)", "substring begins"),
        ("lag(a IGNORE NULLS) OVER (ORDER BY b)", "not on the list"),
        ("COLUMNS('a.*')", "not on the list"),
        ("* EXCLUDE (a)", "name the columns"),
    ],
)
def test_what_would_not_mean_the_same_is_refused_with_its_line(tmp_path: Path, expression: str, words: str) -> None:
    one = model(tmp_path, f"-- name: m\nSELECT 1 AS one,\n  {expression}\nFROM silver.t")
    for dialect in (Dialect.SPARK, Dialect.ATHENA):
        with pytest.raises(ConfigError) as refusal:
            transpile(one, dialect)
        assert "m.sql:3: " in str(refusal.value)
        assert words in str(refusal.value)
    assert transpile(one, Dialect.DUCKDB) == one.sql


@pytest.mark.parametrize(
    ("sql", "line", "words"),
    [
        ("SELECT a\nFROM current.t", 2, "silver.t has the same rows"),
        ("SELECT a\nFROM silver.t_history", 2, "made of silver.t_versions"),
        ("SELECT a FROM silver.t\nGROUP BY ALL", 1, "GROUP BY ALL"),
        ("SELECT a FROM silver.t GROUP BY ROLLUP (a)", 1, "Rollup"),
        ("SELECT a FROM silver.t\nQUALIFY row_number() OVER (ORDER BY a) = 1", 2, "Qualify"),
        ("SELECT DISTINCT ON (a) a FROM silver.t", 1, "DISTINCT ON"),
        ("SELECT a FROM silver.t USING SAMPLE 10%", 1, "TableSample"),
        ("SELECT a FROM silver.t ORDER BY ALL", 1, "ORDER BY ALL"),
        ("SELECT a FROM silver.t SEMI JOIN silver.u USING (a)", 1, "SEMI JOIN"),
        ("SELECT a FROM silver.t ASOF JOIN silver.u ON t.a >= u.a", 1, "ASOF JOIN"),
        ("SELECT a FROM silver.t UNION ALL BY NAME SELECT a FROM silver.u", 1, "BY NAME"),
        ("SELECT a FROM range(3) AS r(a)", 1, "not"),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r WHERE a < 3) SELECT a FROM r",
            1,
            "RECURSIVE",
        ),
        ("SELECT unnest(a) FROM silver.t", 1, "not on the list"),
    ],
)
def test_queries_that_only_duckdb_has_are_refused(tmp_path: Path, sql: str, line: int, words: str) -> None:
    found = not_portable(model(tmp_path, sql), Dialect.SPARK)
    assert found, "nothing was refused"
    assert any(one.startswith(f"{tmp_path}/m.sql:{line}: ") and words in one for one in found), found


@pytest.mark.parametrize("expression", ["greatest(a, b)", "least(a, 1)", "median(a / 2)", "contains(a, 'x')"])
def test_what_athena_alone_does_differently_is_refused_for_it_alone(tmp_path: Path, expression: str) -> None:
    one = model(tmp_path, f"SELECT {expression} FROM silver.t")
    assert not_portable(one, Dialect.SPARK) == []
    assert "in Athena" in not_portable(one, Dialect.ATHENA)[0]


def test_what_is_printed_is_read_by_the_engines_own_grammar(tmp_path: Path) -> None:
    sql = """WITH a AS (SELECT x, count(*) FILTER (WHERE y > 1) AS n FROM silver.t GROUP BY x)
    SELECT x, round(100 * n / nullif(sum(n) OVER (), 0), 1) AS share FROM a ORDER BY share DESC LIMIT 3"""
    for dialect in (Dialect.SPARK, Dialect.ATHENA):
        text = transpile(model(tmp_path, sql), dialect)
        assert sqlglot.parse_one(text, read=dialect.value).sql(dialect.value, pretty=True) == text
