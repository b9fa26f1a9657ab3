"""Records of the error output put again, once: after the handler that failed at them was mended.

An object that was replayed gets a mark beside it, `<key>.replayed`, with counts and the time. A replay that is killed
in the middle of an object puts its records again when it is repeated; `gadget_sales` settles duplicates.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from catchment.aws.local.counters import Counters
from catchment.aws.local.error_output import FailedRecord, failed_records
from catchment.aws.local.ordered_put import Entry, OrderedPut, partition_key
from catchment.aws.local.patience import patiently, throttled
from catchment.aws.local.s3_place import S3Place
from catchment.aws_client import aws_client
from catchment.errors import SinkRefused, SinkUnavailable

MARK = ".replayed"
FIREHOSE_RECORDS = 500
FIREHOSE_BYTES = 4 * 1024 * 1024

Target = Callable[[list[bytes], threading.Event], None]


@dataclass(slots=True)
class Replayed:
    """What was done. objects: error objects that were replayed now; before: those that had been already.

    unreadable: lines that hold no record; they stay where they are.
    """

    objects: int = 0
    before: int = 0
    records: int = 0
    unreadable: int = 0


def to_kinesis(stream: str, counters: Counters | None = None) -> Target:
    """Puts into a Kinesis stream; a change record by its item's key, anything else by its digest."""
    put = OrderedPut(stream, counters or Counters())

    def target(data: list[bytes], stop: threading.Event) -> None:
        put.put([Entry(_key_of(one), one) for one in data], stop)

    return target


def to_firehose(name: str) -> Target:
    """Puts to a delivery stream directly."""
    firehose = aws_client("firehose")

    def target(data: list[bytes], stop: threading.Event) -> None:
        for batch in _batches(data):
            _put_batch(firehose, name, batch, stop)

    return target


def replay(
    place: S3Place, target: Target, stop: threading.Event, *, codes: frozenset[str] | None = None, dry_run: bool = False
) -> Replayed:
    """Put the raw records of all error objects under a prefix again, object by object, but not those with a mark.

    codes: only records with one of these error codes; then no marks are made, as others are left. dry_run: only count.
    Raises `SinkRefused` when the target does not take them, `SinkUnavailable` when `stop` is set before the end.
    """
    s3, done = aws_client("s3"), Replayed()
    for key, marked in _error_objects(s3, place, stop):
        if stop.is_set():
            raise SinkUnavailable("The replay was ended before it was done. Run it again: it goes on where it was.")
        if marked:
            done.before += 1
            continue
        found = list(failed_records(place.lines(s3, key, stop)))
        wanted = [one for one in found if codes is None or one.code in codes]
        records = [one.data for one in wanted if one.data is not None]
        done.unreadable += len(wanted) - len(records)
        if not dry_run and records:
            target(records, stop)
        done.records += len(records)
        done.objects += bool(records)
        if not dry_run and codes is None:
            _mark(s3, place.bucket, key, found, stop)
    return done


def _error_objects(s3: Any, place: S3Place, stop: threading.Event) -> Iterator[tuple[str, bool]]:
    """Each object's key, and whether it has a mark. A mark comes right after its object or later in the listing."""
    waiting: dict[str, bool] = {}
    for one in place.objects(s3, stop):
        key = one["Key"]
        if key.endswith(MARK):
            waiting[key.removesuffix(MARK)] = True
        else:
            waiting.setdefault(key, False)
    yield from waiting.items()


def _mark(s3: Any, bucket: str, key: str, found: list[FailedRecord], stop: threading.Event) -> None:
    unreadable = sum(one.data is None for one in found)
    document = {
        "replayed_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "records": len(found) - unreadable,
        "unreadable": unreadable,
    }
    body = json.dumps(document).encode() + b"\n"
    patiently(
        lambda: s3.put_object(Bucket=bucket, Key=key + MARK, Body=body, ContentType="application/json"),
        f"PutObject into the bucket {bucket}",
        stop,
    )


def _key_of(data: bytes) -> str:
    try:
        keys = json.loads(data)["dynamodb"]["Keys"]
        return partition_key(next(iter(next(iter(keys.values())).values())))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return hashlib.sha256(data).hexdigest()


def _batches(data: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for one in data:
        if batch and (len(batch) == FIREHOSE_RECORDS or size + len(one) > FIREHOSE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one)
    if batch:
        yield batch


def _put_batch(firehose: Any, name: str, batch: list[bytes], stop: threading.Event) -> None:
    pause = 0.1
    while batch:
        records = [{"Data": one} for one in batch]
        answer = patiently(
            lambda records=records: firehose.put_record_batch(DeliveryStreamName=name, Records=records),  # type: ignore[misc]
            f"PutRecordBatch to {name}",
            stop,
        )
        codes = [one.get("ErrorCode") for one in answer["RequestResponses"]]
        if refused := [code for code in codes if code and not throttled(code)]:
            raise SinkRefused(f"The delivery stream {name} refuses a record: {refused[0]}. Check the stream.")
        batch = [one for one, code in zip(batch, codes, strict=True) if code]
        if batch and stop.wait(pause):
            raise SinkUnavailable(f"The delivery stream {name} throttles; run the replay again.")
        pause = min(pause * 2, 5.0)
