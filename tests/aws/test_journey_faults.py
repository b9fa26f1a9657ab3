"""What must hold from the table to S3: nothing lost, nothing twice, whatever is killed, refused, cut or repeated.

The lake is what its objects say, latest version by order; the truth is a Scan of the table.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import BotoCoreError

from aws.account import AwsAccount
from aws.busy_aws import BusyAws
from aws.orders import TABLE, Writer, latest_orders, make_table, scanned, set_stream, write
from aws.places import STREAM, bucket_of, make_bucket, make_stream, objects, put, running
from aws.test_pipe import records
from aws.test_stand_in import changes as stream_changes
from catchment.aws.local.delivery_stream import DeliveryStreamConfig
from catchment.aws.local.firehose import Firehose
from catchment.aws.local.pipe import Pipe
from catchment.aws.local.reconciliation import Reconciled, Reconciliation
from catchment.aws.local.replay import MARK, Replayed, replay, to_kinesis
from catchment.aws.local.s3_place import S3Place
from e2e.cli import run_command
from waiting import wait_for

NAME = "gadget-sales-delivery"
HANDLER = "catchment.aws.firehose_transform:handler"


@pytest.fixture
def journey(aws: AwsAccount) -> AwsAccount:
    make_bucket(aws)
    make_table(aws)
    make_stream(aws)
    return aws


def pipe(state: Path, **options: Any) -> Pipe:
    return Pipe(TABLE, STREAM, state, look_seconds=0.1, **options)


def firehose(aws: AwsAccount, state: Path, **values: Any) -> Firehose:
    given = {
        "name": NAME,
        "bucket": bucket_of(aws),
        "stream": STREAM,
        "prefix": "sales/",
        "error_prefix": "errors/",
        "buffer_seconds": 0.2,
        "function": HANDLER,
        **values,
    }
    return Firehose(DeliveryStreamConfig.checked(given, "test"), state)


def bring_home(aws: AwsAccount, state: Path) -> None:
    """Carry and deliver all that there is."""
    pipe(state).run(threading.Event(), idle_seconds=0.1)
    firehose(aws, state).run(threading.Event(), idle_seconds=0.1)


def lake(aws: AwsAccount) -> dict[str, dict[str, Any]]:
    return latest_orders(objects(aws, "sales/"))


def event_ids(aws: AwsAccount) -> list[str]:
    return [json.loads(line)["event_id"] for body in objects(aws, "sales/").values() for line in body.splitlines()]


def command(aws: AwsAccount, state: Path, *arguments: str, failpoint: str = "") -> subprocess.Popen[bytes]:
    """A runner as a process of its own; it reads from where the last one left off."""
    return subprocess.Popen(
        [sys.executable, "-m", "catchment.cli", "aws", *arguments, "--state", str(state), "--json"],
        env={**aws.environ, "CATCHMENT_FAILPOINT": failpoint},
        stdout=subprocess.PIPE,
    )


def killed_by_itself(process: subprocess.Popen[bytes]) -> None:
    try:
        assert process.wait(120) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Once it runs, from outside."""
    assert process.stdout is not None
    try:
        assert b"running" in process.stdout.readline()
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


def test_a_killed_pipe_loses_nothing(journey: AwsAccount, tmp_path: Path, seed: int) -> None:
    writer = Writer(journey, seed)
    arguments = ("pipe", "--table", TABLE, "--stream", STREAM)
    for _ in range(2):
        writer.write(100)
        killed_by_itself(command(journey, tmp_path, *arguments, failpoint="before_acknowledge"))
    writer.write(100)
    kill(command(journey, tmp_path, *arguments))
    bring_home(journey, tmp_path)
    assert lake(journey) == scanned(journey)
    changes = [json.loads(one["Data"]) for one in records(journey)]
    assert len(changes) > len({one["eventID"] for one in changes}), "something was put twice, or this tests nothing"


def test_a_killed_firehose_loses_nothing(journey: AwsAccount, tmp_path: Path, seed: int) -> None:
    writer = Writer(journey, seed)
    arguments = ["firehose", "--name", NAME, "--bucket", bucket_of(journey), "--stream", STREAM]
    arguments += ["--prefix", "sales/", "--error-prefix", "errors/", "--function", HANDLER, "--buffer-seconds", "0.2"]
    for failpoint in ("before_commit", "after_commit", "before_acknowledge"):
        writer.write(60)
        pipe(tmp_path).run(threading.Event(), idle_seconds=0.1)
        killed_by_itself(command(journey, tmp_path, *arguments, failpoint=failpoint))
    writer.write(60)
    kill(command(journey, tmp_path, *arguments))
    bring_home(journey, tmp_path)
    assert lake(journey) == scanned(journey)
    found = event_ids(journey)
    assert len(found) > len(set(found)), "something was delivered twice, or this tests nothing"
    assert set(found) == {json.loads(one["Data"])["eventID"] for one in records(journey)}


