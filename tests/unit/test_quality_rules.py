"""quality.yaml: what is taken, how rules are named, and that every mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from catchment.config import load
from catchment.errors import ConfigError
from catchment.quality.config import Severity
from catchment.quality.preflight import check_rules
from catchment.quality.rules import load_rules

SHOP = """\
tables:
  fact_sales:
    - {type: not_null, columns: [user_id, status]}
    - {type: unique, column: order_id}
    - {type: accepted_values, column: status, values: [PENDING, SHIPPED]}
    - {type: range, column: total_amount, min: 0, severity: quarantine}
    - {type: regex, column: email, pattern: '[^@]+@[^@]+'}
    - {type: relationship, column: user_id, to: dim_users.user_id}
    - {type: expression, name: adds_up, sql: total_amount = quantity * unit_price}
    - {type: row_count, min: 1, severity: fail}
    - {type: column_count, equals: 10}
    - {type: freshness, max_age_seconds: 3600}
"""


def complaint(directory: Path, text: str) -> str:
    file = directory / "quality.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_rules(file, {})
    return str(refused.value)


def test_every_rule_has_a_name_and_its_line(tmp_path: Path) -> None:
    (tmp_path / "quality.yaml").write_text(SHOP)
    rules = load_rules(tmp_path / "quality.yaml", {}).of("fact_sales").rules
    assert [(rule.name, rule.place.partition(":")[2]) for rule in rules] == [
        ("not_null_user_id", "3"),
        ("not_null_status", "3"),
        ("unique_order_id", "4"),
        ("accepted_values_status", "5"),
        ("range_total_amount", "6"),
        ("regex_email", "7"),
        ("relationship_user_id", "8"),
        ("adds_up", "9"),
        ("row_count", "10"),
        ("column_count", "11"),
        ("freshness_committed_at", "12"),
    ]
    assert [rule.name for rule in rules if rule.severity is not Severity.FLAG] == ["range_total_amount", "row_count"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("type: unique", "type: uniq", 4, ["no rule of type `uniq`", "unique"]),
        ("type: unique, ", "", 4, ["missing", "not_null"]),
        ("column: order_id", "colum: order_id", 4, ["`colum`", "did you mean `column"]),
        ("column: order_id", "column: order_id, severity: quarantine", 4, ["more than one row", "flag or fail"]),
        ("severity: fail", "severity: quarantine", 10, ["more than one row"]),
        ("severity: fail", "severity: fial", 10, ["did you mean `fail`?"]),
        ("values: [PENDING, SHIPPED]", "values: [SE, NO]", 5, ["quotes around words"]),
        ("min: 0, ", "", 6, ["`min`, `max`, `above`, `below`"]),
        ("min: 0, ", "min: 0, above: 1, ", 6, ["not both"]),
        ("min: 0, ", "min: .inf, ", 6, ["finite"]),
        ("min: 0, ", "min: 5, max: 1, ", 6, ["the lower one is above the upper one"]),
        ("min: 0, ", "min: 2026-02-02, max: 2026-01-01, ", 6, ["the lower one is above the upper one"]),
        ("min: 0, ", "min: [1], ", 6, ["min` is one of these: true or false, a number, a moment, a date, text."]),
        ("'[^@]+@[^@]+'", "'('", 7, ["RE2"]),
        ("to: dim_users.user_id", "to: dim_users", 8, ["to` is written `table.column`"]),
        ("name: adds_up, ", "", 9, ["needs a `name`"]),
        ("quantity * unit_price", "(SELECT 1)", 9, ["subquery"]),
        ("total_amount = quantity * unit_price", "random() < quantity", 9, ["random()"]),
        ("total_amount = quantity * unit_price", "now() > quantity", 9, ["now()"]),
        ("total_amount = quantity * unit_price", "current_date > quantity", 9, ["current_date"]),
        ("total_amount = quantity * unit_price", "read_text('/etc/passwd') = status", 9, ["read_text()"]),
        ("total_amount = quantity * unit_price", "getenv('HOME') = status", 9, ["getenv()"]),
        ("total_amount = quantity * unit_price", "current_setting('threads') = status", 9, ["current_setting()"]),
        ("total_amount = quantity * unit_price", "a) FROM b WHERE (c", 9, ["not one expression"]),
        ("total_amount = quantity * unit_price", "a); DROP TABLE b; SELECT (c", 9, ["sql"]),
        ("total_amount = quantity * unit_price", "sum(a) > 1", 9, ["sum()"]),
        ("total_amount = quantity * unit_price", "row_number() OVER () > quantity", 9, ["window"]),
        ("total_amount = quantity * unit_price", "_version > quantity", 9, ["Catchment's own"]),
        ("total_amount = quantity * unit_price", "1 = 1", 9, ["no column"]),
        ("total_amount = quantity * unit_price", "total_amount >", 9, ["cannot be parsed"]),
        ("type: column_count, equals: 10", "type: row_count, max: 5", 11, ["`row_count`", "line 10"]),
        ("max_age_seconds: 3600", "max_age_seconds: 0", 12, ["max_age_seconds"]),
        ("tables:", "table:", 1, ["did you mean `tables`?"]),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: list[str]) -> None:
    assert old in SHOP
    said = complaint(tmp_path, SHOP.replace(old, new, 1))
    assert f"quality.yaml:{line}: " in said
    for word in words:
        assert word in said


def test_a_table_has_as_many_row_rules_as_a_word_has_bits(tmp_path: Path) -> None:
    rules = "\n".join(f"    - {{type: not_null, column: c{number}}}" for number in range(64))
    said = complaint(tmp_path, f"tables:\n  wide:\n{rules}\n")
    assert "quality.yaml:66: " in said
    assert "63" in said


def test_a_file_that_is_missing_or_empty_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lakehouse\.quality"):
        load_rules(tmp_path / "quality.yaml", {})
    assert "`tables:`" in complaint(tmp_path, "")


def test_a_table_without_rules_has_none(tmp_path: Path) -> None:
    (tmp_path / "quality.yaml").write_text("tables:\n  orders:\n")
    rules = load_rules(tmp_path / "quality.yaml", {})
    assert rules.of("orders").rules == rules.of("others").rules == ()


def test_rules_that_nobody_could_judge_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "quality.yaml").write_text(SHOP)
    rules = load_rules(tmp_path / "quality.yaml", {})
    columns = ("order_id", "user_id", "status", "total_amount", "quantity", "unit_price", "email")
    there = {"fact_sales": columns, "dim_users": ("user_id",)}
    assert [finding.severity for finding in check_rules(rules, there)] == ["ok"]
    said = [finding.message for finding in check_rules(rules, {"fact_sale": columns})]
    assert "quality.yaml:3: Table fact_sales is not captured: the rule is not judged. Did you mean fact_sale?" in said
    assert any("Table dim_users is not captured" in one for one in said)
    (no_column,) = check_rules(rules, {**there, "dim_users": ("id",)})
    assert "dim_users has no column user_id" in no_column.message
    (apart,) = check_rules(rules, there, ["dim_users"])
    assert "fact_sales is not in `lakehouse.silver`" in apart.message


def test_rules_need_silver(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "name: shop\nsource: {type: postgres, dsn: x}\nlakehouse:\n  silver: false\n  quality: quality.yaml\n"
        "sinks: [{type: iceberg}]\n"
    )
    with pytest.raises(ConfigError, match=r"pipeline\.yaml:3: .*`quality` needs `silver`"):
        load(path, {})
