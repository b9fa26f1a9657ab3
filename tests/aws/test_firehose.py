"""The Firehose runner, on real S3 and Kinesis of the stand-in."""

from __future__ import annotations

import base64
import json
import re
import resource
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import pytest

from aws.account import AwsAccount
from aws.lambdas import deploy
from aws.places import STREAM, bucket_of, make_bucket, make_stream, objects, put, running
from catchment.aws.local.checkpoint import Pages
from catchment.aws.local.counters import RunnerSnapshot
from catchment.aws.local.delivery_stream import DeliveryStreamConfig
from catchment.aws.local.direct_put import Journal, Rejected
from catchment.aws.local.error_output import failed_records
from catchment.aws.local.firehose import Firehose
from catchment.errors import ConfigError, Fatal, LeaseHeld, SinkRefused, SinkUnavailable
from waiting import wait_for

NAME = "gadget-sales-delivery"
HANDLERS = "aws.transforms"
OBJECT = re.compile(
    rf"\d{{4}}/\d\d/\d\d/\d\d/{NAME}-1-\d{{4}}-\d\d-\d\d-\d\d-\d\d-\d\d-[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}"
)


@pytest.fixture
def bucket(aws: AwsAccount) -> AwsAccount:
    make_bucket(aws)
    return aws


@pytest.fixture
def stream(bucket: AwsAccount) -> AwsAccount:
    make_stream(bucket)
    return bucket


def config(aws: AwsAccount, **values: Any) -> DeliveryStreamConfig:
    given = {"name": NAME, "bucket": bucket_of(aws), "buffer_seconds": 0.2, **values}
    return DeliveryStreamConfig.checked(given, "test")


def lines(*numbers: int) -> list[bytes]:
    return [json.dumps({"n": number}).encode() + b"\n" for number in numbers]


def until_idle(aws: AwsAccount, state: Path, **values: Any) -> RunnerSnapshot:
    return Firehose(config(aws, stream=STREAM, **values), state).run(threading.Event(), idle_seconds=0.1)


def test_what_comes_from_kinesis_is_in_s3_once(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(*range(1000)))
    done = until_idle(stream, tmp_path)
    put(stream, *lines(*range(1000, 1010)))
    again = until_idle(stream, tmp_path)
    found = objects(stream)
    assert all(OBJECT.fullmatch(key) for key in found)
    numbers = [json.loads(line)["n"] for body in found.values() for line in body.splitlines()]
    assert sorted(numbers) == list(range(1010))
    assert (done.read, done.put, again.read, again.put) == (1000, 1000, 10, 10)
    assert done.objects + again.objects == len(found)
    assert done.bytes == sum(map(len, lines(*range(1000))))
    assert done.latency_p99_ms is not None


def test_gzip_is_said_in_name_and_header(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1, 2))
    until_idle(stream, tmp_path, compression="GZIP", prefix="raw-")
    (key,) = stream.client("s3").list_objects_v2(Bucket=bucket_of(stream))["Contents"]
    assert re.fullmatch("raw-" + OBJECT.pattern + r"\.gz", key["Key"])
    head = stream.client("s3").head_object(Bucket=bucket_of(stream), Key=key["Key"])
    assert head["ContentEncoding"] == "gzip"
    assert b"".join(objects(stream).values()) == b"".join(sorted(lines(1, 2)))


def test_a_full_buffer_does_not_wait(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *[b"x" * 1023 + b"\n"] * 300)
    firehose = Firehose(config(stream, stream=STREAM, buffer_mib=0.125, buffer_seconds=900), tmp_path)
    with running(firehose):
        wait_for(lambda: firehose.snapshot().read == 300 and firehose.snapshot().objects == 2, "two full objects")
    assert firehose.snapshot().objects == 3
    assert sorted(len(body) for body in objects(stream).values()) == [44 * 1024, 128 * 1024, 128 * 1024]


