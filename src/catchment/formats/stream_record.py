"""Change records of DynamoDB: every spelling in which AWS sends them, read into one.

* the event of Lambda and EventBridge Pipes (JSON): `eventID, eventName, eventSourceARN, dynamodb{…}`, time in seconds;
* DynamoDB's own Kinesis destination (JSON): time in milliseconds or microseconds, `tableName`, no sequence number;
* GetRecords of DynamoDB Streams by boto3: time as datetime, binary values as bytes, `userIdentity{Type, PrincipalId}`;
  `event_of` turns it into the first.

Pure Python, standard library only: a Lambda imports it.

Source: DynamoDB Streams API reference (Record, StreamRecord), Lambda developer guide (DynamoDB events), developer guide
(change data capture with Kinesis).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, NamedTuple

from catchment.formats.dynamodb_json import Item, event_form

INSERT, MODIFY, REMOVE, UNKNOWN = "INSERT", "MODIFY", "REMOVE", "UNKNOWN"
EVENT_NAMES = frozenset({INSERT, MODIFY, REMOVE})
CREATED_AT = "dynamodb.ApproximateCreationDateTime"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MICROSECOND = 10**17 - 1
"""The latest time that a record can say, in the year 5138."""
UNITS = ((10**11, 1_000_000), (10**14, 1_000), (LAST_MICROSECOND + 1, 1))
"""Epoch times below the first number are multiplied by the second: seconds, milliseconds, microseconds."""


class PoisonRecord(ValueError):
    """A record that cannot be read. The message says why and names no value; it is safe to log and to keep."""


class StreamRecord(NamedTuple):
    """One change of an item. Images and keys are typed values, with binary values as base64 text.

    event_name: INSERT, MODIFY, REMOVE; UNKNOWN when the record does not say.
    created_at: ApproximateCreationDateTime in microseconds since 1970, UTC.
    sequence_number: digits; compare as a number. None from DynamoDB's Kinesis destination.
    stream_label: the tail of the stream's ARN, later for a stream that was enabled later; None when unknown.
    by_service: the principal of a change that a service made, `dynamodb.amazonaws.com` for an item that expired.
    """

    event_name: str
    keys: Item | None
    new_image: Item | None
    old_image: Item | None
    event_id: str | None
    sequence_number: str | None
    stream_label: str | None
    table: str | None
    created_at: int | None
    view_type: str | None
    by_service: str | None


def is_change_record(document: Mapping[str, Any]) -> bool:
    """Is this JSON object a change record of DynamoDB, in any spelling, rather than a plain item?"""
    return isinstance(document.get("dynamodb"), dict) and ("eventName" in document or "eventSource" in document)


def parse_record(document: object) -> StreamRecord:
    """The change that this record says, whatever the spelling.

    document: a parsed JSON object, or a record of boto3's GetRecords.
    Typed values are not looked into; `dynamodb_json` does that when they are used.
    Raises `PoisonRecord` when it is not a change record.
    """
    if not isinstance(document, dict):
        raise PoisonRecord("the record is not a JSON object")
    change = document.get("dynamodb")
    if not isinstance(change, dict):
        raise PoisonRecord("the record has no member dynamodb that is an object")
    name = document.get("eventName", UNKNOWN)
    if not isinstance(name, str) or (name not in EVENT_NAMES and name != UNKNOWN):
        raise PoisonRecord("eventName is not INSERT, MODIFY or REMOVE")
    arn = _text(document, "eventSourceARN")
    table, label = arn_parts(arn) if arn else (None, None)
    sequence_number = _text(change, "SequenceNumber")
    if sequence_number is not None and not (sequence_number.isascii() and sequence_number.isdigit()):
        raise PoisonRecord("dynamodb.SequenceNumber is not a number")
    created_at = change.get("ApproximateCreationDateTime")
    identity = document.get("userIdentity")
    return StreamRecord(
        name,
        _image(change, "Keys"),
        _image(change, "NewImage"),
        _image(change, "OldImage"),
        _text(document, "eventID"),
        sequence_number,
        label,
        table or _text(document, "tableName"),
        None if created_at is None else _created_at(created_at),
        _text(change, "StreamViewType"),
        None if identity is None else _service(identity),
    )


def _created_at(value: object) -> int:
    # A stream has whole seconds, so that many records have the same text.
    return _created_at_text(value) if isinstance(value, str) else epoch_microseconds(value, CREATED_AT)


@lru_cache(maxsize=1024)
def _created_at_text(value: str) -> int:
    return epoch_microseconds(value, CREATED_AT)


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is None or isinstance(value, str):
        return value
    raise PoisonRecord(f"{name} is not text")


def _image(change: Mapping[str, Any], name: str) -> Item | None:
    image = change.get(name)
    if image is None or isinstance(image, dict):
        return image
    raise PoisonRecord(f"dynamodb.{name} is not an object")


def _service(identity: object) -> str | None:
    if not isinstance(identity, dict):
        raise PoisonRecord("userIdentity is not an object")
    kind = identity.get("type", identity.get("Type"))
    principal = identity.get("principalId", identity.get("PrincipalId"))
    return principal if kind == "Service" and isinstance(principal, str) else None


@lru_cache(maxsize=256)
def arn_parts(arn: str) -> tuple[str | None, str | None]:
    """Table and label of a stream's ARN: `arn:aws:dynamodb:REGION:ACCOUNT:table/TABLE/stream/LABEL`."""
    before, found, label = arn.partition("/stream/")
    if not found:
        return None, None
    return before.rpartition(":table/")[2] or None, label or None


