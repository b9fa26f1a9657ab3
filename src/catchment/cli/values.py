"""Arrow values as what JSON has, without loss and whatever their range."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa

from catchment.transforms.hashing import date_text, timestamp_text

_PER_MICROSECOND = {"s": 1_000_000, "ms": 1_000, "us": 1}


def exact(column: pa.Array) -> list[Any]:
    """The values of an array: numbers, text, booleans, None, lists and dictionaries.

    Decimals are strings with the scale they have (whole numbers stay numbers), moments ISO 8601, bytes hex;
    what no JSON number is (NaN, infinity) is its name.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return exact(column.dictionary_decode())
    if pa.types.is_struct(kind):
        return _structs(column)
    if pa.types.is_map(kind):
        return _maps(column)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(column)
    if pa.types.is_timestamp(kind):
        return _timestamps(column)
    if pa.types.is_date32(kind):
        return [None if days is None else date_text(days) for days in column.cast(pa.int32()).to_pylist()]
    if isinstance(kind, pa.BaseExtensionType):
        return exact(column.storage)
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "as_tuple"):
        text = format(value, "f")
        # DuckDB's sums of integers are 128 bits wide, which Arrow has as decimals without a fraction.
        return int(text) if value.as_tuple().exponent >= 0 else text
    return str(value)


def _timestamps(column: pa.Array) -> list[str | None]:
    unit, utc = column.type.unit, column.type.tz is not None
    counts = column.cast(pa.int64()).to_pylist()
    if unit == "ns":
        return [
            None if count is None else f"{timestamp_text(count // 1000)}{count % 1000:03}{'Z' if utc else ''}"
            for count in counts
        ]
    factor = _PER_MICROSECOND[unit]
    return [None if count is None else _moment(count * factor, utc) for count in counts]


_INFINITY = 2**63 - 1


def _moment(micros: int, utc: bool) -> str:
    # DuckDB's infinities are the ends of its range.
    if abs(micros) == _INFINITY:
        return "infinity" if micros > 0 else "-infinity"
    return timestamp_text(micros, utc=utc)


def _structs(column: pa.StructArray) -> list[dict[str, Any] | None]:
    names = [field.name for field in column.type]
    fields = [exact(field) for field in column.flatten()]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*fields, strict=True)] if fields else [{}] * len(column)
    return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]


def _maps(column: pa.MapArray) -> list[Any]:
    """Maps with text keys are objects; others lists of pairs."""
    result: list[Any] = []
    for index in range(len(column)):
        scalar = column[index]
        if not scalar.is_valid:
            result.append(None)
            continue
        entries = scalar.values
        keys, items = (exact(entries.field(at)) for at in (0, 1))
        texts = all(isinstance(key, str) for key in keys)
        result.append(
            dict(zip(keys, items, strict=True)) if texts else [list(p) for p in zip(keys, items, strict=True)]
        )
    return result


def _lists(column: pa.Array) -> list[list[Any] | None]:
    values, lengths = exact(column.flatten()), [None if n is None else int(n) for n in _lengths(column)]
    result: list[list[Any] | None] = []
    start = 0
    for length in lengths:
        if length is None:
            result.append(None)
            continue
        result.append(values[start : start + length])
        start += length
    return result


def _lengths(column: pa.Array) -> list[int | None]:
    import pyarrow.compute as pc

    lengths: list[int | None] = pc.list_value_length(column).to_pylist()
    return lengths
