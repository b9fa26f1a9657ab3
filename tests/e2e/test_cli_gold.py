"""`catchment gold` as a person types it: over a lake that is there, without a source."""

from __future__ import annotations

import subprocess
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from e2e.cli import command, run_command
from pipelines.bronze_lake import BronzeLake

PIPELINE = """\
name: shop
source: {type: postgres, dsn: "postgresql://nobody@127.0.0.1:1/no", tables: [public.*]}
lakehouse:
  catalog: {type: sql, uri: "sqlite:///lake/catalog.db", warehouse: "lake/warehouse"}
  gold: gold/
sinks:
  - {type: iceberg}
"""


def order(number: int, city: str, amount: str = "1.00") -> dict[str, object]:
    return {"id": number, "city": city, "amount": Decimal(amount)}


@pytest.fixture
def lake(tmp_path: Path) -> BronzeLake:
    (tmp_path / "gold").mkdir()
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    (tmp_path / "gold" / "by_city.sql").write_text(
        "-- key: city\nSELECT city, sum(amount) AS amount, avg(amount) AS average FROM current.orders GROUP BY city\n"
    )
    (tmp_path / "gold" / "best.sql").write_text("SELECT city FROM gold.by_city\nORDER BY amount DESC LIMIT 1")
    lake = BronzeLake(tmp_path, gold=Path("gold"))
    lake.create("orders")
    lake.append("orders", order(1, "Oslo"), order(2, "Bergen", "3.00"))
    return lake


def test_refreshes_all_models_and_says_what_changed(lake: BronzeLake) -> None:
    path = lake.directory / "pipeline.yaml"
    done = run_command("gold", path, "--json")
    assert done.code == 0, done.err
    assert [(one["model"], one["rows"], one["changed"]) for one in done.json["models"]] == [
        ("by_city", 2, True),
        ("best", 1, True),
    ]
    lake.append("orders", order(3, "Bergen"))
    again = run_command("gold", path, "--json").json["models"]
    assert {one["model"]: one["changed"] for one in again} == {"by_city": True, "best": False}
    shown = run_command("gold", path)
    assert "by_city" in shown.out
    assert "as before" in shown.out


def test_one_model_is_refreshed_with_what_it_reads(lake: BronzeLake) -> None:
    (lake.directory / "gold" / "other.sql").write_text("SELECT 1 AS one")
    done = run_command("gold", lake.directory / "pipeline.yaml", "--model", "best", "--json")
    assert [one["model"] for one in done.json["models"]] == ["by_city", "best"]


def test_a_failing_model_is_named_and_the_command_ends_with_one(lake: BronzeLake) -> None:
    (lake.directory / "gold" / "bad.sql").write_text("SELECT nothing FROM current.orders")
    done = run_command("gold", lake.directory / "pipeline.yaml", "--json")
    assert done.code == 1
    errors = {one["model"]: one["error"] for one in done.json["models"]}
    assert 'Referenced column "nothing" not found' in errors.pop("bad")
    assert set(errors.values()) == {None}


def test_prints_the_sql_of_an_engine_and_refuses_what_it_would_change(lake: BronzeLake) -> None:
    path = lake.directory / "pipeline.yaml"
    refused = run_command("gold", path, "--dialect", "spark", "--print")
    assert refused.code == 2
    assert "by_city.sql:2: current.orders is a view of Catchment's own" in refused.err
    model = lake.directory / "gold" / "by_city.sql"
    model.write_text(model.read_text().replace("current.", "silver."))
    spark = run_command("gold", path, "--dialect", "spark", "--print", "--model", "best")
    assert spark.code == 0, spark.err
    assert " ".join(spark.out.split()) == "SELECT city FROM gold.by_city ORDER BY amount DESC LIMIT 1"
    both = run_command("gold", path, "--dialect", "athena", "--print", "--json").json
    assert "AVG(CAST(amount AS DOUBLE))" in both["models"]["by_city"]
    duck = run_command("gold", path, "--print", "--model", "by_city").out
    assert duckdb.extract_statements(duck)[0].type == duckdb.StatementType.SELECT


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dialect", "spark"], "add --print"),
        (["--model", "nothing"], "There is no gold model nothing; there are: best, by_city"),
    ],
)
def test_wrong_arguments_are_told_in_one_sentence(lake: BronzeLake, arguments: list[str], words: str) -> None:
    done = run_command("gold", lake.directory / "pipeline.yaml", *arguments)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_without_gold_models_it_says_where_they_belong(lake: BronzeLake) -> None:
    path = lake.directory / "pipeline.yaml"
    path.write_text(PIPELINE.replace("  gold: gold/\n", ""))
    assert "lakehouse.gold" in run_command("gold", path).err


def test_several_at_once_all_end_well(lake: BronzeLake) -> None:
    path = lake.directory / "pipeline.yaml"
    assert run_command("gold", path).code == 0
    lake.append("orders", order(3, "Bodø"))
    running = [
        subprocess.Popen(command("gold", path, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        ends = [(*one.communicate(timeout=200), one.returncode) for one in running]
    finally:
        for one in running:
            one.kill()
            one.communicate()
    assert [code for _, _, code in ends] == [0, 0, 0], ends
    rows = lake.catalog.load_table("gold.by_city").scan().to_arrow().to_pylist()
    assert {row["city"] for row in rows} == {"Oslo", "Bergen", "Bodø"}
