"""Lines of JSON as rows: the fast way and the careful way agree, and the values are exact."""

from __future__ import annotations

import json
import os
import random
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest

from catchment.errors import ConfigError
from catchment.glue import json_lines
from catchment.glue.column_types import (
    ColumnType,
    array,
    decimal,
    in_athena,
    in_duckdb,
    map_of,
    parse,
    struct,
    widened,
)
from catchment.glue.gadgets import CHANGE_COLUMNS
from catchment.glue.inference import Inferred, roomy

COLUMNS = {**CHANGE_COLUMNS, "exact": parse("decimal(38,9)"), "flag": parse("boolean"), "order_date": parse("date")}


def rows(text: str, **columns: str) -> list[dict[str, Any]]:
    found = json_lines.read(text.encode(), {name: parse(kind) for name, kind in columns.items()})
    listed: list[dict[str, Any]] = found.table.to_pylist()
    return listed


def test_both_ways_of_reading_give_the_same_rows() -> None:
    seed = int(os.environ.get("CATCHMENT_SEED", random.randrange(2**32)))
    print(f"replay with CATCHMENT_SEED={seed}")
    chosen = random.Random(seed)
    fast = 0
    for _ in range(200):
        lines = [_line(chosen) for _ in range(chosen.randrange(1, 4))]
        data = "\n".join(lines).encode() + (b"\n" if chosen.random() < 0.8 else b"")
        split = [line.strip() for line in data.split(b"\n") if line.strip()]
        careful = json_lines.line_by_line(split, COLUMNS)
        at_once = json_lines.at_once(split, COLUMNS)
        if at_once is not None:
            fast += 1
            assert at_once.equals(careful.table), data
            assert careful.unfit == {}, data
        assert json_lines.read(data, COLUMNS).table.equals(careful.table)
    assert fast > 20, "the fast way is taken now and then"


def _line(chosen: random.Random) -> str:
    """A record as the handler writes it, now and then with something that is not as it should be."""
    moment = datetime(2026, 1, 1 + chosen.randrange(28), 3, 4, 5, chosen.randrange(1000) * 1000)
    record: dict[str, Any] = {
        "orderid": str(chosen.randrange(10**4)),
        "quantity": chosen.choice([1, 0, -5, 2**31 - 1, None]),
        "price": chosen.choice([1, 10.99, 999.9, None]),
        "order_timestamp": moment.isoformat(sep=" ", timespec="milliseconds"),
        "order_date": f"{moment:%Y-%m-%d}",
        "status": chosen.choice(["placed", 'a "quoted" \n text', "ünïcode 🎧", "", None]),
        "flag": chosen.choice([True, False, None]),
        "more": {"unknown": [1, {"deep": None}]},
    }
    if chosen.random() < 0.5:
        odd = [
            ("quantity", chosen.choice(["3", "three", 2**31, 1.5, {"a": 1}, [1]])),
            ("price", chosen.choice(["1.5", 1.005, 10**9, True])),
            ("status", chosen.choice([5, 1.50, True, {"a": [1.0, None]}, ["x"]])),
            ("order_timestamp", chosen.choice(["2026-01-01T10:00:00.123Z", 1767225600, "1767225600123", "yesterday"])),
            ("order_date", chosen.choice(["yesterday", 5])),
            ("flag", chosen.choice(["TRUE", 1])),
            ("ORDERID", "other case"),
        ]
        record |= dict(chosen.sample(odd, chosen.randrange(1, 3)))
    text = json.dumps(record, ensure_ascii=chosen.random() < 0.5)
    if chosen.random() < 0.5:
        digits = f"{chosen.randrange(10**28)}.{chosen.randrange(10**9):09}"
        text = f'{text[:-1]}, "exact": {digits}}}'
    return chosen.choice([text] * 12 + [text[:-5], "[1, 2]", "null", "", "   ", text + text, text.replace(", ", ",  ")])


def test_a_null_where_an_object_should_be_is_a_malformed_line() -> None:
    """Arrow's reader would end the process."""
    found = json_lines.read(b'{"orderid": "1"}\nnull\n{"orderid": "2"} null\n{"orderid": "3"}', COLUMNS)
    assert found.table.column("orderid").to_pylist() == ["1", None, None, "3"]
    assert found.unfit == {json_lines.MALFORMED: 2}


def test_numbers_are_exact() -> None:
    digits = "12345678901234567890123456789.123456789"
    assert rows(f'{{"n": {digits}}}', n="decimal(38,9)") == [{"n": Decimal(digits)}]
    assert rows(f'{{"n": {digits}, "x": {{}}}}\n{{"N": "{digits}"}}', n="decimal(38,9)", x="map<string,string>") == [
        {"n": Decimal(digits), "x": []},
        {"n": Decimal(digits), "x": None},
    ]
    assert rows('{"n": 1.005}\n{"n": 99999999999}', n="decimal(10,2)") == [{"n": Decimal("1.01")}, {"n": None}]
    assert rows('{"n": 9007199254740993}', n="bigint") == [{"n": 9007199254740993}]


