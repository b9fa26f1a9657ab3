"""Records of many tables in one Kinesis stream."""

from __future__ import annotations

import json
from typing import Any

from catchment.change import ChangeBatch
from catchment.progress import Progress
from catchment.sources.base import DeadLetter
from catchment.sources.kinesis.tables import StreamedTables

ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/{}/stream/{}"


def record(table: str, key: str, *, label: str = "2026-11-21T10:00:00.000", number: int = 10**20) -> bytes:
    wire: dict[str, Any] = {"eventName": "INSERT", "eventSourceARN": ARN.format(table, label)}
    item = {"id": {"S": key}}
    wire["dynamodb"] = {"Keys": item, "NewImage": item, "SequenceNumber": str(number)}
    return json.dumps(wire).encode()


def test_each_table_has_its_rows_in_order_and_says_why_others_have_none() -> None:
    no_table = json.dumps({"eventName": "INSERT", "dynamodb": {"NewImage": {}}}).encode()
    no_key = record("Other", "x").replace(b'"Keys"', b'"Kys"')
    records = [record("Orders", "a"), b"poison", record("Items", "b"), no_table, record("Orders", "c"), b"[]", no_key]
    positions = [bytes([number]) for number in range(len(records))]
    events = StreamedTables("stream", {}, Progress()).decode(records, lane="shard", positions=positions)
    rows = {
        (str(event.table), row["_position"], row["after"]["id"])
        for event in events
        if isinstance(event, ChangeBatch)
        for row in event.records.to_pylist()
    }
    assert rows == {("dynamodb.Orders", b"\0", "a"), ("dynamodb.Items", b"\2", "b"), ("dynamodb.Orders", b"\4", "c")}
    assert {(event.table, event.position, event.reason) for event in events if isinstance(event, DeadLetter)} == {
        ("stream", b"\1", "the record is not JSON"),
        ("stream", b"\3", "it names no table"),
        ("stream", b"\5", "the record is not a JSON object"),
        ("Other", b"\6", "it does not say the key of its table"),
    }


def test_a_stream_that_was_enabled_later_says_what_is_later() -> None:
    tables = StreamedTables("stream", {}, Progress())
    records = [record("Orders", "a", number=10**30), record("Orders", "a", label="2026-11-22T10:00:00.000")]
    events = tables.decode(records, lane="shard", positions=[b"\0", b"\1"])
    earlier, later = (event.records.column("_version")[0].as_py() for event in events if isinstance(event, ChangeBatch))
    assert earlier < later
