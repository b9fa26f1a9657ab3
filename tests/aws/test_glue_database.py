"""A Glue database, asked on this machine: the same rows as Athena would find, from the same definitions and objects."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.paginate import PageIterator

import catchment.glue
from aws.account import AwsAccount
from catchment.aws import firehose_transform
from catchment.errors import ConfigError, SourceRefused
from catchment.glue import layout, segments
from catchment.glue.database import GlueDatabase
from catchment.glue.gadgets import DATABASE, ensure_gadgets
from catchment.glue.partition_layout import Target
from catchment.glue.sync import sync
from waiting import wait_for

TODAY = datetime.now(UTC)
UPI = f"SELECT * FROM {DATABASE}.sales_data_table WHERE payment_method = 'UPI' ORDER BY order_timestamp DESC"
UNITS = """\
SELECT product_name, SUM(quantity) AS total_units FROM gadget_sales WHERE date = CURRENT_DATE GROUP BY product_name"""
LABEL = "2026-11-21T08:00:00.000"


def bucket(aws: AwsAccount) -> str:
    """Names of buckets are everybody's, on AWS and on the stand-in."""
    return f"gadget-sales-data-{aws.number}"


def change(orderid: str, sequence: int | None, *, kind: str = "INSERT", **values: Any) -> dict[str, Any]:
    """A clean JSON record, as the handler makes one."""
    now = datetime.now(UTC)
    return {
        "orderid": orderid,
        "product_name": "Laptop",
        "quantity": 1,
        "price": 10.99,
        "payment_method": "UPI",
        "order_timestamp": f"{now:%Y-%m-%d %H:%M:%S}.123",
        "status": "placed",
        "event_type": kind,
        "event_time": f"{now:%Y-%m-%d %H:%M:%S}.000",
        "event_id": f"event-{orderid}-{sequence}",
        "sequence_number": str(sequence) if sequence is not None else None,
        "stream_label": LABEL,
        "order_date": f"{now:%Y-%m-%d}",
    } | values


def put(aws: AwsAccount, key: str, *records: dict[str, Any] | bytes, packed: bool = False) -> None:
    lines = b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in records)
    extra = {"ContentEncoding": "gzip"} if packed else {}
    aws.client("s3").put_object(Bucket=bucket(aws), Key=key, Body=gzip.compress(lines) if packed else lines, **extra)


def hour(moment: datetime = TODAY) -> str:
    return f"{moment:%Y/%m/%d/%H}/"


def wait_out_the_days_end() -> None:
    """What is of today now is so for two minutes more, at least."""
    wait_for(lambda: f"{datetime.now(UTC):%H:%M}" < "23:58", "another day", seconds=240)


@pytest.fixture
def gadgets(aws: AwsAccount, tmp_path: Path) -> Iterator[GlueDatabase]:
    aws.client("s3").create_bucket(Bucket=bucket(aws))
    ensure_gadgets(f"s3://{bucket(aws)}/", first_hour=TODAY - timedelta(days=2))
    with catchment.glue.connect(DATABASE, cache=tmp_path / "cache") as database:
        yield database


