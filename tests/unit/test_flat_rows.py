"""Changes as flat rows: a table's columns and what happened, as JSON that says every value exactly."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from catchment.change import ChangeBatch, Operation
from catchment.formats.clean_record import RecordCleaner
from catchment.formats.dynamodb_changes import ChangeDecoder
from catchment.formats.dynamodb_json import parse_json
from catchment.formats.flat_rows import FlatNdjsonEncoder, FlatRows
from catchment.schema import UTC_MICROSECONDS, Column, TableId, TableSchema
from catchment.testing.changes import Change, make_batch, replay_seed

ORDERS = TableSchema(
    TableId("public", "orders"),
    (
        Column("id", pa.int64(), "bigint", key=True),
        Column("price", pa.decimal128(38, 9), "numeric"),
        Column("at", UTC_MICROSECONDS, "timestamptz"),
        Column("ratio", pa.float64(), "double precision"),
        Column("small", pa.float32(), "real"),
        Column("photo", pa.binary(), "bytea"),
        Column('a "quoted" name', pa.string(), "text"),
        Column("event_type", pa.string(), "text"),
        Column("ID", pa.int64(), "bigint"),
    ),
)
ARN = "arn:aws:dynamodb:us-east-1:000000000000:table/OrderTable/stream/2026-11-21T12:00:00.000"


def lines(*batches: ChangeBatch, date_column: str = "at") -> list[dict[str, Any]]:
    encoder = FlatNdjsonEncoder(FlatRows(date_column))
    found = [bytes(encoder.encode(batch.schema, batch.records)) for batch in batches]
    encoder.close()
    return [parse_json(line) for text in found for line in text.decode().splitlines()]


def change(op: Operation, **values: Any) -> Change:
    row = {column.name: values.get(column.name) for column in ORDERS.columns}
    sides = {"before": row} if op is Operation.DELETE else {"after": row}
    return Change(op, committed_at=1_795_277_838_123_456, **sides)  # type: ignore[arg-type]


def test_numbers_are_all_their_digits_and_no_more() -> None:
    prices = ["429.990000000", "1000", "0", "-0.5", "12345678901234567890123456789.123456789"]
    found = lines(make_batch(ORDERS, "lane", [change(Operation.INSERT, id=1, price=Decimal(one)) for one in prices]))
    wanted = ["429.99", "1000", "0", "-0.5", "12345678901234567890123456789.123456789"]
    assert [str(one["price"]) for one in found] == wanted


def test_what_json_has_no_number_for_is_text() -> None:
    values = [float("nan"), float("inf"), 0.1]
    found = lines(make_batch(ORDERS, "lane", [change(Operation.INSERT, id=1, ratio=v, small=v) for v in values]))
    assert [str(one["ratio"]) for one in found] == ["nan", "inf", "0.1"]
    assert str(found[2]["small"]) == "0.1"


def test_what_happened_stands_beside_the_columns() -> None:
    kinds = (Operation.INSERT, Operation.UPDATE, Operation.DELETE, Operation.READ)
    found = lines(make_batch(ORDERS, "lane", [change(kind, id=7) for kind in kinds]))
    assert [one["event_type"] for one in found] == ["INSERT", "MODIFY", "REMOVE", "UNKNOWN"]
    assert {(str(one["id"]), one["event_time"], one["order_date"]) for one in found} == {
        ("7", "2026-11-21 16:17:18.123", "2026-11-21")
    }
    assert {(one["event_id"], one["sequence_number"], one["stream_label"]) for one in found} == {(None, None, None)}


def test_the_date_is_that_of_the_column_where_there_is_one() -> None:
    found = lines(make_batch(ORDERS, "lane", [change(Operation.INSERT, id=1, at=0), change(Operation.INSERT, id=2)]))
    assert [one["order_date"] for one in found] == ["1970-01-01", "2026-11-21"]
    assert found[0]["at"] == "1970-01-01 00:00:00.000"


def test_times_are_cut_to_what_athena_has_and_kept_whole_beside() -> None:
    rows = [change(Operation.INSERT, id=1, at=at) for at in (1_795_277_838_123_456, 1_795_277_838_123_000, None)]
    found = lines(make_batch(ORDERS, "lane", rows))
    assert [one["at"] for one in found] == ["2026-11-21 16:17:18.123"] * 2 + [None]
    assert found[0]["_original"] == {"at": '{"S":"2026-11-21T16:17:18.123456Z"}'}
    assert "_original" not in found[1]
    assert "_original" not in found[2]


def test_columns_that_cannot_stand_beside_ours_are_kept_apart() -> None:
    row = change(Operation.INSERT, **{"id": 1, "ID": 2, "event_type": "mine", 'a "quoted" name': 'it\'s "x"\n'})
    (found,) = lines(make_batch(ORDERS, "lane", [row]))
    assert str(found["id"]) == "1"
    assert found["event_type"] == "INSERT"
    assert {name: str(value) for name, value in found["_attributes"].items()} == {"event_type": "mine", "ID": "2"}
    assert found['a "quoted" name'] == 'it\'s "x"\n'


def test_a_row_can_be_restored_as_a_clean_record() -> None:
    rng = random.Random(replay_seed())
    items = [random_item(rng) for _ in range(300)]
    decoder = ChangeDecoder(TableId("dynamodb", "OrderTable"), {"orderid": "S"})
    events = decoder.decode(
        [json.dumps(record(number, item)).encode() for number, item in enumerate(items)],
        lane="OrderTable@1/2026-11-21T12:00:00.000/shard-1",
        positions=[number.to_bytes(24, "big") for number in range(len(items))],
    )
    batches = [event for event in events if isinstance(event, ChangeBatch)]
    cleaner = RecordCleaner(())
    encoder = FlatNdjsonEncoder(FlatRows("order_timestamp"))
    number = 0
    for batch in batches:
        for line in bytes(encoder.encode(batch.schema, batch.records)).splitlines():
            held = {name: value for name, value in cleaner.restore(line).items() if value != {"NULL": True}}
            odd = parse_json(line.decode()).get("_unrepresentable", {})
            expected = {name: value for name, value in items[number].items() if name not in odd}
            assert comparable(held) == comparable(expected)
            number += 1
    encoder.close()
    assert number == len(items)


def record(number: int, item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "eventID": f"{number:032x}",
        "eventName": "INSERT",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": ARN,
        "dynamodb": {
            "ApproximateCreationDateTime": 1_795_277_838,
            "Keys": {"orderid": item["orderid"]},
            "NewImage": item,
            "SequenceNumber": str(10**24 + number),
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    }


def random_item(rng: random.Random) -> dict[str, Any]:
    text = "".join(rng.choices('ab"\\é\n\u2028 {}', k=rng.randrange(6)))
    choices: dict[str, Any] = {
        "text": {"S": text},
        "number": {"N": str(Decimal(rng.randrange(-(10**12), 10**12)).scaleb(-rng.randrange(9)))},
        "flag": {"BOOL": rng.random() < 0.5},
        "photo": {"B": "AAEC"},
        "tags": {"SS": ["a", text or "b"]},
        "sizes": {"NS": ["1", "2.5"]},
        "box": {"M": {"of": {"L": [{"S": text}, {"N": "3"}, {"NULL": True}]}, "a/b~c": {"BOOL": True}}},
        "Event_Type": {"S": "theirs"},
    }
    names = rng.sample(list(choices), rng.randrange(len(choices) + 1))
    return {"orderid": {"S": f"{rng.randrange(10**4):04d}"}, **{name: choices[name] for name in names}}


def comparable(item: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers by their value: a column has nine places."""
    return {
        name: {kind: Decimal(one) if kind == "N" else sorted(map(str, one)) if kind in ("SS", "NS") else one}
        for name, value in item.items()
        for kind, one in value.items()
    }
