"""Redaction: what a hash is of, and that nothing else of a column is left in a batch."""

from __future__ import annotations

import hashlib
import hmac
import random
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from pydantic import SecretStr

from catchment.change import ChangeBatch
from catchment.finding import Severity
from catchment.schema import UTC_MICROSECONDS, Column, TableId, TableSchema
from catchment.transforms.config import HashConfig
from catchment.transforms.hashing import KeyedHash, canonical_text, date_text, timestamp_text
from catchment.transforms.redact import HashColumns
from seeds import first_seed

SECRET = "a secret of some length"

SCHEMA = TableSchema(
    TableId("public", "users"),
    (
        Column("id", pa.int64(), "int8", key=True),
        Column("email", pa.string(), "text"),
        Column("born", pa.date32(), "date"),
        Column("city", pa.string(), "text"),
    ),
)


def expected(text: str | bytes) -> str:
    message = text if isinstance(text, bytes) else text.encode()
    return hmac.new(SECRET.encode(), message, hashlib.sha256).hexdigest()


def transform(*columns: str) -> HashColumns:
    return HashColumns(HashConfig(columns=columns, secret=SecretStr(SECRET)))


def batch(schema: TableSchema, rows: list[dict[str, Any]]) -> ChangeBatch:
    fixed = {"_op": "u", "_lane": "l", "_position": b"1", "_version": b"1", "_schema_version": 1}
    return ChangeBatch(schema, "l", pa.RecordBatch.from_pylist([{**fixed, **row} for row in rows], schema.envelope))


def user(id_: int, email: str | None, city: str | None = "Ghent", born: date | None = None) -> dict[str, Any]:
    return {"id": id_, "email": email, "born": born, "city": city}


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_the_hash_is_hmac_sha256_whatever_the_length_of_the_secret(length: int) -> None:
    secret = "s" * length
    reference = hmac.new(secret.encode(), "zoë@example.com".encode(), hashlib.sha256).hexdigest()
    assert KeyedHash(secret).of_text("zoë@example.com") == reference


def test_the_hash_cannot_be_made_without_the_secret() -> None:
    assert KeyedHash("one").of_text("a") != KeyedHash("two").of_text("a")
    assert KeyedHash("one").of_text("a") != hashlib.sha256(b"a").hexdigest()


def test_before_and_after_are_hashed_and_the_rest_is_untouched() -> None:
    source = batch(
        SCHEMA,
        [
            {"before": None, "after": user(1, "a@x"), "_unchanged": ["city"]},
            {"before": user(1, "a@x"), "after": user(1, "b@x", None)},
            {"before": user(1, "b@x"), "after": None, "_op": "d"},
        ],
    )
    result = transform("public.users.email").apply(source)
    assert result.records.column("before").to_pylist() == [None, user(1, expected("a@x")), user(1, expected("b@x"))]
    assert result.records.column("after").to_pylist() == [
        user(1, expected("a@x")),
        user(1, expected("b@x"), None),
        None,
    ]
    for name in ("_op", "_position", "_unchanged", "_version"):
        assert result.records.column(name).equals(source.records.column(name))
    assert result.records.schema.equals(SCHEMA.envelope)
    result.records.validate(full=True)


def test_null_stays_null_and_the_empty_text_does_not() -> None:
    result = transform("*.email").apply(batch(SCHEMA, [{"after": user(1, None)}, {"after": user(2, "")}]))
    assert [row["email"] for row in result.records.column("after").to_pylist()] == [None, expected("")]


def test_a_column_of_nulls_only_becomes_text() -> None:
    rows: list[dict[str, Any]] = [{"after": user(1, "a@x")}]
    result = transform("*.born").apply(batch(SCHEMA, rows))
    assert result.records.column("after").type.field("born").type == pa.string()
    assert result.records.column("after").to_pylist() == [user(1, "a@x")]


def test_the_schema_says_text_and_a_key_stays_a_key() -> None:
    result = transform("*.id", "*.born")
    schema = result.schema(SCHEMA)
    assert schema.key == ("id",)
    assert [str(column.type) for column in schema.columns] == ["string", "string", "string", "string"]
    made = result.apply(batch(SCHEMA, [{"after": user(7, "a@x", born=date(1980, 2, 29))}]))
    assert made.schema == schema
    assert made.records.schema.equals(schema.envelope)
    assert made.records.column("after")[0].as_py() == {
        "id": expected("7"),
        "email": "a@x",
        "born": expected("1980-02-29"),
        "city": "Ghent",
    }


def test_what_the_type_could_not_hold_is_hashed_too() -> None:
    rows: list[dict[str, Any]] = [
        {"after": user(1, "a@x")},
        {"after": user(2, "b@x"), "_unrepresentable": [("born", "infinity"), ("city", "odd")]},
        {"after": user(3, "c@x"), "_unrepresentable": [("before.born", "-infinity")]},
        {"after": user(4, "d@x"), "_unrepresentable": []},
    ]
    result = transform("public.*.born").apply(batch(SCHEMA, rows))
    wanted = [None, [("born", expected("infinity")), ("city", "odd")], [("before.born", expected("-infinity"))], []]
    assert result.records.column("_unrepresentable").to_pylist() == wanted
    source = batch(SCHEMA, rows)
    for start in range(4):
        part = ChangeBatch(SCHEMA, "l", source.records.slice(start))
        again = transform("public.*.born").apply(part)
        assert again.records.column("_unrepresentable").to_pylist() == wanted[start:]
        again.records.validate(full=True)