def test_what_was_put_directly_survives_a_kill(journey: AwsAccount, tmp_path: Path) -> None:
    arguments = ("firehose", "--name", NAME, "--bucket", bucket_of(journey), "--prefix", "sales/")
    process = command(journey, tmp_path, *arguments, "--buffer-seconds", "0.5", failpoint="before_commit")
    assert process.stdout is not None
    endpoint = json.loads(process.stdout.readline())["endpoint"]
    records = [{"Data": b'{"n": %d}\n' % number} for number in range(100)]
    client = boto3.client("firehose", endpoint_url=endpoint)
    with contextlib.suppress(BotoCoreError):  # the kill may overtake the answer, but not what comes before it
        client.put_record_batch(DeliveryStreamName=NAME, Records=records)
    killed_by_itself(process)
    firehose(journey, tmp_path, stream=None, function=None).run(threading.Event(), idle_seconds=0.1)
    assert b"".join(objects(journey, "sales/").values()) == b"".join(one["Data"] for one in records)


def test_a_poison_record_stops_no_other_and_is_replayed_once(journey: AwsAccount, tmp_path: Path, seed: int) -> None:
    Writer(journey, seed).write(150)
    write(journey, "a tablet for sure", product_name={"S": "Tablet"})
    pipe(tmp_path).run(threading.Event(), idle_seconds=0.1)
    put(journey, b"invalid_data_here")
    done = firehose(journey, tmp_path, function="aws.transforms:unmended").run(threading.Event(), idle_seconds=0.1)
    tablets = sum(b'"Tablet"' in one["Data"] for one in records(journey))
    assert (done.failed, done.put + done.failed) == (tablets + 1, done.read)
    assert lake(journey) != scanned(journey)
    failed = [json.loads(line) for body in objects(journey, "errors/").values() for line in body.splitlines()]
    assert {one["errorCode"] for one in failed} == {"Lambda.ProcessingFailedStatus"}

    errors = S3Place(bucket_of(journey), "errors/")
    first = replay(errors, to_kinesis(STREAM), threading.Event())
    assert (first.records, first.before, first.unreadable) == (tablets + 1, 0, 0)
    firehose(journey, tmp_path).run(threading.Event(), idle_seconds=0.1)
    assert lake(journey) == scanned(journey)
    second = replay(errors, to_kinesis(STREAM), threading.Event())
    assert second == Replayed(objects=1, before=first.objects, records=1), "only what is still poison failed again"
    marks = [body for key, body in objects(journey, "errors/").items() if key.endswith(MARK)]
    assert sum(json.loads(body)["records"] for body in marks) == tablets + 2


def test_partial_failures_throttling_and_lost_answers_change_nothing(
    aws: AwsAccount, busy_aws: BusyAws, tmp_path: Path, seed: int
) -> None:
    make_bucket(aws)
    make_table(aws)
    make_stream(aws)
    busy_aws.fail("PutRecords", share=0.1, times=20)
    busy_aws.lose_answers("PutRecords", share=0.1, times=20)
    busy_aws.refuse_parts("PutRecords", "ProvisionedThroughputExceededException", share=0.2)
    busy_aws.fail("Kinesis.GetRecords", share=0.2, times=20)
    busy_aws.fail("DynamoDBStreams.GetRecords", "LimitExceededException", share=0.2, times=20)
    busy_aws.fail("DescribeTable", "InternalServerError", share=0.3, status=500, times=10)
    busy_aws.fail("PutObject", "SlowDown", share=0.3, status=503, times=20)
    busy_aws.lose_answers("PutObject", share=0.2, times=10)
    Writer(aws, seed).write(300)
    carried = pipe(tmp_path).run(threading.Event(), idle_seconds=0.1)
    delivered = firehose(aws, tmp_path).run(threading.Event(), idle_seconds=0.1)
    assert carried.retried > 0
    assert delivered.put == len(records(aws))
    assert busy_aws.happened["PutRecords", "parts"] > 0
    assert lake(aws) == scanned(aws)
    for key, numbers in numbers_by_key(aws).items():
        assert numbers == sorted(numbers), f"the changes of {key} are in order"