def test_one_bad_record_takes_no_other_with_it(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1, 2), b"poison", b"drop me", *lines(3))
    done = until_idle(
        stream,
        tmp_path,
        function=f"{HANDLERS}:picky",
        prefix="sales/",
        error_prefix="errors/!{firehose:error-output-type}/!{timestamp:yyyy}/",
    )
    assert (done.read, done.put, done.failed, done.dropped) == (5, 3, 1, 1)
    good = b"".join(objects(stream, "sales/").values())
    assert sorted(good.splitlines(keepends=True)) == lines(1, 2, 3)
    ((key, body),) = objects(stream, "errors/").items()
    assert re.match(rf"errors/processing-failed/\d{{4}}/{NAME}-1-", key)
    document = json.loads(body)
    assert body.endswith(b"\n")
    assert base64.b64decode(document.pop("rawData")) == b"poison"
    assert isinstance(document.pop("arrivalTimestamp"), int)
    assert isinstance(document.pop("attemptEndingTimestamp"), int)
    assert document.pop("lambdaARN").startswith("arn:aws:lambda:")
    assert document == {
        "errorCode": "Lambda.ProcessingFailedStatus",
        "errorMessage": "ProcessingFailed status set for record",
        "attemptsMade": 1,
    }


@pytest.mark.parametrize(
    ("handler", "code", "attempts", "good"),
    [
        ("broken", "Lambda.FunctionError", 4, 0),
        ("silent", "Lambda.MissingRecordId", 1, 2),
        ("twice", "Lambda.DuplicatedRecordId", 1, 2),
        ("without_data", "Lambda.InvalidReturnFormat", 1, 2),
        ("nothing", "Lambda.MissingRecordId", 1, 0),
        ("too_much", "Lambda.FunctionError", 4, 0),
    ],
)
def test_each_way_to_fail_has_its_code(
    handler: str, code: str, attempts: int, good: int, stream: AwsAccount, tmp_path: Path
) -> None:
    put(stream, b"poison", *lines(1, 2))
    done = until_idle(stream, tmp_path, function=f"{HANDLERS}:{handler}", error_prefix="errors/")
    assert (done.put, done.failed) == (good, 3 - good)
    failed = [
        json.loads(line) for body in objects(stream, "errors/processing-failed/").values() for line in body.splitlines()
    ]
    assert {one["errorCode"] for one in failed} == {code}
    assert {one["attemptsMade"] for one in failed} == {attempts}
    assert done.retried == attempts - 1
    assert b"poison" in [one.data for one in failed_records(json.dumps(one).encode() for one in failed)]


def test_a_function_that_recovers_loses_nothing(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1))
    done = until_idle(stream, tmp_path, function=f"{HANDLERS}:third_time")
    assert (done.put, done.failed, done.retried) == (1, 0, 2)


def test_records_go_apart_by_the_keys_that_the_function_gives(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1, 2, 3, 4), b"poison")
    done = until_idle(
        stream,
        tmp_path,
        function=f"{HANDLERS}:by_parity",
        dynamic_partitioning=True,
        prefix="by/parity=!{partitionKeyFromLambda:parity}/",
        error_prefix="errors/!{firehose:error-output-type}/",
    )
    assert done.put == 4
    assert b"".join(objects(stream, "by/parity=odd/").values()).count(b"\n") == 2
    assert b"".join(objects(stream, "by/parity=even/").values()).count(b"\n") == 2
    (body,) = objects(stream, "errors/processing-failed/").values()
    assert json.loads(body)["errorCode"] == "DynamicPartitioning.MetadataExtractionFailed"


def test_too_many_partitions_at_once_go_to_the_error_output(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1, 2, 3))
    until_idle(
        stream,
        tmp_path,
        function=f"{HANDLERS}:by_number",
        dynamic_partitioning=True,
        active_partitions=2,
        buffer_seconds=2,
        prefix="by/!{partitionKeyFromLambda:n}/",
        error_prefix="errors/!{firehose:error-output-type}/",
    )
    assert len(objects(stream, "by/")) == 2
    assert len(objects(stream, "errors/activePartitionExceeded/")) == 1


