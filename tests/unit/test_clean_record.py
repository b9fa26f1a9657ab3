"""Clean records: fields and times as promised, and the item comes back exactly."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.formats.clean_record import FIELDS, RESERVED, CleanRecord, RecordCleaner, cleaner_for, time_text
from catchment.formats.stream_record import PoisonRecord
from unit.test_dynamodb_json import EVERY_TYPE, items, numbers, texts
from unit.test_stream_record import SECRET, changed, kinesis_destination, lambda_event

ARRIVED = 1795274240_448000
CLEANER = RecordCleaner()


def cleaned(document: object, arrived_at: int | None = ARRIVED, cleaner: RecordCleaner = CLEANER) -> CleanRecord:
    record = cleaner.of_data(json.dumps(document).encode(), arrived_at)
    assert record is not None
    return record


def read(record: CleanRecord) -> dict[str, Any]:
    """The line as a reader sees it; numbers as Decimal."""
    assert record.line.count(b"\n") == 1
    assert record.line.endswith(b"\n")
    document = json.loads(record.line, parse_float=Decimal)
    assert isinstance(document, dict)
    return document


def image(**attributes: Any) -> dict[str, Any]:
    """An insert of this item."""
    return lambda_event(eventName="INSERT", dynamodb={**lambda_event()["dynamodb"], "NewImage": attributes})


def test_a_modified_order_is_its_new_image_with_the_event() -> None:
    assert read(cleaned(lambda_event())) == {
        "orderid": "7421",
        "photo": "AAE=",
        "price": Decimal("429.99"),
        "event_type": "MODIFY",
        "event_time": "2026-11-21 15:17:18.000",
        "event_id": "c9fbe7d0261a5163fcb6940593e41797",
        "sequence_number": "111900000000006283034203",
        "stream_label": "2026-11-21T12:00:00.000",
        "order_date": "2026-11-21",
        "_types": {"/photo": "B"},
    }


def test_an_order_that_was_removed_is_its_old_image() -> None:
    document = changed(OldImage={"orderid": {"S": "7421"}, "price": {"N": "5.00"}}) | {"eventName": "REMOVE"}
    record = read(cleaned(document))
    assert (record["orderid"], record["price"], record["event_type"]) == ("7421", Decimal("5.00"), "REMOVE")


def test_a_removal_without_an_old_image_has_its_keys() -> None:
    document = lambda_event(eventName="REMOVE")
    del document["dynamodb"]["OldImage"]
    assert [name for name in read(cleaned(document)) if name not in FIELDS] == ["orderid"]


@pytest.mark.parametrize("name", ["INSERT", "MODIFY"])
def test_a_change_without_a_new_image_is_poison(name: str) -> None:
    document = lambda_event(eventName=name)
    del document["dynamodb"]["NewImage"]
    with pytest.raises(PoisonRecord, match="view type"):
        cleaned(document)


def test_a_plain_item_is_unknown_and_dated_by_its_arrival() -> None:
    plain = {"orderid": "7421", "product_name": "Laptop", "quantity": 3, "price": 429.99}
    assert read(cleaned(plain)) == {
        "orderid": "7421",
        "product_name": "Laptop",
        "quantity": 3,
        "price": Decimal("429.99"),
        "event_type": "UNKNOWN",
        "event_time": "2026-11-21 15:17:20.448",
        "event_id": None,
        "sequence_number": None,
        "stream_label": None,
        "order_date": "2026-11-21",
    }


def test_a_plain_items_numbers_keep_their_digits() -> None:
    digits = "0.1000000000000000055511151231257827021181583404541015625"
    record = CLEANER.of_data(f'{{"orderid":"1","nested":[{digits},{{"n":-1E400}}]}}'.encode(), ARRIVED)
    assert record is not None
    assert f'"nested":[{digits},{{"n":-1E400}}]'.encode() in record.line


def test_a_record_of_the_kinesis_destination_has_no_sequence_number() -> None:
    record = read(cleaned(kinesis_destination()))
    assert record["event_time"] == "2026-11-21 15:17:18.000"
    assert (record["sequence_number"], record["stream_label"]) == (None, None)


def test_what_nobody_knows_is_null() -> None:
    record = cleaned({"orderid": "1"}, arrived_at=None)
    assert (record.event_time, record.order_date, record.event_id) == (None, None, None)
    assert read(record)["event_time"] is None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"S": "2026-11-21T23:59:59.999Z"}, "2026-11-21 23:59:59.999"),
        ({"S": "2026-11-21T15:17:18Z"}, "2026-11-21 15:17:18.000"),
        ({"S": "2026-11-21T15:17:18.123456Z"}, "2026-11-21 15:17:18.123"),
        ({"S": "2026-11-21T15:17:18.1+00:00"}, "2026-11-21 15:17:18.100"),
        ({"S": "2026-11-21T23:30:00-05:30"}, "2026-11-22 05:00:00.000"),
        ({"S": "2026-11-21t15:17:18z"}, "2026-11-21 15:17:18.000"),
        ({"S": "2026-11-21 15:17:18,5+0100"}, "2026-11-21 14:17:18.500"),
        ({"S": "2026-11-21T15:17:18+01"}, "2026-11-21 14:17:18.000"),
        ({"S": "2026-11-21T15:17"}, "2026-11-21 15:17:00.000"),
        ({"S": "2026-11-21"}, "2026-11-21 00:00:00.000"),
        ({"S": "0001-01-01T00:00:00.000Z"}, "0001-01-01 00:00:00.000"),
        ({"S": "1795274238"}, "2026-11-21 15:17:18.000"),
        ({"N": "1795274238"}, "2026-11-21 15:17:18.000"),
        ({"N": "1795274238.75"}, "2026-11-21 15:17:18.750"),
        ({"N": "1795274238123"}, "2026-11-21 15:17:18.123"),
        ({"N": "1795274238123999"}, "2026-11-21 15:17:18.123"),
    ],
)
def test_a_timestamp_of_any_spelling_is_written_in_one(value: dict[str, Any], written: str) -> None:
    item = {"orderid": {"S": "1"}, "order_timestamp": value}
    record = cleaned(image(**item))
    document = read(record)
    assert document["order_timestamp"] == written
    assert document["order_date"] == written[:10]
    assert "_unrepresentable" not in document
    assert CLEANER.restore(record.line) == item


def test_the_generators_spelling_needs_no_note() -> None:
    record = cleaned(image(orderid={"S": "1"}, order_timestamp={"S": "2026-11-21T15:17:18.123Z"}))
    assert set(read(record)) == {"orderid", "order_timestamp", *FIELDS}


@pytest.mark.parametrize(
    "value",
    [
        {"S": "next Tuesday"},
        {"S": ""},
        {"S": "2026"},
        {"S": "2026-02-30T00:00:00.000Z"},
        {"S": "0000-01-01T00:00:00.000Z"},
        {"S": "2026-11-21T24:00:00.000Z"},
        {"S": "2026-11-21T23:59:60.000Z"},
        {"S": "２０２６-11-21T15:17:18.123Z"},
        {"S": "2026-11-21T15:17:18.123Z\n"},
        {"S": "0001-01-01T00:00:00+01:00"},
        {"S": "9999-12-31T23:59:59-01:00"},
        {"S": "2026-W47-6T15:17:18.123Z"},
        {"N": "-5"},
        {"N": "1E100"},
        {"BOOL": True},
        {"B": "AAE="},
        {"L": [{"N": "1"}]},
        {"M": {"x": {"SS": ["a"]}}},
    ],
)
def test_what_is_no_time_is_null_and_kept_as_text(value: dict[str, Any]) -> None:
    item = {"orderid": {"S": "1"}, "order_timestamp": value}
    record = cleaned(image(**item))
    document = read(record)
    assert document["order_timestamp"] is None
    assert json.loads(document["_unrepresentable"]["order_timestamp"]) == value
    assert document["order_date"] == "2026-11-21", "the event's"
    assert "_types" not in document
    assert CLEANER.restore(record.line) == item


def test_a_null_timestamp_is_null_without_a_note() -> None:
    item = {"orderid": {"S": "1"}, "order_timestamp": {"NULL": True}}
    record = cleaned(image(**item))
    assert "_unrepresentable" not in read(record)
    assert CLEANER.restore(record.line) == item


def test_timestamps_are_named_by_a_setting_and_the_first_dates_the_order() -> None:
    cleaner = cleaner_for("paid_at, shipped_at")
    item = {"paid_at": {"N": "1700000000"}, "shipped_at": {"N": "1800000000"}, "order_timestamp": {"N": "5"}}
    document = read(cleaned(image(**item), cleaner=cleaner))
    assert document["paid_at"] == "2023-11-14 22:13:20.000"
    assert document["shipped_at"] == "2027-01-15 08:00:00.000"
    assert document["order_timestamp"] == 5
    assert document["order_date"] == "2023-11-14"
    assert cleaner_for("").restore(cleaned(image(**item), cleaner=cleaner_for("")).line) == item


def test_attributes_with_our_names_stand_apart() -> None:
    item = {name: {"S": f"mine: {name}"} for name in RESERVED} | {"Event_Type": {"BS": ["AA=="]}}
    record = cleaned(image(**item))
    document = read(record)
    assert document["event_type"] == "INSERT"
    assert document["_attributes"]["event_type"] == "mine: event_type"
    assert document["_types"] == {"/Event_Type": "BS"}
    assert CLEANER.restore(record.line) == item


def test_a_name_of_ours_in_another_case_stands_apart_too() -> None:
    assert read(cleaned(image(Event_Type={"S": "mine"})))["_attributes"] == {"Event_Type": "mine"}


@pytest.mark.parametrize("names", [["Status", "status"], ["status", "Status"], ["STATUS", "status", "Status"]])
def test_of_names_that_differ_in_case_only_one_is_at_top_whatever_their_order(names: list[str]) -> None:
    item = {name: {"S": name} for name in names}
    record = cleaned(image(**item))
    assert read(record)["status"] == "status"
    assert set(read(record)["_attributes"]) == set(names) - {"status"}
    assert CLEANER.restore(record.line) == item


def test_every_type_comes_back() -> None:
    record = cleaned(image(**EVERY_TYPE))
    assert CLEANER.restore(record.line) == EVERY_TYPE
    assert read(record)["text"] == EVERY_TYPE["text"]["S"]


timestamps = st.one_of(
    texts.map(lambda value: {"S": value}),
    numbers.map(lambda value: {"N": value}),
    st.integers(0, 10**17).map(lambda value: {"N": str(value)}),
    st.datetimes().map(lambda value: {"S": value.isoformat(timespec="milliseconds") + "Z"}),
    st.datetimes().map(lambda value: {"S": value.isoformat()}),
)
odd_names = st.sampled_from(sorted(RESERVED) + [name.upper() for name in sorted(RESERVED)])


@given(items, st.dictionaries(odd_names, items.map(lambda value: {"M": value}), max_size=3), timestamps)
def test_the_item_comes_back_from_its_line(
    item: dict[str, Any], odd: dict[str, Any], timestamp: dict[str, Any]
) -> None:
    whole = {**item, **odd, "order_timestamp": timestamp}
    record = CLEANER.of_data(json.dumps(image(**whole)).encode(), ARRIVED)
    assert record is not None
    assert record.line.count(b"\n") == 1
    assert CLEANER.restore(record.line) == whole


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"{}", b'{"messageType":"CONTROL_MESSAGE","owner":"CloudwatchLogs"}'])
def test_a_record_with_nothing_in_it_is_none(data: bytes) -> None:
    assert CLEANER.of_data(data, ARRIVED) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe{}", "UTF-8"),
        (SECRET.encode(), "JSON document"),
        (b'{"a": "' + SECRET.encode(), "JSON document"),
        (b'{"a": NaN}', "JSON"),
        (b'{"a": 1}\n{"a": 2}', "Extra data"),
        (b'["' + SECRET.encode() + b'"]', "not a JSON object"),
        (b"17", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, None),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (json.dumps(changed(NewImage={"a": {"S": [SECRET]}})).encode(), "attribute /a"),
        (json.dumps(changed(NewImage={"a": SECRET})).encode(), "attribute /a"),
        (json.dumps(changed(NewImage=[SECRET])).encode(), "NewImage"),
        (json.dumps(lambda_event(eventName="TRUNCATE")).encode(), "eventName"),
    ],
)
def test_poison_says_why_and_tells_no_value(data: bytes, reason: str | None) -> None:
    with pytest.raises(PoisonRecord, match=reason) as caught:
        CLEANER.of_data(data, ARRIVED)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_item_with_another_shape_each_time_is_still_right() -> None:
    for number in range(2_000):
        record = cleaned(image(**{f"a{number}": {"N": str(number)}}))
        assert read(record)[f"a{number}"] == number


def test_a_time_is_written_to_the_millisecond() -> None:
    assert time_text(0) == "1970-01-01 00:00:00.000"
    assert time_text(1795274238_999999) == "2026-11-21 15:17:18.999"
