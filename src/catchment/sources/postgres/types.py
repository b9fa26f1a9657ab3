"""PostgreSQL's types: which Arrow type holds each exactly, and how its text becomes it.

The server's own output functions write the text, for the stream and, where Arrow has no exact binary
twin, for the snapshot too: so both give the same value. What the Arrow type cannot hold (infinity, NaN in a
numeric, a year beyond 294246) becomes NULL there and stays as text in `_unrepresentable`; nothing is
rounded or clamped. Sources: the catalog pg_type.dat; "Data Types" in PostgreSQL's manual.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.schema import UTC_MICROSECONDS

Decoded = tuple[pa.Array, pa.Array | None]
"""Values, and where they could not be held (a boolean mask), or None when all could."""

MICROSECONDS = pa.timestamp("us")
EPOCH_2000_US = 946_684_800_000_000
"""PostgreSQL counts from 2000-01-01, Unix from 1970-01-01."""

_LAST_TIMESTAMP_US = np.iinfo(np.int64).max
_MOST_DIGITS = 38


@dataclass(frozen=True, slots=True)
class LogicalType:
    """How one PostgreSQL type is kept.

    arrow: the exact type. from_text: the server's text output → values. select: how a snapshot asks for
    a column so that `from_snapshot` understands it (`{}` is the quoted column). suffix: what the text always
    ends with; the decoder cuts it off before `from_text` when all values have it.
    """

    arrow: pa.DataType
    from_text: Callable[[pa.Array], Decoded]
    select: str = "{}"
    from_snapshot: Callable[[pa.Array], Decoded] | None = None
    suffix: bytes = b""

    def snapshot(self, values: pa.Array) -> Decoded:
        """What the snapshot's query gave → values."""
        return (self.from_snapshot or self.from_text)(values)

    def snapshot_text(self, values: pa.Array, bad: pa.Array) -> list[str]:
        """The server's text for those values of a snapshot that could not be held."""
        rows = values.filter(bad)
        if not pa.types.is_binary(rows.type):
            return [str(text) for text in rows.to_pylist()]
        return [_sent_text(sent, self.arrow) for sent in rows.to_pylist()]


def _cast(target: pa.DataType) -> Callable[[pa.Array], Decoded]:
    def decode(texts: pa.Array) -> Decoded:
        try:
            return pc.cast(texts, target), None
        except pa.ArrowInvalid:
            return _each(texts, target)

    return decode


def _each(texts: pa.Array, target: pa.DataType) -> Decoded:
    """One value after the other: no server we know sends what the type cannot hold, and if one does, it is kept."""
    values: list[Any] = []
    bad = np.zeros(len(texts), bool)
    for row, text in enumerate(texts):
        try:
            values.append(text.cast(target).as_py())
        except pa.ArrowInvalid:
            values.append(None)
            bad[row] = True
    return pa.array(values, target), pa.array(bad)


def _as_is(values: pa.Array) -> Decoded:
    return values, None


def _boolean(texts: pa.Array) -> Decoded:
    return pc.equal(texts, "t"), None


def _cast_or_keep(
    target: pa.DataType, plain: str, odd: Callable[[str], int | None] | None
) -> Callable[[pa.Array], Decoded]:
    """A cast that is quick when all values are plain; else those that are not go one by one."""

    def decode(texts: pa.Array) -> Decoded:
        try:
            return pc.cast(texts, target), None
        except pa.ArrowInvalid:
            return _one_by_one(texts, target, plain, odd)

    return decode


def _one_by_one(texts: pa.Array, target: pa.DataType, plain: str, odd: Callable[[str], int | None] | None) -> Decoded:
    usual = pc.fill_null(pc.match_substring_regex(texts, plain), True)
    values = pc.cast(pc.if_else(usual, texts, pa.scalar(None, texts.type)), target)
    bad = pc.invert(usual)
    if odd is None:
        return values, bad
    # Rare by nature: years beyond four digits, BC, infinity.
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    parsed = [odd(texts[int(row)].as_py()) for row in rows]
    storage = pa.int32() if pa.types.is_date32(target) else pa.int64()
    replaced = pc.replace_with_mask(values.cast(storage), bad, pa.array(parsed, storage))
    mask = np.zeros(len(texts), dtype=bool)
    mask[[row for row, value in zip(rows, parsed, strict=True) if value is None]] = True
    return replaced.cast(target), pa.array(mask) if mask.any() else None


_ODD = re.compile(r"(?P<year>\d{4,})-(?P<rest>\d\d-\d\d(?: \d\d:\d\d:\d\d(?:\.\d+)?)?)(?:\+00)?(?P<bc> BC)?")


def _odd_timestamp(text: str) -> int | None:
    """Microseconds since 1970 of a timestamp with a long year or before Christ; None when it has none."""
    moment = _odd_moment(text, "us")
    # NumPy wraps around silently: outside of what int64 microseconds reach, keep the text.
    return (
        None
        if moment is None or not -290_307 < int(str(moment.astype("M8[Y]"))) < 294_247
        else int(moment.astype(np.int64))
    )