def numbers_by_key(aws: AwsAccount) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in records(aws):
        change = json.loads(one["Data"])["dynamodb"]
        found.setdefault(one["PartitionKey"], []).append(int(change["SequenceNumber"]))
    return found


def test_duplicates_in_any_order_change_nothing(journey: AwsAccount, tmp_path: Path, seed: int) -> None:
    Writer(journey, seed).write(150)
    pipe(tmp_path).run(threading.Event(), idle_seconds=0.1)
    carried = [one["Data"] for one in records(journey)]
    again = carried + random.Random(seed).choices(carried, k=len(carried))
    random.Random(seed).shuffle(again)
    put(journey, *again)
    done = firehose(journey, tmp_path).run(threading.Event(), idle_seconds=0.1)
    assert done.put == len(carried) + len(again)
    assert lake(journey) == scanned(journey)


def test_a_stream_that_is_disabled_and_enabled_among_writes_leaves_no_gap(
    journey: AwsAccount, tmp_path: Path, seed: int
) -> None:
    writer, choose = Writer(journey, seed), random.Random(seed)
    reconciliation = Reconciliation(TABLE, STREAM, bucket_of(journey), "sales/")
    reconciled: list[Reconciled] = []
    carrying = pipe(tmp_path, reconcile=lambda stop: reconciled.append(reconciliation(stop)))
    with running(carrying), running(firehose(journey, tmp_path)):
        for count in (1, 2):
            writer.write(choose.randrange(20, 80))
            set_stream(journey, enabled=False)
            writer.write(choose.randrange(20, 80))
            set_stream(journey, enabled=True)
            writer.write(choose.randrange(20, 80))
            wait_for(lambda count=count: len(reconciled) == count, "the pipe goes over")  # type: ignore[misc]
        wait_for(lambda: lake(journey) == scanned(journey), "the lake is the table")


