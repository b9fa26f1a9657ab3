"""`catchment catalog sync`: Glue brought up to what is on S3, as a crawler would, with nothing lost that is there."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import catchment.glue
from aws.account import AwsAccount
from aws.busy_aws import BusyAws
from aws.test_glue_database import TODAY, bucket, change, hour, put
from aws.test_query_database import Run
from aws.test_query_database import run as run
from catchment.errors import CatchmentError, SinkRefused, SourceUnavailable
from catchment.glue.column_types import parse
from catchment.glue.gadgets import CHANGES, DATABASE, ORDERS, changes_table, ensure_gadgets
from catchment.glue.partition_layout import Target
from catchment.glue.session import client
from catchment.glue.sync import Synced, sync
from catchment.glue.table import GlueTable, ensure, ensure_database, external_json, table_of
from e2e.cli import command


@pytest.fixture
def lake(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AwsAccount]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    aws.client("s3").create_bucket(Bucket=bucket(aws))
    yield aws


def target(aws: AwsAccount, table: str = "found", **settings: Any) -> Target:
    return Target("lake", table, f"s3://{bucket(aws)}/", **settings)


def columns(aws: AwsAccount, table: str = "found", database: str = "lake") -> dict[str, str]:
    answer = aws.client("glue").get_table(DatabaseName=database, Name=table)["Table"]
    return {name: str(kind) for name, kind in table_of(answer).columns.items()}


def rows(aws: AwsAccount, tmp_path: Path, sql: str, database: str = "lake") -> list[Any]:
    with catchment.glue.connect(database, cache=tmp_path / "kept") as found:
        return found.execute(sql).fetchall()


def test_a_table_is_made_from_what_lies_there(lake: AwsAccount, tmp_path: Path) -> None:
    put(lake, f"{hour()}a", change("1", 1, extra={"colour": "red", "sizes": [1, 2]}, big=2**40, flag=True))
    put(lake, f"{hour()}b.gz", change("2", 2, note="12"), packed=True)
    put(lake, f"errors/failed/{hour()}x", b'{"rawData": "x"}')
    done = sync(target(lake))
    assert columns(lake) == {
        "orderid": "string",
        "product_name": "string",
        "quantity": "int",
        "price": "decimal(18,2)",
        "payment_method": "string",
        "order_timestamp": "timestamp",
        "status": "string",
        "event_type": "string",
        "event_time": "timestamp",
        "event_id": "string",
        "sequence_number": "string",
        "stream_label": "string",
        "order_date": "date",
        "extra": "struct<colour:string,sizes:array<int>>",
        "big": "bigint",
        "flag": "boolean",
        "note": "string",
    }
    assert (done.objects, done.new_objects, done.sampled) == (2, 2, 2)
    found = rows(lake, tmp_path, "SELECT orderid, extra.sizes[2], big, datehour FROM found ORDER BY orderid")
    assert found == [("1", 2, 2**40, hour().rstrip("/")), ("2", None, None, hour().rstrip("/"))]


def test_only_new_objects_are_looked_into_and_columns_are_added(lake: AwsAccount) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    sync(target(lake))
    again = sync(target(lake))
    assert (again.new_objects, again.sampled, again.changes) == (0, 0, [])
    put(lake, f"{hour()}b", change("2", 2, coupon="X", quantity=2**33))
    done = sync(target(lake))
    assert (done.new_objects, done.sampled) == (1, 1)
    assert done.changes == ["column quantity is bigint now, was int", "column coupon string added"]
    assert sync(target(lake), anew=True).sampled == 2


def test_a_value_that_does_not_fit_is_said_and_changes_no_column(lake: AwsAccount) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    sync(target(lake))
    put(lake, f"{hour()}b", change("2", 2, quantity="three", price={"amount": 3}), b"no json")
    done = sync(target(lake))
    assert done.changes == []
    assert "column quantity stays int, though there are values that are string: NULL where so" in done.notes
    assert "1 of 2 sampled lines are no JSON objects" in done.notes
    assert columns(lake)["quantity"] == "int"
    put(lake, f"{hour()}c", change("3", 3, mixed=1), change("4", 4, mixed="one"))
    done = sync(target(lake))
    assert done.changes == ["column mixed string added"]
    assert "column mixed has values of several kinds (int, string)" in done.notes


def test_a_decimal_is_widened_when_a_number_has_more_digits(lake: AwsAccount) -> None:
    put(lake, f"{hour()}a", change("1", 1, price=10.99))
    sync(target(lake))
    put(lake, f"{hour()}b", change("2", 2, price=99999.999))
    assert sync(target(lake)).changes == ["column price is decimal(38,3) now, was decimal(18,2)"]


def test_whole_prices_are_no_note_and_one_with_a_digit_too_many_is(lake: AwsAccount) -> None:
    ensure_gadgets(f"s3://{bucket(lake)}/")
    gadgets = Target(DATABASE, CHANGES, f"s3://{bucket(lake)}/", declared=frozenset({"price"}))
    put(lake, f"{hour()}a", change("1", 1, price=45), change("2", 1, price=999.99))
    assert sync(gadgets).notes == []
    put(lake, f"{hour()}b", change("3", 1, price=123456789))
    assert "price stays decimal(10,2), though there are values that are int" in sync(gadgets).notes[0]


def test_declared_columns_keep_their_types(lake: AwsAccount) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    sync(target(lake))
    put(lake, f"{hour()}b", change("2", 2, quantity=2**33, colour="red"))
    done = sync(target(lake, declared=frozenset({"quantity"})))
    assert done.changes == ["column colour string added"]
    assert columns(lake)["quantity"] == "int"


def test_partitions_named_in_directories_are_registered(lake: AwsAccount, tmp_path: Path) -> None:
    for number, day in enumerate(("2026-11-20", "2026-11-21")):
        put(lake, f"day={day}/country=de%20at/a", {"id": number})
    put(lake, "elsewhere", {"id": 9})
    done = sync(target(lake))
    assert done.partitions_added == 2
    assert "1 objects lie in no partition and are not seen by queries" in done.notes
    assert rows(lake, tmp_path, "SELECT id, day, country FROM found ORDER BY id") == [
        (0, "2026-11-20", "de at"),
        (1, "2026-11-21", "de at"),
    ]
    put(lake, "day=2026-11-22/country=fr/a", {"id": 2})
    assert rows(lake, tmp_path, "SELECT COUNT(*) FROM found") == [(2,)], "nobody has told Glue yet"
    assert sync(target(lake)).changes == ["1 partitions added"]
    assert rows(lake, tmp_path, "SELECT id FROM found WHERE day > '2026-11-20' ORDER BY id") == [(1,), (2,)]


def test_partitions_that_glue_did_not_take_are_told_and_registered_by_the_next_run(
    lake: AwsAccount, busy_aws: BusyAws
) -> None:
    put(lake, "day=2026-11-20/a", {"id": 0})
    put(lake, "day=2026-11-21/a", {"id": 1})
    busy_aws.refuse_parts("BatchCreatePartition", chosen=lambda one: one["Values"] == ["2026-11-21"])
    with pytest.raises(SourceUnavailable, match=r"1 partitions of lake\.found.*InternalServiceException"):
        sync(target(lake))
    busy_aws.calm()
    assert sync(target(lake)).changes == ["1 partitions added"]
    assert sync(target(lake)).changes == []


def test_partitions_without_names_are_registered_when_projection_is_not_wanted(
    lake: AwsAccount, tmp_path: Path
) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    put(lake, f"{hour(TODAY - timedelta(hours=1))}a", change("2", 2))
    assert sync(target(lake, project=False)).partitions_added == 2
    found = rows(lake, tmp_path, f"SELECT orderid FROM found WHERE partition_3 = '{TODAY:%H}'")
    assert found == [("1",)]


def test_projection_begins_no_later_than_the_first_object(lake: AwsAccount, tmp_path: Path) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    sync(target(lake))
    early = TODAY - timedelta(days=400)
    put(lake, f"{hour(early)}a", change("2", 2))
    assert rows(lake, tmp_path, "SELECT COUNT(*) FROM found") == [(1,)]
    done = sync(target(lake))
    assert done.changes == [f"partitions begin at {hour(early)[:-1]} now, at {hour()[:-1]} before"]
    assert rows(lake, tmp_path, "SELECT COUNT(*) FROM found") == [(2,)]


def test_projected_numbers_are_partitions_too(lake: AwsAccount, tmp_path: Path) -> None:
    place = f"s3://{bucket(lake)}/"
    names = {"year": ("2020,2040", "4"), "month": ("1,12", "2"), "day": ("1,31", "2"), "hour": ("0,23", "2")}
    parameters = {"projection.enabled": "true", "storage.location.template": place + "${year}/${month}/${day}/${hour}"}
    for name, (span, digits) in names.items():
        parameters |= {
            f"projection.{name}.type": "integer",
            f"projection.{name}.range": span,
            f"projection.{name}.digits": digits,
        }
    glue = lake.client("glue")
    ensure_database(glue, "lake")
    keys = {name: parse("int") for name in names}
    table = GlueTable("lake", "found", {"orderid": parse("string")}, keys, place, parameters=parameters)
    ensure(glue, "lake", external_json(table))
    put(lake, "2026/01/02/03/a", change("1", 1))
    put(lake, "2026/11/02/03/a", change("2", 2))
    put(lake, "2019/11/02/03/a", change("3", 3))
    put(lake, "2026/13/02/03/a", change("4", 4))
    assert rows(lake, tmp_path, "SELECT orderid, month FROM found ORDER BY month") == [("1", 1), ("2", 11)]
    with catchment.glue.connect("lake", cache=tmp_path / "kept") as database:
        asked = "SELECT orderid FROM found WHERE year = 2026 AND month > 6 AND month + day < 20"
        assert database.execute(asked).fetchall() == [("2",)]
        assert database.refresh().objects == 1


def test_a_dry_run_says_what_a_run_would_do_and_does_nothing(lake: AwsAccount) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    assert any("table lake.found made" in line for line in sync(target(lake), dry_run=True).changes)
    assert lake.client("glue").get_databases()["DatabaseList"] == []
    sync(target(lake))
    put(lake, f"{hour()}b", change("2", 2, coupon="X"))
    assert sync(target(lake), dry_run=True).changes == ["column coupon string added"]
    assert "coupon" not in columns(lake)
    assert sync(target(lake)).changes == ["column coupon string added"], "a dry run has seen nothing"


def test_a_dry_run_of_declared_tables_makes_nothing_either(lake: AwsAccount, run: Run) -> None:
    names = ["--database", DATABASE, "--table", CHANGES, "--location", f"s3://{bucket(lake)}/", "--example", "gadgets"]
    done = run("catalog", "sync", *names, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert f"would: table {DATABASE}.{CHANGES} made\nwould: view {DATABASE}.{ORDERS} made\n" in done.out
    assert lake.client("glue").get_databases()["DatabaseList"] == []
    assert run("catalog", "sync", *names).code == 0, "an empty bucket has no columns, but these are declared"


def test_an_empty_place_makes_no_table(lake: AwsAccount) -> None:
    with pytest.raises(SinkRefused, match=r"Nothing says which columns lake\.found has"):
        sync(target(lake))


def test_a_person_syncs_the_gadgets(lake: AwsAccount, run: Run, tmp_path: Path) -> None:
    put(lake, f"{hour()}a", change("1", 1, quantity=3, coupon="X"))
    place = ["--location", f"s3://{bucket(lake)}/", "--example", "gadgets"]
    names = ["--database", DATABASE, "--table", CHANGES]
    done = run("catalog", "sync", *names, *place)
    assert done.code == 0, done.err
    for line in (f"database {DATABASE} made", f"table {DATABASE}.{CHANGES} made", "column coupon string added"):
        assert line in done.out
    assert f"view {DATABASE}.{ORDERS} made" in done.out
    assert "note:" not in done.out, "10.99 fits a decimal(10,2)"
    again = run("catalog", "sync", *names, "--example", "gadgets", "--json")
    assert json.loads(again.out)["changes"] == []
    assert columns(lake, CHANGES, DATABASE)["price"] == "decimal(10,2)"
    assert rows(lake, tmp_path, "SELECT orderid, quantity FROM gadget_sales", DATABASE) == [("1", 3)]
    nowhere = run("catalog", "sync", "--database", DATABASE, "--table", "other")
    assert nowhere.code == 2
    assert "Add --location" in nowhere.err


def test_a_file_declares_tables_and_views(lake: AwsAccount, run: Run, tmp_path: Path) -> None:
    put(lake, f"{hour()}a", {"id": "7", "amount": "1.5"})
    file = tmp_path / "tables.yaml"
    file.write_text(
        f"""\
