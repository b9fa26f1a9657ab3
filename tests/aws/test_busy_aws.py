"""The faults that tests put before the stand-in: each does what it says, and the rest goes through."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from aws.account import AwsAccount
from aws.busy_aws import BusyAws
from catchment.demo.gadget_choices import OrderChange
from catchment.demo.gadget_orders import GadgetOrders
from e2e.cli import run_command
from waiting import wait_for

ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"})


def client(name: str) -> Any:
    """As a product has it: by the environment alone, but without boto3's own repetitions."""
    return boto3.client(name, config=ONCE)


def stream(account: AwsAccount) -> None:
    kinesis = account.client("kinesis")
    kinesis.create_stream(StreamName="sales", ShardCount=1)
    kinesis.get_waiter("stream_exists").wait(StreamName="sales", WaiterConfig={"Delay": 1})


def data_in(account: AwsAccount) -> list[bytes]:
    kinesis = account.client("kinesis")
    (shard,) = kinesis.list_shards(StreamName="sales")["Shards"]
    iterator = kinesis.get_shard_iterator(
        StreamName="sales", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    return [record["Data"] for record in kinesis.get_records(ShardIterator=iterator)["Records"]]


def entries(count: int) -> list[dict[str, Any]]:
    return [{"Data": b"%d" % number, "PartitionKey": "1"} for number in range(count)]


@pytest.mark.parametrize("server", ["aws", "kinesis_local"])
def test_refused_entries_are_told_apart_and_never_arrive(request: pytest.FixtureRequest, server: str) -> None:
    account: AwsAccount = request.getfixturevalue(server)
    busy_aws: BusyAws = request.getfixturevalue("busy_aws")
    stream(account)
    busy_aws.refuse_parts("PutRecords", share=0.5, times=1)
    answer = client("kinesis").put_records(StreamName="sales", Records=entries(100))
    failed = [number for number, one in enumerate(answer["Records"]) if "ErrorCode" in one]
    assert 20 < len(failed) == answer["FailedRecordCount"] < 80
    assert busy_aws.happened["PutRecords", "parts"] == len(failed)
    assert [int(data) for data in data_in(account)] == [number for number in range(100) if number not in failed]
    assert client("kinesis").put_records(StreamName="sales", Records=entries(5))["FailedRecordCount"] == 0


def test_a_throttled_call_does_nothing(aws: AwsAccount, busy_aws: BusyAws) -> None:
    stream(aws)
    busy_aws.fail("Kinesis.PutRecord", times=1)
    with pytest.raises(ClientError, match="ProvisionedThroughputExceededException"):
        client("kinesis").put_record(StreamName="sales", Data=b"x", PartitionKey="1")
    assert data_in(aws) == []
    client("kinesis").put_record(StreamName="sales", Data=b"x", PartitionKey="1")
    assert data_in(aws) == [b"x"]
    assert busy_aws.calls["PutRecord"] == 2


def test_a_lost_answer_is_one_to_a_request_that_was_carried_out(aws: AwsAccount, busy_aws: BusyAws) -> None:
    aws.client("s3").create_bucket(Bucket="sales")
    busy_aws.lose_answers("PutObject", times=1)
    with pytest.raises(ConnectionClosedError):
        client("s3").put_object(Bucket="sales", Key="intent", Body=b"mine", IfNoneMatch="*")
    assert aws.client("s3").get_object(Bucket="sales", Key="intent")["Body"].read() == b"mine"
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client("s3").put_object(Bucket="sales", Key="intent", Body=b"mine", IfNoneMatch="*")


def test_a_call_that_is_hung_up_on_is_not_carried_out(aws: AwsAccount, busy_aws: BusyAws) -> None:
    stream(aws)
    busy_aws.hang_up("PutRecord", times=1)
    with pytest.raises(ConnectionClosedError):
        client("kinesis").put_record(StreamName="sales", Data=b"x", PartitionKey="1")
    assert data_in(aws) == []


def test_objects_of_all_sizes_go_through_as_they_are(aws: AwsAccount, busy_aws: BusyAws) -> None:
    s3 = client("s3")
    s3.create_bucket(Bucket="sales")
    body = bytes(range(256)) * 4096
    s3.put_object(Bucket="sales", Key="a b/ü", Body=body, ContentEncoding="gzip")
    s3.put_object(Bucket="sales", Key="empty", Body=b"")
    got = s3.get_object(Bucket="sales", Key="a b/ü")
    assert got["Body"].read() == body
    assert got["ContentEncoding"] == "gzip"
    assert s3.head_object(Bucket="sales", Key="a b/ü")["ContentLength"] == len(body)
    assert s3.get_object(Bucket="sales", Key="empty")["Body"].read() == b""
    listed = s3.list_objects_v2(Bucket="sales")
    assert [one["Key"] for one in listed["Contents"]] == ["a b/ü", "empty"]
    s3.delete_object(Bucket="sales", Key="empty")
    busy_aws.fail("GetObject", "SlowDown", status=503, times=1)
    with pytest.raises(ClientError, match="SlowDown"):
        s3.get_object(Bucket="sales", Key="a b/ü")


def test_the_generator_writes_what_was_not_processed_again_in_order(aws: AwsAccount, busy_aws: BusyAws) -> None:
    orders = GadgetOrders(seed=3)
    orders.table.create()
    busy_aws.fail("BatchWriteItem", share=0.1)
    busy_aws.refuse_parts("BatchWriteItem", share=0.3)
    heard: list[OrderChange] = []
    stop = threading.Event()

    def hear(changes: Sequence[OrderChange]) -> None:
        heard.extend(changes)
        if len(heard) >= 60:
            stop.set()

    summary = orders.run_continuous_generation(rate=400, stop=stop, written=hear)
    assert summary.throttled > 0
    assert summary.unwritten == 0
    assert busy_aws.happened["BatchWriteItem", "parts"] > 0
    scanned = aws.client("dynamodb").scan(TableName="OrderTable")["Items"]
    assert {item["orderid"]["S"]: (item["status"]["S"], item["quantity"]["N"]) for item in scanned} == {
        key: (order["status"], str(order["quantity"])) for key, order in orders.choices.orders.items()
    }


def test_a_generator_that_is_throttled_for_good_ends_when_asked_to_and_says_what_is_missing(
    aws: AwsAccount, busy_aws: BusyAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catchment.demo.order_table.LAST_TRIES_SECONDS", 0.3)
    orders = GadgetOrders(seed=3)
    orders.table.create()
    busy_aws.fail("PutItem")
    stop = threading.Event()
    with ThreadPoolExecutor(1) as beside:
        running = beside.submit(orders.run_continuous_generation, rate=10, stop=stop)
        try:
            wait_for(lambda: busy_aws.happened["PutItem", "fails"] > 1, "a write is throttled again and again")
        finally:
            stop.set()
        summary = running.result()
    assert (summary.writes, summary.unwritten) == (0, 1)
    assert summary.throttled > 1


def test_access_denied_is_said_in_one_sentence(aws: AwsAccount, busy_aws: BusyAws) -> None:
    busy_aws.fail("DescribeTable", "AccessDeniedException")
    done = run_command("generate", "gadgets", "--seconds", "1")
    assert done.code == 1
    assert "AccessDeniedException" in done.err
    assert len(done.err.splitlines()) == 1
