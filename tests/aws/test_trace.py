"""A change followed by its event id through everything that the stand-in and the runners have."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from aws.account import AwsAccount
from aws.orders import TABLE, make_table, remove, write
from aws.places import STREAM, bucket_of, make_bucket, make_stream, objects
from catchment.aws.journey import Journey
from catchment.aws.local.delivery_stream import DeliveryStreamConfig
from catchment.aws.local.firehose import Firehose
from catchment.aws.local.pipe import Pipe
from catchment.aws.trace import Trace
from catchment.cli.journey_screen import journey_lines
from catchment.errors import ConfigError
from catchment.formats.dynamodb_json import parse_json
from catchment.glue.gadgets import DATABASE, ensure_gadgets
from e2e.cli import run_command


@pytest.fixture
def journey(aws: AwsAccount) -> AwsAccount:
    make_table(aws)
    make_stream(aws)
    make_bucket(aws)
    ensure_gadgets(f"s3://{bucket_of(aws)}/")
    return aws


def carry(state: Path) -> None:
    Pipe(TABLE, STREAM, state, look_seconds=0.3).run(threading.Event(), idle_seconds=0.6)


def deliver(aws: AwsAccount, state: Path) -> None:
    config = DeliveryStreamConfig.checked(
        {
            "name": "gadget-sales-delivery",
            "bucket": bucket_of(aws),
            "stream": STREAM,
            "error_prefix": "errors/!{firehose:error-output-type}/",
            "function": "catchment.aws.firehose_transform:handler",
            "buffer_seconds": 0.2,
            "compression": "GZIP",
        },
        "test",
    )
    Firehose(config, state).run(threading.Event(), idle_seconds=0.6)


def follow(aws: AwsAccount, event_id: str) -> Journey:
    return Trace(TABLE, STREAM, bucket_of(aws), database=DATABASE)(event_id)


def delivered(aws: AwsAccount) -> list[dict[str, Any]]:
    lines = [line for key, body in objects(aws).items() if not key.startswith("errors/") for line in body.splitlines()]
    return sorted((parse_json(line.decode()) for line in lines), key=lambda one: int(one["sequence_number"]))


def stages(journey: Journey) -> dict[str, int]:
    return {stage.name: len(stage.found) for stage in journey.stages}


def test_a_change_is_followed_from_the_stream_to_sql(journey: AwsAccount, tmp_path: Path) -> None:
    write(journey, "7421", quantity={"N": "3"})
    write(journey, "7421", quantity={"N": "4"})
    carry(tmp_path)
    deliver(journey, tmp_path)
    first, second = (one["event_id"] for one in delivered(journey))
    found = follow(journey, second)
    assert stages(found) == {"DynamoDB": 1, "Kinesis": 1, "S3": 1, "errors": 0, "SQL": 1}
    assert found.waits().keys() == {"Kinesis", "S3"}
    assert all(-1.1 <= wait < 60 for wait in found.waits().values())
    in_s3 = found.stages[2].found[0]
    line = objects(journey)[in_s3.where.removeprefix(f"s3://{bucket_of(journey)}/")].splitlines()
    assert parse_json(line[int(in_s3.details["line"]) - 1].decode())["event_id"] == second
    assert found.stages[4].found[0].details == {
        "rows": 1,
        "event_type": "MODIFY",
        "latest": True,
        "in_gadget_sales": True,
    }
    superseded = follow(journey, first).stages[4].found[0].details
    assert (superseded["latest"], superseded["superseded_by"]) == (False, second)
    assert "7421" not in "".join(journey_lines(found)), "no value of an item is shown"


def test_a_removal_is_the_latest_and_not_shown(journey: AwsAccount, tmp_path: Path) -> None:
    write(journey, "1")
    remove(journey, "1")
    carry(tmp_path)
    deliver(journey, tmp_path)
    (last,) = [one["event_id"] for one in delivered(journey) if one["event_type"] == "REMOVE"]
    details = follow(journey, last).stages[4].found[0].details
    assert (details["event_type"], details["latest"], details["in_gadget_sales"]) == ("REMOVE", True, False)


def test_what_is_on_its_way_says_where_it_is_not_yet(journey: AwsAccount, tmp_path: Path) -> None:
    write(journey, "1")
    carry(tmp_path)
    (entry,) = [
        parse_json(bytes(record["Data"]).decode())
        for shard in journey.client("kinesis").list_shards(StreamName=STREAM)["Shards"]
        for record in journey.client("kinesis").get_records(
            ShardIterator=journey.client("kinesis").get_shard_iterator(
                StreamName=STREAM, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
        )["Records"]
    ]
    found = follow(journey, entry["eventID"])
    assert stages(found) == {"DynamoDB": 1, "Kinesis": 1, "S3": 0, "errors": 0, "SQL": 0}
    text = "\n".join(journey_lines(found))
    assert "not found: It may be in a buffer still" in text
    assert "nothing: No failure of it lies there." in text


def test_a_record_that_came_twice_and_one_that_failed_are_told(journey: AwsAccount, tmp_path: Path) -> None:
    write(journey, "1")
    carry(tmp_path / "one")
    carry(tmp_path / "two")  # a pipe that has lost its state
    broken = b'{"eventID":"broken-1","eventName":"INSERT","dynamodb":{"Keys":{}}}'
    journey.client("kinesis").put_record(StreamName=STREAM, Data=broken, PartitionKey="x")
    deliver(journey, tmp_path / "firehose")
    event_id = delivered(journey)[0]["event_id"]
    found = follow(journey, event_id)
    assert stages(found) == {"DynamoDB": 1, "Kinesis": 2, "S3": 2, "errors": 0, "SQL": 1}
    assert "2 times: delivery is at least once" in "\n".join(journey_lines(found))
    failed = follow(journey, "broken-1")
    assert stages(failed) == {"DynamoDB": 0, "Kinesis": 1, "S3": 0, "errors": 1, "SQL": 0}
    assert failed.stages[3].found[0].details["code"] == "Lambda.ProcessingFailedStatus"


def test_the_command_says_it_as_text_and_as_json(journey: AwsAccount, tmp_path: Path) -> None:
    write(journey, "1")
    carry(tmp_path)
    deliver(journey, tmp_path)
    event_id = delivered(journey)[0]["event_id"]
    places = ("--table", TABLE, "--stream", STREAM, "--bucket", bucket_of(journey), "--database", DATABASE)
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = run_command("aws", "trace", event_id, *places, **cache)
    assert done.code == 0, done.err
    assert done.out.startswith(f"Event {event_id}\n")
    assert "latest yes" in done.out
    told = run_command("aws", "trace", event_id, *places, "--json", **cache).json
    assert [stage["stage"] for stage in told["stages"]] == ["DynamoDB", "Kinesis", "S3", "errors", "SQL"]
    nowhere = run_command("aws", "trace", "no-such-event", *places, **cache)
    assert nowhere.code == 1
    assert nowhere.out.count("not found:") == 4


def test_places_that_are_not_there_are_said_in_one_sentence(aws: AwsAccount) -> None:
    for options, what in (
        ((), "Say which event to follow"),
        (("--stream", "none"), "There is no Kinesis stream none"),
        (("--bucket", "no-such-bucket-at-all"), "There is no bucket no-such-bucket-at-all"),
    ):
        done = run_command("aws", "trace", "x", *options)
        assert done.code != 0
        assert what in done.err
    with pytest.raises(ConfigError):
        Trace()("x")
