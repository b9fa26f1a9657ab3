"""DynamoDB's typed values and the clean JSON that people query, exact in both directions.

A typed value has one member that says its type: `{"S": "Laptop"}`, `{"N": "429.99"}`. Clean JSON says the same
without the letters: `"Laptop"`, `429.99`. S, N, BOOL, NULL, M and L can be told apart in clean JSON. B and the sets
SS, NS, BS cannot (base64 text, arrays), so their letters are noted beside it by JSON pointer (RFC 6901):

    {"photo": {"B": "AAE="}, "tags": {"SS": ["a", "b"]}}  →  {"photo": "AAE=", "tags": ["a", "b"]}
                                                              {"/photo": "B", "/tags": "SS"}

Numbers never pass through a float: their digits are copied. Binary values are base64 text, as in events of Lambda and
Pipes (`event_form` makes them of what boto3 returns). Pure Python, standard library only: a Lambda imports it.

Source: Amazon DynamoDB API reference, AttributeValue; developer guide, naming rules and data types.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring as quote
from typing import Any

__all__ = [
    "Item",
    "MalformedValue",
    "NumberText",
    "Types",
    "clean_item",
    "clean_value",
    "compact_json",
    "dynamodb_text",
    "event_form",
    "json_number",
    "parse_json",
    "pointer",
    "quote",
    "restore_item",
    "restore_value",
]

Item = Mapping[str, Any]
"""Attribute name → typed value."""

Types = dict[str, str]
"""JSON pointer into the item → the type letter that its clean JSON does not say."""

DEEPEST = 64
"""Values nested deeper are refused; DynamoDB itself allows 32 levels."""

JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
ANY_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?((?:[eE][+-]?[0-9]+)?)")


class MalformedValue(ValueError):
    """A typed value that is not DynamoDB's form. The message has the attribute's path and type, never the value."""

    def __init__(self, reason: str, path: str) -> None:
        super().__init__(f"attribute {path or '/'}: {reason}")
        self.path = path


class NumberText(str):
    """The digits of a JSON number, as `parse_json` read them."""

    __slots__ = ()


def parse_json(text: str) -> Any:
    """A JSON document; numbers come as `NumberText`, digit by digit.

    Raises ValueError when the text is not one JSON document (NaN and Infinity are none).
    """
    try:
        return _document(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def compact_json(document: object) -> bytes:
    """The document in UTF-8 without blanks; halves of surrogate pairs stay."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _document(text: str) -> Any:
    try:
        document, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError:
        end = -1
    # White space around it, or an error: the slower way knows both.
    return document if end == len(text) else _DECODER.decode(text)


def _no_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(parse_float=NumberText, parse_int=NumberText, parse_constant=_no_constant)


def pointer(path: str, name: str | int) -> str:
    """The JSON pointer one step below `path`."""
    return f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}"


def json_number(text: object, path: str = "") -> str:
    """The text of an N as a JSON number, with its own digits.

    DynamoDB has no negative zero, so `-0` is `0`. Spellings that JSON lacks and DynamoDB never sends (`+5`, `007`,
    `.5`) are respelled. Range and precision are not judged: no digit is lost here.
    Raises `MalformedValue` when it is not a number.
    """
    if not isinstance(text, str):
        raise MalformedValue("an N is not text", path)
    if JSON_NUMBER.fullmatch(text) is None:
        found = ANY_NUMBER.fullmatch(text)
        if found is None or not (found[2] or found[3]):
            raise MalformedValue("an N is not a number", path)
        sign, whole, fraction, exponent = found.groups(default="")
        text = f"{sign.strip('+')}{whole.lstrip('0') or '0'}{fraction and '.' + fraction}{exponent}"
    if text[0] == "-" and not re.search("[1-9]", re.split("[eE]", text)[0]):
        return text[1:]
    return text


def clean_value(value: object, path: str = "", types: Types | None = None) -> str:
    """The clean JSON text of one typed value, on one line.

    value: `{letter: content}`. path: JSON pointer of it. types: gets the letters that the text does not say; when it
    stays empty, the text alone restores the value.
    Raises `MalformedValue`.
    """
    if type(value) is dict and len(value) == 1:  # what most values are, without a further call
        if type(text := value.get("S")) is str:
            return quote(text)
        if type(text := value.get("N")) is str and text[:1] != "-" and JSON_NUMBER.fullmatch(text):
            return text
    return _clean(value, path, {} if types is None else types, 0)


def clean_item(item: object, types: Types | None = None) -> str:
    """The clean JSON text of an item: one object. Otherwise as `clean_value`."""
    return _map(item, "", {} if types is None else types, 0)


def _clean(value: object, path: str, types: Types, depth: int) -> str:
    if not isinstance(value, dict) or len(value) != 1:
        raise MalformedValue("a value is not an object with one type letter", path)
    if depth > DEEPEST:
        raise MalformedValue(f"nested deeper than {DEEPEST} levels", "/" + path.split("/")[1])
    ((letter, content),) = value.items()
    write = _WRITERS.get(letter)
    if write is None:
        raise MalformedValue("not one of DynamoDB's types S N B BOOL NULL M L SS NS BS", path)
    return write(content, path, types, depth)


