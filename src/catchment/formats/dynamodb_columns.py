"""How a DynamoDB attribute is kept: its column's type, and how its values become that, exactly or not at all.

S is a string, N a decimal128(38, 9), BOOL a bool, B binary, and M, L, SS, NS, BS their clean JSON text, unless another
type is declared. A value that the column's type does not hold to the last digit is NULL there; the caller keeps its
DynamoDB JSON in `_unrepresentable`. Nothing is rounded or cut off, but where `double` is declared.
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Context, Decimal, Inexact, InvalidOperation, Overflow, Underflow
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.formats.clean_record import EPOCH_TEXT, iso_8601
from catchment.formats.dynamodb_attributes import LETTERS
from catchment.formats.stream_record import EPOCH, UNITS, PoisonRecord, epoch_microseconds
from catchment.schema import UTC_MICROSECONDS

Mask = npt.NDArray[np.bool_]
Decoded = tuple[pa.Array, Mask | None]
"""Values, and where they could not be held, or None when all could."""

Read = Callable[[pa.StringArray, Mask], Decoded]
"""Contents of values (`Attributes.contents`; NULL where there is none), and which are of an N → values."""

NUMBER = pa.decimal128(38, 9)
MICROSECONDS = pa.timestamp("us")

_BY_LETTER = {"S": pa.string(), "N": NUMBER, "BOOL": pa.bool_(), "B": pa.binary()}
_ISO_SECONDS = r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?"
_ZONED = _ISO_SECONDS + r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
_WITHOUT_ZONE = _ISO_SECONDS + "$"
# DynamoDB's own numbers have 38 digits and exponents of -130 to 125.
_MOST_DIGITS = 38
_ROUNDING = Context(prec=400)
_EXACT = Context(prec=400, Emin=-9999, Emax=9999, traps=[Inexact, InvalidOperation, Overflow, Underflow])


@dataclass(frozen=True, slots=True)
class AttributeColumn:
    """One attribute as a column.

    letters: the types of values that it takes.
    """

    name: str
    type: pa.DataType
    letters: tuple[str, ...]
    read: Read

    @property
    def source_type(self) -> str:
        """The source's name of its type: the letter, or the letters."""
        return "/".join(self.letters)

    @property
    def codes(self) -> tuple[int, ...]:
        """`letters` as indices into `LETTERS`."""
        return tuple(LETTERS.index(letter) for letter in self.letters)


def attribute_column(name: str, letter: str, declared: pa.DataType | None = None) -> AttributeColumn:
    """The column of an attribute that was first seen with this type letter, or is declared with this type.

    Raises ValueError when a declared type is none of int32, int64, decimal128, float64, string, bool, binary, date32,
    timestamp[us] (with UTC or without zone).
    """
    kind = declared if declared is not None else _BY_LETTER.get(letter, pa.string())
    if pa.types.is_string(kind):
        return AttributeColumn(name, kind, (letter,) if letter else (), _as_is)
    return AttributeColumn(name, kind, *_reading(name, kind))


def letter_is_fixed(declared: pa.DataType | None) -> bool:
    """Does the declared type say which letters a column takes, so that the first value need not?"""
    return declared is not None and not pa.types.is_string(declared)


def _reading(name: str, kind: pa.DataType) -> tuple[tuple[str, ...], Read]:
    if pa.types.is_decimal128(kind):
        exact = _decimal_within(kind.precision, kind.scale)
        return ("N",), lambda texts, _: _number(texts, kind, exact)
    if kind in (pa.int32(), pa.int64()):
        whole = _integer_within(kind.bit_width)
        return ("N",), lambda texts, _: _number(texts, kind, whole)
    if kind == pa.float64():
        return ("N",), _double
    if kind == pa.bool_():
        return ("BOOL",), lambda texts, _: (pc.equal(texts, "true"), None)
    if kind == pa.binary():
        return ("B",), _binary
    if kind in (MICROSECONDS, UTC_MICROSECONDS):
        return ("S", "N"), lambda texts, numbers: _timestamp(texts, numbers, kind)
    if kind == pa.date32():
        return ("S",), _dates
    raise ValueError(f"{name}: no attribute can be kept as {kind}")


