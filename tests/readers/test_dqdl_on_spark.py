"""DQDL's CustomSql, run by the engine that Glue runs it with: it counts the rows that our own rules count."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa

from catchment.quality.bitmask import RowRules
from catchment.quality.dqdl import ruleset
from catchment.quality.rules import load_rules
from readers.spark import Spark

RULES = """\
tables:
  sales:
    - {type: expression, name: adds_up, sql: total = quantity * price}
    - {type: expression, name: in_time, sql: "made <= _committed_at OR status = 'it''s late'"}
    - {type: expression, name: cheap, sql: "coalesce(total, 0) < 100 AND length(status) BETWEEN 1 AND 20"}
    - {type: accepted_values, column: paid, values: [true]}
    - {type: range, name: recent, column: made, min: 2024-01-01 00:00:00}
"""
MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("quantity", pa.int32()),
        ("price", pa.decimal128(12, 2)),
        ("total", pa.decimal128(12, 2)),
        ("status", pa.string()),
        ("paid", pa.bool_()),
        ("made", MOMENT),
        ("_committed_at", MOMENT),
    ]
)


def sale(number: int) -> dict[str, object]:
    """Sales of which some break each rule, and some have NULLs."""
    day = datetime(2024, 1, 1 + number % 20, tzinfo=UTC)
    return {
        "id": number,
        "quantity": number % 4,
        "price": Decimal("1.25") if number % 7 else None,
        "total": Decimal("1.25") * (number % 4) + (number % 5 == 0),
        "status": (None, "OPEN", "it's late", "")[number % 4],
        "paid": (True, False, None)[number % 3],
        "made": day.replace(year=2023 if number % 6 == 0 else 2024),
        "_committed_at": day.replace(hour=1) if number % 8 != 1 else datetime(2023, 1, 1, tzinfo=UTC),
    }


def test_custom_sql_counts_on_spark_what_our_rules_count(spark: Spark, tmp_path: Path) -> None:
    (tmp_path / "quality.yaml").write_text(RULES)
    rules = load_rules(tmp_path / "quality.yaml", {}).of("sales")
    rows = pa.Table.from_pylist([sale(number) for number in range(200)], schema=SCHEMA)
    judged = RowRules.compile(rules, SCHEMA)
    bits = judged.evaluate(rows)
    ours = {name: int(((bits >> bit) & 1).sum()) for bit, name in enumerate(judged.names)}
    spark.view("primary", rows)
    said = re.findall(r'CustomSql "((?:[^"\\]|\\.)*)" = 0 labels=\["rule"="(\w+)"', ruleset(rules))
    theirs = {name: spark.sql(re.sub(r"\\(.)", r"\1", sql)).column(0)[0].as_py() for sql, name in said}
    assert theirs == ours
    assert "NOT EXPORTED" not in ruleset(rules)
    assert len(ours) == 5
    assert all(ours.values())
