"""One Kinesis data stream, as the reader of shards wants it.

Limits (API reference): five GetRecords a second and 2 MiB/s a shard, over all its consumers; 10,000 records or 10 MiB a
call; an iterator lives for five minutes; ListShards 1,000 calls/s, 1,000 shards a page.
"""

from __future__ import annotations

from typing import Any

from catchment.aws_client import aws_client
from catchment.aws_errors import THROTTLING, translated
from catchment.errors import CatchmentError
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
    since_microseconds,
)

LIMIT = 10_000


class KinesisStream:
    """A data stream by its name. Contract: `catchment.sources.shards.StreamClient`."""

    reads_apart_seconds = 0.2
    empty_reads_at_tip = 1

    def __init__(self, name: str, region: str | None = None, client: Any = None, limit: int = LIMIT) -> None:
        self._name = name
        self._limit = limit
        self._client = client or aws_client("kinesis", region)

    @property
    def stream(self) -> str:
        return f"The stream {self._name}"

    def shards(self) -> list[Shard]:
        found: list[Shard] = []
        wanted: dict[str, Any] = {"StreamName": self._name}
        while True:
            with translated(f"listing the shards of {self._name}", lambda code, said: self._known(code, said, "")):
                got = self._client.list_shards(**wanted)
            found += [_shard(one) for one in got["Shards"]]
            if not got.get("NextToken"):
                return found
            wanted = {"NextToken": got["NextToken"]}

    def children(self, shard: str) -> list[Shard]:
        return self.shards()

    def iterator(self, shard: str, place: str) -> str:
        kind: dict[str, Any] = {"ShardIteratorType": LATEST if place == LATEST else TRIM_HORIZON}
        if is_sequence_number(place):
            kind = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": place}
        elif (at := since_microseconds(place)) is not None:
            kind = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": at / 1_000_000}
        with translated(f"reading shard {shard} of {self._name}", lambda code, said: self._known(code, said, shard)):
            got = self._client.get_shard_iterator(StreamName=self._name, ShardId=shard, **kind)
        return str(got["ShardIterator"])

    def read(self, iterator: str) -> Answer:
        with translated(f"reading {self._name}", lambda code, said: self._known(code, said, "")):
            got = self._client.get_records(ShardIterator=iterator, Limit=self._limit)
        records = got["Records"]
        numbers = [one["SequenceNumber"] for one in records]
        behind_ms = got.get("MillisBehindLatest")
        return Answer(records, numbers, got.get("NextShardIterator"), behind_ms, None, told_at(got))

    def newer(self, answer: Answer, begun_at: int) -> Answer:
        """Kinesis was asked by time already."""
        return answer

    def _known(self, code: str, said: str, shard: str) -> CatchmentError | None:
        if code in THROTTLING:
            return Throttled(f"AWS asks for fewer calls of {self._name} ({code}).")
        if code == "ExpiredIteratorException":
            return IteratorExpired(f"An iterator of {self._name} has expired.")
        if code in ("ResourceNotFoundException", "InvalidArgumentException") and shard:
            return Trimmed(f"What comes next in shard {shard} of {self._name} is no longer there ({code}): {said}")
        if code == "ResourceNotFoundException":
            return StreamGone(f"There is no stream {self._name} in this account and region.")
        return None


def _shard(listed: dict[str, Any]) -> Shard:
    parents = (listed.get("ParentShardId"), listed.get("AdjacentParentShardId"))
    closed = "EndingSequenceNumber" in listed.get("SequenceNumberRange", {})
    return Shard(listed["ShardId"], tuple(one for one in parents if one), closed)
