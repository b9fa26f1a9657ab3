"""The event source mapping: its rules alone, and on the stand-in's Kinesis."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aws import consumers
from aws.account import AwsAccount
from aws.lambdas import deploy
from aws.orders import TABLE, latest_orders, make_table, remove, scanned, write
from aws.places import STREAM, make_bucket, make_stream, objects, put, running
from catchment.aws.local.counters import RunnerSnapshot
from catchment.aws.local.delivery_stream import DeliveryStreamConfig
from catchment.aws.local.event_source_mapping import EventSourceMapping, MappingRules
from catchment.aws.local.failure_destination import FailureDestination
from catchment.aws.local.firehose import Firehose
from catchment.aws.local.function import FunctionFailed
from catchment.aws.local.pipe import Pipe
from catchment.aws.local.stream_batch import Batch, GivenUp, Records, RetryRules
from catchment.errors import ConfigError
from seeds import first_seed
from waiting import wait_for

SEED = first_seed()


def batch(text: str) -> list[dict[str, Any]]:
    return [{"SequenceNumber": letter} for letter in text]


def texts(records: Records) -> str:
    return "".join(one["SequenceNumber"] for one in records)


class Function:
    """Fails at capital letters, in one way; notes what it was given."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.calls: list[str] = []
        self.done = ""

    def __call__(self, records: Records) -> Any:
        text = texts(records)
        self.calls.append(text)
        bad = next((place for place, letter in enumerate(text) if letter.isupper()), None)
        if bad is None:
            self.done += text
            return None
        if self.how == "raises":
            raise FunctionFailed("Lambda.FunctionError", "bad")
        if self.how == "misspells":
            return {"batchItemFailures": [{"itemIdentifer": text[bad]}]}
        if self.how == "names nobody":
            return {"batchItemFailures": [{"itemIdentifier": "?"}]}
        self.done += text[:bad]
        return {"batchItemFailures": [{"itemIdentifier": one} for one in reversed(text[bad:])]}


def given_up(function: Function, text: str, **rules: Any) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def give_up(one: GivenUp) -> None:
        found.append((texts(one.records), one.condition))

    bring_to_end(
        Batch(
            batch(text),
            RetryRules(**{"retries": 2, **rules}),
            give_up=give_up,
            age=lambda record: 100.0 if record["SequenceNumber"].isdigit() else 0.0,
        ),
        function,
    )
    return found


def bring_to_end(batch: Batch, invoke: Callable[[Records], Any]) -> None:
    while batch.attempt(invoke) is not None:
        pass


def test_everything_from_the_lowest_reported_failure_is_tried_again() -> None:
    function = Function("reports")
    assert given_up(function, "abXcd") == [("X", "RetryAttemptsExhausted")]
    assert function.calls == ["abXcd", "Xcd", "Xcd", "Xcd", "cd"]
    assert function.done == "abcd"


def test_a_batch_that_raises_is_cut_until_the_bad_record_is_alone() -> None:
    function = Function("raises")
    assert given_up(function, "abcdXefg", bisect=True) == [("X", "RetryAttemptsExhausted")]
    assert function.done == "abcdefg"
    assert function.calls.count("X") == 3


def test_without_bisecting_the_whole_batch_is_given_up() -> None:
    function = Function("raises")
    assert given_up(function, "aXb") == [("aXb", "RetryAttemptsExhausted")]
    assert function.calls == ["aXb"] * 3


@pytest.mark.parametrize("how", ["misspells", "names nobody"])
def test_an_identifier_of_no_record_fails_the_whole_batch(how: str) -> None:
    function = Function(how)
    given_up(function, "aXb")
    assert function.calls[:3] == ["aXb"] * 3


@pytest.mark.parametrize("answer", [None, {}, {"batchItemFailures": []}, {"batchItemFailures": None}, "fine"])
def test_an_answer_without_failures_is_success(answer: Any) -> None:
    assert given_up(lambda records: answer, "abc") == []  # type: ignore[arg-type]


def test_failures_that_are_not_asked_for_are_not_heeded() -> None:
    function = Function("reports")
    assert given_up(function, "aXb", report_failures=False) == []
    assert function.calls == ["aXb"]