def _string(content: object, path: str, types: Types, depth: int) -> str:
    if not isinstance(content, str):
        raise MalformedValue("an S is not text", path)
    return quote(content)


def _number(content: object, path: str, types: Types, depth: int) -> str:
    return json_number(content, path)


def _binary(content: object, path: str, types: Types, depth: int) -> str:
    types[path] = "B"
    return _base64(content, path)


def _base64(content: object, path: str) -> str:
    try:
        if isinstance(content, str) and content.isascii():
            binascii.a2b_base64(content, strict_mode=True)
            return f'"{content}"'
    except binascii.Error:
        pass
    raise MalformedValue("a B is not base64 text", path)


def _boolean(content: object, path: str, types: Types, depth: int) -> str:
    if content is True:
        return "true"
    if content is False:
        return "false"
    raise MalformedValue("a BOOL is neither true nor false", path)


def _null(content: object, path: str, types: Types, depth: int) -> str:
    if content is not True:
        raise MalformedValue("a NULL is not true", path)
    return "null"


def _map(content: object, path: str, types: Types, depth: int) -> str:
    if not isinstance(content, dict):
        raise MalformedValue("an M is not an object", path)
    members = [
        f"{quote(name)}:{_clean(value, pointer(path, name), types, depth + 1)}" for name, value in content.items()
    ]
    return f"{{{','.join(members)}}}"


def _list(content: object, path: str, types: Types, depth: int) -> str:
    members = [
        _clean(value, f"{path}/{number}", types, depth + 1) for number, value in enumerate(_array(content, "L", path))
    ]
    return f"[{','.join(members)}]"


def _strings(content: object, path: str, types: Types, depth: int) -> str:
    types[path] = "SS"
    return f"[{','.join([_string(one, path, types, depth) for one in _array(content, 'SS', path)])}]"


def _numbers(content: object, path: str, types: Types, depth: int) -> str:
    types[path] = "NS"
    return f"[{','.join([json_number(one, path) for one in _array(content, 'NS', path)])}]"


def _binaries(content: object, path: str, types: Types, depth: int) -> str:
    types[path] = "BS"
    return f"[{','.join([_base64(one, path) for one in _array(content, 'BS', path)])}]"


def _array(content: object, letter: str, path: str) -> list[Any]:
    if not isinstance(content, list):
        raise MalformedValue(f"{'an' if letter[0] in 'LSN' else 'a'} {letter} is not an array", path)
    return content


_WRITERS: Mapping[str, Callable[[object, str, Types, int], str]] = {
    "S": _string,
    "N": _number,
    "B": _binary,
    "BOOL": _boolean,
    "NULL": _null,
    "M": _map,
    "L": _list,
    "SS": _strings,
    "NS": _numbers,
    "BS": _binaries,
}


def restore_value(clean: object, types: Mapping[str, str], path: str = "") -> dict[str, Any]:
    """The typed value of which `clean_value` made this.

    clean: read by `parse_json`. types: the letters by JSON pointer. Raises `MalformedValue` when they do not fit.
    """
    if (letter := types.get(path)) is not None:
        return {letter: _noted(clean, letter, path)}
    if isinstance(clean, NumberText):
        return {"N": str(clean)}
    if isinstance(clean, str):
        return {"S": clean}
    if isinstance(clean, bool):
        return {"BOOL": clean}
    if clean is None:
        return {"NULL": True}
    if isinstance(clean, Mapping):
        return {"M": restore_item(clean, types, path)}
    if isinstance(clean, list):
        return {"L": [restore_value(one, types, f"{path}/{number}") for number, one in enumerate(clean)]}
    raise MalformedValue("a number did not come through parse_json", path)


def _noted(clean: object, letter: str, path: str) -> object:
    """The content of a B or a set."""
    if letter == "B" and type(clean) is str:
        return clean
    member = {"SS": str, "NS": NumberText, "BS": str}.get(letter)
    if isinstance(clean, list) and all(type(one) is member for one in clean):
        return [str(one) for one in clean]
    raise MalformedValue(f"is noted as {letter} and is something else", path)


def restore_item(clean: Mapping[str, Any], types: Mapping[str, str], path: str = "") -> dict[str, Any]:
    """The item of which `clean_item` made this; as `restore_value`."""
    return {name: restore_value(value, types, pointer(path, name)) for name, value in clean.items()}


def dynamodb_text(value: object) -> str:
    """A typed value as DynamoDB JSON text, compact: what is kept where a column cannot hold the value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def event_form(value: Any) -> Any:
    """What boto3's clients return (items, typed values) in the form that events have: bytes as base64 text."""
    if isinstance(value, bytes | bytearray):
        return binascii.b2a_base64(value, newline=False).decode("ascii")
    if isinstance(value, Mapping):
        return {name: event_form(one) for name, one in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [event_form(one) for one in value]
    return value