tables:
  sales:
    location: s3://{bucket(lake)}/
    columns: {{id: string, amount: "decimal(10,2)"}}
views:
  totals:
    columns: {{total: "decimal(38,2)"}}
    sql: SELECT SUM(amount) AS total FROM sales
"""
    )
    done = run("catalog", "sync", "--database", "lake", "--table", "sales", "--tables", str(file))
    assert done.code == 0, done.err
    assert [str(row[0]) for row in rows(lake, tmp_path, "SELECT total FROM totals")] == ["1.50"]
    file.write_text("tables:\n  sales:\n    colums: {}\n")
    wrong = run("catalog", "sync", "--database", "lake", "--table", "sales", "--tables", str(file))
    assert wrong.code == 2
    assert f"{file}:" in wrong.err


def test_everybody_s_columns_stay_when_many_change_a_table_at_once(lake: AwsAccount) -> None:
    place = f"s3://{bucket(lake)}/"
    ensure_gadgets(place)
    failures: list[CatchmentError] = []

    def add(number: int) -> None:
        wanted = changes_table(place)
        wanted["StorageDescriptor"]["Columns"].append({"Name": f"column_{number}", "Type": "string"})
        try:
            ensure(client("glue"), DATABASE, wanted)
        except CatchmentError as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {f"column_{number}" for number in range(8)} <= columns(lake, CHANGES, DATABASE).keys()


def test_what_is_as_it_should_be_is_not_written(lake: AwsAccount) -> None:
    place = f"s3://{bucket(lake)}/"
    assert len(ensure_gadgets(place)) == 3
    glue = lake.client("glue")
    before = glue.get_table(DatabaseName=DATABASE, Name=CHANGES)["Table"].get("VersionId")
    assert ensure_gadgets(place) == []
    assert glue.get_table(DatabaseName=DATABASE, Name=CHANGES)["Table"].get("VersionId") == before


def test_a_table_with_other_partition_columns_is_refused(lake: AwsAccount) -> None:
    put(lake, "day=1/a", change("1", 1))
    sync(Target(DATABASE, CHANGES, f"s3://{bucket(lake)}/"))
    with pytest.raises(SinkRefused, match=r"partitioned by day string in Glue, not by datehour string"):
        ensure_gadgets(f"s3://{bucket(lake)}/")


def test_a_state_that_cannot_be_read_costs_a_look_at_everything(lake: AwsAccount, tmp_path: Path) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    sync(target(lake))
    for file in (tmp_path / "cache").rglob("catalog/*.json"):
        file.write_text("{broken")
    done: Synced = sync(target(lake))
    assert (done.new_objects, done.changes) == (1, [])


def test_a_schedule_goes_on_until_it_is_stopped(lake: AwsAccount, tmp_path: Path) -> None:
    put(lake, f"{hour()}a", change("1", 1))
    place = ["--table", "found", "--location", f"s3://{bucket(lake)}/"]
    arguments = command("catalog", "sync", "--database", "lake", *place, "--every", "1", "--json")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=lake.environ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["new_objects"] == 1
            put(lake, f"{hour()}b", change("2", 2, coupon="X"))
            seen: list[str] = []
            while "column coupon string added" not in seen:
                seen += json.loads(process.stdout.readline())["changes"]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