def _odd_date(text: str) -> int | None:
    moment = _odd_moment(text, "D")
    return None if moment is None else int(moment.astype(np.int64))


def _odd_moment(text: str, unit: str) -> Any:
    match = _ODD.fullmatch(text)
    if match is None:
        return None
    year = int(match["year"])
    # Astronomical years: 1 BC is year 0.
    signed = 1 - year if match["bc"] else year
    seconds = np.datetime64(
        f"{signed:+05d}-{match['rest'].replace(' ', 'T')}"
        if signed < 0
        else f"{signed:04d}-{match['rest'].replace(' ', 'T')}",
        "s",
    )
    if unit == "D":
        return seconds.astype("M8[D]")
    if not -290_307 < signed < 294_247:
        return None
    fraction = match["rest"].partition(".")[2]
    micros = int(fraction.ljust(6, "0")) if fraction else 0
    return seconds.astype("M8[us]") + np.timedelta64(micros, "us")


_PLAIN_TIMESTAMP = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?$"
_timestamp = _cast_or_keep(MICROSECONDS, _PLAIN_TIMESTAMP, _odd_timestamp)
_date = _cast_or_keep(pa.date32(), r"^\d{4}-\d\d-\d\d$", _odd_date)


def _timestamptz(texts: pa.Array) -> Decoded:
    """With TimeZone=UTC each text ends in `+00`, which the decoder has cut off: a plain timestamp is left."""
    try:
        return pc.cast(texts, MICROSECONDS).view(UTC_MICROSECONDS), None
    except pa.ArrowInvalid:
        plain = pc.replace_substring_regex(texts, r"^(\d{4}-[^+]*)\+00$", r"\1")
        values, bad = _one_by_one(plain, MICROSECONDS, _PLAIN_TIMESTAMP, _odd_timestamp)
        return values.view(UTC_MICROSECONDS), bad


