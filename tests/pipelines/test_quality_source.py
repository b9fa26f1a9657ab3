"""Rules before ingestion: the source's own rows, as the merge would see them, and nothing left behind."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import psycopg
import pytest

import catchment
from catchment.config import PipelineConfig, load
from catchment.errors import SourceUnavailable
from catchment.quality.before import judge_source
from catchment.quality.outcome import Suite
from catchment.quality.rules import load_rules
from catchment.quality.suite import run_suite
from catchment.sinks.iceberg.bronze_table import bronze_name
from catchment.sources.sample import Sampled
from pipelines.lake import catch_up, query
from seeds import first_seed
from statements import run_sql

PIPELINE = """\
name: before
source: {{type: postgres, dsn: "{dsn}", tables: [public.*, other.*]}}
transforms:
  - {{type: hash, columns: [public.orders.email], secret: "a secret of the tests"}}
lakehouse: {{quality: quality.yaml}}
sinks: [{{type: iceberg}}]
"""


def prepared(directory: Path, dsn: str, *rules: str, table: str = "orders") -> PipelineConfig:
    lines = "".join(f"    - {{{rule}}}\n" for rule in rules)
    (directory / "quality.yaml").write_text(f"tables:\n  {table}:\n{lines}")
    (directory / "pipeline.yaml").write_text(PIPELINE.format(dsn=dsn))
    return load(directory / "pipeline.yaml", {})


def judged(config: PipelineConfig, rows: int | None = None, *, with_keys: bool = False) -> Suite:
    rules = load_rules(config.directory / "quality.yaml", {})
    assert isinstance(config.source_config, Sampled)
    samples = config.source_config.sample(config.context, lambda table: bronze_name(table)[-1] in rules.tables, rows)
    return judge_source(
        rules, config.name, samples, config.chain(), lambda table: bronze_name(table)[-1], with_keys=with_keys
    )


def told(suite: Suite) -> dict[str, tuple[str, int | None]]:
    return {rule.rule: (rule.status.value, rule.broken) for rule in suite}


ORDERS = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(12,2), made date, email text)",
    "INSERT INTO orders SELECT n, n - 3, '2024-01-01', n || '@example.com' FROM generate_series(1, 1000) n",
    "INSERT INTO orders VALUES (1001, 'NaN', 'infinity', NULL), (1002, NULL, NULL, 'x')",
)


def test_source_rows_are_judged_as_the_merge_would_and_nothing_is_left(database: str, tmp_path: Path) -> None:
    run_sql(database, *ORDERS)
    config = prepared(
        tmp_path,
        database,
        "type: range, column: total, min: 0, severity: quarantine",
        "type: not_null, columns: [total, made, email]",
        # What the lake holds is a hash: rules see rows after the transforms.
        "type: regex, column: email, pattern: '[0-9a-f]{64}'",
        "type: row_count, min: 1002",
        "type: column_count, equals: 4",
        "type: unique, column: id",
    )
    suite = judged(config, with_keys=True)
    assert told(suite) == {
        "range_total": ("broken", 3),
        "not_null_total": ("broken", 1),
        "not_null_made": ("broken", 1),
        "not_null_email": ("broken", 1),
        "regex_email": ("passed", 0),
        "row_count": ("passed", None),
        "column_count": ("passed", None),
        "unique_id": ("unjudged", None),
    }
    (table,) = suite.tables
    assert (table.rows, table.broken, table.quarantined, table.whole) == (1002, 4, 3, True)
    assert {key["id"] for rule in suite for key in rule.keys if rule.rule == "range_total"} == {1, 2, 1001}
    with psycopg.connect(database) as connection:
        for left in ("pg_replication_slots WHERE database = current_database()", "pg_publication"):
            assert connection.execute(f"SELECT count(*) FROM {left}".encode()).fetchone() == (0,)


def test_a_sample_is_bounded_and_comes_from_all_over_the_table(database: str, tmp_path: Path) -> None:
    run_sql(
        database,
        "CREATE TABLE orders (id bigint PRIMARY KEY, filler text)",
        "INSERT INTO orders SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n",
        "ANALYZE orders",
    )
    config = prepared(tmp_path, database, "type: range, column: id, max: 10000", "type: row_count, max: 5")
    suite = judged(config, 2_000)
    (table,) = suite.tables
    assert (table.rows, table.whole) == (2_000, False)
    assert told(suite)["row_count"] == ("unjudged", None)
    assert table.broken is not None
    assert 600 < table.broken < 1_400, "about half of the sample comes from the second half of the table"


def test_a_table_that_cannot_be_read_or_is_not_there_is_told(database: str, tmp_path: Path) -> None:
    run_sql(database, "CREATE SCHEMA other", "CREATE TABLE other.orders ()")
    config = prepared(tmp_path, database, "type: not_null, column: id", table="other_orders")
    (rule,) = judged(config)
    assert (rule.status.value, rule.broken) == ("unjudged", None)
    assert "has no columns" in rule.said
    config = prepared(tmp_path, database, "type: not_null, column: id", table="nothing")
    (rule,) = judged(config)
    assert 'called "nothing"' in rule.said


def test_all_tables_are_read_at_one_moment(database: str, tmp_path: Path) -> None:
    run_sql(database, *ORDERS, "CREATE TABLE parents (id bigint PRIMARY KEY)")
    config = prepared(tmp_path, database, "type: not_null, column: id")
    assert isinstance(config.source_config, Sampled)
    samples = config.source_config.sample(config.context, lambda table: True, None)
    first = next(samples)
    seen = sum(len(batch) for batch in first.batches)
    run_sql(database, "INSERT INTO parents VALUES (1)", "DELETE FROM orders")
    rows = [sum(len(batch) for batch in sample.batches) for sample in itertools.chain(samples)]
    assert (seen, rows) == (1002, [0])


def test_a_source_that_is_away_is_said(tmp_path: Path) -> None:
    config = prepared(tmp_path, "host=127.0.0.1 port=1 dbname=x", "type: not_null, column: id")
    with pytest.raises(SourceUnavailable):
        judged(config)


def test_what_is_foretold_is_what_happens(database_18: str, tmp_path: Path) -> None:
    """Three judges of the same rows: before ingestion, the merge (in `_quality`), and the suite over the lake."""
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    draw = random.Random(seed)
    run_sql(
        database_18,
        "CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(12,2), made date, score float8, free numeric, "
        "email text)",
    )
    choices = {
        "total": ["NULL", "'NaN'", "-1", "0", "7.5"],
        "made": ["NULL", "'infinity'", "'2024-01-01'", "'2019-12-31'"],
        "score": ["NULL", "'NaN'", "'-Infinity'", "0.5", "2"],
        "free": ["NULL", "'NaN'", "-0.1", "1e30", "3"],
        "email": ["NULL", "''", "'a@b.c'", "'no address'"],
    }
    rows = ", ".join(
        f"({number}, {', '.join(draw.choice(values) for values in choices.values())})" for number in range(2_000)
    )
    run_sql(database_18, f"INSERT INTO orders VALUES {rows}")
    config = prepared(
        tmp_path,
        database_18,
        "type: not_null, columns: [total, made, score, free, email]",
        "type: range, column: total, min: 0, severity: quarantine",
        "type: range, column: made, min: 2020-01-01, severity: quarantine",
        "type: range, column: score, max: 1",
        "type: range, column: free, above: 0, severity: fail",
        "type: accepted_values, column: made, values: [2024-01-01]",
        "type: regex, column: total, pattern: '[0-9.]+'",
        "type: expression, name: agree, sql: CAST(free AS DOUBLE) > total",
    )
    foretold = {rule: count for rule, (_, count) in told(judged(config)).items()}
    catch_up(config.directory / "pipeline.yaml")
    merged = dict(
        query(
            config.directory / "pipeline.yaml",
            "SELECT rule, count(*) FROM (SELECT unnest(_quality) AS rule FROM silver.orders UNION ALL "
            "SELECT unnest(_quality) FROM silver.orders_quarantine) GROUP BY rule",
        )
    )
    with catchment.connect(config.directory / "pipeline.yaml") as connection:
        suite = run_suite(connection, load_rules(config.directory / "quality.yaml", {}), "before")
    assert {rule: count for rule, (_, count) in told(suite).items()} == foretold
    assert {rule: merged.get(rule, 0) for rule in foretold} == foretold
    assert all(foretold.values()), "each rule is broken by some row"
    (table,) = suite.tables
    assert table.quarantined == judged(config).tables[0].quarantined > 0
