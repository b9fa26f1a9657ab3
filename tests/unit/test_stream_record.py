"""DynamoDB's change records: every spelling says the same, and what cannot be read says why without a value."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.formats.stream_record import (
    PoisonRecord,
    StreamRecord,
    arn_parts,
    epoch_microseconds,
    event_of,
    is_change_record,
    parse_record,
)

ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/OrderTable/stream/2026-11-21T12:00:00.000"
IMAGE: dict[str, Any] = {"orderid": {"S": "7421"}, "photo": {"B": "AAE="}, "price": {"N": "429.99"}}
SECRET = "a customer's secret"


def lambda_event(**changes: Any) -> dict[str, Any]:
    """As Lambda and Pipes get it."""
    return {
        "eventID": "c9fbe7d0261a5163fcb6940593e41797",
        "eventName": "MODIFY",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": ARN,
        "dynamodb": {
            "ApproximateCreationDateTime": 1795274238,
            "Keys": {"orderid": {"S": "7421"}},
            "NewImage": IMAGE,
            "OldImage": {"orderid": {"S": "7421"}},
            "SequenceNumber": "111900000000006283034203",
            "SizeBytes": 99,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        **changes,
    }


def kinesis_destination(**changes: Any) -> dict[str, Any]:
    """As DynamoDB's own Kinesis destination sends it."""
    return {
        "awsRegion": "us-east-1",
        "eventID": "c9fbe7d0261a5163fcb6940593e41797",
        "eventName": "MODIFY",
        "userIdentity": None,
        "recordFormat": "application/json",
        "tableName": "OrderTable",
        "dynamodb": {
            "ApproximateCreationDateTime": 1795274238000,
            "Keys": {"orderid": {"S": "7421"}},
            "NewImage": IMAGE,
            "OldImage": {"orderid": {"S": "7421"}},
            "SizeBytes": 99,
        },
        "eventSource": "aws:dynamodb",
        **changes,
    }


