"""All kinds of rules over a lake: what they find, what is kept of it, and what stops gold."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from duckdb import DuckDBPyConnection

from catchment.lakehouse.gold.landing import GoldLayer
from catchment.lakehouse.gold.model import load_models
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.reading.connection import open_duckdb
from catchment.quality import results
from catchment.quality.config import Severity
from catchment.quality.gate import QualityGate
from catchment.quality.outcome import Status, Suite
from catchment.quality.rules import QualityRules, load_rules
from catchment.quality.suite import run_suite
from pipelines.bronze_lake import BronzeLake, rows

ORDER = pa.struct(
    [
        ("id", pa.int64()),
        ("user", pa.int64()),
        ("city", pa.string()),
        ("amount", pa.decimal128(12, 2)),
        ("made", pa.timestamp("us", tz="UTC")),
        ("n", pa.int64()),
    ]
)
USER = pa.struct([("id", pa.int64()), ("email", pa.string())])

Read = Callable[..., QualityRules]


@pytest.fixture
def lake(tmp_path: Path) -> BronzeLake:
    lake = BronzeLake(tmp_path)
    lake.create("users", USER)
    lake.append("users", {"id": 1, "email": "a@b"}, {"id": 2, "email": None}, row=USER)
    lake.create("orders", ORDER)
    lake.append("orders", order(1), order(2, user=2), order(3, city=None, amount=Decimal(-5)), row=ORDER)
    return lake


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(**tables: list[str]) -> QualityRules:
        text = "tables:\n" + "".join(
            f"  {table}:\n" + "".join(f"    - {{{rule}}}\n" for rule in rules) for table, rules in tables.items()
        )
        (tmp_path / "quality.yaml").write_text(text)
        return load_rules(tmp_path / "quality.yaml", {})

    return read


def order(number: int, **values: Any) -> dict[str, Any]:
    return {"id": number, "user": 1, "city": "Oslo", "amount": Decimal("2.50"), "made": None, "n": 1, **values}


def told(suite: Suite) -> dict[str, tuple[str, int | None]]:
    return {rule.rule: (rule.status.value, rule.broken) for rule in suite}


def judged(lake: BronzeLake, rules: QualityRules, **options: Any) -> Suite:
    with lake.connect() as connection:
        return run_suite(connection, rules, "shop", **options)


def test_each_kind_of_rule_finds_what_breaks_it(lake: BronzeLake, read: Read) -> None:
    lake.append("orders", order(4, user=9), order(5, user=9, made=datetime.now(UTC)), order(6, user=None), row=ORDER)
    suite = judged(
        lake,
        read(
            orders=[
                "type: not_null, columns: [city, id]",
                "type: range, column: amount, min: 0, severity: quarantine",
                "type: accepted_values, column: city, values: [Bergen]",
                "type: regex, column: city, pattern: '[A-Z].*'",
                "type: expression, name: sold_to_first, sql: user = 1",
                "type: unique, column: id",
                "type: unique, columns: [user, n]",
                "type: relationship, column: user, to: users.id",
                "type: row_count, min: 6, max: 6",
                "type: row_count, name: many, min: 1000",
                "type: row_count, name: few, max: 5",
                "type: column_count, equals: 6",
                "type: column_count, name: wide, equals: 7",
                "type: freshness, column: made, max_age_seconds: 600",
            ]
        ),
    )
    assert told(suite) == {
        "not_null_city": ("broken", 1),
        "not_null_id": ("passed", 0),
        "range_amount": ("broken", 1),
        "accepted_values_city": ("broken", 5),
        "regex_city": ("passed", 0),
        "sold_to_first": ("broken", 3),
        "unique_id": ("passed", 0),
        "unique_user_n": ("broken", 4),
        "relationship_user": ("broken", 2),
        "row_count": ("passed", None),
        "many": ("broken", None),
        "few": ("broken", None),
        "column_count": ("passed", None),
        "wide": ("broken", None),
        "freshness_made": ("passed", None),
    }
    (table,) = suite.tables
    assert (table.layer, table.rows, table.quarantined, table.columns) == ("current", 6, 0, 6)
    said = {rule.rule: rule.said for rule in suite}
    assert said["relationship_user"] == "2 rows with 1 value that users.id does not have."
    assert said["unique_user_n"] == "4 rows share 2 values of user, n."


def test_what_cannot_be_judged_is_told_and_breaks_nothing(lake: BronzeLake, read: Read) -> None:
    suite = judged(
        lake,
        read(
            orders=[
                "type: not_null, column: missing, severity: fail",
                "type: range, column: city, min: 2020-01-01",
                "type: unique, column: missing",
                "type: relationship, column: user, to: nothing.id",
                "type: relationship, name: no_column, column: user, to: users.nothing",
                "type: relationship, name: no_type, column: made, to: users.id",
                "type: freshness, max_age_seconds: 5",
                "type: freshness, column: city, max_age_seconds: 5",
                "type: freshness, column: made, max_age_seconds: 5",
                "type: not_null, column: id",
            ],
            nothing=["type: row_count, min: 1"],
        ),
    )
    statuses = {rule.rule: rule.status for rule in suite}
    assert statuses.pop("freshness_made") is Status.BROKEN
    assert statuses.pop("not_null_id") is Status.PASSED
    # Text is compared with a bound of the file as text.
    assert statuses.pop("range_city") is Status.PASSED
    assert set(statuses.values()) == {Status.UNJUDGED}
    assert not suite.stops_gold
    said = {rule.rule: rule.said for rule in suite}
    assert said["not_null_missing"] == "Not judged: there is no column missing."
    assert said["relationship_user"] == "Not judged: the lake has no table nothing yet."
    assert "no moment" in said["freshness_city"]


def test_a_table_without_current_rows_is_told_with_the_reason(lake: BronzeLake, read: Read) -> None:
    lake.create("clicks", USER, key=())
    lake.append("clicks", {"id": 1, "email": "a@b"}, row=USER)
    suite = judged(lake, read(clicks=["type: not_null, column: email", "type: row_count, min: 1"]))
    assert {rule.said for rule in suite} == {
        "Not judged: bronze.clicks has no key, so it has no current rows; query its changes in bronze.clicks."
    }


def test_silver_is_judged_with_its_quarantine_and_only_silver_stops_gold(lake: BronzeLake, read: Read) -> None:
    rules = read(
        orders=[
            "type: range, column: amount, min: 0, severity: fail",
            "type: unique, column: id",
            "type: row_count, min: 3",
            "type: not_null, column: city, severity: quarantine",
        ],
        users=["type: not_null, column: email, severity: fail"],
    )
    with lake.connect() as connection:
        silver(connection, "orders", "amount >= 0 AND city IS NOT NULL")
        suite = run_suite(connection, rules, "shop")
        assert told(suite)["range_amount"] == ("passed", 1)
        assert told(suite)["not_null_city"] == ("broken", 1)
        assert told(suite)["row_count"] == ("passed", None)
        assert [table.layer for table in suite.tables] == ["silver", "current"]
        assert suite.tables[0].quarantined == 1
        assert [rule.said for rule in suite.broken(Severity.QUARANTINE)] == ["1 row of 3 breaks it, all in quarantine."]
        assert [rule.rule for rule in suite if rule.stops_gold] == ["not_null_email"]


def silver(connection: DuckDBPyConnection, table: str, good: str) -> None:
    """Silver and its quarantine as the merge would fill them."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS silver")
    for name, condition in ((table, good), (f"{table}_quarantine", f"({good}) IS NOT TRUE")):
        connection.execute(f"DROP VIEW IF EXISTS silver.{name}")
        connection.execute(
            f"CREATE OR REPLACE TABLE silver.{name} AS SELECT *, NULL::VARCHAR[] AS _quality FROM current.{table} "
            f"WHERE {condition}"
        )


