"""Random change records of DynamoDB, well-formed and otherwise, and what pure Python reads in them.

The oracle knows `dynamodb_json` and `stream_record` and nothing of Arrow: one record, one value after the other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any

from catchment.formats.dynamodb_json import MalformedValue, clean_value, dynamodb_text
from catchment.formats.stream_record import PoisonRecord, StreamRecord, parse_record

ARN = "arn:aws:dynamodb:us-east-1:123456789012:table/OrderTable/stream/2026-11-21T00:00:00.000"
KEY = {"orderid": "S"}
OPERATIONS = {"INSERT": "c", "MODIFY": "u", "REMOVE": "d"}

TEXTS = (
    "",
    "a",
    "Laptop",
    'quo"te',
    "back\\slash",
    "line\nline",
    "\x00\x1f\x7f\b\f\t",
    "é😀",
    "null",
    "</",
    '"}',
    '{"S":"x"}',
)
NUMBERS = (
    *("0", "-0", "1", "-1.50", "429.99", "1E+3", "1e-7", "007", "+5", ".5", "5.", "9" * 38, "1e125", "1E-130"),
    *("9" * 29, "9" * 30, "0." + "1" * 9, "0." + "1" * 10, "1.100000000000", "-" + "9" * 29 + "." + "9" * 9),
)
BINARIES = ("", "AAE=", "/+8=", "AAAA")
MALFORMED: tuple[Any, ...] = (
    *(
        {},
        None,
        "text",
        5,
        [],
        {"S": 5},
        {"S": None},
        {"S": "a", "N": "1"},
        {"N": 5},
        {"N": "abc"},
        {"N": ""},
        {"N": " 1"},
    ),
    *({"N": "1\n"}, {"N": "١"}, {"B": "A"}, {"B": "é"}, {"BOOL": "true"}, {"BOOL": 1}, {"NULL": False}, {"NULL": None}),
    *(
        {"X": "1"},
        {"s": "a"},
        {"M": []},
        {"L": {}},
        {"SS": "a"},
        {"SS": [1]},
        {"NS": ["x"]},
        {"BS": ["A"]},
        {"L": ["a"]},
    ),
    *({"M": {"a": "b"}}, {"M": {"a": {"N": "x"}}}, {"BOOL": True, "S": "x"}, {"S": "x", "BOOL": True}, {"N": "NaN"}),
)


def scalar(rng: random.Random) -> dict[str, Any]:
    """A typed value without others in it."""
    makers: list[Callable[[], dict[str, Any]]] = [
        lambda: {"S": rng.choice(TEXTS)},
        lambda: {
            "S": "".join(chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x80, 0xD800)))) for _ in range(9))
        },
        lambda: {"N": rng.choice(NUMBERS)},
        lambda: {"N": str(rng.randint(-1000, 1000))},
        lambda: {"N": f"{rng.uniform(10, 1000):.2f}"},
        lambda: {"B": rng.choice(BINARIES)},
        lambda: {"BOOL": rng.random() < 0.5},
        lambda: {"NULL": True},
    ]
    return rng.choice(makers)()


def value(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """Any typed value."""
    kind = rng.randrange(12)
    if kind > 4 or depth > 2:
        return scalar(rng)
    names = rng.sample(["a", "b/c", "~", "", 'd"', "é"], rng.randrange(4))
    return (
        {"M": {name: value(rng, depth + 1) for name in names}},
        {"L": [value(rng, depth + 1) for _ in range(rng.randrange(3))]},
        {"SS": rng.sample(TEXTS, rng.randint(1, 3))},
        {"NS": rng.sample(NUMBERS, rng.randint(1, 3))},
        {"BS": rng.sample(BINARIES, rng.randint(1, 3))},
    )[kind]


def item(rng: random.Random, orderid: str) -> dict[str, Any]:
    """An order with attributes that come and go, and that do not always have the same type."""
    steady: dict[str, Callable[[], dict[str, Any]]] = {
        "product_name": lambda: {"S": rng.choice(TEXTS)},
        "price": lambda: {"N": rng.choice(NUMBERS)},
        "paid": lambda: {"BOOL": rng.random() < 0.5},
        "photo": lambda: {"B": rng.choice(BINARIES)},
        "tags": lambda: {"SS": ["a", rng.choice(TEXTS[2:])]},
        "address": lambda: {"M": {"street": {"S": rng.choice(TEXTS)}, "number": value(rng)}},
    }
    attributes = {"orderid": {"S": orderid}}
    for name, make in steady.items():
        if rng.random() < 0.8:
            attributes[name] = make() if rng.random() < 0.85 else value(rng)
    for name in rng.sample(["note", "Note", 'odd "name"', "é", "a.b", "x" * 40], rng.randrange(3)):
        attributes[name] = value(rng)
    shuffled = list(attributes.items())
    if rng.random() < 0.3:
        rng.shuffle(shuffled)
    return dict(shuffled)


def document(rng: random.Random, number: int) -> dict[str, Any]:
    """A change in the form in which Lambda and Pipes have it."""
    orderid = f"{rng.randrange(50):04d}"
    name = rng.choice(["INSERT", "MODIFY", "MODIFY", "REMOVE"])
    change: dict[str, Any] = {
        "ApproximateCreationDateTime": rng.choice(
            [1795274236, 1795274236.0, 1795274236.125, 1795274236123, 1795274236123456]
        ),
        "Keys": {"orderid": {"S": orderid}},
        "SequenceNumber": str(10 ** rng.randrange(20, 40) + number),
        "SizeBytes": 200,
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    }
    if name != "REMOVE":
        change["NewImage"] = item(rng, orderid)
    if name != "INSERT" and rng.random() < 0.8:
        change["OldImage"] = item(rng, orderid)
    return {
        "eventID": f"{rng.getrandbits(128):032x}",
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": ARN,
        "dynamodb": change,
        "userIdentity": rng.choice([None, {"type": "Service", "principalId": "dynamodb.amazonaws.com"}]),
    }


def spoil(rng: random.Random, record: dict[str, Any]) -> None:
    """Make a record that nobody can decode, in place; rarely one that still can be."""
    change = record["dynamodb"]
    images = [change[name] for name in ("NewImage", "OldImage") if name in change]
    makers: list[Callable[[], Any]] = [
        lambda: record.pop("dynamodb"),
        lambda: record.update(dynamodb=rng.choice([None, [], "x", 5])),
        lambda: record.pop("eventName"),
        lambda: record.update(eventName=rng.choice(["insert", 5, None, "UNKNOWN", ["INSERT"]])),
        lambda: record.update(eventID=rng.choice([5, ["x"], {"S": "x"}])),
        lambda: change.update(SequenceNumber=rng.choice([5, "", "12a", "-1", "+1", "1" * 49, "1.5", "٣", None])),
        lambda: change.update(
            ApproximateCreationDateTime=rng.choice([-1, "x", [], True, 1e30, "1795274236", None, 17e16])
        ),
        lambda: (change.pop("SequenceNumber"), change.pop("ApproximateCreationDateTime")),
        lambda: (change.pop("NewImage", None), change.pop("OldImage", None)),
        lambda: (change.pop("OldImage", None), change.pop("Keys", None)),
        # What is not needed is not looked at: a removal may have whatever NewImage it likes.
        lambda: change.update({name: rng.choice([None, [], "x"]) for name in ("NewImage",) if name in change}),
    ]
    if images:
        image = rng.choice(images)
        makers += [lambda: image.pop("orderid"), lambda: image.update(orderid=value(rng))] + [
            lambda: image.update({rng.choice(["price", "photo", "new", "orderid"]): rng.choice(MALFORMED)})
        ] * 8
    rng.choice(makers)()


def spelled(rng: random.Random, record: object) -> bytes:
    """JSON of a record: compact or not, with or without escapes."""
    ascii_only, separators = rng.random() < 0.5, rng.choice([(",", ":"), None, (" , ", " : ")])
    indent = rng.choice([None, None, None, 2])
    return json.dumps(record, ensure_ascii=ascii_only, separators=separators, indent=indent).encode()


def random_record(rng: random.Random, number: int) -> bytes:
    """One record; about one in ten cannot be decoded."""
    made = document(rng, number)
    kind = rng.random()
    if kind < 0.1:
        spoil(rng, made)
    text = spelled(rng, made)
    if kind > 0.98:
        return rng.choice(
            [text[:-1], b"", b"null", b"[]", b"x" + text, text + text, b'"\\ud800"', text[:40] + b"\xff", b"{}"]
        )
    return text


@dataclass
class Oracle:
    """What a decoder must make of records, in plain Python. letters: attribute → the type that was seen first."""

    letters: dict[str, str] = field(default_factory=dict)

    def decode(self, records: Sequence[bytes]) -> list[dict[str, Any] | None]:
        """For each record its change, or None when it cannot be decoded."""
        return [None if read is None else self._change(*read) for read in map(self._read, records)]

    def _read(self, record: bytes) -> tuple[StreamRecord, Mapping[str, Any] | None, Mapping[str, Any] | None] | None:
        try:
            found = parse_record(json.loads(record))
            name = found.event_name
            if name not in OPERATIONS or (found.sequence_number is None and found.created_at is None):
                return None
            if found.sequence_number is not None and len(found.sequence_number) > 48:
                return None
            after = found.new_image if name != "REMOVE" else None
            before = None
            if name != "INSERT":
                before = found.old_image if found.old_image is not None else found.keys
            if (name != "REMOVE" and after is None) or (name != "INSERT" and before is None):
                return None
            for image in (after, before):
                for typed in (image or {}).values():
                    clean_value(typed)
                if image is not None and list(image.get("orderid", ())) != ["S"]:
                    return None
        except (PoisonRecord, MalformedValue, ValueError):
            return None
        return found, after, before

    def _learn(self, name: str, typed: Mapping[str, Any]) -> None:
        (letter,) = typed
        taken = {one.lower() for one in self.letters} | set(KEY)
        if letter != "NULL" and name.lower() not in taken:
            self.letters[name] = letter

    def _change(
        self, record: StreamRecord, after: Mapping[str, Any] | None, before: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        for image in (after, before):
            for name, typed in (image or {}).items():
                self._learn(name, typed)
        lost: dict[str, str] = {}
        number = record.sequence_number
        return {
            "_op": OPERATIONS[record.event_name],
            "_version": (int(number) if number is not None else record.created_at or 0).to_bytes(20, "big"),
            "_committed_at": None if record.created_at is None else _moment(record.created_at),
            "_sequence_number": number,
            "_event_id": record.event_id,
            "after": self._row(after, "", lost),
            "before": self._row(before, "before.", lost),
            "_unrepresentable": lost,
        }

    def _row(self, image: Mapping[str, Any] | None, prefix: str, lost: dict[str, str]) -> dict[str, Any] | None:
        if image is None:
            return None
        row: dict[str, Any] = dict.fromkeys([*KEY, *self.letters])
        for name, typed in image.items():
            (letter,) = typed
            held = held_value(typed) if (KEY | self.letters).get(name) == letter else None
            if held is None:
                lost[prefix + name] = dynamodb_text(typed)
            else:
                row[name] = held
        return row


def held_value(typed: Mapping[str, Any]) -> Any:
    """The value as its column has it; None when it does not hold it."""
    ((letter, content),) = typed.items()
    types: dict[str, str] = {}
    clean = clean_value(typed, "", types)
    types.pop("", None)
    if letter == "N":
        return held_number(clean)
    if letter == "B":
        return __import__("base64").b64decode(content)
    if letter in ("S", "BOOL"):
        return content
    return None if letter == "NULL" or types else clean


def held_number(text: str, precision: int = 38, scale: int = 9) -> Decimal | None:
    """A number as a decimal has it; None when it does not hold it."""
    try:
        exact = Context(prec=precision, traps=[InvalidOperation]).quantize(Decimal(text), Decimal(1).scaleb(-scale))
    except InvalidOperation:
        return None
    return exact if exact == Decimal(text) else None


def _moment(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