def test_a_reconciliation_that_was_killed_is_made_up_for(journey: AwsAccount, tmp_path: Path, seed: int) -> None:
    writer = Writer(journey, seed)
    writer.write(50)
    bring_home(journey, tmp_path)
    set_stream(journey, enabled=False)
    writer.write(50)
    set_stream(journey, enabled=True)

    def killed(stop: threading.Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(tmp_path, reconcile=killed).run(threading.Event())
    reconciliation = Reconciliation(TABLE, STREAM, bucket_of(journey), "sales/")
    pipe(tmp_path, reconcile=reconciliation).run(threading.Event(), idle_seconds=0.1)
    bring_home(journey, tmp_path)
    assert lake(journey) == scanned(journey)


def test_shards_are_split_and_merged_under_load(kinesis_local: AwsAccount, tmp_path: Path, seed: int) -> None:
    aws = kinesis_local
    make_bucket(aws)
    make_table(aws)
    make_stream(aws)
    writer = Writer(aws, seed)
    carrying, delivering = pipe(tmp_path), firehose(aws, tmp_path)
    with running(carrying), running(delivering), ThreadPoolExecutor(1) as beside:
        writing = beside.submit(writer.write, 300)
        for change in reshard(aws):
            seen = carrying.snapshot().put
            change()
            wait_for(lambda seen=seen: carrying.snapshot().put > seen or writing.done(), "writes go on")  # type: ignore[misc]
        writing.result()
        # By its content alone the lake may be the table while changes that cancel each other out are on their way.
        wait_for(lambda: len(event_ids(aws)) >= len(stream_changes(aws)), "every change is in the lake")
        assert lake(aws) == scanned(aws)
    assert len(aws.client("kinesis").list_shards(StreamName=STREAM)["Shards"]) > 4
    found = event_ids(aws)
    assert len(found) == len(set(found)) == carrying.snapshot().put


def reshard(aws: AwsAccount) -> Iterator[Any]:
    """Split a shard, merge two, split again; each waits until the stream is active."""
    kinesis = aws.client("kinesis")

    def leaves() -> list[dict[str, Any]]:
        wait_for(
            lambda: (
                kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamStatus"]
                == "ACTIVE"
            ),
            "the stream is active",
        )
        shards = kinesis.list_shards(StreamName=STREAM)["Shards"]
        found = [one for one in shards if "EndingSequenceNumber" not in one["SequenceNumberRange"]]
        return sorted(found, key=lambda one: int(one["HashKeyRange"]["StartingHashKey"]))

    def split() -> None:
        one = leaves()[0]
        middle = (int(one["HashKeyRange"]["StartingHashKey"]) + int(one["HashKeyRange"]["EndingHashKey"])) // 2
        kinesis.split_shard(StreamName=STREAM, ShardToSplit=one["ShardId"], NewStartingHashKey=str(middle))
        leaves()

    def merge() -> None:
        first, second = leaves()[:2]
        kinesis.merge_shards(StreamName=STREAM, ShardToMerge=first["ShardId"], AdjacentShardToMerge=second["ShardId"])
        leaves()

    yield from (split, merge, split)


@pytest.mark.slow
def test_runners_that_are_killed_at_any_moment_lose_nothing(journey: AwsAccount, tmp_path: Path, seed: int) -> None:
    writer, choose = Writer(journey, seed), random.Random(seed)
    pipe_command = ("pipe", "--table", TABLE, "--stream", STREAM)
    firehose_command = ["firehose", "--name", NAME, "--bucket", bucket_of(journey), "--stream", STREAM]
    firehose_command += ["--prefix", "sales/", "--error-prefix", "errors/", "--function", HANDLER]
    with ThreadPoolExecutor(1) as beside:
        writing = beside.submit(writer.write, 3000)
        while not writing.done():
            for arguments in (pipe_command, (*firehose_command, "--buffer-seconds", "0.1")):
                process = command(journey, tmp_path, *arguments)
                assert process.stdout is not None
                with process.stdout:
                    process.stdout.readline()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(choose.random() * 1.5)
                    process.kill()
                    assert process.wait(60) == -signal.SIGKILL
        writing.result()
    bring_home(journey, tmp_path)
    assert lake(journey) == scanned(journey)
    assert set(event_ids(journey)) == {json.loads(one["Data"])["eventID"] for one in records(journey)}


def test_the_commands_say_what_they_did(journey: AwsAccount, tmp_path: Path) -> None:
    stream = ("--stream", STREAM, "--state", tmp_path, "--idle-seconds", "0.3", "--json")
    for number in range(20):
        write(journey, f"{number}")
    url = f"s3://{bucket_of(journey)}"
    carried = run_command("aws", "pipe", "--table", TABLE, *stream).out.splitlines()[-1]
    put(journey, b"poison")
    config = tmp_path / "firehose.yaml"
    config.write_text(
        f"{{name: {NAME}, bucket: {bucket_of(journey)}, stream: other, function: '{HANDLER}', prefix: sales/,"
        " error_prefix: errors/, buffer_seconds: 0.1}"
    )
    delivered = run_command("aws", "firehose", "--config", config, *stream).out.splitlines()[-1]
    counts = [json.loads(one) for one in (carried, delivered)]
    assert [(one["put"], one["failed"]) for one in counts] == [(20, 0), (20, 1)]
    place = ("--table", TABLE, "--stream", STREAM, "--json")
    compared = run_command("aws", "reconcile", f"{url}/sales/", *place, "--dry-run").json
    assert (compared["inserted"], compared["modified"], compared["removed"]) == (0, 0, 0)
    assert compared["items"] == len(scanned(journey))
    again = [run_command("aws", "replay", f"{url}/errors/", "--stream", STREAM, "--json").json for _ in range(2)]
    assert [(one["records"], one["objects"], one["before"]) for one in again] == [(1, 1, 0), (0, 0, 1)]
    mapped = run_command("aws", "mapping", *stream, "--function", f"{HANDLER}", "--retries", "0")
    assert json.loads(mapped.out.splitlines()[-1])["failed"] == 22, "it is no handler for a mapping"
    refused = run_command("aws", "firehose", "--bucket", "b")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--from-firehose NAME" in refused.err


def test_the_commands_end_cleanly_when_they_are_asked_to(journey: AwsAccount, tmp_path: Path) -> None:
    process = command(journey, tmp_path, "pipe", "--table", TABLE, "--stream", STREAM)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert json.loads(process.stdout.readline())["running"] == f"pipe {TABLE} → {STREAM}"
            os.kill(process.pid, signal.SIGINT)
            assert json.loads(process.stdout.readline())["read"] == 0
            assert process.wait(60) == 0
        finally:
            process.kill()