def _as_is(texts: pa.StringArray, _: Mask) -> Decoded:
    return texts, None


def _each(texts: pa.StringArray, kind: pa.DataType, value: Callable[[str], Any]) -> Decoded:
    """One value after the other; `value` gives None for what the type cannot hold."""
    values = [None if text is None else value(text) for text in texts.to_pylist()]
    bad = np.fromiter((one is None for one in values), np.bool_, len(values)) & np.asarray(texts.is_valid())
    return pa.array(values, kind), bad if bad.any() else None


def _number(texts: pa.StringArray, kind: pa.DataType, exact: Callable[[str], Any]) -> Decoded:
    if _all_plain(texts, _MOST_DIGITS - (kind.scale if pa.types.is_decimal(kind) else 0)):
        try:
            return pc.cast(texts, kind), None
        except pa.ArrowInvalid:
            pass
    return _number_by_number(texts, kind, exact)


def _all_plain(texts: pa.StringArray, longest: int) -> bool:
    """Are these numbers short, and without exponents?

    Arrow 26 makes another number of a text whose digits, brought to the decimal's scale, take more than 128 bits, and
    ends the process at exponents such as that of 1E+9999999.
    """
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return True
    places = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(data, np.uint8)[int(places[0]) : int(places[-1])]
    return int(np.diff(places).max()) <= longest and not np.any(letters >= ord("E"))


def _number_by_number(texts: pa.StringArray, kind: pa.DataType, exact: Callable[[str], Any]) -> Decoded:
    """Numbers that surely fit are cast together, the others are judged one by one."""
    integers, places = (kind.precision - kind.scale, kind.scale) if pa.types.is_decimal(kind) else (9, 0)
    fraction = f"(\\.[0-9]{{1,{places}}})?" if places else ""
    usual = pc.match_substring_regex(texts, f"^-?[0-9]{{1,{max(integers, 1)}}}{fraction}$")
    if integers < 1:
        usual = pc.and_(usual, False)
    values = pc.cast(pc.if_else(usual, texts, pa.scalar(None, texts.type)), kind)
    odd = pc.fill_null(pc.invert(usual), False)
    others, wrong = _each(texts.filter(odd), kind, exact)
    bad = np.zeros(len(texts), np.bool_)
    if wrong is not None:
        bad[np.flatnonzero(np.asarray(odd))] = wrong
    return pc.replace_with_mask(values, odd, others), bad if wrong is not None else None


def _number_of(text: str) -> Decimal | None:
    """A number, whatever its spelling; None when it is beyond all that DynamoDB has."""
    try:
        return _EXACT.create_decimal(text)
    except ArithmeticError:
        return None


def _double(texts: pa.StringArray, _: Mask) -> Decoded:
    values = pc.cast(texts, pa.float64())
    if pc.all(pc.is_finite(values)).as_py() is not False:
        return values, None
    return _each(texts, pa.float64(), lambda text: float(text) if isfinite(float(text)) else None)


def _decimal_within(precision: int, scale: int) -> Callable[[str], Decimal | None]:
    unit = Decimal(1).scaleb(-scale)

    def value(text: str) -> Decimal | None:
        number = _number_of(text)
        if number is None or (number and number.adjusted() >= precision - scale):
            return None
        held = number.quantize(unit, context=_ROUNDING)
        return held if held == number else None

    return value


def _integer_within(bits: int) -> Callable[[str], int | None]:
    def value(text: str) -> int | None:
        number = _number_of(text)
        if number is None or number.adjusted() > 20:
            return None
        integer = int(number)
        return integer if integer == number and -(1 << bits - 1) <= integer < 1 << bits - 1 else None

    return value