def test_records_that_are_too_old_are_given_up_without_a_call() -> None:
    function = Function("reports")
    assert given_up(function, "12ab", age_seconds=60) == [("12", "MaximumRecordAgeExceeded")]
    assert function.calls == ["ab"]


def test_an_attempt_is_one_call_and_says_which_comes_next() -> None:
    function = Function("raises")
    tried = Batch(batch("aX"), RetryRules(retries=1, bisect=True), give_up=lambda one: None, age=lambda record: 0.0)
    nexts = [tried.attempt(function) for _ in range(4)]
    assert function.calls == ["aX", "a", "X", "X"]
    assert nexts == [0, 0, 1, None]


@pytest.mark.parametrize("how", ["reports", "raises"])
def test_whatever_is_bad_all_good_records_are_handled_in_order(how: str) -> None:
    print(f"replay with CATCHMENT_SEED={SEED}")
    choose = random.Random(SEED)
    for _ in range(200):
        letters = [chr(0x4E00 + place) for place in range(choose.randrange(1, 40))]
        bad = {letter for letter in letters if choose.random() < 0.15}
        done: list[str] = []

        def invoke(records: Records, bad: set[str] = bad, done: list[str] = done) -> Any:
            failed = [letter for letter in texts(records) if letter in bad]
            if failed and how == "raises":
                raise FunctionFailed("Lambda.FunctionError", "bad")
            done += texts(records).partition(failed[0])[0] if failed else texts(records)
            return {"batchItemFailures": [{"itemIdentifier": one} for one in failed]}

        lost: list[str] = []
        rules = RetryRules(retries=1, bisect=True)
        bring_to_end(
            Batch(
                batch("".join(letters)),
                rules,
                give_up=lambda one, lost=lost: lost.extend(texts(one.records)),  # type: ignore[misc]
                age=lambda record: 0.0,
            ),
            invoke,
        )
        assert set(lost) == bad
        assert done == [letter for letter in letters if letter not in bad]


# -- on the stand-in


def invoke(aws: AwsAccount, state: Path, handler: str, **values: Any) -> RunnerSnapshot:
    mapping = EventSourceMapping(STREAM, f"aws.consumers:{handler}", state, MappingRules(**values))
    return mapping.run(threading.Event(), idle_seconds=0.1)


@pytest.fixture
def stream(aws: AwsAccount) -> AwsAccount:
    make_stream(aws, shards=1)
    consumers.seen.clear()
    return aws


@pytest.fixture
def stream_of_two(aws: AwsAccount) -> AwsAccount:
    make_stream(aws, shards=2)
    consumers.seen.clear()
    return aws


def put_into(aws: AwsAccount, half: int, *data: bytes) -> None:
    """Records into the first or the second half of the hash keys, in order."""
    for one in data:
        place = str(half * 2**127 + 1)
        aws.client("kinesis").put_record(StreamName=STREAM, Data=one, PartitionKey="1", ExplicitHashKey=place)


def test_a_poison_record_is_given_up_alone_and_its_place_is_in_the_queue(stream: AwsAccount, tmp_path: Path) -> None:
    sqs = stream.client("sqs")
    url = sqs.create_queue(QueueName="given-up")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    put(stream, b"a", b"b", b"poison", b"c", b"d")
    done = invoke(stream, tmp_path, "reporting", rules=RetryRules(retries=1), on_failure=arn)
    assert (done.read, done.put, done.failed) == (5, 4, 1)
    assert [data for data in consumers.seen if data != b"poison"] == [b"a", b"b", b"c", b"d"]
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    body = json.loads(message["Body"])
    info = body["KinesisBatchInfo"]
    assert info["startSequenceNumber"] == info["endSequenceNumber"]
    assert (info["batchSize"], body["requestContext"]["condition"]) == (1, "RetryAttemptsExhausted")
    assert "poison" not in message["Body"]
    kinesis = stream.client("kinesis")
    iterator = kinesis.get_shard_iterator(
        StreamName=STREAM,
        ShardId=info["shardId"],
        ShardIteratorType="AT_SEQUENCE_NUMBER",
        StartingSequenceNumber=info["startSequenceNumber"],
    )
    assert kinesis.get_records(ShardIterator=iterator["ShardIterator"])["Records"][0]["Data"] == b"poison"