def test_direct_put_is_kept_before_it_is_answered(bucket: AwsAccount, tmp_path: Path) -> None:
    firehose = Firehose(config(bucket, buffer_seconds=900), tmp_path)
    with running(firehose):
        client = boto3.client("firehose", endpoint_url=firehose.endpoint)
        client.put_record(DeliveryStreamName=NAME, Record={"Data": lines(0)[0]})
        answer = client.put_record_batch(
            DeliveryStreamName=NAME, Records=[{"Data": one} for one in lines(*range(1, 500))]
        )
        assert (answer["FailedPutCount"], len(answer["RequestResponses"])) == (0, 499)
        with pytest.raises(client.exceptions.ClientError, match="1 to 500"):
            client.put_record_batch(DeliveryStreamName=NAME, Records=[{"Data": b"x"}] * 501)
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.put_record(DeliveryStreamName="other", Record={"Data": b"x"})
        journal = b"".join(path.read_bytes() for path in tmp_path.rglob("*.ndjson"))
        assert journal.count(b"\n") == 500
    numbers = [json.loads(line)["n"] for body in objects(bucket).values() for line in body.splitlines()]
    assert sorted(numbers) == list(range(500))
    assert [path.read_bytes() for path in tmp_path.rglob("*.ndjson")] == [b""], "what is delivered does not lie about"
    again = Firehose(config(bucket), tmp_path)
    with running(again):
        boto3.client("firehose", endpoint_url=again.endpoint).put_record(
            DeliveryStreamName=NAME, Record={"Data": lines(500)[0]}
        )
    assert again.snapshot().put == 1


def test_a_full_disk_spoils_nothing_that_was_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append([b"1" * 100])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (220, hard))
    try:
        with pytest.raises(Rejected, match="cannot be kept"):
            journal.append([b"2" * 100])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.append([b"3" * 100])
    records, offset = journal.read(0, 1.0)
    assert [one.data[:1] for one in records] == [b"1", b"3"]
    journal.close()
    again = Journal(tmp_path)
    assert again.end == offset
    again.close()


def test_a_stream_that_was_made_anew_is_read_from_its_start(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1))
    until_idle(stream, tmp_path)
    kinesis = stream.client("kinesis")
    made = kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamCreationTimestamp"]
    kinesis.delete_stream(StreamName=STREAM)
    # The stand-in tells streams of one name apart by the second.
    wait_for(lambda: time.time() > made.timestamp() + 1, "another second has begun")
    kinesis.get_waiter("stream_not_exists").wait(StreamName=STREAM)
    kinesis.create_stream(StreamName=STREAM, ShardCount=2)
    kinesis.get_waiter("stream_exists").wait(StreamName=STREAM)
    put(stream, *lines(2))
    done = until_idle(stream, tmp_path)
    assert done.put == 1
    assert "anew" in done.note


def test_a_first_run_at_the_newest_record_leaves_no_gap_behind_it(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1))
    for numbers in ([], [2, 3]):
        put(stream, *lines(*numbers))
        Firehose(config(stream, stream=STREAM), tmp_path, start="LATEST").run(threading.Event(), idle_seconds=0.1)
    # What came just before the first run may come too: clocks differ.
    assert {b'{"n": 2}', b'{"n": 3}'} <= set(b"".join(objects(stream).values()).splitlines())


def test_the_deployed_function_does_what_the_handler_does(stream: AwsAccount, tmp_path: Path) -> None:
    """Lambda is real: the zip that is deployed, invoked through its API."""
    function = deploy(stream, "catchment.aws.firehose_transform.handler")
    put(stream, b'{"orderid": "7421", "product_name": "Laptop", "quantity": 3, "price": 429.99}', b"invalid_data_here")
    done = until_idle(stream, tmp_path, function=function, prefix="sales/", error_prefix="errors/")
    assert (done.put, done.failed) == (1, 1)
    (body,) = objects(stream, "sales/").values()
    assert json.loads(body).items() >= {"orderid": "7421", "price": 429.99, "event_type": "UNKNOWN"}.items()
    (error,) = objects(stream, "errors/").values()
    assert json.loads(error)["lambdaARN"] == function


def test_a_function_that_is_not_there_ends_the_run(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1))
    with pytest.raises(Fatal, match="no Lambda function absent"):
        until_idle(stream, tmp_path, function="absent")
    with pytest.raises(ConfigError, match=r"no handler aws\.transforms:absent"):
        until_idle(stream, tmp_path, function="aws.transforms:absent")


