"""Kinesis into the lake: repeats and reordering, poison, shards that split and merge under load."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aws.account import AwsAccount
from catchment import config
from catchment.change import ChangeBatch
from catchment.errors import PositionLost
from catchment.progress import Progress
from catchment.sources.base import Source
from catchment.sources.shard_positions import time_position
from pipelines.gadget_table import LAKE_NAME, TABLE, kinesis_pipeline
from pipelines.lake import capturing_beside, catch_up, expect_once, query, run
from seeds import first_seed
from waiting import wait_for

STREAM = "gadget-sales-stream"
ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/{}/stream/{}"
LABEL = "2026-11-21T10:00:00.123"


def change(
    name: str, orderid: str, number: int, quantity: int = 1, *, label: str | None = LABEL, table: str = TABLE
) -> dict[str, Any]:
    """A change record as a Pipe puts it; without a label as DynamoDB's own destination does."""
    image = {"orderid": {"S": orderid}, "quantity": {"N": str(quantity)}, "product_name": {"S": "Laptop"}}
    body: dict[str, Any] = {"Keys": {"orderid": {"S": orderid}}, "ApproximateCreationDateTime": 1.7e9}
    if name != "REMOVE":
        body["NewImage"] = image
    if name != "INSERT":
        body["OldImage"] = image
    record = {"eventID": f"{orderid}-{number}", "eventName": name, "dynamodb": body}
    if label is None:
        body["ApproximateCreationDateTime"] = 1_700_000_000_000_000 + number
        return {**record, "tableName": table, "recordFormat": "application/json", "userIdentity": None}
    body["SequenceNumber"] = str(10**21 + number)
    return {**record, "eventSourceARN": ARN.format(table, label)}