def test_a_bucket_is_given_the_event_as_well(stream: AwsAccount, tmp_path: Path) -> None:
    bucket = make_bucket(stream)
    put(stream, b"a", b"poison")
    invoke(
        stream,
        tmp_path,
        "raising",
        rules=RetryRules(retries=0, bisect=True),
        on_failure=f"arn:aws:s3:::{bucket}",
        id="the-mapping",
    )
    ((key, body),) = objects(stream).items()
    assert key.startswith("aws/lambda/the-mapping/shardId-000000000000/")
    assert json.loads(json.loads(body)["payload"])["Records"][0]["kinesis"]["data"] == "cG9pc29u"


def test_batches_are_not_larger_than_asked_for_and_the_next_run_goes_on(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, *(b"%d" % number for number in range(25)))
    invoke(stream, tmp_path, "counting", batch_size=10)
    put(stream, b"25")
    invoke(stream, tmp_path, "counting", batch_size=10)
    assert consumers.seen == [b"10", b"10", b"5", b"1"]


def test_what_waits_of_a_shard_that_was_split_is_handled_before_its_children(
    kinesis_local: AwsAccount, tmp_path: Path
) -> None:
    make_stream(kinesis_local, shards=1)
    consumers.seen.clear()
    put(kinesis_local, b"before")
    kinesis = kinesis_local.client("kinesis")
    (parent,) = kinesis.list_shards(StreamName=STREAM)["Shards"]
    kinesis.split_shard(StreamName=STREAM, ShardToSplit=parent["ShardId"], NewStartingHashKey=str(2**127))
    kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
    put(kinesis_local, *(b"after" for _ in range(20)))
    invoke(kinesis_local, tmp_path, "raising", batch_size=2, window_seconds=4)
    assert consumers.seen == [b"before"] + [b"after"] * 20


def test_a_shard_that_fails_without_end_holds_no_other_back_and_begins_where_it_failed(
    stream_of_two: AwsAccount, tmp_path: Path
) -> None:
    put_into(stream_of_two, 0, b"poison")
    mapping = EventSourceMapping(STREAM, "aws.consumers:raising", tmp_path, MappingRules(batch_size=1))
    with running(mapping):
        wait_for(lambda: mapping.snapshot().retried >= 1, "the shard fails")
        for number in range(10):
            put_into(stream_of_two, 0, *(b"behind %d %d" % (number, at) for at in range(5)))
            put_into(stream_of_two, 1, b"other %d" % number)
            wait_for(lambda number=number: b"other %d" % number in consumers.seen, "the other shard goes on")  # type: ignore[misc]
        assert "a batch fails" in mapping.snapshot().note
        read = mapping.snapshot().read
    assert consumers.seen == [b"other %d" % number for number in range(10)]
    assert read < 1 + 10 + 50, "more and more is read of a shard that fails"
    assert "read again by the next run" in mapping.snapshot().note
    consumers.seen.clear()
    invoke(stream_of_two, tmp_path, "taking")
    behind = [b"behind %d %d" % (number, at) for number in range(10) for at in range(5)]
    assert consumers.seen == [b"poison", *behind]


def test_the_children_of_a_shard_that_fails_wait_and_others_do_not(kinesis_local: AwsAccount, tmp_path: Path) -> None:
    make_stream(kinesis_local, shards=2)
    consumers.seen.clear()
    put_into(kinesis_local, 0, b"before", b"poison")
    kinesis = kinesis_local.client("kinesis")
    parent = min(one["ShardId"] for one in kinesis.list_shards(StreamName=STREAM)["Shards"])
    kinesis.split_shard(StreamName=STREAM, ShardToSplit=parent, NewStartingHashKey=str(2**126))
    kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
    put_into(kinesis_local, 0, b"after")
    mapping = EventSourceMapping(STREAM, "aws.consumers:raising", tmp_path, MappingRules(batch_size=1))
    with running(mapping):
        wait_for(lambda: mapping.snapshot().retried >= 2, "the parent fails")
        for number in range(5):
            put_into(kinesis_local, 1, b"other %d" % number)
            wait_for(lambda number=number: b"other %d" % number in consumers.seen, "the other shard goes on")  # type: ignore[misc]
    assert consumers.seen == [b"before", *(b"other %d" % number for number in range(5))]
    consumers.seen.clear()
    invoke(kinesis_local, tmp_path, "taking")
    assert [one for one in consumers.seen if one in (b"poison", b"after")] == [b"poison", b"after"]
    assert consumers.seen.count(b"after") == 1
    consumers.seen.clear()
    invoke(kinesis_local, tmp_path, "taking")
    assert consumers.seen == []


