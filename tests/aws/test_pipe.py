"""The pipe, from the stand-in's DynamoDB streams to its Kinesis."""

from __future__ import annotations

import json
import threading
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from aws.account import AwsAccount
from aws.orders import TABLE, latest_orders, make_table, remove, scanned, set_stream, write
from aws.places import STREAM, bucket_of, make_bucket, make_stream, objects, running
from catchment.aws.local.change_event import KeyPath
from catchment.aws.local.counters import RunnerSnapshot
from catchment.aws.local.delivery_stream import DeliveryStreamConfig
from catchment.aws.local.firehose import Firehose
from catchment.aws.local.ordered_put import Entry, _next_call, partition_key
from catchment.aws.local.pipe import Pipe
from catchment.aws.local.reconciliation import Reconciliation
from catchment.errors import ConfigError, PositionLost, SourceRefused
from waiting import wait_for


@pytest.fixture
def journey(aws: AwsAccount) -> AwsAccount:
    """A table with its stream, and a Kinesis stream."""
    make_table(aws)
    make_stream(aws)
    return aws


def carry(state: Path, **options: Any) -> RunnerSnapshot:
    pipe = Pipe(TABLE, STREAM, state, look_seconds=0.1, **options)
    return pipe.run(threading.Event(), idle_seconds=0.1)


def records(aws: AwsAccount) -> list[dict[str, Any]]:
    """All records of the stream, shard by shard, in order."""
    kinesis, found = aws.client("kinesis"), []
    for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName=STREAM, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            answer = kinesis.get_records(ShardIterator=iterator)
            found += answer["Records"]
            if not answer["Records"]:
                break
            iterator = answer["NextShardIterator"]
    return found


def test_every_change_comes_in_the_form_that_lambda_and_pipes_give(journey: AwsAccount, tmp_path: Path) -> None:
    write(journey, "1", photo={"B": b"\x00\x01"}, tags={"SS": ["a", "b"]})
    write(journey, "1", quantity={"N": "7"})
    remove(journey, "1")
    done = carry(tmp_path)
    events = [json.loads(one["Data"]) for one in records(journey)]
    assert [one["eventName"] for one in events] == ["INSERT", "MODIFY", "REMOVE"]
    assert {one["PartitionKey"] for one in records(journey)} == {"1"}
    first = events[0]
    assert first["dynamodb"]["NewImage"]["photo"] == {"B": "AAE="}
    assert first["eventSourceARN"] == latest_arn(journey)
    assert first["awsRegion"] == journey.region
    assert first["dynamodb"]["StreamViewType"] == "NEW_AND_OLD_IMAGES"
    assert events[1]["dynamodb"]["OldImage"]["tags"] == {"SS": ["a", "b"]}
    assert (done.read, done.put, done.failed) == (3, 3, 0)


def test_the_next_run_goes_on_after_the_last(journey: AwsAccount, tmp_path: Path) -> None:
    for number in range(20):
        write(journey, str(number % 5), quantity={"N": str(number)})
    carry(tmp_path)
    for number in range(20, 25):
        write(journey, str(number % 5), quantity={"N": str(number)})
    assert carry(tmp_path).read == 5
    quantities: dict[str, list[int]] = {}
    for one in records(journey):
        change = json.loads(one["Data"])["dynamodb"]
        quantities.setdefault(one["PartitionKey"], []).append(int(change["NewImage"]["quantity"]["N"]))
    assert quantities == {str(key): list(range(key, 25, 5)) for key in range(5)}