class Stream:
    """Puts change records into a data stream."""

    def __init__(self, aws: AwsAccount, shards: int = 1) -> None:
        self.client = aws.client("kinesis")
        self.client.create_stream(StreamName=STREAM, ShardCount=shards)
        self.until_active()

    def put(self, *records: dict[str, Any] | bytes, key: str = "1") -> None:
        data = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in records]
        entries = [{"Data": one, "PartitionKey": key} for one in data]
        assert self.client.put_records(StreamName=STREAM, Records=entries)["FailedRecordCount"] == 0

    def until_active(self) -> None:
        wait_for(lambda: self._status() == "ACTIVE", what="the stream")

    def _status(self) -> str:
        return str(self.client.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamStatus"])

    def split(self, chance: random.Random) -> None:
        shard = chance.choice(self._open())
        first, last = (int(shard["HashKeyRange"][name]) for name in ("StartingHashKey", "EndingHashKey"))
        self.client.split_shard(
            StreamName=STREAM, ShardToSplit=shard["ShardId"], NewStartingHashKey=str((first + last) // 2)
        )
        self.until_active()

    def merge(self, chance: random.Random) -> None:
        shards = sorted(self._open(), key=lambda one: int(one["HashKeyRange"]["StartingHashKey"]))
        if len(shards) < 2:
            return
        at = chance.randrange(len(shards) - 1)
        self.client.merge_shards(
            StreamName=STREAM, ShardToMerge=shards[at]["ShardId"], AdjacentShardToMerge=shards[at + 1]["ShardId"]
        )
        self.until_active()

    def _open(self) -> list[dict[str, Any]]:
        shards = self.client.list_shards(StreamName=STREAM)["Shards"]
        return [one for one in shards if "EndingSequenceNumber" not in one["SequenceNumberRange"]]


@pytest.fixture
def stream(aws: AwsAccount) -> Stream:
    return Stream(aws)


@pytest.fixture
def honest_stream(kinesis_local: AwsAccount) -> Stream:
    return Stream(kinesis_local, 2)


def orders(pipeline: Path, layer: str = "silver") -> list[tuple[Any, ...]]:
    return sorted(query(pipeline, f"SELECT orderid, quantity FROM {layer}.{LAKE_NAME}"))


def expect_orders(pipeline: Path, *expected: tuple[str, int]) -> None:
    for layer in ("current", "silver"):
        assert orders(pipeline, layer) == sorted(expected), layer


def test_the_stream_becomes_the_tables_rows(stream: Stream, tmp_path: Path) -> None:
    stream.put(change("INSERT", "1", 1, 3), change("INSERT", "2", 2, 5), change("MODIFY", "1", 3, 4))
    stream.put(change("REMOVE", "2", 4), change("INSERT", "7", 5, table="Other"))
    pipeline = kinesis_pipeline(tmp_path)
    catch_up(pipeline)
    expect_orders(pipeline, ("1", 4))
    assert query(pipeline, "SELECT orderid FROM silver.dynamodb_Other") == [("7",)]
    expect_once(pipeline, [LAKE_NAME, "dynamodb_Other"])


def test_a_stream_that_is_never_idle_is_caught_up_with(stream: Stream, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.wait(0.03):
            number += 1
            stream.put(change("INSERT", f"{number}", number))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        catch_up(kinesis_pipeline(tmp_path))
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("apart", [True, False], ids=["in other flushes", "in one flush"])
def test_repeats_and_reordering_do_not_bring_back_what_is_old(stream: Stream, tmp_path: Path, apart: bool) -> None:
    pipeline = kinesis_pipeline(tmp_path)
    catch_up(pipeline)
    steps = [
        [change("INSERT", "1", 1, 1), change("INSERT", "2", 2, 1), change("INSERT", "3", 3, 1)],
        [change("MODIFY", "1", 10, 9), change("REMOVE", "2", 11)],
        [change("MODIFY", "1", 5, 5), change("MODIFY", "2", 6, 6), change("INSERT", "3", 3, 1)],
        [change("REMOVE", "4", 20), change("MODIFY", "4", 19, 4), change("INSERT", "2", 2, 1)],
        [change("INSERT", "5", 21, 1), change("REMOVE", "5", 23), change("MODIFY", "5", 22, 2)],
    ]
    for step in steps:
        stream.put(*step)
        if apart:
            catch_up(pipeline)
    catch_up(pipeline)
    expect_orders(pipeline, ("1", 9), ("3", 1))
    stream.put(change("INSERT", "2", 30, 7), change("INSERT", "4", 12, 1))
    catch_up(pipeline)
    expect_orders(pipeline, ("1", 9), ("3", 1), ("2", 7))


def test_any_order_of_the_same_changes_leaves_the_same_rows(stream: Stream, tmp_path: Path) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    pipeline = kinesis_pipeline(tmp_path)
    latest: dict[str, tuple[int, int | None]] = {}
    changes = []
    for number in range(1, 300):
        orderid = f"{chance.randrange(25):02}"
        name = chance.choice(["INSERT", "MODIFY", "MODIFY", "REMOVE"])
        changes.append(change(name, orderid, number, number))
        latest[orderid] = (number, None if name == "REMOVE" else number)
    changes += chance.choices(changes, k=100)
    # Within a window, as a transport reorders; sometimes by far.
    changes.sort(
        key=lambda one: int(one["dynamodb"]["SequenceNumber"]) + chance.choice([0, 0, 5, 80]) * chance.random()
    )
    while changes:
        count = chance.randrange(1, 60)
        stream.put(*changes[:count])
        changes = changes[count:]
        catch_up(pipeline)
    expect_orders(pipeline, *((key, quantity) for key, (_, quantity) in latest.items() if quantity is not None))


def test_a_stream_that_was_enabled_later_says_later_things(stream: Stream, tmp_path: Path) -> None:
    pipeline = kinesis_pipeline(tmp_path)
    later = "2026-11-21T11:00:00.123"
    stream.put(change("INSERT", "1", 500, 1), change("MODIFY", "1", 7, 2, label=later), change("MODIFY", "1", 900, 3))
    catch_up(pipeline)
    expect_orders(pipeline, ("1", 2))


def test_records_of_dynamodbs_own_destination_are_ordered_by_time(stream: Stream, tmp_path: Path) -> None:
    pipeline = kinesis_pipeline(tmp_path)
    stream.put(change("MODIFY", "1", 7, 2, label=None), change("INSERT", "1", 6, 1, label=None))
    catch_up(pipeline)
    expect_orders(pipeline, ("1", 2))


def test_poison_is_set_aside_and_the_rest_goes_on(
    stream: Stream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = kinesis_pipeline(tmp_path)
    bad = change("MODIFY", "secret-4711", 3, 3)
    bad["dynamodb"]["NewImage"]["quantity"] = {"N": "secret-4711"}
    stream.put(change("INSERT", "1", 1, 1), b"invalid_data_here", {"orderid": "7421"}, bad, change("INSERT", "2", 4, 2))
    catch_up(pipeline)
    expect_orders(pipeline, ("1", 1), ("2", 2))
    told = run("status", str(pipeline), "--json").stdout
    assert json.loads(told)["dead_letters"] == 3
    (said,) = (one.getMessage() for one in caplog.records if one.levelname == "WARNING")
    assert said.endswith(" Kept in ops.dead_letters.")
    assert "4711" not in told + said
    catch_up(pipeline)
    expect_once(pipeline, [LAKE_NAME])


def test_shards_split_and_merge_under_load_and_nothing_is_lost(honest_stream: Stream, tmp_path: Path) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    pipeline = kinesis_pipeline(tmp_path)
    latest: dict[str, int] = {}
    number = 0

    def write(rounds: range) -> None:
        nonlocal number
        for round_ in rounds:
            for _ in range(30):
                number += 1
                orderid = f"{chance.randrange(40):02}"
                honest_stream.put(change("MODIFY", orderid, number, number), key=orderid)
                latest[orderid] = number
            if round_ % 2:
                # Two of both at least, whatever the seed.
                splits = round_ in (1, 7) or (round_ not in (3, 9) and chance.random() < 0.6)
                (honest_stream.split if splits else honest_stream.merge)(chance)

    with capturing_beside(pipeline):
        write(range(7))
    with capturing_beside(pipeline):
        write(range(7, 12))
        assert len(honest_stream.client.list_shards(StreamName=STREAM)["Shards"]) > 4
        expected = sorted(latest.items())
        wait_for(lambda: orders(pipeline) == expected, what="the last change")
    expect_orders(pipeline, *expected)
    assert expect_once(pipeline, [LAKE_NAME]) == number
    # Each key's changes came in the order in which they were put.
    before = "lag(_version) OVER (PARTITION BY before.orderid, _lane ORDER BY _position)"
    changes = f"SELECT _version, {before} AS last FROM bronze.{LAKE_NAME}"
    wrong = query(pipeline, f"SELECT * FROM ({changes}) WHERE last > _version")
    assert wrong == []


def test_what_the_stream_may_have_let_go_of_is_a_lost_position(stream: Stream, tmp_path: Path) -> None:
    pipeline = kinesis_pipeline(tmp_path)
    stream.put(change("INSERT", "1", 1, 1))
    loaded = config.load(pipeline)
    with closing(loaded.source_config.build(loaded.context)) as source:
        source.open(None)
        head, held = source.head(), Progress()
        while not held.covers(head):
            event = source.next(1.0)
            held = getattr(event, "progress", held)
    day_ago = int((time.time() - 25 * 3600) * 1_000_000)
    stale = Progress({**held.positions, f"{STREAM}/read until": time_position(day_ago)}, held.chunks)
    refused = loaded.source_config.build(loaded.context)
    with pytest.raises(PositionLost, match="--resnapshot"):
        refused.open(stale)
    refused.close()
    stream.put(change("INSERT", "2", 2, 2))
    rows: list[str] = []
    with closing(loaded.source_config.build(loaded.context, resnapshot=True)) as again:
        again.open(stale)
        wait_for(lambda: bool(rows) or _rows(again, rows, stale), what="the rest of the stream")
    assert rows == ["2"]


def _rows(source: Source, rows: list[str], held: Progress) -> bool:
    """What comes that is not held; True when something did."""
    event = source.next(0.1)
    fresh = event.after(held) if isinstance(event, ChangeBatch) else None
    rows += [one["orderid"] for one in fresh.records.column("after").to_pylist()] if fresh is not None else []
    return bool(rows)


def test_the_first_run_may_begin_with_what_comes(stream: Stream, tmp_path: Path) -> None:
    pipeline = kinesis_pipeline(tmp_path)
    pipeline.write_text(pipeline.read_text().replace("type: kinesis,", "type: kinesis, start: latest,"))
    stream.put(change("INSERT", "1", 1, 1))
    loaded = config.load(pipeline)
    rows: list[str] = []
    with closing(loaded.source_config.build(loaded.context)) as source:
        source.open(None)
        stream.put(change("INSERT", "2", 2, 2))
        wait_for(lambda: _rows(source, rows, Progress()), what="the new record")
    assert rows == ["2"]


def test_history_has_what_came_late_in_its_place(stream: Stream, tmp_path: Path) -> None:
    pipeline = kinesis_pipeline(tmp_path, "lakehouse: {history: [dynamodb_OrderTable]}")
    for step in (
        [change("INSERT", "1", 1, 1), change("MODIFY", "1", 9, 9)],
        [change("MODIFY", "1", 5, 5), change("MODIFY", "1", 9, 9)],
        [change("REMOVE", "1", 12), change("MODIFY", "1", 7, 7)],
    ):
        stream.put(*step)
        catch_up(pipeline)
    expect_orders(pipeline)
    versions = query(pipeline, f"SELECT quantity FROM silver.{LAKE_NAME}_history ORDER BY _version")
    assert versions == [(1,), (5,), (7,), (9,)]
