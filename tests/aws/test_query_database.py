"""`catchment query --database`: answered here, or by Athena's API, in the same forms as a pipeline's lake."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from aws.account import AwsAccount
from aws.test_glue_database import TODAY, UNITS, UPI, bucket, change, hour, put, wait_out_the_days_end
from catchment.cli import main
from catchment.errors import ConfigError
from catchment.glue import athena
from catchment.glue.gadgets import DATABASE, ensure_gadgets
from e2e.cli import Done, run_command


@pytest.fixture
def orders(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AwsAccount]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wait_out_the_days_end()
    aws.client("s3").create_bucket(Bucket=bucket(aws))
    ensure_gadgets(f"s3://{bucket(aws)}/", first_hour=TODAY - timedelta(days=2))
    put(aws, f"{hour()}a", change("1", 1, quantity=2), change("2", 2, product_name="Phone", price=429.99))
    put(aws, f"{hour()}b.gz", change("1", 3, kind="MODIFY", quantity=5), packed=True)
    yield aws


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command in this process: what a person types without the time that Python takes to start."""

    def command(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["catchment", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return command


@pytest.fixture
def ask(run: Run) -> Run:
    def asked(sql: str, *options: str) -> Done:
        return run("query", "--database", DATABASE, sql, *options)

    return asked


def test_a_person_asks_the_two_queries(orders: AwsAccount) -> None:
    done = run_command("query", "--database", DATABASE, UNITS, "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert sorted(done.json, key=str) == [
        {"product_name": "Laptop", "total_units": 5},
        {"product_name": "Phone", "total_units": 1},
    ]
    shown = run_command("query", "--database", DATABASE, "-", stdin=UPI)
    assert shown.code == 0
    assert shown.out.count("UPI") == 3
    assert "429.99" in shown.out


def test_answers_come_in_the_forms_of_any_query(orders: AwsAccount, ask: Run, tmp_path: Path) -> None:
    text = "SELECT orderid, price, order_timestamp, date FROM gadget_sales ORDER BY orderid DESC"
    assert ask(text, "--json").json["rows"][0]["price"] == "429.99"
    assert ask(text, "--format", "csv").out.splitlines()[0] == "orderid,price,order_timestamp,date"
    file = tmp_path / "found.parquet"
    assert ask(text, "--format", "parquet", "--output", str(file)).code == 0
    assert pq.read_table(file).column("orderid").to_pylist() == ["2", "1"]


def test_the_text_for_athena_and_for_here_can_be_printed(orders: AwsAccount, ask: Run) -> None:
    text = "SELECT quantity / 2 FROM AwsDataCatalog.gadgets_sales_db.sales_data_table WHERE payment_method = 'UPI'"
    assert ask(text, "--print", "--dialect", "athena").out == (
        "SELECT\n  quantity / 2\nFROM gadgets_sales_db.sales_data_table\nWHERE\n  payment_method = 'UPI'\n"
    )
    assert "TRUNC" in ask(text, "--print", "--dialect", "duckdb").out


def test_a_question_that_cannot_be_asked_is_told_in_a_sentence(orders: AwsAccount, run: Run) -> None:
    wrong = [
        (["--database", "nowhere", "SELECT * FROM t"], "Glue has no database nowhere"),
        (["--database", DATABASE, "SELECT 1; SELECT 2"], "One statement at a time"),
        (["--database", DATABASE, "DELETE FROM gadget_sales"], "only be read"),
        (["--database", DATABASE, "SELECT 1", "--as-of", "2026-11-20"], "--as-of and --snapshot"),
        (["pipeline.yaml", "SELECT 1", "--on", "athena"], "belong to --database"),
        (["SELECT 1"], "--database NAME and the SQL"),
        (["pipeline.yaml", "SELECT 1", "--database", DATABASE], "give the SQL only"),
    ]
    for arguments, message in wrong:
        done = run("query", *arguments)
        assert done.code in (1, 2)
        assert done.err.startswith("catchment: ")
        assert message in done.err


def plain_table(aws: AwsAccount, rows: int) -> str:
    """A table as the stand-in's Athena can read one: no partitions, no view, DuckDB's SQL.

    What it lacks, so that the API's path alone is tested on it: partition projection (the column `datehour` is not
    there), views, types from Glue (it infers them from the lines), Trino's functions, a decimal's precision, and
    statements that are refused before they run.
    """
    lines = "".join(
        json.dumps({"id": number, "price": 1.5, "name": f"n{number}" if number % 2 else None}) + "\n"
        for number in range(rows)
    )
    aws.client("s3").put_object(Bucket=bucket(aws), Key="plain/a.json", Body=lines.encode())
    aws.client("glue").create_table(
        DatabaseName=DATABASE,
        TableInput={
            "Name": "plain",
            "Parameters": {"classification": "json"},
            "StorageDescriptor": {
                "Columns": [
                    {"Name": "id", "Type": "bigint"},
                    {"Name": "price", "Type": "double"},
                    {"Name": "name", "Type": "string"},
                ],
                "Location": f"s3://{bucket(aws)}/plain/",
                "SerdeInfo": {"SerializationLibrary": "org.openx.data.jsonserde.JsonSerDe"},
            },
        },
    )
    return f"s3://{bucket(aws)}/results/"


def test_athena_answers_page_by_page_with_types(orders: AwsAccount) -> None:
    place = plain_table(orders, 2_500)
    sql = "SELECT id, price, name, CAST('2026-11-21 10:00:00.123' AS TIMESTAMP) AS at FROM plain ORDER BY id"
    found = athena.ask(sql, DATABASE, output_location=place).rows.read_all()
    assert found.num_rows == 2_500
    assert [str(kind) for kind in found.schema.types] == ["int64", "double", "string", "timestamp[us]"]
    assert found.column("id").to_pylist() == list(range(2_500))
    assert found.column("name").to_pylist()[:3] == [None, "n1", None]
    assert found.column("at").to_pylist()[0].microsecond == 123000


def test_athena_and_this_machine_give_the_same_rows(orders: AwsAccount, ask: Run) -> None:
    place = plain_table(orders, 10)
    sql = "SELECT name, COUNT(*) AS number, SUM(price) AS total FROM plain GROUP BY name ORDER BY name"
    here = ask(sql, "--format", "json")
    there = ask(sql, "--format", "json", "--on", "athena", "--output-location", place)
    assert there.code == 0, there.err
    assert "Athena runs query" in there.err
    assert here.json == there.json


def test_a_query_that_fails_in_athena_is_told_with_its_id(orders: AwsAccount) -> None:
    place = plain_table(orders, 1)
    with pytest.raises(ConfigError, match=r"Athena's query [0-9a-f-]{36} failed: .*nothing_of_this_name"):
        athena.ask("SELECT nothing_of_this_name FROM plain", DATABASE, output_location=place)


def test_athena_wants_a_place_for_results(orders: AwsAccount, ask: Run) -> None:
    done = ask("SELECT 1", "--on", "athena")
    assert done.code == 2
    assert "--workgroup or --output-location" in done.err


def test_what_is_missing_to_reach_aws_is_said(orders: AwsAccount, ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert ask("SELECT COUNT(*) FROM gadget_sales").code == 0, "AWS_REGION is enough"
    monkeypatch.delenv("AWS_REGION")
    assert "Set AWS_REGION" in ask("SELECT 1").err
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = ask("SELECT * FROM gadget_sales")
    assert away.code == 4
    assert "Is AWS_ENDPOINT_URL, or the network, right?" in away.err
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    nobody = ask("SELECT 1")
    assert nobody.code == 1
    assert "No AWS credentials were found" in nobody.err


def test_decimals_and_other_types_come_as_athena_tells_them() -> None:
    columns: list[tuple[dict[str, Any], list[str | None], str]] = [
        ({"Type": "decimal", "Precision": 10, "Scale": 2}, ["1.50", None], "decimal128(10, 2)"),
        ({"Type": "decimal", "Precision": 38, "Scale": 0}, ["1.5"], "string"),
        ({"Type": "varbinary"}, ["6f 72", None], "binary"),
        ({"Type": "date"}, ["2026-11-21"], "date32[day]"),
        ({"Type": "timestamp with time zone"}, ["2026-11-21 10:00:00.000 UTC"], "string"),
        ({"Type": "double"}, ["NaN", "Infinity", "1.5E10"], "double"),
        ({"Type": "array"}, ["[1, 2]"], "string"),
    ]
    for column, texts, expected in columns:
        assert str(athena.typed(texts, column).type) == expected