def test_a_window_gathers_what_comes_bit_by_bit(stream: AwsAccount, tmp_path: Path) -> None:
    rules = MappingRules(batch_size=5, window_seconds=300)
    mapping = EventSourceMapping(STREAM, "aws.consumers:counting", tmp_path, rules)
    with running(mapping):
        for number in range(5):
            put(stream, b"%d" % number)
        wait_for(lambda: mapping.snapshot().put == 5, "five records are handled")
    assert consumers.seen == [b"5"]


def test_a_window_that_is_over_makes_a_batch_of_what_is_there(stream: AwsAccount, tmp_path: Path) -> None:
    put(stream, b"0", b"1")
    invoke(stream, tmp_path, "counting", batch_size=5, window_seconds=0.2)
    assert consumers.seen == [b"2"]


def test_a_mapping_that_is_described_runs_as_it_is_described(stream: AwsAccount) -> None:
    function = deploy(stream, "catchment.aws.kinesis_transform.handler")
    arn = stream.client("kinesis").describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamARN"]
    created = stream.client("lambda").create_event_source_mapping(
        EventSourceArn=arn,
        FunctionName=function,
        StartingPosition="LATEST",
        Enabled=False,
        BatchSize=7,
        MaximumBatchingWindowInSeconds=2,
        MaximumRetryAttempts=3,
        BisectBatchOnFunctionError=True,
        FunctionResponseTypes=["ReportBatchItemFailures"],
        DestinationConfig={"OnFailure": {"Destination": "arn:aws:s3:::somewhere"}},
    )
    rules, stream_arn, function_arn = MappingRules.described(created["UUID"])
    assert rules == MappingRules(
        7, 2, RetryRules(3, True, True, -1), "arn:aws:s3:::somewhere", "LATEST", created["UUID"]
    )
    assert (stream_arn, function_arn) == (arn, function)
    with pytest.raises(ConfigError, match="not the UUID"):
        MappingRules.described("none")
    with pytest.raises(ConfigError, match="cannot be described"):
        MappingRules.described(str(uuid.uuid4()))


def test_a_rule_that_lambda_would_refuse_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 to 10,000"):
        MappingRules(batch_size=0)
    with pytest.raises(ConfigError, match="is not played here"):
        FailureDestination("arn:aws:sns:us-east-1:1:topic", "id", "stream", "function")


def test_kinesis_to_lambda_to_firehose_ends_with_the_same_lake(
    stream: AwsAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other shape: our Kinesis handler, behind a mapping, puts clean records to a Firehose without a transform."""
    bucket = make_bucket(stream)
    make_table(stream)
    config = DeliveryStreamConfig(name="gadget-sales-delivery", bucket=bucket, prefix="sales/", buffer_seconds=0.2)
    firehose = Firehose(config, tmp_path)
    with running(firehose):
        monkeypatch.setenv("AWS_ENDPOINT_URL_FIREHOSE", str(firehose.endpoint))
        monkeypatch.setenv("DELIVERY_STREAM", config.name)
        monkeypatch.setenv("ERROR_BUCKET", bucket)
        write(stream, "1")
        write(stream, "1", quantity={"N": "5"})
        write(stream, "2")
        remove(stream, "2")
        put(stream, b"poison")
        Pipe(TABLE, STREAM, tmp_path).run(threading.Event(), idle_seconds=0.1)
        mapping = EventSourceMapping(STREAM, "catchment.aws.kinesis_transform:handler", tmp_path)
        done = mapping.run(threading.Event(), idle_seconds=0.1)
    assert (done.put, done.failed) == (5, 0)
    assert latest_orders(objects(stream, "sales/")) == scanned(stream)
    assert len(objects(stream, "errors/processing-failed/")) == 1