_NIBBLES = np.zeros(256, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
_NIBBLES[np.frombuffer(b"abcdef", np.uint8)] = np.arange(10, 16)


def _bytea(texts: pa.Array) -> Decoded:
    r"""`\x` and two digits a byte (bytea_output=hex)."""
    digits = pc.utf8_slice_codeunits(texts, 2)
    validity, offsets_buffer, data_buffer = digits.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[digits.offset : digits.offset + len(digits) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    values = (_NIBBLES[data[0::2]] << 4) | _NIBBLES[data[1::2]]
    halves = ((offsets - offsets[0]) // 2).astype(np.int32)
    if digits.offset:
        digits = pa.concat_arrays([digits])
        validity = digits.buffers()[0]
    return (
        pa.Array.from_buffers(
            pa.binary(),
            len(digits),
            [validity, pa.py_buffer(halves), pa.py_buffer(values)],
            digits.null_count,
        ),
        None,
    )


def _sent_timestamp(target: pa.DataType) -> Callable[[pa.Array], Decoded]:
    """Eight bytes, big-endian, microseconds since 2000 (`timestamptz_send`)."""

    def decode(sent: pa.Array) -> Decoded:
        micros, valid = _sent(sent, ">i8")
        held = (micros > -_LAST_TIMESTAMP_US) & (micros <= _LAST_TIMESTAMP_US - EPOCH_2000_US)
        values = np.where(held, micros, 0) + EPOCH_2000_US
        return _with_validity(values, valid & held, pa.int64()).view(target), _mask(valid & ~held)

    return decode


def _sent_date(sent: pa.Array) -> Decoded:
    """Four bytes, big-endian, days since 2000 (`date_send`)."""
    days, valid = _sent(sent, ">i4")
    limits = np.iinfo(np.int32)
    held = (days > limits.min) & (days < limits.max)
    values = (np.where(held, days, 0) + EPOCH_2000_US // 86_400_000_000).astype(np.int32)
    return _with_validity(values, valid & held, pa.int32()).view(pa.date32()), _mask(valid & ~held)


def _sent_text(sent: bytes, target: pa.DataType) -> str:
    """What the server writes for a date or timestamp that is infinite, or beyond the last that can be held."""
    value = int.from_bytes(sent, "big", signed=True)
    if value == (1 << (8 * len(sent) - 1)) - 1:
        return "infinity"
    if value == -(1 << (8 * len(sent) - 1)):
        return "-infinity"
    seconds, micros = divmod(value, 1_000_000)
    moment = np.datetime64(seconds + EPOCH_2000_US // 1_000_000, "s")
    text = str(moment).replace("T", " ").lstrip("+") + (f".{micros:06d}".rstrip("0") if micros else "")
    return text + "+00" if target == UTC_MICROSECONDS else text


def _sent(sent: pa.Array, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-width big-endian values and where they are not NULL."""
    width = np.dtype(kind).itemsize
    valid = np.asarray(sent.is_valid())
    _, offsets_buffer, data_buffer = sent.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[sent.offset : sent.offset + len(sent) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)[offsets[0] : offsets[-1]]
    dense = np.frombuffer(data[: len(data) // width * width].tobytes(), kind).astype(np.int64)
    if len(dense) == len(sent):
        return dense, valid
    values = np.zeros(len(sent), np.int64)
    values[valid] = dense
    return values, valid


def _with_validity(values: np.ndarray, valid: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind) if valid.all() else pa.array(values, kind, mask=~valid)


def _mask(bad: np.ndarray) -> pa.Array | None:
    return pa.array(bad) if bad.any() else None


# Written by the type's own output function; `::text` gives the snapshot the same.
_TEXT = LogicalType(pa.string(), _as_is, select="{}::text")
_PLAIN_TEXT = LogicalType(pa.string(), _as_is)


def _output(function: str) -> LogicalType:
    """A type whose cast to text is not its output function: `inet '::1'` casts to `::1/128`."""
    return LogicalType(pa.string(), _as_is, select=f"textin({function}({{}}))")


_BY_OID: dict[int, LogicalType] = {
    16: LogicalType(pa.bool_(), _boolean, from_snapshot=_as_is),  # bool
    17: LogicalType(pa.binary(), _bytea, from_snapshot=_as_is),  # bytea
    18: _TEXT,  # "char"
    19: _TEXT,  # name
    20: LogicalType(pa.int64(), _cast(pa.int64()), from_snapshot=_as_is),  # int8
    21: LogicalType(pa.int32(), _cast(pa.int32()), from_snapshot=_cast(pa.int32())),  # int2
    23: LogicalType(pa.int32(), _cast(pa.int32()), from_snapshot=_as_is),  # int4
    25: _PLAIN_TEXT,  # text
    26: LogicalType(pa.int64(), _cast(pa.int64()), select="{}::int8", from_snapshot=_as_is),  # oid
    114: _TEXT,  # json
    142: _output("xml_out"),  # xml
    650: _output("cidr_out"),  # cidr
    700: LogicalType(pa.float32(), _cast(pa.float32()), from_snapshot=_as_is),  # float4
    701: LogicalType(pa.float64(), _cast(pa.float64()), from_snapshot=_as_is),  # float8
    774: _TEXT,  # macaddr8
    829: _TEXT,  # macaddr
    869: _output("inet_out"),  # inet
    1042: _TEXT,  # bpchar: `::text` strips the padding, so the snapshot asks otherwise (below)
    1043: _PLAIN_TEXT,  # varchar
    1082: LogicalType(pa.date32(), _date, select="date_send({})", from_snapshot=_sent_date),
    1083: _TEXT,  # time: Spark refuses Iceberg's
    1114: LogicalType(
        MICROSECONDS, _timestamp, select="timestamp_send({})", from_snapshot=_sent_timestamp(MICROSECONDS)
    ),
    1184: LogicalType(
        UTC_MICROSECONDS,
        _timestamptz,
        select="timestamptz_send({})",
        from_snapshot=_sent_timestamp(UTC_MICROSECONDS),
        suffix=b"+00",
    ),
    1186: _TEXT,  # interval
    1266: _TEXT,  # timetz
    1560: _TEXT,  # bit
    1562: _TEXT,  # varbit
    2950: _TEXT,  # uuid
    3220: _TEXT,  # pg_lsn
    3614: _TEXT,  # tsvector
    3802: _TEXT,  # jsonb
}
_BY_OID[1042] = LogicalType(pa.string(), _as_is, select="bpcharsend({})", from_snapshot=_cast(pa.string()))

NUMERIC = 1700


def logical_type(oid: int, typmod: int, output: str | None = None) -> LogicalType:
    """How a type is kept: exactly, or as the server's own text.

    oid and typmod are of the base type when it is a domain. output: the type's output function, as SQL names it, where
    a cast to text would call another one. The server's text is what any type without one of its own here has:
    arrays, enums, composites, ranges, types of extensions.
    """
    if oid == NUMERIC:
        return _numeric(typmod)
    return _BY_OID.get(oid) or (_TEXT if output is None else _output(output))


def _numeric(typmod: int) -> LogicalType:
    """numeric(p, s) with at most 38 digits is a decimal; without a declared precision it is text."""
    if typmod < 0:
        return _TEXT
    precision, scale = ((typmod - 4) >> 16) & 0xFFFF, (typmod - 4) & 0x7FF
    # Since version 15 the scale is signed, in 11 bits.
    scale = scale - 2048 if scale >= 1024 else scale
    digits, places = max(precision - min(scale, 0), scale), max(scale, 0)
    if digits > _MOST_DIGITS:
        return _TEXT
    target = pa.decimal128(digits, places)
    decode = _cast_or_keep(target, r"^-?[0-9.]+$", None)
    return LogicalType(target, decode, select="{}::text", from_snapshot=decode)
