"""A whole DynamoDB source on streams as AWS has them: shards roll, split and are trimmed; streams are replaced.

The stand-in's streams have one shard that never ends, so a table with its streams is played here, as boto3 shows it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from botocore.exceptions import ClientError

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.progress import ALL_CHUNKS, Progress, resume_point
from catchment.sources.base import DeadLetter, Idle, TransactionEnd
from catchment.sources.dynamodb import source as dynamodb_source
from catchment.sources.dynamodb.config import DynamoDbSourceConfig
from catchment.testing.changes import replay_seed

TABLE = "OrderTable"
ARN = f"arn:aws:dynamodb:us-east-1:123456789012:table/{TABLE}"


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "played"}}, "played")


@dataclass
class Shard:
    name: str
    parent: str | None
    records: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False


Method = TypeVar("Method", bound=Callable[..., Any])


def at_once(method: Method) -> Method:
    """Nobody sees the half of it: a source's threads ask while the table is written to."""

    @wraps(method)
    def alone(table: PlayedTable, *given: Any, **named: Any) -> Any:
        with table.lock:
            return method(table, *given, **named)

    return cast(Method, alone)


class PlayedTable:
    """One table, its items, and its streams by label; the two clients that show it."""

    def __init__(self, rng: random.Random) -> None:
        self.lock = threading.RLock()
        self.rng = rng
        self.items: dict[str, int] = {}
        self.streams: dict[str, list[Shard]] = {}
        self.label = ""
        self.enabled = False
        self._number = 10**20
        self._labels = 0
        self._shards = 0
        self.meta = SimpleNamespace(region_name="us-east-1", events=SimpleNamespace(register=lambda *_: None))
        self.enable()

    # -- writing

    def enable(self) -> None:
        self._labels += 1
        self.label = f"2026-11-21T10:{self._labels:02}:00.000"
        self.enabled = True
        self.streams[self.label] = []
        for _ in range(self.rng.randrange(1, 4)):
            self._add(None)

    def disable(self) -> None:
        for one in self.streams[self.label]:
            one.closed = True
        self.enabled = False

    @at_once
    def replace(self) -> None:
        """Disabled, written to unseen, enabled again."""
        self.disable()
        self.write(self.rng.randrange(8))
        if self.rng.random() < 0.3:
            del self.streams[self.label]
        self.enable()

    @at_once
    def roll(self) -> None:
        """An open shard ends, and one or two follow."""
        one = self.rng.choice([shard for shard in self.streams[self.label] if not shard.closed])
        one.closed = True
        for _ in range(self.rng.choice([1, 1, 2])):
            self._add(one.name)

    @at_once
    def trim(self) -> None:
        """What is in closed shards is older than a day."""
        self.streams[self.label] = [one for one in self.streams[self.label] if not one.closed]

    @at_once
    def write(self, count: int) -> None:
        for _ in range(count):
            key = f"{self.rng.randrange(12)}"
            self._number += self.rng.randrange(1, 1000)
            before = self.items.get(key)
            if self.rng.random() < 0.3:
                self.items.pop(key, None)
            else:
                self.items[key] = self._number
            self._record(key, before, self.items.get(key))

    def _record(self, key: str, before: int | None, after: int | None) -> None:
        if not self.enabled or before == after:
            return
        change: dict[str, Any] = {
            "ApproximateCreationDateTime": datetime.now(UTC).replace(microsecond=0),
            "Keys": {"orderid": {"S": key}},
            "SequenceNumber": str(self._number),
            "SizeBytes": 1,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        }
        name = "MODIFY" if after is not None and before is not None else "INSERT" if after is not None else "REMOVE"
        for image, value in (("NewImage", after), ("OldImage", before)):
            if value is not None:
                change[image] = item(key, value)
        roots = [one for one in self.streams[self.label] if one.parent is None or not self._has(one.parent)]
        shard = roots[sum(key.encode()) % len(roots)]
        while shard.closed:
            children = [one for one in self.streams[self.label] if one.parent == shard.name]
            shard = children[sum(key.encode()) // 7 % len(children)]
        record = {"eventID": f"e{self._number}", "eventName": name, "eventVersion": "1.1", "awsRegion": "us-east-1"}
        shard.records.append({**record, "eventSource": "aws:dynamodb", "dynamodb": change})

    def _has(self, name: str) -> bool:
        return any(one.name == name for one in self.streams[self.label])

    def _add(self, parent: str | None) -> None:
        self._shards += 1
        self.streams[self.label].append(Shard(f"shardId-{self.rng.randrange(10**6):06}-{self._shards:04}", parent))

    # -- as boto3 shows it

    @at_once
    def describe_table(self, **_: Any) -> dict[str, Any]:
        table: dict[str, Any] = {
            "TableName": TABLE,
            "TableArn": ARN,
            "TableStatus": "ACTIVE",
            "AttributeDefinitions": [{"AttributeName": "orderid", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "orderid", "KeyType": "HASH"}],
            "TableSizeBytes": 5000,
            "ItemCount": len(self.items),
            "LatestStreamLabel": self.label,
        }
        if self.enabled:
            table["StreamSpecification"] = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
        return {"Table": table}

    @at_once
    def scan(self, Segment: int, TotalSegments: int, **more: Any) -> dict[str, Any]:  # noqa: N803 - AWS's names
        keys = sorted(key for key in self.items if sum(key.encode()) % TotalSegments == Segment)
        after = more.get("ExclusiveStartKey", {}).get("orderid", {}).get("S", "")
        page = [key for key in keys if key > after][:2]
        answer: dict[str, Any] = {"Items": [item(key, self.items[key]) for key in page]}
        if len(page) == 2:
            answer["LastEvaluatedKey"] = {"orderid": {"S": page[-1]}}
        return answer

    def _stream(self, arn: str) -> list[Shard]:
        label = arn.rpartition("/")[2]
        if label not in self.streams:
            raise refusal("ResourceNotFoundException")
        return self.streams[label]

    @at_once
    def describe_stream(self, StreamArn: str, **more: Any) -> dict[str, Any]:  # noqa: N803 - AWS's names
        wanted = more.get("ShardFilter", {}).get("ShardId")
        shards = [one for one in self._stream(StreamArn) if wanted in (None, one.parent)]
        self.rng.shuffle(shards)
        described = [
            {"ShardId": one.name, "SequenceNumberRange": {"EndingSequenceNumber": "9"} if one.closed else {}}
            | ({"ParentShardId": one.parent} if one.parent else {})
            for one in shards
        ]
        return {"StreamDescription": {"Shards": described}}

    @at_once
    def get_shard_iterator(self, StreamArn: str, ShardId: str, **how: Any) -> dict[str, Any]:  # noqa: N803
        shard = self._shard(StreamArn, ShardId)
        at = 0
        if how["ShardIteratorType"] == "LATEST":
            at = len(shard.records)
        elif how["ShardIteratorType"] == "AFTER_SEQUENCE_NUMBER":
            after = int(how["SequenceNumber"])
            at = sum(int(one["dynamodb"]["SequenceNumber"]) <= after for one in shard.records)
        return {"ShardIterator": f"{StreamArn}|{ShardId}|{at}"}

    @at_once
    def get_records(self, ShardIterator: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        if self.rng.random() < 0.03:
            raise refusal("ExpiredIteratorException" if self.rng.random() < 0.5 else "LimitExceededException")
        arn, name, at = ShardIterator.split("|")
        try:
            shard = self._shard(arn, name)
        except ClientError:
            raise refusal("TrimmedDataAccessException") from None
        end = min(len(shard.records), int(at) + 3)
        answer: dict[str, Any] = {"Records": shard.records[int(at) : end]}
        if not (shard.closed and end == len(shard.records)):
            answer["NextShardIterator"] = f"{arn}|{name}|{end}"
        return answer

    def _shard(self, arn: str, name: str) -> Shard:
        found = [one for one in self._stream(arn) if one.name == name]
        if not found:
            raise refusal("ResourceNotFoundException")
        return found[0]


def item(key: str, value: int) -> dict[str, Any]:
    return {"orderid": {"S": key}, "value": {"N": str(value)}}


class BusyTable(PlayedTable):
    """Its many shards have a further page whenever they are asked: somebody always waits with changes."""

    @at_once
    def enable(self) -> None:
        super().enable()
        for _ in range(24):
            self._add(None)

    @at_once
    def get_records(self, ShardIterator: str, **_: Any) -> dict[str, Any]:  # noqa: N803 - AWS's names
        arn, name, _after = ShardIterator.split("|")
        shard = self._shard(arn, name)
        key, number = f"of {name}", self._number
        self._number += 3
        images = [item(key, one) for one in range(number, number + 4)]
        shard.records = [
            {"eventID": f"e{at}", "eventName": "MODIFY", "eventVersion": "1.1", "awsRegion": "us-east-1"}
            | {"eventSource": "aws:dynamodb", "dynamodb": {"Keys": {"orderid": {"S": key}}, "OldImage": old}}
            for at, old in enumerate(images[:-1], number)
        ]
        for at, (record, new) in enumerate(zip(shard.records, images[1:], strict=True), number + 1):
            record["dynamodb"] |= {"NewImage": new, "SequenceNumber": str(at)}
        return {"Records": shard.records, "NextShardIterator": f"{arn}|{name}|0"}


class Lake:
    """A sink: keeps changes and progress together at boundaries, whenever it is flushed."""

    def __init__(self) -> None:
        self.held: Progress | None = None
        self.rows: list[dict[str, Any]] = []
        self._batches: list[ChangeBatch] = []
        self._bounded: list[ChangeBatch] = []
        self._boundary: Progress | None = None

    def write(self, batch: ChangeBatch) -> None:
        fresh = batch.after(self.held)
        if fresh is not None and len(fresh):
            self._batches.append(fresh)

    def advance(self, progress: Progress) -> None:
        self._bounded += self._batches
        self._batches = []
        self._boundary = progress

    def flush(self) -> None:
        if self._boundary is None:
            return
        said = self._boundary if self.held is None else self.held.join(self._boundary)
        self.held = Progress.from_json(said.to_json())
        self.rows += [row for batch in self._bounded for row in batch.records.to_pylist()]
        self._bounded = []

    def crash(self) -> None:
        self._batches, self._bounded, self._boundary = [], [], None

    def silver(self) -> dict[str, int]:
        """The latest version of each key, above the last truncate."""
        emptied = max((row["_version"] for row in self.rows if row["_op"] == "t"), default=b"")
        latest: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            if row["_op"] != "t" and row["_version"] > emptied:
                key = (row["after"] or row["before"])["orderid"]
                if key not in latest or latest[key]["_version"] < row["_version"]:
                    latest[key] = row
        return {key: int(row["after"]["value"]) for key, row in latest.items() if row["_op"] != "d"}

    def expect_each_change_once(self) -> None:
        places = [(row["_lane"], row["_position"]) for row in self.rows]
        assert len(places) == len(set(places)), "changes are there twice"


@pytest.mark.parametrize("round_", [0, 1, *(pytest.param(round_, marks=pytest.mark.slow) for round_ in range(2, 12))])
def test_silver_is_the_table_whatever_happens_to_its_shards(round_: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(replay_seed() + round_)
    table = PlayedTable(rng)
    monkeypatch.setattr(dynamodb_source, "aws_client", lambda *_: table)
    lakes = [Lake(), Lake()]
    table.write(10)
    for _ in range(10):
        _capture(table, lakes, rng, whole=False)
        table.write(rng.randrange(12))
        if rng.random() < 0.3:
            rng.choice([table.roll, table.trim, table.replace])()
    _capture(table, lakes, rng, whole=True)
    for lake in lakes:
        assert lake.silver() == table.items
        lake.expect_each_change_once()


def test_a_table_is_scanned_though_its_stream_never_rests_and_the_stream_is_read_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = BusyTable(random.Random(replay_seed()))
    table.items = {f"{number}": number for number in range(300)}
    monkeypatch.setattr(dynamodb_source, "aws_client", lambda *_: table)
    source = _config().build(BuildContext("test", None))  # type: ignore[arg-type]
    rows = {"scanned": 0, "streamed": 0}
    try:
        source.open(None)
        snapshot: frozenset[str] = frozenset()
        while snapshot != ALL_CHUNKS:
            event = source.next(10.0)
            if isinstance(event, ChangeBatch):
                rows["streamed" if event.chunk is None else "scanned"] += len(event)
            elif isinstance(event, TransactionEnd):
                snapshot = event.progress.chunks.get(f"dynamodb.{TABLE}@1", frozenset())
            assert rows["streamed"] < 10 * len(table.items), "the stream leaves no turn to the scan"
    finally:
        source.close()
    assert rows["scanned"] == len(table.items)
    assert rows["streamed"] > len(table.items) / 5


def _config(**options: Any) -> DynamoDbSourceConfig:
    return DynamoDbSourceConfig.model_validate(
        {
            "type": "dynamodb",
            "tables": [TABLE],
            "columns": {TABLE: {"value": "decimal(38,0)"}},
            "scan_segment_bytes": 1024,
            "stream_check_interval_seconds": 0.05,
            **options,
        }
    )


def _capture(table: PlayedTable, lakes: list[Lake], rng: random.Random, *, whole: bool) -> None:
    """One run, broken off somewhere, while the table is written to; or up to the table as it is."""
    source = _config().build(BuildContext("test", None))  # type: ignore[arg-type]
    left = rng.randrange(1, 40)
    try:
        source.open(resume_point(lake.held for lake in lakes))
        head = source.head()
        until = time.monotonic() + (120.0 if whole else 0.6)
        while time.monotonic() < until and (whole or left > 0):
            event = source.next(0.05)
            match event:
                case ChangeBatch():
                    for lake in lakes:
                        lake.write(event)
                case TransactionEnd(progress) | Idle(progress):
                    for lake in lakes:
                        lake.advance(progress)
                case DeadLetter():
                    raise AssertionError(event.reason)
            left -= 1
            for lake in lakes:
                if whole or rng.random() < 0.2:
                    lake.flush()
            held = [lake.held for lake in lakes if lake.held is not None]
            if len(held) == len(lakes) and rng.random() < 0.5:
                source.acknowledge(held[0].meet(held[1]))
            if whole and all(one.covers(head) for one in held) and len(held) == len(lakes):
                return
            if not whole and rng.random() < 0.2:
                table.write(1)
            if not whole and rng.random() < 0.04:
                rng.choice([table.roll, table.roll, table.trim, table.replace])()
        assert not whole, f"not caught up: {source.status()}"
    finally:
        source.close()
        for lake in lakes:
            lake.crash()