def test_what_has_no_column_is_hashed_by_its_name() -> None:
    kept = [("Born", "infinity"), ("before.BORN", "x"), ("phone", "1"), ("before.phone", "2"), ("city", "odd")]
    source = batch(SCHEMA, [{"after": user(1, "a@x"), "_unrepresentable": kept}])
    texts = transform("*.born", "*.phone").apply(source).records.column("_unrepresentable").to_pylist()
    hashed = [(name, text if name == "city" else expected(text)) for name, text in kept]
    assert texts == [hashed]
    texts = transform("*.phone").apply(source).records.column("_unrepresentable").to_pylist()
    assert texts == [[(name, expected(text) if "phone" in name else text) for name, text in kept]]


def test_columns_of_the_source_itself_stay_beside_the_envelope() -> None:
    source = batch(SCHEMA, [{"after": user(1, "a@x")}])
    records = source.records.append_column("_lsn", pa.array([5], pa.int64()))
    result = transform("*.email").apply(ChangeBatch(SCHEMA, "l", records))
    assert result.records.column("_lsn").to_pylist() == [5]


def test_a_table_without_covered_columns_passes_as_it_is() -> None:
    source = batch(SCHEMA, [{"after": user(1, "a@x")}])
    assert transform("public.orders.email").apply(source) is source
    assert transform("public.orders.email").schema(SCHEMA) is SCHEMA


def test_every_type_is_hashed_by_its_canonical_text() -> None:
    utc = UTC
    cases: list[tuple[pa.DataType, Any, str | bytes]] = [
        (pa.bool_(), True, "true"),
        (pa.bool_(), False, "false"),
        (pa.int32(), -5, "-5"),
        (pa.int64(), 2**63 - 1, str(2**63 - 1)),
        (pa.float64(), 0.1, "0.1"),
        (pa.float64(), -0.0, "-0.0"),
        (pa.float32(), 0.1, "0.1"),
        (pa.decimal128(12, 2), Decimal("12.50"), "12.50"),
        (pa.decimal128(38, 10), Decimal("0E-10"), "0.0000000000"),
        (pa.string(), "zoë", "zoë"),
        (pa.binary(), b"\x00\xff", b"\x00\xff"),
        (pa.date32(), date(2024, 5, 1), "2024-05-01"),
        (pa.timestamp("us"), datetime(2024, 5, 1, 12, 0, 0, 5), "2024-05-01T12:00:00.000005"),
        (
            UTC_MICROSECONDS,
            datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),
            "2024-05-01T12:00:00.000000Z",
        ),
        (UTC_MICROSECONDS, datetime(1969, 12, 31, 23, 59, 59, 999999, utc), "1969-12-31T23:59:59.999999Z"),
    ]
    for kind, value, text in cases:
        schema = TableSchema(TableId("s", "t"), (Column("c", kind),))
        result = transform("s.t.c").apply(batch(schema, [{"after": {"c": value}}, {"after": {"c": None}}]))
        assert result.records.column("after").to_pylist() == [{"c": expected(text)}, {"c": None}], kind


def test_zeros_of_both_signs_are_two_values() -> None:
    schema = TableSchema(TableId("s", "t"), (Column("c", pa.float64()),))
    rows: list[dict[str, Any]] = [{"after": {"c": value}} for value in (0.0, -0.0, 0.0)]
    result = transform("s.t.c").apply(batch(schema, rows))
    assert [row["c"] for row in result.records.column("after").to_pylist()] == [
        expected("0.0"),
        expected("-0.0"),
        expected("0.0"),
    ]


def test_moments_are_written_as_python_writes_them_and_beyond_its_years_too() -> None:
    seed = first_seed()
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(2000):
        micros = rng.randrange(-62_135_596_800_000_000, 253_402_300_800_000_000)
        moment = datetime(1970, 1, 1) + timedelta(microseconds=micros)
        assert timestamp_text(micros) == moment.isoformat(timespec="microseconds")
        assert date_text(micros // 86_400_000_000) == moment.date().isoformat()
    assert date_text(-719_528) == "0000-01-01"
    assert date_text(-719_529) == "-000001-12-31"
    assert date_text(2_932_897) == "+010000-01-01"
    assert timestamp_text(0, utc=True) == "1970-01-01T00:00:00.000000Z"
    assert canonical_text(Decimal("1E+3")) == "1000"


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    config = HashConfig(columns=("public.users.email", "*.fone"), secret=SecretStr(SECRET))
    found = config.check_columns({"public.users": ["id", "email"], "public.orders": ["id"]})
    assert [finding.severity for finding in found] == [Severity.OK, Severity.ERROR]
    assert "public.users.email" in found[0].message
    assert "*.fone" in found[1].subject


def test_a_short_secret_is_warned_of() -> None:
    found = HashConfig(columns=("*.email",), secret=SecretStr("short")).check_columns({"public.users": ["email"]})
    assert [finding.severity for finding in found] == [Severity.OK, Severity.WARNING]
    assert "short" not in found[1].message