def get_records(**changes: Any) -> dict[str, Any]:
    """As boto3's GetRecords returns it."""
    return {
        "eventID": "c9fbe7d0261a5163fcb6940593e41797",
        "eventName": "MODIFY",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "dynamodb": {
            "ApproximateCreationDateTime": datetime(2026, 11, 21, 15, 17, 18, tzinfo=UTC),
            "Keys": {"orderid": {"S": "7421"}},
            "NewImage": {**IMAGE, "photo": {"B": b"\x00\x01"}},
            "OldImage": {"orderid": {"S": "7421"}},
            "SequenceNumber": "111900000000006283034203",
            "SizeBytes": 99,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
        **changes,
    }


def test_the_spelling_of_lambda_and_pipes_is_read() -> None:
    assert parse_record(lambda_event()) == StreamRecord(
        event_name="MODIFY",
        keys={"orderid": {"S": "7421"}},
        new_image=IMAGE,
        old_image={"orderid": {"S": "7421"}},
        event_id="c9fbe7d0261a5163fcb6940593e41797",
        sequence_number="111900000000006283034203",
        stream_label="2026-11-21T12:00:00.000",
        table="OrderTable",
        created_at=1795274238_000000,
        view_type="NEW_AND_OLD_IMAGES",
        by_service=None,
    )


def test_the_kinesis_destination_says_the_same_but_for_what_it_lacks() -> None:
    assert parse_record(kinesis_destination()) == parse_record(lambda_event())._replace(
        sequence_number=None, stream_label=None, view_type=None
    )


def test_what_get_records_returns_becomes_the_wire_form() -> None:
    event = event_of(get_records(), ARN, "us-east-1")
    assert event == lambda_event()
    assert parse_record(json.loads(json.dumps(event))) == parse_record(lambda_event())


def test_an_expired_item_was_removed_by_dynamodb_in_either_spelling() -> None:
    lower = {"type": "Service", "principalId": "dynamodb.amazonaws.com"}
    upper = {"Type": "Service", "PrincipalId": "dynamodb.amazonaws.com"}
    assert event_of(get_records(userIdentity=upper), ARN, "us-east-1")["userIdentity"] == lower
    for identity in (lower, upper):
        assert parse_record(lambda_event(userIdentity=identity)).by_service == "dynamodb.amazonaws.com"


@pytest.mark.parametrize(
    ("value", "microseconds"),
    [
        (1795274238, 1795274238_000000),
        (1795274238.5, 1795274238_500000),
        (1795274238.123456, 1795274238_123456),
        (1795274238123, 1795274238_123000),
        (1795274238123456, 1795274238_123456),
        ("1795274238", 1795274238_000000),
        ("1.795274238E9", 1795274238_000000),
        ("1795274238123.9999", 1795274238_123999),
        (0, 0),
        (datetime(2026, 11, 21, 15, 17, 18, 123456, tzinfo=UTC), 1795274238_123456),
        (datetime(2026, 11, 21, 16, 17, 18, tzinfo=timezone(timedelta(hours=1))), 1795274238_000000),
    ],
)
def test_a_time_is_read_in_every_unit(value: object, microseconds: int) -> None:
    assert epoch_microseconds(value) == microseconds


@given(st.integers(100_000_000_000_000, 10**17 - 1))
def test_the_three_units_of_a_moment_agree(microseconds: int) -> None:
    moment = microseconds // 1_000_000 * 1_000_000
    assert epoch_microseconds(microseconds) == microseconds
    assert epoch_microseconds(moment // 1_000_000) == moment
    if moment >= 10**14:
        assert epoch_microseconds(moment // 1_000) == moment


@pytest.mark.parametrize(
    "value",
    [-1, True, None, [], SECRET, "", "NaN", float("nan"), float("inf"), 10**17, 10**30, "9" * 5000, "1e999999999"],
)
def test_what_is_no_time_is_poison(value: object) -> None:
    with pytest.raises(PoisonRecord) as caught:
        epoch_microseconds(value)
    assert SECRET not in str(caught.value)


def changed(**members: Any) -> dict[str, Any]:
    return lambda_event(dynamodb={**lambda_event()["dynamodb"], **members})


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (SECRET, "not a JSON object"),
        ([SECRET], "not a JSON object"),
        ({"orderid": SECRET}, "no member dynamodb"),
        (lambda_event(dynamodb=SECRET), "no member dynamodb"),
        (lambda_event(eventName=SECRET), "eventName"),
        (lambda_event(eventName=[SECRET]), "eventName"),
        (lambda_event(eventID=5), "eventID"),
        (lambda_event(eventSourceARN={}), "eventSourceARN"),
        (lambda_event(userIdentity=SECRET), "userIdentity"),
        (changed(NewImage=SECRET), "NewImage"),
        (changed(Keys=[SECRET]), "Keys"),
        (changed(SequenceNumber=SECRET), "SequenceNumber"),
        (changed(SequenceNumber=17), "SequenceNumber"),
        (changed(ApproximateCreationDateTime=SECRET), "ApproximateCreationDateTime"),
    ],
)
def test_a_record_that_cannot_be_read_says_why_and_tells_no_value(document: object, reason: str) -> None:
    with pytest.raises(PoisonRecord, match=reason) as caught:
        parse_record(document)
    assert SECRET not in str(caught.value)


def test_a_record_without_an_event_name_is_unknown() -> None:
    event = lambda_event()
    del event["eventName"]
    assert is_change_record(event)
    assert parse_record(event).event_name == "UNKNOWN"


def test_a_plain_item_with_an_attribute_named_dynamodb_is_no_change_record() -> None:
    assert not is_change_record({"orderid": "7421", "dynamodb": {"region": "us-east-1"}})
    assert is_change_record(kinesis_destination())


def test_an_arn_tells_table_and_stream() -> None:
    assert arn_parts(ARN) == ("OrderTable", "2026-11-21T12:00:00.000")
    assert arn_parts("arn:aws:kinesis:us-east-1:123456789012:stream/gadget-sales-stream") == (None, None)
