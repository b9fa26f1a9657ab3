"""Quality rules as a person meets them: validate, run, the report, its exit codes, and gold that waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catchment
from e2e.cli import PIPELINE, Done, run_command, write_pipeline
from statements import run_sql

LAKEHOUSE = 'warehouse: "lake/warehouse"}\n  quality: quality.yaml\n  gold: gold/'
ORDERS = (
    "CREATE TABLE orders (id bigint PRIMARY KEY, city text, total numeric(12,2))",
    "INSERT INTO orders SELECT n, 'Oslo', n FROM generate_series(1, 100) n",
)
RULES = """\
tables:
  orders:
    - {type: range, column: total, min: 0, severity: quarantine, description: Totals are not negative.}
    - {type: not_null, column: city}
    - {type: row_count, min: 100, severity: fail}
"""


def pipeline(directory: Path, dsn: str, name: str) -> Path:
    (directory / "quality.yaml").write_text(RULES)
    (directory / "gold").mkdir()
    (directory / "gold" / "totals.sql").write_text("SELECT count(*) AS orders FROM silver.orders")
    text = PIPELINE.replace("name: shop", f"name: {name}").replace('warehouse: "lake/warehouse"}', LAKEHOUSE)
    return write_pipeline(directory, dsn, text)


def captured(path: Path) -> None:
    done = run_command("run", path, "--until-caught-up")
    assert done.code == 0, done.err


def statuses(done: Done) -> dict[str, tuple[str, int | None, int]]:
    return {
        rule["rule"]: (rule["status"], rule["broken"], rule["quarantined"])
        for table in done.json["tables"]
        for rule in table["rules"]
    }


def asked(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What a query finds, without the process around it."""
    with catchment.connect(path) as lake:
        return lake.execute(sql).fetchall()


def orders_in_gold(path: Path) -> int:
    return int(asked(path, "SELECT orders FROM gold.totals")[0][0])


def test_rules_are_checked_judged_and_reported(database_18: str, tmp_path: Path) -> None:
    run_sql(database_18, *ORDERS)
    path = pipeline(tmp_path, database_18, "quality")
    before = run_command("quality", path)
    assert before.code == 1
    assert "never run" in before.err
    assert run_command("validate", path).code == 0

    captured(path)
    first = run_command("quality", path, "--json")
    assert (first.code, statuses(first)["range_total"]) == (0, ("passed", 0, 0)), first.out
    assert orders_in_gold(path) == 100

    run_sql(
        database_18, "UPDATE orders SET total = -1 WHERE id <= 2", "UPDATE orders SET city = NULL WHERE id IN (7, 8)"
    )
    captured(path)
    page = tmp_path / "quality.html"
    done = run_command("quality", path, "--json", "--html", page, "--keys")
    assert done.code == 0, done.err
    assert statuses(done) == {
        "range_total": ("broken", 2, 2),
        "not_null_city": ("broken", 2, 0),
        "row_count": ("passed", None, 0),
    }
    assert [key["id"] for key in done.json["tables"][0]["rules"][0]["keys"]] == [1, 2]
    assert "2 rows of 100 break it, all in quarantine." in page.read_text()
    flagged = asked(path, "SELECT id, _quality FROM silver.orders WHERE _quality IS NOT NULL ORDER BY id")
    assert flagged == [(7, ["not_null_city"]), (8, ["not_null_city"])]
    assert asked(path, "SELECT id, _quality FROM silver.orders_quarantine ORDER BY id") == [
        (1, ["range_total"]),
        (2, ["range_total"]),
    ]
    assert orders_in_gold(path) == 98

    run_sql(database_18, "UPDATE orders SET total = 5 WHERE id = 1", "DELETE FROM orders WHERE id > 50")
    captured(path)
    stopped = run_command("quality", path)
    assert stopped.code == 1
    assert "Gold keeps the rows it has until orders.row_count holds again" in " ".join(stopped.out.split())
    assert orders_in_gold(path) == 98
    assert run_command("status", path, "--json").json["gold_stopped"] == {
        "orders.row_count": "It has 50 rows; at least 100 are expected."
    }
    gate = asked(path, "SELECT DISTINCT rule FROM ops.quality_results WHERE judged_by = 'gate' AND status = 'broken'")
    assert gate == [("row_count",)]


def test_mistakes_are_said_before_anything_runs(database_18: str, tmp_path: Path) -> None:
    run_sql(database_18, *ORDERS)
    path = pipeline(tmp_path, database_18, "mistakes")
    rules = tmp_path / "quality.yaml"
    rules.write_text(RULES.replace("column: city", "column: town"))
    checked = run_command("validate", path)
    assert checked.code == 0
    assert "orders has no column town" in " ".join(checked.out.split())
    rules.write_text(RULES.replace("type: row_count", "type: row_cuont"))
    assert run_command("validate", path, "--offline").code == 1
    refused = run_command("run", path, "--until-caught-up")
    assert refused.code == 2
    assert "quality.yaml:5:" in refused.err
    rules.write_text(RULES)
    assert "there are: orders" in run_command("quality", path, "--table", "order").err
    assert run_command("quality", path, "--dqdl").out.startswith("# Quality rules of silver.orders")
    path.write_text(path.read_text().replace("  quality: quality.yaml\n", ""))
    assert "has no quality rules" in run_command("quality", path).err