def test_keys_of_broken_rows_are_shown_only_when_asked_for(lake: BronzeLake, read: Read) -> None:
    rules = read(orders=["type: not_null, column: city"])
    assert "keys" in judged(lake, rules).to_dict()["tables"][0]["rules"][0]
    assert [rule.keys for rule in judged(lake, rules)] == [()]
    assert [rule.keys for rule in judged(lake, rules, keys={"orders": ("id",)})] == [({"id": 3},)]


def test_rows_that_cannot_be_held_count_for_every_kind_of_rule(lake: BronzeLake, read: Read) -> None:
    with lake.connect() as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS silver")
        connection.execute("DROP VIEW IF EXISTS silver.odd")
        connection.execute(
            "CREATE TABLE silver.odd AS SELECT * FROM (VALUES (1, 2.0, NULL), (2, NULL, MAP {'amount': 'NaN'}), "
            "(3, NULL, MAP {'amount': 'NaN'}), (4, NULL, NULL)) t(id, amount, _unrepresentable)"
        )
        connection.execute("CREATE TABLE silver.parent AS SELECT 2.0 AS amount, 0 AS _version")
        suite = run_suite(
            connection,
            read(
                odd=[
                    "type: not_null, column: amount",
                    "type: range, column: amount, min: 0",
                    "type: unique, column: amount",
                    "type: relationship, column: amount, to: parent.amount",
                ]
            ),
            "shop",
        )
    assert told(suite) == {
        "not_null_amount": ("broken", 1),
        "range_amount": ("broken", 2),
        "unique_amount": ("broken", 2),
        "relationship_amount": ("broken", 2),
    }


def test_an_old_row_is_not_fresh(lake: BronzeLake, read: Read) -> None:
    old = datetime.now(UTC) - timedelta(hours=5)
    lake.append("orders", order(7, made=old), row=ORDER)
    (found,) = judged(lake, read(orders=["type: freshness, column: made, max_age_seconds: 7200"]))
    assert found.status is Status.BROKEN
    assert found.said == "The newest made is 5 hours old; at most 2 hours is expected."


