"""Typed values and clean JSON: nothing is lost on the way there and back, and no message tells a value."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.formats.dynamodb_json import (
    MalformedValue,
    NumberText,
    Types,
    clean_item,
    clean_value,
    event_form,
    json_number,
    parse_json,
    restore_item,
    restore_value,
)

SECRET = "a customer's secret"
EVERY_TYPE: dict[str, Any] = {
    "text": {"S": 'two\nlines, "quoted", é, 日本, \u2028, \x00, \U0001f600'},
    "number": {"N": "-12345678901234567890123456789012345678"},
    "binary": {"B": "AAH/"},
    "yes": {"BOOL": True},
    "no": {"BOOL": False},
    "nothing": {"NULL": True},
    "map": {"M": {"a/b": {"M": {"c~d": {"B": ""}}}, "": {"S": ""}}},
    "list": {"L": [{"S": "1"}, {"N": "1"}, {"L": []}, {"BS": ["AA==", ""]}]},
    "strings": {"SS": ["b", "a"]},
    "numbers": {"NS": ["1", "1.0", "1E+2"]},
    "binaries": {"BS": ["AA==", "/w=="]},
}


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


texts = st.text(st.characters(exclude_categories=["Cs"]))
binaries = st.binary(max_size=8).map(base64_text)
numbers = st.one_of(
    st.integers(-(10**38) + 1, 10**38 - 1).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).filter(bool).map(str),
    st.sampled_from(["0", "1E+125", "9.9999999999999999999999999999999999999E+125", "-1E-130", "0.10"]),
).filter(lambda text: not Decimal(text).is_zero() or text == "0")
scalars = st.one_of(
    texts.map(lambda value: {"S": value}),
    numbers.map(lambda value: {"N": value}),
    binaries.map(lambda value: {"B": value}),
    st.booleans().map(lambda value: {"BOOL": value}),
    st.just({"NULL": True}),
    st.lists(texts, min_size=1).map(lambda value: {"SS": value}),
    st.lists(numbers, min_size=1).map(lambda value: {"NS": value}),
    st.lists(binaries, min_size=1).map(lambda value: {"BS": value}),
)
names = st.one_of(texts, st.sampled_from(["a/b", "~", "~1", "/", "0", "a", "A"]))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda value: {"L": value}),
        st.dictionaries(names, inner, max_size=4).map(lambda value: {"M": value}),
    ),
    max_leaves=12,
)
items = st.dictionaries(names, values, max_size=6)


@given(items)
def test_a_restored_item_is_the_item(item: dict[str, Any]) -> None:
    types: Types = {}
    text = clean_item(item, types)
    assert "\n" not in text
    assert restore_item(parse_json(text), types) == item


@given(values)
def test_clean_text_without_noted_types_says_everything(value: dict[str, Any]) -> None:
    types: Types = {}
    text = clean_value(value, "/a", types)
    if not types:
        assert restore_value(parse_json(text), {}, "/a") == value
    else:
        assert restore_value(parse_json(text), {}, "/a") != value


def test_every_type_becomes_what_people_expect() -> None:
    types: Types = {}
    clean = json.loads(clean_item(EVERY_TYPE, types))
    assert clean["text"] == EVERY_TYPE["text"]["S"]
    assert clean["number"] == -12345678901234567890123456789012345678
    assert [clean[name] for name in ("binary", "yes", "no", "nothing")] == ["AAH/", True, False, None]
    assert clean["map"] == {"a/b": {"c~d": ""}, "": ""}
    assert clean["list"] == ["1", 1, [], ["AA==", ""]]
    assert [clean[name] for name in ("strings", "numbers", "binaries")] == [["b", "a"], [1, 1.0, 100], ["AA==", "/w=="]]
    assert types == {
        "/binary": "B",
        "/map/a~1b/c~0d": "B",
        "/list/3": "BS",
        "/strings": "SS",
        "/numbers": "NS",
        "/binaries": "BS",
    }
    assert restore_item(parse_json(clean_item(EVERY_TYPE)), types) == EVERY_TYPE


@pytest.mark.parametrize(
    "text", ["0", "3", "-7", "429.99", "0.10", "1E+125", "1e-130", "-9.99E125", "1" * 38, f"0.{'0' * 30}12345678"]
)
def test_a_number_keeps_its_digits(text: str) -> None:
    assert clean_value({"N": text}) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("-0", "0"),
        ("-0.0", "0.0"),
        ("+5", "5"),
        ("007", "7"),
        ("-007", "-7"),
        (".5", "0.5"),
        ("5.", "5"),
        ("+.5E3", "0.5E3"),
    ],
)
def test_a_spelling_that_json_lacks_keeps_its_value(text: str, written: str) -> None:
    assert json_number(text) == clean_value({"N": text}) == written
    assert Decimal(written) == Decimal(text)
    json.loads(written)


@pytest.mark.parametrize(
    ("value", "path", "of"),
    [
        ({"N": SECRET}, "/a", "N"),
        ({"N": ""}, "/a", "N"),
        ({"N": "１"}, "/a", "N"),
        ({"N": "NaN"}, "/a", "N"),
        ({"N": "1_0"}, "/a", "N"),
        ({"N": " 1"}, "/a", "N"),
        ({"N": 5}, "/a", "N"),
        ({"S": [SECRET]}, "/a", "S"),
        ({"B": SECRET}, "/a", "B"),
        ({"B": "AAA"}, "/a", "B"),
        ({"BOOL": SECRET}, "/a", "BOOL"),
        ({"BOOL": 1}, "/a", "BOOL"),
        ({"NULL": False}, "/a", "NULL"),
        ({"M": [SECRET]}, "/a", "M"),
        ({"L": {SECRET: SECRET}}, "/a", "L"),
        ({"SS": SECRET}, "/a", "SS"),
        ({"SS": [5]}, "/a", "S"),
        ({"NS": [SECRET]}, "/a", "N"),
        ({"BS": ["é"]}, "/a", "B"),
        ({SECRET: SECRET}, "/a", "types"),
        ({"S": SECRET, "N": "1"}, "/a", "type letter"),
        ({}, "/a", "type letter"),
        (SECRET, "/a", "type letter"),
        (None, "/a", "type letter"),
        ({"L": [{"S": "fine"}, {"M": {"x/y": {"N": SECRET}}}]}, "/a/1/x~1y", "N"),
    ],
)
def test_a_malformed_value_is_named_by_path_and_type_and_not_told(value: object, path: str, of: str) -> None:
    with pytest.raises(MalformedValue) as caught:
        clean_item({"a": value})
    assert caught.value.path == path
    assert path in str(caught.value)
    assert of in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_value_that_is_nested_without_end_is_malformed() -> None:
    value: dict[str, Any] = {"S": SECRET}
    for _ in range(500):
        value = {"L": [value]}
    with pytest.raises(MalformedValue, match="deeper"):
        clean_item({"a": value})


def test_as_deep_as_dynamodb_goes_is_fine() -> None:
    value: dict[str, Any] = {"S": ""}
    for _ in range(32):
        value = {"M": {"a": value}}
    assert restore_value(parse_json(clean_value(value)), {}) == value


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "{", "", "1 2", "[" * 100_000])
def test_what_is_not_one_json_document_is_not_parsed(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_numbers_are_read_as_their_digits() -> None:
    digits = "429.990000000000000000000000000000000000000001"
    read = parse_json(f'{{"a": {digits}, "b": [-1, 1E5], "c": "7", "d": [true, null]}}')
    assert read["a"] == digits
    assert isinstance(read["a"], NumberText)


@pytest.mark.parametrize("types", [{"/a": "SS"}, {"/a": "B"}, {"/a": "M"}])
def test_noted_types_that_do_not_fit_are_refused(types: Types) -> None:
    with pytest.raises(MalformedValue, match="/a"):
        restore_item(parse_json('{"a": 5}'), types)


def test_what_boto3_returns_becomes_what_events_have() -> None:
    returned = {
        "k": {"B": b"\x00\x01"},
        "s": {"BS": [b"\xff", bytearray(b"")]},
        "m": {"M": {"x": {"L": [{"B": b"a"}]}}},
    }
    assert event_form(returned) == {
        "k": {"B": "AAE="},
        "s": {"BS": ["/w==", ""]},
        "m": {"M": {"x": {"L": [{"B": "YQ=="}]}}},
    }
