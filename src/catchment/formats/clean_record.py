"""A change as one line of clean JSON: what our Lambda functions write to S3 and Athena reads.

    {"orderid":"7421","product_name":"Laptop","quantity":3,"price":429.99,"order_timestamp":"2026-11-21 15:17:18.123",
     "event_type":"INSERT","event_time":"2026-11-21 15:17:18.000","event_id":"c9fb…","sequence_number":"1119…",
     "stream_label":"2026-11-21T12:00:00.000","order_date":"2026-11-21"}

The item's attributes come first, at top level, as clean JSON of `dynamodb_json`: of NewImage, for REMOVE of OldImage or
else of Keys. Times are `YYYY-MM-DD HH:MM:SS.mmm` in UTC, which Athena's JSON SerDe reads as a timestamp. Some records
have more members, each only when it is not empty:

* `_types`: JSON pointer into the item → type letter, for B, SS, NS, BS.
* `_attributes`: attributes that cannot stand at top level: their names are ours (`event_type`, `_types`, …), or other
  attributes' in another case. Athena's column names ignore case.
* `_original`: timestamp attribute → its value as DynamoDB JSON text, where the source has another spelling than
  `YYYY-MM-DDTHH:MM:SS.mmmZ` (an epoch number, another zone, microseconds).
* `_unrepresentable`: timestamp attribute → the same, where the value is no time; the attribute itself is null.

With these an item can be restored exactly (`RecordCleaner.restore`). Pure Python, standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from catchment.formats.dynamodb_json import (
    Item,
    MalformedValue,
    Types,
    clean_value,
    dynamodb_text,
    parse_json,
    pointer,
    quote,
    restore_item,
)
from catchment.formats.stream_record import (
    REMOVE,
    UNKNOWN,
    PoisonRecord,
    StreamRecord,
    epoch_microseconds,
    is_change_record,
    parse_record,
)

FIELDS = ("event_type", "event_time", "event_id", "sequence_number", "stream_label", "order_date")
"""What is added to an item, in this order."""

NOTES = ("_attributes", "_types", "_original", "_unrepresentable")
"""What is added where the item needs it."""

RESERVED = frozenset(FIELDS + NOTES)
DEFAULT_TIMESTAMPS = "order_timestamp"

CANONICAL = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T((?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3})Z")
ISO_8601 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt ]((?:[01][0-9]|2[0-3]):[0-5][0-9])(?:(:[0-5][0-9])(?:[.,]([0-9]+))?)?"
    r"(?:[Zz]|([+-](?:[01][0-9]|2[0-3])):?([0-5][0-9])?)?)?"
)
EPOCH_TEXT = re.compile(r"[0-9]{9,}(?:\.[0-9]+)?")
"""Text of fewer digits is rather a year or a date than an epoch time."""


class CleanRecord(NamedTuple):
    """One line of UTF-8 with its newline, and what others want to know of it. Times as in the line; None: unknown."""

    line: bytes
    event_type: str
    event_id: str | None
    event_time: str | None
    order_date: str | None


class _Notes(NamedTuple):
    """What the values alone do not say; each is written with an underscore before its name, when it is not empty."""

    types: Types
    original: dict[str, str]
    unrepresentable: dict[str, str]


class _Member(NamedTuple):
    name: str
    key: str
    path: str
    is_timestamp: bool


class _Layout(NamedTuple):
    """Where the attributes of items with the same names go."""

    top: tuple[_Member, ...]
    moved: tuple[_Member, ...]


class RecordCleaner:
    """Makes clean records.

    timestamps: attributes that are brought into the one timestamp format; `order_date` is the UTC date of the first.
    """

    def __init__(self, timestamps: Sequence[str] = (DEFAULT_TIMESTAMPS,)) -> None:
        self._timestamps = frozenset(timestamps)
        self._dated = timestamps[0] if timestamps else None
        self._layout = lru_cache(maxsize=512)(self._new_layout)

    def of_data(self, data: bytes, arrived_at: int | None) -> CleanRecord | None:
        """The clean record of a change record or of a plain JSON item, as UTF-8. None when there is nothing in it.

        arrived_at: epoch microseconds; the event's time where the record does not say one.
        Nothing: white space, `{}`, or a control message as CloudWatch Logs sends to see whether a stream is there.
        Raises `PoisonRecord`.
        """
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise PoisonRecord("not UTF-8") from None
        if not text or text.isspace():
            return None
        try:
            document = parse_json(text)
        except json.JSONDecodeError as error:
            raise PoisonRecord(f"not one JSON document: {error.msg}, at character {error.pos}") from None
        except ValueError as error:
            raise PoisonRecord(f"not one JSON document: {error}") from None
        if not isinstance(document, dict):
            raise PoisonRecord("the record is not a JSON object")
        if is_change_record(document):
            return self.of_change(parse_record(document), arrived_at)
        if not document or document.get("messageType") == "CONTROL_MESSAGE":
            return None
        return self.of_plain_item(document, arrived_at)

    def of_plain_item(self, item: Mapping[str, Any], arrived_at: int | None) -> CleanRecord:
        """The clean record of a plain JSON item, read by `parse_json`: its `event_type` is UNKNOWN.

        Raises `PoisonRecord`.
        """
        try:
            typed = restore_item(item, {})
        except RecursionError:
            raise PoisonRecord("nested too deeply") from None
        return self._clean(StreamRecord(UNKNOWN, None, typed, *[None] * 8), typed, arrived_at)

    def of_change(self, record: StreamRecord, arrived_at: int | None) -> CleanRecord:
        """The clean record of a change. Raises `PoisonRecord`, also when it has no image of the item."""
        item = (record.old_image or record.keys) if record.event_name == REMOVE else record.new_image
        if not item:
            raise PoisonRecord(
                "it has no image of the item: the stream's view type must be NEW_IMAGE or NEW_AND_OLD_IMAGES"
            )
        return self._clean(record, item, arrived_at)

    def _clean(self, record: StreamRecord, item: Item, arrived_at: int | None) -> CleanRecord:
        created_at = arrived_at if record.created_at is None else record.created_at
        event_time = None if created_at is None else time_text(created_at)
        notes = _Notes({}, {}, {})
        try:
            members, moved, order_date = self._members(item, notes)
        except MalformedValue as error:
            raise PoisonRecord(str(error)) from None
        if order_date is None and event_time is not None:
            order_date = event_time[:10]
        members.append(
            f'"event_type":"{record.event_name}"'
            f',"event_time":{_quoted(event_time)}'
            f',"event_id":{_quoted(record.event_id)}'
            f',"sequence_number":{_quoted(record.sequence_number)}'
            f',"stream_label":{_quoted(record.stream_label)}'
            f',"order_date":{_quoted(order_date)}'
        )
        if moved:
            members.append(f'"_attributes":{{{",".join(moved)}}}')
        if any(notes):
            members += [f'"_{name}":{dynamodb_text(texts)}' for name, texts in notes._asdict().items() if texts]
        try:
            line = f"{{{','.join(members)}}}\n".encode()
        except UnicodeEncodeError:
            raise PoisonRecord("it has text that UTF-8 cannot hold (half of a surrogate pair)") from None
        return CleanRecord(line, record.event_name, record.event_id, event_time, order_date)

    def _members(self, item: Item, notes: _Notes) -> tuple[list[str], list[str], str | None]:
        """The attributes at top level, those below `_attributes`, and the date of the first timestamp attribute."""
        layout = self._layout(tuple(item))
        dated = None
        members = []
        for name, key, path, is_timestamp in layout.top:
            if is_timestamp:
                text = _timestamp(name, item[name], path, notes)
                if name == self._dated and text != "null":
                    dated = text[1:11]
                members.append(key + text)
            else:
                members.append(key + clean_value(item[name], path, notes.types))
        moved = [key + clean_value(item[name], path, notes.types) for name, key, path, _ in layout.moved]
        return members, moved, dated

    def _new_layout(self, names: tuple[str, ...]) -> _Layout:
        kept: dict[str, str] = {}
        # Of names that differ in case only, one stays, whatever order the item has: the one in lower case, if any.
        for name in sorted(names, key=lambda name: (name != name.lower(), name)):
            kept.setdefault(name.lower(), name)
        members = [_Member(name, f"{quote(name)}:", pointer("", name), name in self._timestamps) for name in names]
        is_top = [kept[name.lower()] == name and name.lower() not in RESERVED for name in names]
        return _Layout(
            tuple(member for member, top in zip(members, is_top, strict=True) if top),
            tuple(member for member, top in zip(members, is_top, strict=True) if not top),
        )

    def restore(self, line: str | bytes) -> dict[str, Any]:
        """The item, as typed values, that this line was made of.

        Raises ValueError when the line is not one that a cleaner with the same timestamps made.
        """
        document = parse_json(line if isinstance(line, str) else line.decode())
        types, texts = document.get("_types", {}), document.get("_unrepresentable", {}) | document.get("_original", {})
        item = {}
        for name, value in document.items():
            if name in texts:
                item[name] = json.loads(texts[name])
            elif name in self._timestamps and isinstance(value, str):
                item[name] = {"S": f"{value[:10]}T{value[11:]}Z"}
            elif name not in RESERVED:
                item |= restore_item({name: value}, types)
        return item | restore_item(document.get("_attributes", {}), types)


@lru_cache(maxsize=8)
def cleaner_for(timestamps: str) -> RecordCleaner:
    """The cleaner for attributes named in one text, separated by commas: the variable `TIMESTAMP_ATTRIBUTES`."""
    return RecordCleaner([name.strip() for name in timestamps.split(",") if name.strip()])


def _quoted(text: str | None) -> str:
    return "null" if text is None else quote(text)


def time_text(microseconds: int) -> str:
    """`YYYY-MM-DD HH:MM:SS.mmm`, UTC, of epoch microseconds; finer digits are cut off."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_second_text(seconds)}.{fraction // 1000:03}"