def test_a_lambda_that_is_away_fails_no_record(
    stream: AwsAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(stream, b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", "http://127.0.0.1:9")
    with pytest.raises(SinkUnavailable, match="gadget-sales-transform"):
        until_idle(stream, tmp_path, function="gadget-sales-transform")
    monkeypatch.delenv("AWS_ENDPOINT_URL_LAMBDA")
    assert objects(stream) == {}
    until_idle(stream, tmp_path)
    assert list(objects(stream).values()) == [b"1"]


def test_error_lines_are_read_in_all_of_aws_spellings() -> None:
    raw = base64.b64encode(b"raw").decode()
    texts = {"errorCode": "A", "arrivalTimestamp": "1789014240448", "rawData": raw, "lambdaArn": "arn"}
    numbers = {"errorCode": "B", "arrivalTimestamp": 1789014240448, "rawData": raw, "lambdaARN": "arn"}
    conversion = {"lastErrorCode": "C", "arrivalTimestamp": 1789014240448, "rawData": raw, "sequenceNumber": "1"}
    newer = {"ErrorCode": "D", "ErrorMessage": "m", "rawData": raw}
    found = list(
        failed_records([*(json.dumps(one).encode() for one in (texts, numbers, conversion, newer)), b"", b"?"])
    )
    assert [(one.code, one.data) for one in found] == [*((code, b"raw") for code in "ABCD"), ("unreadable", None)]
    assert [one.arrival_ms for one in found] == [1789014240448] * 3 + [None] * 2


def test_one_runner_at_a_time_has_the_state(stream: AwsAccount, tmp_path: Path) -> None:
    with running(Firehose(config(stream, stream=STREAM), tmp_path)), pytest.raises(LeaseHeld):
        Firehose(config(stream, stream=STREAM), tmp_path)


def test_a_bucket_that_is_not_there_ends_the_run(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *lines(1))
    with pytest.raises(SinkRefused, match="NoSuchBucket"):
        Firehose(config(stream, stream=STREAM, bucket="another"), tmp_path).run(threading.Event())


def test_a_stream_that_is_described_runs_as_it_is_described(stream: AwsAccount, tmp_path: Path) -> None:
    role = "arn:aws:iam::000000000000:role/firehose"
    arn = stream.client("kinesis").describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamARN"]
    stream.client("firehose").create_delivery_stream(
        DeliveryStreamName=NAME,
        DeliveryStreamType="KinesisStreamAsSource",
        KinesisStreamSourceConfiguration={"KinesisStreamARN": arn, "RoleARN": role},
        ExtendedS3DestinationConfiguration={
            "RoleARN": role,
            "BucketARN": f"arn:aws:s3:::{bucket_of(stream)}",
            "Prefix": "sales/!{timestamp:yyyy}/",
            "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
            "BufferingHints": {"SizeInMBs": 64, "IntervalInSeconds": 60},
            "CompressionFormat": "GZIP",
            "ProcessingConfiguration": {
                "Enabled": True,
                "Processors": [
                    {
                        "Type": "Lambda",
                        "Parameters": [
                            {"ParameterName": "LambdaArn", "ParameterValue": "arn:aws:lambda:us-east-1:1:function:f"},
                            {"ParameterName": "BufferSizeInMBs", "ParameterValue": "0.5"},
                        ],
                    }
                ],
            },
        },
    )
    found = DeliveryStreamConfig.described(NAME, {"buffer_seconds": 0.2})
    assert found.stream == arn
    assert found.arn
    assert (found.bucket, found.compression, found.buffer_mib, found.buffer_seconds) == (
        bucket_of(stream),
        "GZIP",
        64,
        0.2,
    )
    assert (found.function, found.function_buffer_mib) == ("arn:aws:lambda:us-east-1:1:function:f", 0.5)
    assert found.function_buffer_seconds == 60
    with pytest.raises(ConfigError, match="cannot be described"):
        DeliveryStreamConfig.described("another")


def test_pages_settle_in_order() -> None:
    pages = Pages()
    first, second = pages.begin({"a": "1"}, 2), pages.begin({"a": "1", "b": "7"}, 1)
    pages.done(second)
    assert pages.settled() is None
    pages.done(first, 2)
    assert pages.settled() == {"a": "1", "b": "7"}
    assert (pages.settled(), pages.outstanding) == (None, 0)
    third = pages.begin({"a": "2"}, 1)
    pages.done(third)
    assert pages.settled() == {"a": "2"}