def test_what_is_too_large_goes_without_its_old_image_or_is_a_dead_letter(journey: AwsAccount, tmp_path: Path) -> None:
    for letter in "\x01\x02":  # one byte in DynamoDB, six in JSON
        write(journey, "1", note={"S": letter * 100_000})
    write(journey, "2", note={"S": "\x01" * 300_000})
    write(journey, "3")
    done = carry(tmp_path)
    changes = [json.loads(one["Data"])["dynamodb"] for one in records(journey)]
    changes.sort(key=lambda one: int(one["SequenceNumber"]))
    assert [one["Keys"]["orderid"]["S"] for one in changes] == ["1", "1", "3"]
    assert changes[1]["NewImage"]["note"] == {"S": "\x02" * 100_000}
    assert "OldImage" not in changes[1]
    assert (done.put, done.failed) == (3, 1)
    (letter_2,) = (tmp_path / f"pipe-{TABLE}.dead-letters.ndjson").read_text().splitlines()
    assert json.loads(letter_2)["stream"] == latest_arn(journey)
    assert "larger than the 1 MiB" in letter_2


def test_a_stream_that_was_enabled_again_is_followed_and_the_gap_is_reconciled(
    journey: AwsAccount, tmp_path: Path
) -> None:
    make_bucket(journey)
    reconciliation = Reconciliation(TABLE, STREAM, bucket_of(journey), "sales/")
    pipe = Pipe(TABLE, STREAM, tmp_path, look_seconds=0.2, reconcile=reconciliation)
    with running(pipe), running(delivery(journey, tmp_path)):
        for key in ("kept", "changed", "removed", "removed later"):
            write(journey, key)
        wait_for(lambda: pipe.snapshot().put == 4, "four changes are in Kinesis")
        set_stream(journey, enabled=False)
        write(journey, "changed", quantity={"N": "9"})
        write(journey, "new")
        remove(journey, "removed")
        set_stream(journey, enabled=True)
        write(journey, "after")
        remove(journey, "removed later")
        wait_for(lambda: "reconciled" in pipe.snapshot().note, "the pipe has gone over")
        wait_for(lambda: latest_orders(objects(journey, "sales/")) == scanned(journey), "the lake is the table")
    corrections = [one for one in (json.loads(one["Data"]) for one in records(journey)) if one.get("userIdentity")]
    assert {one["dynamodb"]["SequenceNumber"] for one in corrections} == {"0"}
    assert {one["eventSourceARN"] for one in corrections} == {latest_arn(journey)}
    kinds = {one["dynamodb"]["Keys"]["orderid"]["S"]: one["eventName"] for one in corrections}
    assert kinds.items() >= {"changed": "MODIFY", "new": "INSERT", "removed": "REMOVE"}.items()
    again = reconciliation(threading.Event())
    assert (again.inserted, again.modified, again.removed) == (0, 0, 0)


def test_changes_that_were_lost_under_the_same_label_are_found(journey: AwsAccount, tmp_path: Path) -> None:
    """As after 24 hours without a pipe: what was trimmed is in no stream, but the lake has the label's records."""
    make_bucket(journey)
    for key in ("kept", "changed", "removed"):
        write(journey, key)
    carry(tmp_path)
    write(journey, "changed", quantity={"N": "8"})
    remove(journey, "removed")
    write(journey, "new")
    reconciliation = Reconciliation(TABLE, STREAM, bucket_of(journey), "sales/")
    found = reconciliation(threading.Event())
    assert (found.items, found.known, found.inserted, found.modified, found.removed) == (3, 3, 1, 1, 1)
    assert delivery(journey, tmp_path).run(threading.Event(), idle_seconds=0.1).failed == 0
    assert latest_orders(objects(journey, "sales/")) == scanned(journey)
    # What came late after all wins, whichever was put first.
    assert carry(tmp_path).put == 3
    write(journey, "changed", quantity={"N": "9"})
    carry(tmp_path)
    delivery(journey, tmp_path).run(threading.Event(), idle_seconds=0.1)
    assert latest_orders(objects(journey, "sales/")) == scanned(journey)


def test_without_reconciliation_the_pipe_says_what_is_missing(journey: AwsAccount, tmp_path: Path) -> None:
    write(journey, "1")
    carry(tmp_path)
    set_stream(journey, enabled=False)
    set_stream(journey, enabled=True)
    write(journey, "2")
    done = carry(tmp_path)
    assert done.read == 1
    assert "catchment aws reconcile" in done.note