def epoch_microseconds(value: object, name: str = "the time") -> int:
    """Microseconds since 1970 of an epoch time in seconds, milliseconds or microseconds, or of a datetime.

    The unit is told by magnitude: seconds are below 10¹¹ (the year 5138), milliseconds below 10¹⁴. Finer digits are
    cut off. Raises `PoisonRecord` when it is none of these, or outside of the years 1970 to 5138.
    """
    if isinstance(value, datetime):
        return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH) // timedelta(microseconds=1)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PoisonRecord(f"{name} is not a time")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, int):
        exact: int | Decimal = value
    else:
        try:
            exact = Decimal(str(value))
        except InvalidOperation:
            raise PoisonRecord(f"{name} is not a time") from None
        if not exact.is_finite():
            raise PoisonRecord(f"{name} is not a time")
    for below, factor in UNITS:
        if 0 <= exact < below:
            return int(exact * factor)
    raise PoisonRecord(f"{name} is not within the years 1970 to 5138")


def event_of(record: Mapping[str, Any], arn: str, region: str) -> dict[str, Any]:
    """A record of boto3's GetRecords in the wire form: what Lambda and Pipes would get of it.

    arn: of the stream that it was read from. The result holds what JSON can hold: time as epoch seconds (a float only
    when there is a fraction), binary values as base64 text, userIdentity's members in lower case.
    """
    change = dict(record["dynamodb"])
    created_at = change.pop("ApproximateCreationDateTime", None)
    wire: dict[str, Any] = {}
    if created_at is not None:
        seconds, fraction = divmod(epoch_microseconds(created_at), 1_000_000)
        wire["ApproximateCreationDateTime"] = float(f"{seconds}.{fraction:06}") if fraction else seconds
    for name, value in change.items():
        wire[name] = event_form(value)
    event = {
        "eventID": record["eventID"],
        "eventName": record["eventName"],
        "eventVersion": record.get("eventVersion", "1.1"),
        "eventSource": record.get("eventSource", "aws:dynamodb"),
        "awsRegion": region,
        "eventSourceARN": arn,
        "dynamodb": wire,
    }
    identity = record.get("userIdentity")
    if identity:
        event["userIdentity"] = {
            "type": identity.get("Type", identity.get("type")),
            "principalId": identity.get("PrincipalId", identity.get("principalId")),
        }
    return event
