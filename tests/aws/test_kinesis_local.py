"""What we rely on from kinesis-local: shards that end, and say what comes after them."""

from __future__ import annotations

from typing import Any

import psutil

from aws.account import AwsAccount
from aws.kinesis_local import KinesisLocal
from waiting import wait_for

STREAM = "gadget-sales-stream"


def stream(account: AwsAccount, shards: int) -> Any:
    kinesis = account.client("kinesis")
    kinesis.create_stream(StreamName=STREAM, ShardCount=shards)
    until_active(kinesis)
    return kinesis


def until_active(kinesis: Any) -> None:
    wait_for(
        lambda: (
            kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"
        ),
        "the stream is active",
    )


def read_to_the_end(kinesis: Any, shard: str) -> tuple[list[bytes], list[dict[str, Any]] | None]:
    """Everything in a shard, and the children it names when it has ended (None while it has not)."""
    iterator = kinesis.get_shard_iterator(StreamName=STREAM, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    at, found = iterator["ShardIterator"], []
    for _ in range(100):
        answer = kinesis.get_records(ShardIterator=at)
        found += [record["Data"] for record in answer["Records"]]
        if "NextShardIterator" not in answer:
            return found, answer["ChildShards"]
        at = answer["NextShardIterator"]
        if not answer["Records"]:
            return found, None
    raise AssertionError("it has no end")


def test_a_split_shard_keeps_its_records_ends_and_names_its_children(kinesis_local: AwsAccount) -> None:
    kinesis = stream(kinesis_local, 1)
    for number in range(10):
        kinesis.put_record(StreamName=STREAM, Data=b"before %d" % number, PartitionKey=str(number))
    (parent,) = kinesis.list_shards(StreamName=STREAM)["Shards"]
    assert read_to_the_end(kinesis, parent["ShardId"])[1] is None

    kinesis.split_shard(StreamName=STREAM, ShardToSplit=parent["ShardId"], NewStartingHashKey=str(2**127))
    until_active(kinesis)

    records, children = read_to_the_end(kinesis, parent["ShardId"])
    assert records == [b"before %d" % number for number in range(10)]
    assert children is not None
    assert [child["ParentShards"] for child in children] == [[parent["ShardId"]]] * 2
    shards = {shard["ShardId"]: shard for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]}
    assert {child["ShardId"] for child in children} == shards.keys() - {parent["ShardId"]}
    assert all(shards[child["ShardId"]]["ParentShardId"] == parent["ShardId"] for child in children)
    assert "EndingSequenceNumber" in shards[parent["ShardId"]]["SequenceNumberRange"]
    after = kinesis.put_record(StreamName=STREAM, Data=b"after", PartitionKey="0")
    assert after["ShardId"] in {child["ShardId"] for child in children}


def test_merged_shards_have_one_child_with_two_parents(kinesis_local: AwsAccount) -> None:
    kinesis = stream(kinesis_local, 2)
    left, right = [shard["ShardId"] for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]]
    kinesis.merge_shards(StreamName=STREAM, ShardToMerge=left, AdjacentShardToMerge=right)
    until_active(kinesis)
    for parent in (left, right):
        _, children = read_to_the_end(kinesis, parent)
        assert children is not None
        assert [sorted(child["ParentShards"]) for child in children] == [[left, right]]


def test_sequence_numbers_rise_in_a_shard_and_from_parent_to_child(kinesis_local: AwsAccount) -> None:
    kinesis = stream(kinesis_local, 1)
    (parent,) = kinesis.list_shards(StreamName=STREAM)["Shards"]
    numbers = [
        int(kinesis.put_record(StreamName=STREAM, Data=b"x", PartitionKey="a")["SequenceNumber"]) for _ in range(5)
    ]
    kinesis.split_shard(StreamName=STREAM, ShardToSplit=parent["ShardId"], NewStartingHashKey=str(2**127))
    until_active(kinesis)
    numbers += [
        int(kinesis.put_record(StreamName=STREAM, Data=b"x", PartitionKey="a")["SequenceNumber"]) for _ in range(5)
    ]
    assert numbers == sorted(set(numbers))
    assert all(50 < len(str(number)) <= 57 for number in numbers)


def test_its_kinesis_and_ministacks_tables_are_one_account(kinesis_local: AwsAccount) -> None:
    stream(kinesis_local, 1)
    assert kinesis_local.client("dynamodb").list_tables()["TableNames"] == []
    assert kinesis_local.client("kinesis").list_streams()["StreamNames"] == [STREAM]
    assert (
        kinesis_local.number
        in kinesis_local.client("kinesis").describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"][
            "StreamARN"
        ]
    )


def test_it_listens_on_this_machine_only(kinesis_server: KinesisLocal) -> None:
    assert kinesis_server.pid is not None
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(kinesis_server.pid).net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
