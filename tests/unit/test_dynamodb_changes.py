"""DynamoDB's change records → batches of changes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from catchment.change import ChangeBatch
from catchment.formats import dynamodb_schema
from catchment.formats.dynamodb_changes import ChangeDecoder, Decoded, sequence_version
from catchment.formats.dynamodb_records import RecordReader, key_types
from catchment.formats.stream_record import PoisonRecord
from catchment.lakehouse.silver.table import OUR_COLUMNS
from catchment.lakehouse.silver.versions import versions_schema
from catchment.schema import UTC_MICROSECONDS, TableId
from catchment.sources.base import DeadLetter, SchemaChange
from catchment.testing.changes import replay_seed
from unit.change_records import ARN, KEY, Oracle, document, held_number, item, random_record, spelled

ORDERS = TableId("dynamodb", "OrderTable")
UTC_MOMENT = datetime(2026, 11, 21, 15, 17, 16, tzinfo=UTC)


def decoder(
    declared: Mapping[str, pa.DataType] | None = None,
    known: Mapping[str, str] | None = None,
    *,
    generation: int = 1,
    key: Mapping[str, str] | None = None,
) -> ChangeDecoder:
    return ChangeDecoder(ORDERS, key or KEY, declared=declared or {}, known=known or {}, generation=generation)


def positions(count: int) -> list[bytes]:
    return [number.to_bytes(24, "big") for number in range(1, count + 1)]


def decoded(one: ChangeDecoder, records: Sequence[bytes]) -> list[Decoded]:
    events = one.decode(records, lane="label/shard-1", positions=positions(len(records)))
    for event in events:
        if isinstance(event, ChangeBatch):
            event.records.validate(full=True)
    return events


def rows(events: Sequence[Decoded]) -> list[dict[str, Any]]:
    """The rows of all batches."""
    found = [row for event in events if isinstance(event, ChangeBatch) for row in event.records.to_pylist()]
    for row in found:
        row["_unrepresentable"] = dict(row["_unrepresentable"] or ())
    return found


def dead(events: Sequence[Decoded]) -> list[DeadLetter]:
    return [event for event in events if isinstance(event, DeadLetter)]


def change(
    name: str, new: Mapping[str, Any] | None, old: Mapping[str, Any] | None = None, number: int = 10**20, **members: Any
) -> bytes:
    """A record in the form in which Lambda and Pipes have it."""
    image = new or old or {}
    images = {"NewImage": new, "OldImage": old}
    return json.dumps(
        {
            "eventID": "e1",
            "eventName": name,
            "eventSourceARN": ARN,
            "dynamodb": {
                "ApproximateCreationDateTime": 1795274236,
                "Keys": {"orderid": image.get("orderid", {"S": "1"})},
                **{side: one for side, one in images.items() if one is not None},
                "SequenceNumber": str(number),
                **members,
            },
        }
    ).encode()


def order(**attributes: Any) -> dict[str, Any]:
    return {"orderid": {"S": "1"}, **attributes}


def test_random_records_say_what_they_say_in_plain_python() -> None:
    rng = random.Random(replay_seed())
    one, oracle = decoder(), Oracle()
    for _ in range(15):
        records = [random_record(rng, number) for number in range(rng.choice([1, 7, 100]))]
        events = decoded(one, records)
        wanted = oracle.decode(records)
        compare(events, wanted, records)
        assert one.known == oracle.letters


def compare(events: Sequence[Decoded], wanted: Sequence[dict[str, Any] | None], records: Sequence[bytes]) -> None:
    """The events have each record in its place, with the wanted rows."""
    at = 0
    for event in events:
        if isinstance(event, DeadLetter):
            assert wanted[at] is None, f"record {at} was refused ({event.reason}): {records[at]!r}"
            assert event.position == positions(len(records))[at]
            at += 1
        elif isinstance(event, ChangeBatch):
            for row in rows([event]):
                expected = wanted[at]
                assert expected is not None, f"record {at} was taken: {records[at]!r}"
                assert row["_position"] == positions(len(records))[at]
                assert row["_version"] == b"\0\0\0\1" + expected["_version"]
                for name in expected.keys() - {"_version"}:
                    assert row[name] == expected[name], f"{name} of record {at}: {records[at]!r}"
                at += 1
    assert at == len(records)


def test_records_of_one_kind_are_taken_apart_in_one_batch() -> None:
    rng = random.Random(replay_seed())
    made = [document(rng, number) for number in range(500)]
    for one in made:
        for image in ("NewImage", "OldImage"):
            if image in one["dynamodb"]:
                one["dynamodb"][image] = order(quantity={"N": "3"}, product_name={"S": "Phone"}, paid={"BOOL": True})
    records = [spelled(rng, one) for one in made]
    known = {"quantity": "N", "product_name": "S", "paid": "BOOL"}
    events = decoded(decoder(known=known), records)
    assert [type(event) for event in events] == [SchemaChange, ChangeBatch]
    compare(events, Oracle(known).decode(records), records)


def test_poison_records_become_dead_letters_in_their_place_and_the_others_come() -> None:
    good = [change("INSERT", order(price={"N": str(n)})) for n in range(3)]
    records = [
        b"poison",
        good[0],
        good[1],
        b'{"dynamodb": 5}',
        b"\xff",
        good[2],
        change("INSERT", order(price={"N": "x"})),
    ]
    events = decoded(decoder(), records)
    kinds = "".join(
        "c" * len(e) if isinstance(e, ChangeBatch) else "x" if isinstance(e, DeadLetter) else "" for e in events
    )
    assert kinds == "xccxxcx"
    assert [one.reason for one in dead(events)] == [
        "the record is not JSON",
        "the record has no member dynamodb that is an object",
        "the record is not JSON",
        "attribute price: an N is not a number",
    ]
    assert {one.table for one in dead(events)} == {"dynamodb.OrderTable"}
    assert {one.lane for one in dead(events)} == {"label/shard-1"}


@pytest.mark.parametrize("broken", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\xc3"])
def test_what_is_not_utf_8_is_poison_wherever_it_stands(broken: bytes) -> None:
    good = change("INSERT", order(a={"S": "x"}), mark="y")
    records = [good, *(good.replace(place, place + broken) for place in (b'"x', b'"a', b'"y', b'"Keys')), broken + good]
    events = decoded(decoder(), [*records, good + broken, good])
    assert len(dead(events)) == 6
    assert {one.reason.partition(" (")[0] for one in dead(events)} <= {
        "the record is not JSON",
        "it has text that UTF-8 cannot hold",
    }
    assert len(rows(events)) == 2


def test_records_with_changed_bytes_break_nothing() -> None:
    rng = random.Random(replay_seed())
    records = []
    for number in range(400):
        record = bytearray(spelled(rng, document(rng, number)))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(record))
            record[at : at + rng.randrange(2)] = rng.choice(
                [b'"', b"\\", b"{", b"}", b",", b":", b"e", b"9", b"\xff", b""]
            )
        records.append(bytes(record))
    events = decoded(decoder(), records)
    assert len(rows(events)) + len(dead(events)) == len(records)
    assert dead(events)


def test_half_of_a_surrogate_pair_is_poison_and_says_so() -> None:
    half = change("INSERT", order(a={"S": "\ud800"}))
    (found,) = dead(decoded(decoder(), [change("INSERT", order()), half, change("INSERT", order())]))
    assert "surrogate" in found.reason


def test_a_page_of_poison_alone_is_dead_letters_alone() -> None:
    one = decoder()
    assert len(dead(decoded(one, [b"x"] * 5))) == 5
    events = decoded(one, [b"x", change("INSERT", order(a={"S": "x"}))])
    assert [type(event) for event in events] == [DeadLetter, SchemaChange, ChangeBatch]


def test_rows_come_apart_where_columns_appear() -> None:
    images = [
        order(),
        order(a={"S": "x"}),
        order(),
        order(b={"NULL": True}),
        order(a={"S": "y"}, b={"N": "1"}),
        order(),
    ]
    events = decoded(decoder(), [change("INSERT", image) for image in images])
    parts = [(len(event), event.schema.row_type.names) for event in events if isinstance(event, ChangeBatch)]
    assert parts == [(1, ["orderid"]), (3, ["orderid", "a"]), (2, ["orderid", "a", "b"])]


def test_a_poison_record_teaches_no_column() -> None:
    one = decoder()
    decoded(one, [change("INSERT", order(new={"S": "x"}, price={"N": "many"}))])
    assert one.known == {}


def test_no_reason_names_a_value() -> None:
    secret = "Wanda"
    typed = [
        {"N": secret},
        {"S": secret, "N": "1"},
        {secret: "1"},
        {"M": {"a": {"N": secret}}},
        secret,
        {"NS": [secret]},
    ]
    records = [change("INSERT", order(name=one)) for one in typed]
    records += [change(secret, order()), change("INSERT", order(), SequenceNumber=secret), secret.encode()]
    records += [
        change("INSERT", order(), ApproximateCreationDateTime=secret),
        change("INSERT", {"orderid": {"N": "1"}}),
    ]
    found = dead(decoded(decoder(), records))
    assert len(found) == len(records)
    assert not [one.reason for one in found if secret in one.reason]


def test_the_first_type_of_an_attribute_stays_and_other_values_are_kept_beside() -> None:
    one = decoder()
    records = [
        change("INSERT", order(price={"N": "1.50"})),
        change("MODIFY", order(price={"S": "free"}), order(price={"N": "1.5"})),
        change("MODIFY", order(price={"N": "2"}), order(price={"S": "free"})),
    ]
    found = rows(decoded(one, records))
    assert [row["after"]["price"] for row in found] == [Decimal("1.5"), None, Decimal(2)]
    assert [row["_unrepresentable"] for row in found] == [
        {},
        {"price": '{"S":"free"}'},
        {"before.price": '{"S":"free"}'},
    ]
    assert one.known == {"price": "N"}


def test_null_and_absent_are_different() -> None:
    found = rows(
        decoded(decoder(known={"note": "S"}), [change("INSERT", order(note={"NULL": True})), change("INSERT", order())])
    )
    assert [row["after"]["note"] for row in found] == [None, None]
    assert [row["_unrepresentable"] for row in found] == [{"note": '{"NULL":true}'}, {}]


def test_an_attribute_that_was_only_ever_null_has_no_column_yet() -> None:
    one = decoder()
    found = rows(decoded(one, [change("INSERT", order(note={"NULL": True}))]))
    assert "note" not in found[0]["after"]
    assert found[0]["_unrepresentable"] == {"note": '{"NULL":true}'}
    assert rows(decoded(one, [change("INSERT", order(note={"S": "x"}))]))[0]["after"]["note"] == "x"


def test_numbers_are_exact_or_kept_as_text() -> None:
    fits = ["0", "-1.5", "9" * 29, "-" + "9" * 29 + "." + "9" * 9, "1E+3", "1.1000000000000"]
    too_much = ["9" * 30, "0.0000000001", "1E-130", "9.99E+125", "1E+9999999", "1E-9999999", "1e" + "9" * 40, "1" * 500]
    found = rows(decoded(decoder(), [change("INSERT", order(n={"N": text})) for text in fits + too_much]))
    assert [row["after"]["n"] for row in found] == [Decimal(text) for text in fits] + [None] * len(too_much)
    assert [row["_unrepresentable"] for row in found[len(fits) :]] == [{"n": f'{{"N":"{text}"}}'} for text in too_much]


@pytest.mark.parametrize(
    "kind", [pa.decimal128(38, 9), pa.decimal128(10, 2), pa.decimal128(38, 0), pa.decimal128(38, 38)]
)
def test_no_number_becomes_another_one(kind: pa.DataType) -> None:
    rng = random.Random(replay_seed())
    one = decoder({"n": kind})
    for _ in range(80):
        # One that is refused lets all go by the slow road: mostly they come alone.
        texts = [random_number(rng) for _ in range(rng.choice([1, 1, 1, 20]))]
        found = rows(decoded(one, [change("INSERT", order(n={"N": text})) for text in texts]))
        assert [row["after"]["n"] for row in found] == [held_number(text, kind.precision, kind.scale) for text in texts]


def random_number(rng: random.Random) -> str:
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, rng.choice([9, 45]))))
    point = rng.randint(1, len(digits))
    fraction = f".{digits[point:]}" if point < len(digits) else ""
    exponent = rng.choice(["", "", "", f"E{rng.randint(-20, 20)}"])
    return f"{rng.choice(['', '-'])}{digits[:point]}{fraction}{exponent}"


@pytest.mark.parametrize(
    ("kind", "fits", "does_not"),
    [
        (
            pa.int64(),
            {"3": 3, "-7.0": -7, "3E+2": 300, str(2**63 - 1): 2**63 - 1},
            ["3.5", str(2**63), "1E+100", "1e99999"],
        ),
        (pa.int32(), {"2147483647": 2**31 - 1, "999999999": 999999999}, ["2147483648", "0.1"]),
        (pa.decimal128(10, 2), {"429.99": Decimal("429.99"), "1E+7": Decimal(10**7)}, ["1.999", "100000000", "1E-3"]),
        (pa.decimal128(2, 2), {"0.25": Decimal("0.25"), "-0.9": Decimal("-0.9")}, ["1", "0.001"]),
        (pa.float64(), {"0.1": 0.1, "9.99E+125": 9.99e125, "1E-130": 1e-130}, ["1E+309", "1e" + "9" * 40]),
    ],
)
def test_a_declared_number_is_held_or_kept_as_text(
    kind: pa.DataType, fits: Mapping[str, object], does_not: Sequence[str]
) -> None:
    records = [change("INSERT", order(n={"N": text})) for text in [*fits, *does_not]]
    found = rows(decoded(decoder({"n": kind}), [*records, change("INSERT", order(n={"S": "3"}))]))
    assert [row["after"]["n"] for row in found] == [*fits.values(), *[None] * (len(does_not) + 1)]
    kept = [row["_unrepresentable"].get("n") for row in found]
    assert kept == [None] * len(fits) + [f'{{"N":"{text}"}}' for text in does_not] + ['{"S":"3"}']


@pytest.mark.parametrize("kind", [pa.timestamp("us"), UTC_MICROSECONDS])
def test_a_declared_timestamp_reads_iso_8601_and_epoch_times(kind: pa.DataType) -> None:
    times: dict[str, list[str]] = {
        "S": ["2026-11-21T15:17:16Z", "2026-11-21 15:17:16", "2026-11-21T16:47:16.000+01:30", "2026-11-21t15:17:16,0z"],
        "N": ["1795274236", "1795274236000", "1795274236000000", "1795274236.000"],
    }
    times["S"] += [*times["N"], "2026-11-21T15:17:16.000000000Z", "2026-11-21T10:17:16-05"]
    bad = {
        "S": ["2026-02-30T00:00:00Z", "yesterday", "", "2026", "2026-11-21T15:17:16.1234567Z", "2026-11-21T24:00:00Z"],
        "N": ["-1", "1E+30", "1795274236.0000001"],
    }
    good = [{letter: text} for letter, texts in times.items() for text in texts]
    refused = [{letter: text} for letter, texts in bad.items() for text in texts]
    wanted = UTC_MOMENT if kind.tz else UTC_MOMENT.replace(tzinfo=None)
    # Together, and each alone: the quick road must not say other things than the slow one.
    together = rows(decoded(decoder({"at": kind}), [change("INSERT", order(at=one)) for one in good + refused]))
    alone = [rows(decoded(decoder({"at": kind}), [change("INSERT", order(at=one))]))[0] for one in good + refused]
    for found in (together, alone):
        assert [row["after"]["at"] for row in found] == [wanted] * len(good) + [None] * len(refused)
        assert [json.loads(row["_unrepresentable"]["at"]) for row in found[len(good) :]] == refused


def test_microseconds_of_a_timestamp_are_kept_and_a_day_is_its_midnight() -> None:
    texts = ["2026-11-21T15:17:16.123456Z", "2026-11-21T15:17:16.1", "2026-11-21", "0001-01-01T00:00:00Z"]
    found = rows(
        decoded(decoder({"at": UTC_MICROSECONDS}), [change("INSERT", order(at={"S": text})) for text in texts])
    )
    assert [row["after"]["at"] for row in found] == [
        UTC_MOMENT.replace(microsecond=123456),
        UTC_MOMENT.replace(microsecond=100000),
        datetime(2026, 11, 21, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
    ]


def test_other_declared_types_are_held_or_kept_as_text() -> None:
    declared = {"day": pa.date32(), "paid": pa.bool_(), "photo": pa.binary(), "code": pa.string(), "big": pa.string()}
    one = decoder(declared)
    image = order(
        day={"S": "2026-11-21"}, paid={"BOOL": False}, photo={"B": "AAE="}, code={"S": "x"}, big={"N": "1" * 38}
    )
    other = order(day={"S": "2026-W47"}, paid={"S": "true"}, photo={"S": "AAE="}, code={"N": "1"}, big={"S": "x"})
    first, second = rows(decoded(one, [change("INSERT", image), change("INSERT", other)]))
    assert first["after"] == {
        "orderid": "1",
        "big": "1" * 38,
        "code": "x",
        "day": date(2026, 11, 21),
        "paid": False,
        "photo": b"\0\1",
    }
    assert set(second["_unrepresentable"]) == set(declared)
    assert one.known == {"code": "S", "big": "N"}
    assert decoder(declared).schema.version == one.schema.version


def test_a_type_that_no_attribute_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="at: no attribute can be kept as time64"):
        decoder({"at": pa.time64("us")})
    with pytest.raises(ValueError, match="key attribute orderid is S"):
        decoder({"orderid": pa.int64()})


def test_nested_values_are_clean_json_and_those_that_it_leaves_unclear_are_kept_typed() -> None:
    clear = {"M": {"street": {"S": "Ring"}, "number": {"N": "7.10"}, "none": {"NULL": True}}}
    unclear = {"M": {"tags": {"SS": ["a"]}}}
    image = order(address=clear, other=unclear, tags={"SS": ["b", "a"]}, list={"L": [{"BOOL": True}]})
    (found,) = rows(decoded(decoder(), [change("INSERT", image)]))
    assert found["after"] == {
        "orderid": "1",
        "address": '{"street":"Ring","number":7.10,"none":null}',
        "list": "[true]",
        "other": None,
        "tags": '["b","a"]',
    }
    assert found["_unrepresentable"] == {"other": '{"M":{"tags":{"SS":["a"]}}}'}


def test_names_that_differ_by_case_only_share_no_column() -> None:
    one = decoder()
    found = rows(decoded(one, [change("INSERT", order(Price={"N": "1"})), change("INSERT", order(price={"N": "2"}))]))
    assert [row["after"] for row in found] == [{"orderid": "1", "Price": 1}, {"orderid": "1", "Price": None}]
    assert found[1]["_unrepresentable"] == {"price": '{"N":"2"}'}


def test_an_attribute_with_a_name_of_silvers_own_takes_its_column_from_nobody() -> None:
    one = decoder()
    found = rows(decoded(one, [change("INSERT", order(_version={"N": "3"}, _Quality={"S": "good"}))]))
    assert found[0]["after"] == {"orderid": "1"}
    assert found[0]["_unrepresentable"] == {"_version": '{"N":"3"}', "_Quality": '{"S":"good"}'}
    ours = {*OUR_COLUMNS, *versions_schema(pa.schema([])).names}
    assert ours <= dynamodb_schema.RESERVED


def test_attributes_whose_names_are_data_do_not_make_columns_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamodb_schema, "MOST_COLUMNS", 50)
    one = decoder(known={f"{number}": "S" for number in range(45)})
    images = [order(**{f"{number}": {"S": "x"}}) for number in range(60)]
    found = rows(decoded(one, [change("INSERT", image) for image in images]))
    assert len(one.schema.columns) == 50
    assert [row["after"].get(f"{number}") for number, row in enumerate(found)] == ["x"] * 49 + [None] * 11
    assert found[59]["_unrepresentable"] == {"59": '{"S":"x"}'}


def test_items_of_many_attributes_are_taken_apart() -> None:
    rng = random.Random(replay_seed())
    names = [f"attribute {number}" for number in range(200)]
    images = [order(**{name: {"N": f"{rng.randrange(9)}"} for name in rng.sample(names, 150)}) for _ in range(20)]
    records = [change("INSERT", image) for image in images]
    compare(decoded(decoder(), records), Oracle().decode(records), records)


def test_inserts_have_no_before_and_removals_no_after() -> None:
    records = [
        change("INSERT", order(a={"S": "1"})),
        change("MODIFY", order(a={"S": "2"}), order(a={"S": "1"})),
        change("REMOVE", None, order(a={"S": "2"})),
    ]
    found = [(row["_op"], row["before"], row["after"]) for row in rows(decoded(decoder(), records))]
    one, two = {"orderid": "1", "a": "1"}, {"orderid": "1", "a": "2"}
    assert found == [("c", None, one), ("u", one, two), ("d", two, None)]


def test_without_old_images_the_key_is_what_was_before() -> None:
    records = [change("INSERT", order(a={"S": "1"})), change("MODIFY", order(a={"S": "2"})), change("REMOVE", None)]
    found = [(row["_op"], row["before"], row["after"]) for row in rows(decoded(decoder(), records))]
    key = {"orderid": "1", "a": None}
    assert found == [("c", None, key | {"a": "1"}), ("u", key, key | {"a": "2"}), ("d", key, None)]


def test_without_new_images_a_change_is_refused() -> None:
    (found,) = dead(decoded(decoder(), [change("MODIFY", None, order())]))
    assert "NEW_IMAGE" in found.reason


@pytest.mark.parametrize("name", ["NewImage", "OldImage"])
def test_an_image_without_the_whole_key_is_refused(name: str) -> None:
    one = decoder(key={"orderid": "S", "line": "N"})
    whole, half = order(line={"N": "1"}), order(line={"S": "1"})
    images = (half, whole) if name == "NewImage" else (whole, half)
    (found,) = dead(decoded(one, [change("MODIFY", *images)]))
    assert "key attribute line" in found.reason


def test_a_key_of_two_attributes_comes_first_in_its_order() -> None:
    one = decoder(key={"orderid": "S", "line": "N"})
    decoded(one, [change("INSERT", order(line={"N": "1"}, a={"S": "x"}))])
    assert [(column.name, column.key) for column in one.schema.columns] == [
        ("orderid", True),
        ("line", True),
        ("a", False),
    ]


@pytest.mark.parametrize("time", [1795274236, 1795274236.0, 1795274236000, 1795274236000000, "1795274236"])
def test_seconds_milliseconds_and_microseconds_are_told_apart(time: object) -> None:
    (found,) = rows(decoded(decoder(), [change("INSERT", order(), ApproximateCreationDateTime=time)]))
    assert found["_committed_at"] == UTC_MOMENT


def test_a_record_of_the_kinesis_destination_has_its_time_for_a_version() -> None:
    wire = json.loads(change("INSERT", order(), ApproximateCreationDateTime=1795274236123456))
    del wire["dynamodb"]["SequenceNumber"], wire["eventSourceARN"]
    wire |= {"tableName": "OrderTable", "recordFormat": "application/json", "userIdentity": None}
    (found,) = rows(decoded(decoder(), [json.dumps(wire).encode()]))
    assert found["_version"] == sequence_version(1, 1795274236123456)
    assert found["_sequence_number"] is None
    assert found["_committed_at"] == UTC_MOMENT.replace(microsecond=123456)


def test_versions_are_in_the_order_of_sequence_numbers_as_numbers() -> None:
    numbers = [0, 9, 10**20, 10**21 - 1, 10**39, 10**40 - 1, 10**48 - 1]
    found = rows(decoded(decoder(), [change("INSERT", order(), number=number) for number in numbers]))
    assert [row["_version"] for row in found] == [sequence_version(1, number) for number in numbers]
    assert [row["_sequence_number"] for row in found] == [str(number) for number in numbers]


def test_scanned_rows_stand_above_the_truncation_and_below_every_change_of_their_generation() -> None:
    one = decoder(generation=2)
    truncated = one.truncate(lane="scan/2", chunk="begin", snapshot="dynamodb.OrderTable@2")
    items = [json.dumps(order(price={"N": str(number)})).encode() for number in range(3)]
    scanned = one.scan(items, lane="scan/2/0", chunk="0", snapshot="dynamodb.OrderTable@2", ordinal=5)
    changed = decoded(one, [change("INSERT", order(), number=2)])
    older = decoded(decoder(generation=1), [change("INSERT", order(), number=10**40)])
    (t,), r, (c,), (old,) = (rows(events) for events in (truncated, scanned, changed, older))
    assert [t["_op"], *(row["_op"] for row in r), c["_op"]] == ["t", "r", "r", "r", "c"]
    assert old["_version"] < t["_version"] < r[0]["_version"] == r[2]["_version"] < c["_version"]
    assert [row["_position"] for row in r] == [sequence_version(2, at) for at in (6, 7, 8)]
    assert (t["before"], t["after"], r[0]["before"]) == (None, None, None)
    assert [row["after"]["price"] for row in r] == [0, 1, 2]
    batches = [event for event in (*truncated, *scanned) if isinstance(event, ChangeBatch)]
    assert {batch.snapshot for batch in batches} == {"dynamodb.OrderTable@2"}
    assert [batch.chunk for batch in batches] == ["begin", "0"]


def test_an_item_that_is_none_is_a_dead_letter_of_the_scan() -> None:
    items = [json.dumps(order()).encode(), b"[]", b"{}", b"x", json.dumps(order(a={"X": "1"})).encode()]
    events = decoder().scan(items, lane="scan/0", chunk="0")
    assert len(rows(events)) == 1
    assert [one.position for one in dead(events)] == [sequence_version(1, at) for at in (2, 3, 4, 5)]


def test_a_schema_is_announced_once_before_its_first_rows() -> None:
    one = decoder()
    first = decoded(one, [change("INSERT", order())])
    second = decoded(one, [change("INSERT", order())])
    third = decoded(one, [change("INSERT", order(a={"S": "x"}))])
    assert [[type(event) for event in events] for events in (first, second, third)] == [
        [SchemaChange, ChangeBatch],
        [ChangeBatch],
        [SchemaChange, ChangeBatch],
    ]
    for event in (*first, *third):
        assert isinstance(event, SchemaChange | ChangeBatch)
        assert event.schema.version == rows(first if event in first else third)[0]["_schema_version"]


def test_a_schema_has_the_same_version_in_whatever_order_its_attributes_came() -> None:
    records = [change("INSERT", order(**{name: {"S": "x"}})) for name in ("b", "a", "c")]
    together, one_by_one = decoder(), decoder()
    decoded(together, records)
    for record in reversed(records):
        decoded(one_by_one, [record])
    resumed = decoder(known=together.known)
    assert together.schema == one_by_one.schema == resumed.schema


def test_a_name_that_comes_twice_counts_as_in_python() -> None:
    twice = change("INSERT", order(a={"S": "first"})).replace(
        b'"a": {', b'"a": {}, "a": {"S": "zero"}, "b": {"N": "1"}, "a": {'
    )
    compare(decoded(decoder(), [twice]), Oracle().decode([twice]), [twice])


def test_long_pages_with_much_that_is_odd_stay_in_order() -> None:
    rng = random.Random(replay_seed())
    records = [random_record(rng, number) for number in range(1500)]
    compare(decoded(decoder(), records), Oracle().decode(records), records)


def test_records_of_several_tables_are_told_apart() -> None:
    here = change("INSERT", order())
    there = here.replace(b"OrderTable", b"Returns")
    later = here.replace(b"2026-11-21T00", b"2026-11-22T00")
    by_name = b'{"tableName": "OrderTable", "dynamodb": {}}'
    found = RecordReader().sources([here, there, b"poison", later, here, by_name, b"\xff", b'{"tableName": 5}'])
    label = "2026-11-21T00:00:00.000"
    assert [(one.table, one.label, one.rows.tolist()) for one in found] == [
        ("OrderTable", label, [0, 4]),
        ("Returns", label, [1]),
        (None, None, [2, 6, 7]),
        ("OrderTable", label.replace("21T", "22T"), [3]),
        ("OrderTable", None, [5]),
    ]
    assert RecordReader().sources([]) == []


def test_a_record_says_the_key_of_its_table() -> None:
    assert key_types(change("INSERT", order(), Keys={"a": {"S": "x"}, "b": {"N": "1"}})) == {"a": "S", "b": "N"}
    for keys in ({}, {"a": {"BOOL": True}}, {"a": "x"}, None):
        with pytest.raises(PoisonRecord):
            key_types(change("INSERT", order(), Keys=keys))
    with pytest.raises(PoisonRecord):
        key_types(b"poison")


def test_random_items_are_scanned_as_they_would_be_inserted() -> None:
    rng = random.Random(replay_seed())
    items = [item(rng, f"{number}") for number in range(200)]
    inserted = [change("INSERT", one) for one in items]
    scanned = rows(decoder().scan([spelled(rng, one) for one in items], lane="scan/0", chunk="0"))
    wanted = rows(decoded(decoder(), inserted))
    assert [(row["after"], row["_unrepresentable"]) for row in scanned] == [
        (row["after"], row["_unrepresentable"]) for row in wanted
    ]