@pytest.mark.parametrize("what", ["stream", "shard"])
def test_what_was_trimmed_is_reconciled_or_the_pipe_ends_and_says_so(
    what: str, journey: AwsAccount, tmp_path: Path
) -> None:
    """A pipe that was away for more than a day finds its stream gone, or its shard."""
    bucket = make_bucket(journey)
    write(journey, "1")
    carry(tmp_path)
    checkpoint = tmp_path / f"pipe-{TABLE}.json"
    saved = json.loads(checkpoint.read_text())
    if what == "stream":
        saved["stream_arn"] = saved["stream_arn"].rpartition("/")[0] + "/2020-01-01T00:00:00.000"
    else:
        saved["places"] = {"shardId-00000000000000000000-aaaaaaaa": "100"}
    checkpoint.write_text(json.dumps(saved))
    if what == "shard":
        with pytest.raises(PositionLost, match="catchment aws reconcile"):
            carry(tmp_path)
    write(journey, "2")
    done = carry(tmp_path, reconcile=Reconciliation(TABLE, STREAM, bucket, "sales/"))
    assert "reconciled: 2 items compared; corrections: 1 inserted" in done.note
    delivery(journey, tmp_path).run(threading.Event(), idle_seconds=0.1)
    assert latest_orders(objects(journey, "sales/")) == scanned(journey)


def test_a_table_without_a_stream_is_refused_with_what_mends_it(aws: AwsAccount, tmp_path: Path) -> None:
    make_stream(aws)
    make_table(aws, stream=False)
    with pytest.raises(SourceRefused, match="aws dynamodb update-table --table-name OrderTable"):
        carry(tmp_path)
    with pytest.raises(ConfigError, match="no DynamoDB table Other"):
        Pipe("Other", STREAM, tmp_path)


def test_a_stream_that_is_not_there_is_said_at_once(aws: AwsAccount, tmp_path: Path) -> None:
    make_table(aws)
    with pytest.raises(ConfigError, match="no Kinesis stream gadget-sales-stream"):
        carry(tmp_path)


@pytest.mark.parametrize("path", ["dynamodb.Keys", "$", "$..x", "$." + "a" * 300])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        KeyPath(path)


def test_a_call_has_one_record_of_a_key() -> None:
    entries = deque(Entry(key, str(number).encode()) for number, key in enumerate("aabacb"))
    calls = []
    while entries:
        call, entries = _next_call(entries)
        calls.append([(one.key, int(one.data)) for one in call])
    assert calls == [[("a", 0), ("b", 2), ("c", 4)], [("a", 1), ("b", 5)], [("a", 3)]]


def test_a_call_is_not_larger_than_kinesis_takes() -> None:
    entries = deque(Entry(str(number), bytes(1_000_000)) for number in range(12))
    sizes = []
    while entries:
        call, entries = _next_call(entries)
        sizes.append([int(one.key) for one in call])
    assert sizes == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_a_long_key_has_a_partition_key_of_its_own() -> None:
    keys = {partition_key(text) for text in ("", "x", "x" * 256, "x" * 257, "x" * 258)}
    assert len(keys) == 5
    assert all(0 < len(key) <= 256 for key in keys)


def latest_arn(aws: AwsAccount) -> str:
    return str(aws.client("dynamodb").describe_table(TableName=TABLE)["Table"]["LatestStreamArn"])


def delivery(aws: AwsAccount, state: Path) -> Firehose:
    config = DeliveryStreamConfig(
        name="gadget-sales-delivery",
        bucket=bucket_of(aws),
        stream=STREAM,
        prefix="sales/",
        error_prefix="errors/",
        buffer_seconds=0.2,
        function="catchment.aws.firehose_transform:handler",
    )
    return Firehose(config, state)
