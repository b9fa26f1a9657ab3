"""Where tests of the runners put things: bucket, stream, and what is in them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from aws.account import AwsAccount
from catchment.aws.local.counters import RunnerSnapshot

STREAM = "gadget-sales-stream"
SECONDS = 60.0


def bucket_of(aws: AwsAccount) -> str:
    """The account's bucket: names are shared by all accounts."""
    return f"gadget-sales-data-{aws.number}"


def make_bucket(aws: AwsAccount) -> str:
    aws.client("s3").create_bucket(Bucket=bucket_of(aws))
    return bucket_of(aws)


def make_stream(aws: AwsAccount, shards: int = 2) -> None:
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName=STREAM, ShardCount=shards)
    kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def objects(aws: AwsAccount, prefix: str = "") -> dict[str, bytes]:
    """Key → body, unzipped where the object says so."""
    s3, bucket = aws.client("s3"), bucket_of(aws)
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", ()):
            answer = s3.get_object(Bucket=bucket, Key=one["Key"])
            body = answer["Body"].read()
            found[one["Key"]] = gzip.decompress(body) if answer.get("ContentEncoding") == "gzip" else body
    return found


def put(aws: AwsAccount, *data: bytes) -> None:
    """Records into the stream, all over its shards."""
    entries = [{"Data": one, "PartitionKey": str(number)} for number, one in enumerate(data)]
    for start in range(0, len(entries), 500):
        answer = aws.client("kinesis").put_records(StreamName=STREAM, Records=entries[start : start + 500])
        assert answer["FailedRecordCount"] == 0


class Runner(Protocol):
    ready: threading.Event

    def run(self, stop: threading.Event, *, idle_seconds: float | None = None) -> RunnerSnapshot: ...

    def snapshot(self) -> RunnerSnapshot: ...


@contextmanager
def running(runner: Runner) -> Iterator[threading.Event]:
    """The runner in a thread, ended cleanly afterwards; raises what it raised."""
    stop = threading.Event()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            runner.run(stop)
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)
            runner.ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert runner.ready.wait(SECONDS)
        yield stop
    finally:
        stop.set()
        thread.join(SECONDS)
        assert not thread.is_alive()
    if raised:
        raise raised[0]