def test_the_two_queries_of_the_gadget_sales_are_answered(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    wait_out_the_days_end()
    put(
        aws,
        f"{hour()}first",
        change("1000", 100, quantity=2),
        change("1001", 101, product_name="Phone", payment_method="Cash", price=999.99),
        change("1000", 102, kind="MODIFY", quantity=3),
    )
    put(aws, f"{hour()}second.gz", change("1002", 103, product_name="Phone", quantity=4), packed=True)
    assert sorted(gadgets.execute(UNITS).fetchall()) == [("Laptop", 3), ("Phone", 5)]
    rows = gadgets.execute(UPI)
    assert [column[0] for column in rows.description or ()][:4] == ["orderid", "product_name", "quantity", "price"]
    found = rows.fetchall()
    assert sorted((row[0], row[2], row[3]) for row in found) == [
        ("1000", 2, Decimal("10.99")),
        ("1000", 3, Decimal("10.99")),
        ("1002", 4, Decimal("10.99")),
    ]
    assert found[0][5].microsecond == 123000
    assert found[0][-1] == hour().rstrip("/")


def test_the_latest_version_of_an_order_counts_once_and_a_removed_one_not_at_all(
    aws: AwsAccount, gadgets: GlueDatabase
) -> None:
    long = 10**20
    later = "2026-11-21T09:00:00.000"
    put(
        aws,
        f"{hour()}a",
        change("1", long + 5, kind="MODIFY", quantity=7),
        change("1", 99, quantity=1),
        change("1", long + 5, kind="MODIFY", quantity=7),
        change("2", 9, quantity=1),
        change("2", 10, kind="REMOVE"),
        change("3", long, quantity=1),
        change("3", 1, quantity=5, stream_label=later),
        change("4", 8, kind="REMOVE"),
        change("4", 9, quantity=2),
        change("5", None, kind="UNKNOWN", quantity=6, stream_label=None),
        # DynamoDB's own Kinesis destination gives neither label nor number.
        *(
            change(number, None, kind=kind, quantity=at, stream_label=None, event_time=f"2026-11-21 09:00:00.00{at}")
            for number, *kinds in [("6", "INSERT", "MODIFY", "REMOVE"), ("7", "REMOVE", "INSERT", "MODIFY")]
            for at, kind in enumerate(kinds)
        ),
    )
    found = gadgets.execute("SELECT orderid, quantity FROM gadget_sales ORDER BY orderid").fetchall()
    assert found == [("1", 7), ("3", 5), ("4", 2), ("5", 6), ("7", 2)]


def test_a_new_object_costs_its_own_size_only(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    put(aws, f"{hour()}a", change("1", 1))
    assert gadgets.execute("SELECT COUNT(*) FROM gadget_sales").fetchall() == [(1,)]
    put(aws, f"{hour()}b", change("2", 2))
    assert gadgets.execute("SELECT COUNT(*) FROM gadget_sales").fetchall() == [(1,)], "as of the last refresh"
    seen = gadgets.refresh()
    assert (seen.objects, seen.fetched, seen.changed) == (2, 1, True)
    assert gadgets.execute("SELECT COUNT(*) FROM gadget_sales").fetchall() == [(2,)]
    again = gadgets.refresh()
    assert (again.fetched, again.changed) == (0, False)
    with catchment.glue.connect(DATABASE, cache=gadgets.cache) as another:
        assert another.execute("SELECT COUNT(*) FROM gadget_sales").fetchall() == [(2,)]
        assert another.refresh().fetched == 0, "what another process read is not read again"


def test_many_small_objects_are_kept_in_few_files(aws: AwsAccount, gadgets: GlueDatabase, tmp_path: Path) -> None:
    gadgets.execute("SELECT COUNT(*) FROM sales_data_table")
    for number in range(60):
        put(aws, f"{hour()}{number}", change(str(number), number))
        gadgets.refresh()
    assert gadgets.execute("SELECT COUNT(*), COUNT(DISTINCT orderid) FROM sales_data_table").fetchall() == [(60, 60)]
    assert len({part.segment.path for part in gadgets.parts("sales_data_table")}) < 30


def test_files_that_another_process_has_merged_away_are_found_anew(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    put(aws, f"{hour()}a", change("1", 1))
    gadgets.execute("SELECT COUNT(*) FROM sales_data_table")
    for part in gadgets.parts("sales_data_table"):
        part.segment.path.unlink()
    assert gadgets.execute("SELECT COUNT(*) FROM sales_data_table").fetchall() == [(1,)]


def test_a_merged_file_goes_when_nobody_can_read_it_any_more(
    aws: AwsAccount, gadgets: GlueDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    gadgets.execute("SELECT COUNT(*) FROM sales_data_table")
    monkeypatch.setattr(segments, "MERGE_FROM", 4)
    for number in range(6):
        put(aws, f"{hour()}{number}", change(str(number), number))
        gadgets.refresh()
    before = len(list(gadgets.cache.rglob("*.parquet")))
    assert before > 4
    for retired in gadgets.cache.rglob("*.retired"):
        os.utime(retired, (0, 0))
    gadgets.refresh()
    assert len(list(gadgets.cache.rglob("*.parquet"))) < before
    assert gadgets.execute("SELECT COUNT(*) FROM sales_data_table").fetchall() == [(6,)]


def test_an_object_that_is_replaced_or_deleted_is_seen_so(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    put(aws, f"{hour()}a", change("1", 1), change("2", 2))
    put(aws, f"{hour()}b", change("3", 3))
    assert gadgets.execute("SELECT COUNT(*) FROM sales_data_table").fetchall() == [(3,)]
    put(aws, f"{hour()}a", change("1", 1))
    gadgets.refresh()
    assert gadgets.execute("SELECT COUNT(*) FROM sales_data_table").fetchall() == [(2,)]
    aws.client("s3").delete_object(Bucket=bucket(aws), Key=f"{hour()}b")
    gadgets.refresh()
    assert gadgets.execute("SELECT orderid FROM sales_data_table").fetchall() == [("1",)]


def test_only_what_athena_would_look_for_is_read(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    put(aws, f"{hour()}a", change("1", 1))
    put(aws, f"errors/transform-failed/{hour()}x", b'{"rawData": "c2VjcmV0"}')
    put(aws, f"{hour()}_hidden", change("2", 2))
    put(aws, f"{hour(TODAY - timedelta(days=9))}too-early", change("3", 3))
    put(aws, f"{hour(TODAY + timedelta(days=2))}too-late", change("4", 4))
    put(aws, "stray", change("5", 5))
    aws.client("s3").put_object(Bucket=bucket(aws), Key=f"{hour()}empty", Body=b"")
    assert gadgets.execute("SELECT orderid FROM sales_data_table").fetchall() == [("1",)]


def test_a_condition_on_partitions_leaves_the_other_objects_where_they_are(
    aws: AwsAccount, gadgets: GlueDatabase
) -> None:
    yesterday = TODAY - timedelta(days=1)
    put(aws, f"{hour(yesterday)}a", change("1", 1))
    put(aws, f"{hour()}a", change("2", 2))
    of_today = f"SELECT orderid FROM sales_data_table WHERE datehour >= '{TODAY:%Y/%m/%d/00}' AND quantity = 1"
    assert gadgets.execute(of_today).fetchall() == [("2",)]
    assert gadgets.refresh().objects == 1
    assert gadgets.execute("SELECT COUNT(*) FROM sales_data_table").fetchall() == [(2,)]
    assert gadgets.execute(of_today).fetchall() == [("2",)]
    assert gadgets.refresh().objects == 2


def test_a_condition_on_hours_lists_these_hours_only(
    aws: AwsAccount, gadgets: GlueDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hours in range(30):
        put(aws, f"{hour(TODAY - timedelta(hours=hours))}a", change(str(hours), hours))
    listed: list[str] = []
    paginate = PageIterator.__iter__

    def noted(self: PageIterator) -> Any:
        listed.append(self._op_kwargs.get("Prefix", ""))
        return paginate(self)

    monkeypatch.setattr(PageIterator, "__iter__", noted)
    now, before = hour().rstrip("/"), hour(TODAY - timedelta(hours=1)).rstrip("/")
    two_hours = f"datehour BETWEEN '{before}' AND '{now}'"  # the clock may be in a later one already
    found = gadgets.execute(f"SELECT orderid FROM sales_data_table WHERE {two_hours} ORDER BY 1").fetchall()
    assert found == [("0",), ("1",)]
    assert [prefix for prefix in listed if prefix] == [f"{before}/", f"{now}/"]
    listed.clear()
    monkeypatch.setattr(layout, "_MOST_LISTINGS", 3)
    found = gadgets.execute("SELECT COUNT(*) FROM sales_data_table WHERE datehour LIKE '2%'").fetchall()
    assert found == [(30,)]
    assert 1 <= len([prefix for prefix in listed if prefix]) <= 3


def test_a_malformed_line_is_a_row_of_nulls_that_is_told_of(
    aws: AwsAccount, gadgets: GlueDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    put(aws, f"{hour()}a", change("1", 1), b'{"orderid": "2", "quan', change("3", 3, quantity="a secret"))
    with caplog.at_level(logging.WARNING):
        assert gadgets.execute("SELECT orderid, quantity FROM sales_data_table ORDER BY 1").fetchall() == [
            ("1", 1),
            ("3", None),
            (None, None),
        ]
    assert gadgets.unfit() == {f"{DATABASE}.sales_data_table": {"": 1, "quantity": 1}}
    assert "1 malformed lines" in caplog.text
    assert "secret" not in caplog.text
    assert gadgets.execute("SELECT orderid FROM gadget_sales ORDER BY 1").fetchall() == [("1",), ("3",)]


def test_what_a_table_lacks_is_said_before_anything_is_read(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    with pytest.raises(SourceRefused, match=r"no table gadgets_sales_db\.sales\. In gadgets_sales_db are:"):
        gadgets.execute("SELECT * FROM sales")
    with pytest.raises(SourceRefused, match="no database elsewhere"):
        gadgets.execute("SELECT * FROM elsewhere.sales")
    with pytest.raises(ConfigError, match="only be read"):
        gadgets.execute("DROP TABLE sales_data_table")
    with pytest.raises(ConfigError, match="not Athena's SQL"):
        gadgets.execute("SELECT FROM WHERE")
    with pytest.raises(ConfigError, match="query failed"):
        gadgets.execute("SELECT no_such_column FROM sales_data_table")


def test_the_connection_reads_nothing_but_what_was_kept(aws: AwsAccount, gadgets: GlueDatabase, tmp_path: Path) -> None:
    (tmp_path / "outside.csv").write_text("a\n1\n")
    with pytest.raises(ConfigError):
        gadgets.execute(f"SELECT * FROM read_csv('{tmp_path}/outside.csv')").fetchall()
    with pytest.raises(Exception, match=r"(?i)permission|locked|disabled"):
        gadgets.connection.execute(f"SELECT * FROM read_csv('{tmp_path}/outside.csv')").fetchall()


def test_the_place_of_a_row_can_be_asked_for(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    put(aws, f"{hour()}a", change("1", 1))
    assert gadgets.execute('SELECT "$path" FROM sales_data_table').fetchall() == [(f"s3://{bucket(aws)}/{hour()}a",)]
    assert "$path" not in [column[0] for column in gadgets.execute("SELECT * FROM sales_data_table").description or ()]


def test_parquet_objects_are_read_by_the_table_s_types(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    content = io.BytesIO()
    pq.write_table(pa.table({"ID": pa.array([1, 2], pa.int64()), "price": pa.array([Decimal("1.50"), None])}), content)
    aws.client("s3").put_object(Bucket=bucket(aws), Key="parquet/a.parquet", Body=content.getvalue())
    aws.client("glue").create_table(
        DatabaseName=DATABASE,
        TableInput={
            "Name": "columnar",
            "StorageDescriptor": {
                "Columns": [
                    {"Name": "id", "Type": "int"},
                    {"Name": "price", "Type": "decimal(10,2)"},
                    {"Name": "later", "Type": "string"},
                ],
                "Location": f"s3://{bucket(aws)}/parquet",
                "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"},
            },
        },
    )
    assert gadgets.execute("SELECT * FROM columnar ORDER BY id").fetchall() == [
        (1, Decimal("1.50"), None),
        (2, None, None),
    ]


def test_every_type_of_dynamodb_comes_from_the_handler_into_a_column(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    exact = "12345678901234567890.123456789"
    image = {
        "orderid": {"S": "7421"},
        "product_name": {"S": "Laptop"},
        "quantity": {"N": "3"},
        "price": {"N": "429.99"},
        "order_timestamp": {"S": "2026-11-21T10:00:00.123Z"},
        "exact": {"N": exact},
        "secret": {"B": base64.b64encode(b"\x00hi").decode()},
        "gift": {"BOOL": True},
        "nothing": {"NULL": True},
        "address": {"M": {"city": {"S": "Pune"}, "floors": {"L": [{"N": "1"}, {"N": "2"}]}}},
        "tags": {"SS": ["a", "b"]},
        "sizes": {"NS": ["1", "2.5"]},
    }
    record = {
        "eventID": "e1",
        "eventName": "INSERT",
        "eventSourceARN": f"arn:aws:dynamodb:us-east-1:1:table/OrderTable/stream/{LABEL}",
        "dynamodb": {
            "ApproximateCreationDateTime": 1795255200.0,
            "Keys": {"orderid": {"S": "7421"}},
            "NewImage": image,
            "SequenceNumber": "111100000000000000000001",
        },
    }
    data = base64.b64encode(json.dumps(record).encode()).decode()
    event = {"invocationId": "i", "records": [{"recordId": "r", "data": data}]}
    (answer,) = firehose_transform.handler(event, None)["records"]
    assert answer["result"] == "Ok"
    aws.client("s3").put_object(Bucket=bucket(aws), Key=f"{hour()}a", Body=base64.b64decode(answer["data"]))
    sync(Target(DATABASE, "sales_data_table", f"s3://{bucket(aws)}/"))
    gadgets.refresh()
    found = gadgets.execute(
        "SELECT price, order_timestamp, exact, secret, gift, address.city, address.floors[2], tags, sizes, "
        "_types['/secret'] AS kind FROM sales_data_table"
    ).fetchall()
    assert found == [
        (
            Decimal("429.99"),
            datetime(2026, 11, 21, 10, 0, 0, 123000),
            Decimal(exact),
            base64.b64encode(b"\x00hi").decode(),
            True,
            "Pune",
            2,
            ["a", "b"],
            [Decimal("1.0"), Decimal("2.5")],
            "B",
        )
    ]
    assert gadgets.execute("SELECT date FROM gadget_sales").fetchall() == [(date(2026, 11, 21),)]


def test_what_nobody_asks_for_any_more_is_forgotten(aws: AwsAccount, gadgets: GlueDatabase) -> None:
    put(aws, f"{hour()}a", change("1", 1))
    gadgets.execute("SELECT 1 FROM sales_data_table")
    (used,) = gadgets.cache.iterdir()
    old = gadgets.cache / "old"
    old.mkdir()
    os.utime(old, (0, 0))
    with catchment.glue.connect(DATABASE, cache=gadgets.cache) as another:
        another.execute("SELECT 1 FROM sales_data_table")
    assert list(gadgets.cache.iterdir()) == [used]
