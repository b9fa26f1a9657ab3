"""From DynamoDB straight into S3: the same clean records that the serverless pipeline delivers."""

from __future__ import annotations

import re
import signal
import uuid
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aws.account import AwsAccount
from aws.orders import TABLE, latest_orders, make_table, remove, scanned, set_stream, write
from aws.places import bucket_of, make_bucket, objects
from catchment.formats.clean_record import RecordCleaner
from catchment.formats.dynamodb_json import parse_json
from catchment.formats.stream_record import event_of, parse_record
from catchment.glue import connect
from catchment.glue.gadgets import DATABASE, ensure_gadgets
from e2e.cli import run_command

PIPELINE = """\
name: gadgets
source:
  type: dynamodb
  tables: [OrderTable]
  snapshot: never
  columns: {{OrderTable: {{order_timestamp: timestamp}}}}
lakehouse:
  catalog: {{type: sql, uri: "sqlite:///lake/catalog.db", warehouse: "lake/warehouse"}}
sinks:
  - {{type: files, path: "s3://{bucket}/{prefix}", flush_interval_seconds: 0.2, {options}}}
"""
OPTIONS = "naming: firehose, stream_name: gadget-sales-delivery, envelope: row, compression: gzip"
NAME = re.compile(
    r"2[0-9]{3}/[0-9]{2}/[0-9]{2}/[0-9]{2}/gadget-sales-delivery-1-(2[0-9]{3}(-[0-9]{2}){5})-(.*)\.ndjson\.gz"
)


def write_pipeline(directory: Path, bucket: str, options: str = OPTIONS) -> Path:
    path = directory / "pipeline.yaml"
    path.write_text(PIPELINE.format(bucket=bucket, prefix="direct", options=options))
    return path


def catch_up(pipeline: Path, code: int = 0, **environ: str) -> None:
    done = run_command("run", pipeline, "--until-caught-up", **environ)
    assert done.code == code, done.err