def test_moments_have_milliseconds_in_utc() -> None:
    at = datetime(2026, 11, 21, 10, 0, 0, 123000)
    texts = ["2026-11-21 10:00:00.123", "2026-11-21T12:00:00.123+02:00", "2026-11-21T10:00:00.1239Z"]
    for text in texts:
        assert rows(json.dumps({"t": text}), t="timestamp") == [{"t": at}]
    assert rows('{"t": 1795255200123}\n{"t": "1795255200.123"}', t="timestamp") == [{"t": at}] * 2
    assert rows('{"d": "2026-11-21"}\n{"d": null}', d="date") == [{"d": date(2026, 11, 21)}, {"d": None}]


def test_nested_values_keep_their_parts() -> None:
    text = '{"s": {"Name": "x", "sizes": [1, 2]}, "m": {"/a/b": "B"}, "t": {"a": [1.50, null, "ü"]}, "b": "aGk="}'
    kinds = {"s": "struct<name:string,sizes:array<int>>", "m": "map<string,string>", "t": "string", "b": "binary"}
    assert rows(text, **kinds) == [
        {"s": {"name": "x", "sizes": [1, 2]}, "m": [("/a/b", "B")], "t": '{"a":[1.50,null,"ü"]}', "b": b"hi"}
    ]


def test_what_does_not_fit_is_counted_by_column() -> None:
    found = json_lines.read(b'{"a": "x"}\n{"a": {}}\nnonsense\n{"a": "7"}\n', {"a": parse("int")})
    assert found.table.column("a").to_pylist() == [None, None, None, 7]
    assert found.unfit == {"a": 2, json_lines.MALFORMED: 1}


@pytest.mark.parametrize(
    "text",
    ["int", "decimal(10,2)", "array<struct<a:int,b:map<string,array<decimal(38,9)>>>>", "map<string,string>", "binary"],
)
def test_a_type_is_read_as_it_is_written(text: str) -> None:
    assert str(parse(text)) == text
    assert str(parse(text.upper())) == text


def test_types_have_names_in_both_engines() -> None:
    kind = parse("struct<a:int,b:array<varchar(20)>,c:map<string,decimal(5,1)>>")
    assert in_duckdb(kind) == 'STRUCT("a" INTEGER, "b" VARCHAR[], "c" MAP(VARCHAR, DECIMAL(5, 1)))'
    assert in_athena(kind) == 'row("a" integer, "b" array(varchar), "c" map(varchar, decimal(5,1)))'
    assert in_athena(parse("timestamp")) == "timestamp(3)"


@pytest.mark.parametrize("text", ["", "integr", "array<int", "struct<a>", "int x", "map<string>"])
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no column type"):
        parse(text)


@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        ("int", "bigint", "bigint"),
        ("int", "decimal(5,2)", "decimal(12,2)"),
        ("decimal(38,0)", "decimal(5,2)", "string"),
        ("bigint", "double", "double"),
        ("date", "timestamp", "timestamp"),
        ("timestamp", "string", "string"),
        ("array<int>", "array<bigint>", "array<bigint>"),
        ("struct<a:int>", "struct<a:bigint,b:string>", "struct<a:bigint,b:string>"),
        ("struct<a:int>", "int", "string"),
        ("boolean", "int", "string"),
    ],
)
def test_types_are_widened_to_what_holds_both(one: str, other: str, common: str) -> None:
    assert str(widened(parse(one), parse(other))) == common
    assert str(widened(parse(other), parse(one))) == common


def test_columns_are_inferred_exactly() -> None:
    inferred = Inferred()
    inferred.read(
        [
            b'{"money": 1.500, "n": 1, "exact": 12345678901234567890.1234567890, "tiny": 1e-50}',
            b'{"long": 123456789012345678901234567890, "Odd:name": 1}',
            b'{"money": 12345.678, "n": null, "nothing": null, "empty": {}, "map": {"/a": "B", "b": "SS"}}',
            b'{"money": 3, "list": [], "day": "2026-11-21", "at": "2026-11-21T10:00:00Z", "text": "2026"}',
            b"[]",
        ]
    )
    expected: dict[str, ColumnType] = {
        "money": decimal(18, 3),
        "n": parse("int"),
        "exact": decimal(38, 9),
        "tiny": parse("double"),
        "long": decimal(38, 0),
        "map": map_of(parse("string"), parse("string")),
        "list": array(parse("string")),
        "day": parse("date"),
        "at": parse("timestamp"),
        "text": parse("string"),
    }
    assert {name: roomy(kind) for name, kind in inferred.columns.items()} == expected
    assert (inferred.lines, inferred.malformed, inferred.unnamed) == (5, 1, {"odd:name"})
    assert struct({"a": parse("int")}) == parse("struct<a:int>")