def test_results_are_kept_without_values_and_only_the_last_of_them(
    lake: BronzeLake, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "SUITES_KEPT", 3)
    rules = read(orders=["type: not_null, column: city", "type: row_count, min: 1"])
    ops = OpsStore.open(lake.config, lake.directory)
    for _ in range(5):
        results.keep(ops, judged(lake, rules, keys={"orders": ("id",)}), results.COMMAND)
    history = results.history(ops, "shop")
    assert [(point.status.value, point.rows, point.broken) for point in history["orders", "not_null_city"]] == [
        ("broken", 3, 1)
    ] * 3
    kept = ops.tables()["quality_results"].to_pylist()
    ops.close()
    assert len(kept) == 9  # two rules, and the table as a whole
    assert "Oslo" not in json.dumps(kept)
    with lake.connect("shop") as connection:
        counted = connection.execute("SELECT count(*) FROM ops.quality_results WHERE rule <> '*'").fetchall()
    assert counted == [(6,)]


def test_the_gate_is_closed_while_a_fail_rule_is_broken(
    lake: BronzeLake, read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    rules = read(
        orders=[
            "type: range, column: amount, min: 0, severity: fail",
            "type: relationship, column: user, to: users.id, severity: fail",
            "type: not_null, column: city",
        ]
    )
    ops = OpsStore.open(lake.config, lake.directory)
    gate = QualityGate(rules, "shop", lambda: OpsStore.open(lake.config, lake.directory))
    assert gate.stored >= {("silver", "orders"), ("silver", "orders_quarantine"), ("bronze", "users")}
    for _ in range(2):
        with lake.connect() as connection:
            finding = gate.judge(connection)
    assert finding is not None
    assert "orders, range_amount: 1 row of 3 breaks it." in finding.message
    assert results.last_gate(ops, "shop") == {("orders", "range_amount"): "1 row of 3 breaks it."}
    lake.append("orders", order(3), op="u", row=ORDER)
    with lake.connect() as connection:
        assert gate.judge(connection) is None
    assert results.last_gate(ops, "shop") == {}
    ops.close()
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1


def test_without_fail_rules_there_is_no_gate(lake: BronzeLake, read: Read) -> None:
    read(orders=["type: not_null, column: city"])
    config = lake.config.model_copy(update={"quality": Path("quality.yaml")})
    assert QualityGate.of(config, lake.directory, "shop") is None
    read(orders=["type: not_null, column: city, severity: fail"])
    assert QualityGate.of(config, lake.directory, "shop") is not None


def test_gold_keeps_its_rows_while_the_gate_is_closed(lake: BronzeLake, read: Read) -> None:
    (lake.directory / "gold").mkdir()
    (lake.directory / "gold" / "cities.sql").write_text("SELECT count(*) AS n FROM current.users")
    rules = read(orders=["type: range, column: amount, min: 0, severity: fail"])
    layer = GoldLayer(load_models(lake.directory / "gold"), lake.catalog, gate=QualityGate(rules, "shop"))
    lake.append("orders", order(3), op="u", row=ORDER)
    assert layer.refresh()["cities"].error is None
    lake.append("users", {"id": 3, "email": "c@d"}, row=USER)
    lake.append("orders", order(4, amount=Decimal(-1)), row=ORDER)
    assert layer.stale()
    assert "orders, range_amount: 1 row of 4 breaks it." in str(layer.refresh()["cities"].error)
    assert not layer.stale()
    assert gold(lake) == [{"n": 2}]
    lake.append("orders", order(4), op="d", row=ORDER)
    assert layer.stale()
    assert layer.refresh()["cities"].error is None
    assert gold(lake) == [{"n": 3}]


def gold(lake: BronzeLake) -> list[dict[str, Any]]:
    with lake.connect() as connection:
        return rows(connection, "FROM gold.cities")


def test_the_gate_reads_a_table_again_only_when_it_has_changed(lake: BronzeLake, read: Read) -> None:
    rules = read(
        users=["type: row_count, min: 1, severity: fail"],
        orders=["type: relationship, column: user, to: users.id, severity: fail"],
    )
    gate = QualityGate(rules, "shop")
    first = {("bronze", "users"): "1", ("bronze", "orders"): "1"}
    with lake.connect() as connection:
        assert gate.judge(connection, first) is None
    # A connection that shows nothing: whoever reads a table finds none, and says so.
    assert gate.judge(open_duckdb(), first) is None
    assert {one.said for _, table in gate._judged.values() for one in table.rules} == {
        "It has 2 rows.",
        "Every user is found in users.id.",
    }
    gate.judge(open_duckdb(), {**first, ("bronze", "users"): "2"})
    assert all("Not judged" in one.said for _, table in gate._judged.values() for one in table.rules)