def clean_records(aws: AwsAccount) -> list[dict[str, Any]]:
    """What the Lambda function makes of everything in the table's streams."""
    streams, cleaner, found = aws.client("dynamodbstreams"), RecordCleaner(), []
    for stream in streams.list_streams(TableName=TABLE)["Streams"]:
        arn = stream["StreamArn"]
        for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
            iterator = streams.get_shard_iterator(
                StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            for record in streams.get_records(ShardIterator=iterator)["Records"]:
                line = cleaner.of_change(parse_record(event_of(record, arn, aws.region)), None).line
                found.append(parse_json(line.decode()))
    return found


def delivered(aws: AwsAccount) -> dict[str, bytes]:
    return {key: body for key, body in objects(aws, "direct/").items() if "_catchment" not in key}


def comparable(records: list[dict[str, Any]]) -> Counter[str]:
    """Absent and null are the same to SQL, and so is what is noted beside."""
    return Counter(
        repr(sorted((k, str(v)) for k, v in one.items() if v is not None and k != "_unrepresentable"))
        for one in records
    )


@pytest.fixture
def journey(aws: AwsAccount, tmp_path: Path) -> Path:
    make_table(aws)
    pipeline = write_pipeline(tmp_path, make_bucket(aws))
    catch_up(pipeline)  # `snapshot: never` begins with what comes from now on
    return pipeline


def test_a_direct_pipeline_delivers_the_clean_records_of_the_serverless_one(aws: AwsAccount, journey: Path) -> None:
    write(aws, "1", price={"N": "429.99"}, order_timestamp={"S": "2026-11-21T23:17:18.123Z"}, status={"S": 'a "b"'})
    write(aws, "1", price={"N": "1000"}, order_timestamp={"S": "2026-11-21T23:17:18.123Z"}, gift={"BOOL": True})
    write(aws, "2", photo={"B": b"\x00\x01"}, tags={"SS": ["a", "b"]}, note={"NULL": True}, big={"N": "1E+20"})
    write(aws, "3", box={"M": {"width": {"N": "1.50"}, "of": {"L": [{"S": "é"}]}}}, event_type={"S": "mine"})
    remove(aws, "1")
    catch_up(journey)
    found = [parse_json(line.decode()) for body in delivered(aws).values() for line in body.splitlines()]
    assert comparable(found) == comparable(clean_records(aws))
    assert latest_orders(delivered(aws)).keys() == scanned(aws).keys() == {"2", "3"}


def test_the_same_tables_read_what_a_direct_pipeline_delivers(aws: AwsAccount, journey: Path, tmp_path: Path) -> None:
    ensure_gadgets(f"s3://{bucket_of(aws)}/direct/")
    for number in ("1", "2", "3"):
        write(aws, number, price={"N": "429.99"}, order_timestamp={"S": "2026-11-21T23:17:18.123Z"})
    write(aws, "1", price={"N": "10.99"}, quantity={"N": "9"}, order_timestamp={"S": "2026-11-22T00:00:00.001Z"})
    remove(aws, "2")
    catch_up(journey)
    with connect(DATABASE, cache=tmp_path / "cache") as lake:
        assert lake.execute("SELECT count(*), count(DISTINCT event_id) FROM sales_data_table").fetchall() == [(5, 5)]
        found = lake.execute("SELECT orderid, quantity, price, order_timestamp, date FROM gadget_sales ORDER BY 1")
        assert found.fetchall() == [
            ("1", 9, Decimal("10.99"), datetime(2026, 11, 22, 0, 0, 0, 1000), date(2026, 11, 22)),
            ("3", 3, Decimal("429.99"), datetime(2026, 11, 21, 23, 17, 18, 123000), date(2026, 11, 21)),
        ]


def test_objects_are_called_as_firehose_calls_them(aws: AwsAccount, journey: Path) -> None:
    write(aws, "1")
    catch_up(journey)
    (key,) = delivered(aws)
    found = NAME.fullmatch(key.removeprefix("direct/"))
    assert found is not None, key
    assert uuid.UUID(found[3]).version == 5
    answer = aws.client("s3").get_object(Bucket=bucket_of(aws), Key=key)
    assert answer["ContentEncoding"] == "gzip"


@pytest.mark.parametrize(
    "failpoint",
    ["before_commit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("data_file_written", "after_commit"))],
)
def test_killed_and_run_again_every_change_is_listed_once(aws: AwsAccount, journey: Path, failpoint: str) -> None:
    for number in range(20):
        write(aws, str(number % 5), quantity={"N": str(number)})
    catch_up(journey, -signal.SIGKILL, CATCHMENT_FAILPOINT=failpoint)
    write(aws, "after")
    catch_up(journey)
    found = [parse_json(line.decode()) for body in delivered(aws).values() for line in body.splitlines()]
    assert Counter(one["event_id"] for one in found) == Counter(one["event_id"] for one in clean_records(aws))


def test_a_stream_that_was_disabled_and_enabled_again_has_a_later_label(aws: AwsAccount, journey: Path) -> None:
    journey.write_text(journey.read_text().replace("snapshot: never", "snapshot: initial"))
    catch_up(journey)
    write(aws, "1", quantity={"N": "1"})
    catch_up(journey)
    assert _latest_quantity(aws) == "1"
    set_stream(aws, enabled=False)
    write(aws, "1", quantity={"N": "2"})  # in no stream: a scan finds it
    set_stream(aws, enabled=True)
    catch_up(journey)
    assert _latest_quantity(aws) == "2"
    write(aws, "1", quantity={"N": "3"})
    catch_up(journey)
    assert _latest_quantity(aws) == "3"


def _latest_quantity(aws: AwsAccount) -> str:
    found = [parse_json(line.decode()) for body in delivered(aws).values() for line in body.splitlines()]
    latest = max(found, key=lambda one: (one["stream_label"] or "", int(one["sequence_number"] or 0)))
    return str(latest["quantity"])


def test_flat_rows_are_parquet_too(aws: AwsAccount, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    make_table(aws)
    pipeline = write_pipeline(tmp_path, make_bucket(aws), "format: parquet, envelope: row, naming: hive")
    catch_up(pipeline)
    write(aws, "1", order_timestamp={"S": "2026-11-21T23:17:18.123Z"}, event_type={"S": "mine"})
    catch_up(pipeline)
    ((key, body),) = delivered(aws).items()
    assert re.fullmatch(r"direct/dynamodb\.OrderTable/year=\d+/month=\d+/day=\d+/hour=\d+/\d{12}-0001\.parquet", key)
    (row,) = pq.read_table(pa.BufferReader(body)).to_pylist()
    assert (row["event_type"], row["order_date"]) == ("INSERT", "2026-11-21")
    assert row["_attributes"] == {"event_type": "mine"}