def _binary(texts: pa.StringArray, _: Mask) -> Decoded:
    # That it is base64 was checked when the attributes were read.
    return pa.array([None if text is None else a2b_base64(text) for text in texts.to_pylist()], pa.binary()), None


def _dates(texts: pa.StringArray, _: Mask) -> Decoded:
    try:
        return pc.cast(texts, pa.date32()), None
    except pa.ArrowInvalid:
        return _each(texts, pa.date32(), _date)


def _date(text: str) -> date | None:
    # fromisoformat reads weeks and days of the year, too.
    try:
        return date.fromisoformat(text) if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


def _timestamp(texts: pa.StringArray, numbers: Mask, kind: pa.DataType) -> Decoded:
    """ISO 8601 text (without a zone: UTC), or an epoch time in seconds, milliseconds or microseconds."""
    try:
        values, usual = _usual_times(texts, numbers)
    except pa.ArrowInvalid:
        # One of them is the 30th of February.
        values, usual = pa.nulls(len(texts), pa.int64()), np.zeros(len(texts), np.bool_)
    odd = ~usual & np.asarray(texts.is_valid())
    if not odd.any():
        return values.view(kind), None
    at = np.flatnonzero(odd)
    moments = [
        _epoch(text) if number else _moment(text)
        for text, number in zip(texts.take(pa.array(at)).to_pylist(), numbers[at].tolist(), strict=True)
    ]
    bad = np.zeros(len(texts), np.bool_)
    bad[at] = [moment is None for moment in moments]
    values = pc.replace_with_mask(values, pa.array(odd), pa.array(moments, pa.int64()))
    return values.view(kind), bad if bad.any() else None


def _usual_times(texts: pa.StringArray, numbers: Mask) -> tuple[pa.Int64Array, Mask]:
    """Microseconds of the texts in usual spellings, and which these are."""
    none = pa.scalar(None, texts.type)
    zoned = pc.and_(pc.match_substring_regex(texts, _ZONED), pa.array(~numbers))
    values = pc.cast(pc.if_else(zoned, texts, none), UTC_MICROSECONDS).view(pa.int64())
    usual = pc.fill_null(zoned, True)
    if usual.false_count:
        plain = pc.and_(pc.match_substring_regex(texts, _WITHOUT_ZONE), pa.array(~numbers))
        times = pc.cast(pc.if_else(plain, texts, none), MICROSECONDS).view(pa.int64())
        values, usual = pc.coalesce(values, times), pc.or_(usual, pc.fill_null(plain, False))
    if usual.false_count:
        epoch = pc.and_(pc.match_substring_regex(texts, "^[0-9]{1,17}$"), pa.array(numbers))
        counts = pc.fill_null(pc.cast(pc.if_else(epoch, texts, none), pa.int64()), 0).to_numpy()
        factors = np.select([counts < below for below, _ in UNITS], [factor for _, factor in UNITS])
        times = pc.if_else(epoch, pa.array(counts * factors), pa.scalar(None, pa.int64()))
        values, usual = pc.coalesce(values, times), pc.or_(usual, pc.fill_null(epoch, False))
    return values, np.asarray(usual)


def _moment(text: str) -> int | None:
    """Microseconds since 1970 of an S; None when it is no time, or a finer one."""
    if EPOCH_TEXT.fullmatch(text):
        return _epoch(text)
    found = iso_8601(text)
    if found is None:
        return None
    moment, fraction = found
    if fraction[6:].strip("0"):
        return None
    return (moment - EPOCH) // timedelta(microseconds=1) + int(fraction[:6].ljust(6, "0"))


def _epoch(text: str) -> int | None:
    """Microseconds since 1970 of an epoch time; None when it is none, or a finer one."""
    try:
        found = epoch_microseconds(text)
    except PoisonRecord:
        return None
    exact = _number_of(text)
    if exact is None:
        return None
    return found if any(exact * factor == found for below, factor in UNITS if exact < below) else None