@lru_cache(maxsize=1024)
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _timestamp(name: str, value: Mapping[str, Any], path: str, notes: _Notes) -> str:
    """The clean JSON text of a timestamp attribute."""
    if clean_value(value, path) == "null":
        return "null"
    moment, exact = _moment(value)
    if moment is None:
        notes.unrepresentable[name] = dynamodb_text(value)
        return "null"
    if not exact:
        notes.original[name] = dynamodb_text(value)
    return f'"{moment}"'


def _moment(value: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The time that a typed value says, in our format, and whether the source's spelling follows from it."""
    text = value.get("S")
    if text is None:
        return _epoch(value.get("N")), False
    found = CANONICAL.fullmatch(text)
    if found is None:
        return (_epoch(text) if EPOCH_TEXT.fullmatch(text) else _in_utc(text)), False
    return (f"{found[1]} {found[2]}", True) if _is_day(found[1]) else (None, False)


@lru_cache(maxsize=1024)
def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _epoch(text: str | None) -> str | None:
    try:
        return None if text is None else time_text(epoch_microseconds(text))
    except PoisonRecord:
        return None


def iso_8601(text: str) -> tuple[datetime, str] | None:
    """The second that an ISO 8601 text names, in its zone (UTC where it has none), and the digits below it.

    None when it names no time.
    """
    found = ISO_8601.fullmatch(text)
    if found is None:
        return None
    day, minute, second, fraction, offset_hours, offset_minutes = found.groups(default="")
    zone = f"{offset_hours}:{offset_minutes or '00'}" if offset_hours else "+00:00"
    try:
        return datetime.fromisoformat(f"{day}T{minute or '00:00'}{second or ':00'}{zone}"), fraction
    except ValueError:
        return None


def _in_utc(text: str) -> str | None:
    found = iso_8601(text)
    if found is None:
        return None
    moment, fraction = found
    try:
        return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(' ')}.{fraction[:3]:0<3}"
    except OverflowError:
        return None
