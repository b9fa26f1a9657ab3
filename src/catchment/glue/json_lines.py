"""Lines of JSON as rows with a table's types: what Athena's OpenX JSON SerDe makes of the same lines.

Arrow's reader takes what is as it should be. An object with anything else in it (another spelling of a key, a value
that does not fit, a line that is no JSON, nested values) is read line by line, by the SerDe's rules: keys in any case;
a number or a moment may be quoted; text takes anything, as JSON; what does not fit is NULL; a malformed line is a row
of NULLs (`ignore.malformed.json`). Both ways give the same rows, which a test holds.

Source: "OpenX JSON SerDe" in Athena's documentation, and Trino's OpenXJsonDeserializer, which engine version 3 has.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from catchment.glue.column_types import ColumnType, in_arrow

MALFORMED = ""
"""The name under which malformed lines are counted; no column has it."""

_RANGES = {"tinyint": 2**7, "smallint": 2**15, "int": 2**31, "bigint": 2**63}
_READ_AS_TEXT = frozenset({"timestamp", "date"})
_EPOCH = datetime(1970, 1, 1)
_EXACT = Context(prec=100)
_MILLISECOND_DIGITS = 13


@dataclass(frozen=True)
class Rows:
    """Rows, and how often something in their lines did not fit: by column, malformed lines under `MALFORMED`."""

    table: pa.Table
    unfit: Mapping[str, int] = field(default_factory=dict)


def read(data: bytes, columns: Mapping[str, ColumnType]) -> Rows:
    """The rows of an object's lines, with these columns (lower-case names). Blank lines are none."""
    lines = [stripped for line in data.split(b"\n") if (stripped := line.strip())]
    table = at_once(lines, columns) if lines else _schema(columns).empty_table()
    return Rows(table) if table is not None else line_by_line(lines, columns)


def _schema(columns: Mapping[str, ColumnType]) -> pa.Schema:
    return pa.schema([(name, in_arrow(kind)) for name, kind in columns.items()])


def at_once(lines: Sequence[bytes], columns: Mapping[str, ColumnType]) -> pa.Table | None:
    """The rows by Arrow's reader; None where it would read, or refuse, something otherwise than the SerDe does."""
    data = b"\n".join(lines)
    if _needs_care(data, lines, columns):
        return None
    asked = {
        name: pa.string() if kind.name in _READ_AS_TEXT else in_arrow(kind)
        for name, kind in columns.items()
        if _is_plain(kind)
    }
    try:
        found = pj.read_json(
            pa.BufferReader(data),
            read_options=pj.ReadOptions(use_threads=False, block_size=len(data)),
            parse_options=pj.ParseOptions(explicit_schema=pa.schema(asked), unexpected_field_behavior="ignore"),
        )
        if found.num_rows != len(lines):
            return None
        arrays = [
            _typed(found.column(name), kind) if name in asked else pa.nulls(len(lines), in_arrow(kind))
            for name, kind in columns.items()
        ]
    except pa.ArrowException:
        return None
    return pa.table(arrays, schema=_schema(columns))


def _is_plain(kind: ColumnType) -> bool:
    return not kind.is_nested and kind.name != "binary"


def _needs_care(data: bytes, lines: Sequence[bytes], columns: Mapping[str, ColumnType]) -> bool:
    # Arrow 26 ends the process (a segmentation fault) at a `null` that stands where an object should.
    if not all(line.startswith(b"{") for line in lines) or _A_NULL_APART.search(data):
        return True
    if any(not _is_plain(kind) and b'"' + name.encode() + b'"' in data for name, kind in columns.items()):
        return True
    # A key that is one of the columns in another case. Few keys are spelt with capitals: they are looked at once each.
    return any(key.lower().decode("utf-8", "replace") in columns for key in set(_WITH_CAPITALS.findall(data)))


_A_NULL_APART = re.compile(rb"}\s*null")
_WITH_CAPITALS = re.compile(rb'"([a-z0-9_.-]*[A-Z][^"\\]*)"\s*:')


def _typed(column: pa.ChunkedArray, kind: ColumnType) -> pa.ChunkedArray:
    if kind.name == "decimal":
        column.validate(full=True)  # Arrow's reader lets 1000000000 pass as a decimal(10,2)
    if kind.name == "timestamp":
        return pc.cast(pc.cast(column, pa.timestamp("ms")), pa.timestamp("us"))
    return pc.cast(column, pa.date32()) if kind.name == "date" else column


