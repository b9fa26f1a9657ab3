"""One DynamoDB stream, as the reader of shards wants it.

Limits (API reference): GetRecords 1,000 records or 1 MB, two readers a shard; DescribeStream 10 calls/s, 100 shards a
page; records live for 24 hours; an iterator for 15 minutes. An answer may be empty although more follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from catchment.aws_client import aws_client
from catchment.aws_errors import THROTTLING, translated
from catchment.errors import CatchmentError
from catchment.formats.stream_record import epoch_microseconds, event_of
from catchment.sources.aws_answers import told_at
from catchment.sources.shards import (
    LATEST,
    TRIM_HORIZON,
    Answer,
    IteratorExpired,
    Shard,
    StreamGone,
    Throttled,
    Trimmed,
    is_sequence_number,
)

LIMIT = 1000


class DynamoDbStream:
    """A stream by its ARN. Contract: `catchment.sources.shards.StreamClient`."""

    reads_apart_seconds = 0.02
    empty_reads_at_tip = 3

    def __init__(self, arn: str, region: str | None = None, client: Any = None) -> None:
        """client: of DynamoDB Streams, where there is one already; making one takes a while."""
        self._arn = arn
        self._client = client or aws_client("dynamodbstreams", region)

    @property
    def stream(self) -> str:
        return f"The stream {self._arn}"

    def shards(self) -> list[Shard]:
        return [shard for page in self._describe({}) for shard in page]

    def children(self, shard: str) -> list[Shard]:
        wanted = {"ShardFilter": {"Type": "CHILD_SHARDS", "ShardId": shard}}
        return [one for page in self._describe(wanted) for one in page]

    def iterator(self, shard: str, place: str) -> str:
        kind: dict[str, str] = {"ShardIteratorType": LATEST if place == LATEST else TRIM_HORIZON}
        if is_sequence_number(place):
            kind = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": place}
        with translated(f"reading shard {shard} of {self._arn}", lambda code, said: self._known(code, shard)):
            got = self._client.get_shard_iterator(StreamArn=self._arn, ShardId=shard, **kind)
        return str(got["ShardIterator"])

    def read(self, iterator: str) -> Answer:
        with translated(f"reading {self._arn}", lambda code, said: self._known(code, "")):
            got = self._client.get_records(ShardIterator=iterator, Limit=LIMIT)
        records = got["Records"]
        numbers = [one["dynamodb"]["SequenceNumber"] for one in records]
        newest = records[-1]["dynamodb"].get("ApproximateCreationDateTime") if records else None
        newest_at = None if newest is None else epoch_microseconds(newest) / 1_000_000
        return Answer(records, numbers, got.get("NextShardIterator"), None, newest_at, told_at(got))

    def newer(self, answer: Answer, begun_at: int) -> Answer:
        """A stream has the time of a change to the second only."""
        older = sum(0 < _created_at(one) < begun_at - 1_000_000 for one in answer.records)
        # They are in order: the older ones come first.
        return replace(answer, records=answer.records[older:], sequence_numbers=answer.sequence_numbers[older:])

    def _describe(self, wanted: dict[str, Any]) -> Iterator[list[Shard]]:
        more: dict[str, Any] = {}
        while True:
            with translated(f"listing the shards of {self._arn}", lambda code, said: self._known(code, "")):
                got = self._client.describe_stream(StreamArn=self._arn, **wanted, **more)["StreamDescription"]
            yield [_shard(one) for one in got["Shards"]]
            if "LastEvaluatedShardId" not in got:
                return
            more = {"ExclusiveStartShardId": got["LastEvaluatedShardId"]}

    def _known(self, code: str, shard: str) -> CatchmentError | None:
        if code in THROTTLING:
            return Throttled(f"AWS asks for fewer calls of {self._arn} ({code}).")
        if code == "ExpiredIteratorException":
            return IteratorExpired(f"An iterator of {self._arn} has expired.")
        if code == "TrimmedDataAccessException" or (code == "ResourceNotFoundException" and shard):
            what = f"shard {shard} of {self._arn}" if shard else self._arn
            return Trimmed(f"What comes next in {what} is no longer there: a stream keeps 24 hours.")
        if code == "ResourceNotFoundException":
            return StreamGone(
                f"There is no stream {self._arn}: it, or its table, was deleted, or is of another account."
            )
        return None


def wire_form(record: Mapping[str, Any], arn: str, region: str) -> Mapping[str, Any]:
    """A record that was read from the stream with this ARN, as Lambda and Pipes would get it."""
    if isinstance(record["dynamodb"].get("ApproximateCreationDateTime"), datetime):
        return event_of(record, arn, region)
    return {**record, "eventSourceARN": arn}


def _created_at(record: Mapping[str, Any]) -> int:
    created_at = record["dynamodb"].get("ApproximateCreationDateTime")
    return epoch_microseconds(created_at) if created_at is not None else 0


def _shard(described: dict[str, Any]) -> Shard:
    parent = described.get("ParentShardId")
    closed = "EndingSequenceNumber" in described.get("SequenceNumberRange", {})
    return Shard(described["ShardId"], (parent,) if parent else (), closed)