class _Digits(str):
    """A number as it is written."""

    __slots__ = ()


def _no_json(_: str) -> Any:
    raise ValueError("NaN and Infinity are no JSON")


def line_by_line(lines: Sequence[bytes], columns: Mapping[str, ColumnType]) -> Rows:
    unfit: Counter[str] = Counter()
    rows = []
    for line in lines:
        found = _object(line)
        if found is None:
            unfit[MALFORMED] += 1
        rows.append(found or {})
    arrays = [_column([row.get(name) for row in rows], name, kind, unfit) for name, kind in columns.items()]
    return Rows(pa.table(arrays, schema=_schema(columns)), dict(unfit))


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line, parse_float=_Digits, parse_int=_Digits, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {key.lower(): value for key, value in found.items()}


def _column(values: Sequence[Any], name: str, kind: ColumnType, unfit: Counter[str]) -> pa.Array:
    converted = []
    for value in values:
        try:
            converted.append(_value(value, kind))
        except (ValueError, InvalidOperation, OverflowError, TypeError):
            unfit[name] += 1
            converted.append(None)
    return pa.array(converted, in_arrow(kind))


def _value(value: Any, kind: ColumnType) -> Any:
    """A JSON value as one of this type. Raises ValueError or a relative of it when it does not fit."""
    if value is None:
        return None
    if kind.name == "string":
        return _text(value)
    if kind.is_nested:
        return _nested(value, kind)
    if kind.name == "boolean":
        return _scalar_text(value).lower() == "true"
    return _SCALARS[kind.name](_scalar_text(value), kind)


def _scalar_text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise TypeError("an object or a list")
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return _json(value)


def _json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_json(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_json, value)) + "]"
    return str(value) if isinstance(value, _Digits) else json.dumps(value, ensure_ascii=False)


def _nested(value: Any, kind: ColumnType) -> Any:
    if kind.name == "array":
        items = value if isinstance(value, list) else [value]
        return [_value(item, kind.parts[0][1]) for item in items]
    if not isinstance(value, dict):
        raise TypeError("no object")
    if kind.name == "map":
        (_, key_type), (_, value_type) = kind.parts
        return [(_value(key, key_type), _value(one, value_type)) for key, one in value.items()]
    lower = {key.lower(): one for key, one in value.items()}
    return {name: _value(lower.get(name), part) for name, part in kind.parts}


def _whole(text: str, kind: ColumnType) -> int:
    number = Decimal(text)
    if number != number.to_integral_value():
        raise ValueError("a fraction")
    end = _RANGES[kind.name]
    if not -end <= number < end:
        raise ValueError("out of range")
    return int(number)


def _decimal(text: str, kind: ColumnType) -> Decimal:
    precision, scale = kind.arguments
    number = Decimal(text).quantize(Decimal(1).scaleb(-scale), rounding=ROUND_HALF_UP, context=_EXACT)
    if number.adjusted() >= precision - scale and number:
        raise ValueError("too many digits")
    return number


def _double(text: str, _: ColumnType) -> float:
    return float(text)


def _bytes(text: str, _: ColumnType) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error


def _date(text: str, _: ColumnType) -> date:
    return date.fromisoformat(text.strip()[:10])


def _timestamp(text: str, _: ColumnType) -> datetime:
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        thousands = 1 if len(text) >= _MILLISECOND_DIGITS and "." not in text else 1000
        return _EPOCH + timedelta(milliseconds=int(Decimal(text) * thousands))
    if not re.match(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d", text):
        raise ValueError("no moment")
    found = datetime.fromisoformat(text)
    if found.tzinfo is not None:
        found = found.astimezone(UTC).replace(tzinfo=None)
    return _EPOCH + timedelta(milliseconds=(found - _EPOCH) // timedelta(milliseconds=1))


_SCALARS = {
    **dict.fromkeys(_RANGES, _whole),
    "decimal": _decimal,
    "float": _double,
    "double": _double,
    "binary": _bytes,
    "date": _date,
    "timestamp": _timestamp,
}
