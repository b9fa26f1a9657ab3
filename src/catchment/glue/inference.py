"""The columns that lines of JSON have, as a crawler would say, but exactly: money is a decimal, never a double."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from catchment.glue.column_types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INT,
    MAX_PRECISION,
    STRING,
    TIMESTAMP,
    ColumnType,
    array,
    decimal,
    map_of,
    struct,
    widened,
)

_MOMENT = re.compile(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d{1,9})?|T\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d))")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORBIDDEN = re.compile(r"[,:;<>()`\x00-\x1f]")
_USUAL_PRECISION = 18
"""Decimals are given this room, or all there is, so that the next order with a digit more is no change."""


@dataclass
class Inferred:
    """What was seen: a type for each column, in the order in which they came up, and what is to be said of them."""

    columns: dict[str, ColumnType] = field(default_factory=dict)
    mixed: dict[str, set[str]] = field(default_factory=dict)
    """Columns that are text because their values are of several kinds: which."""
    unnamed: set[str] = field(default_factory=set)
    """Keys that no column can be called."""
    digits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of columns that have numbers only: the most digits before the point, and behind it."""
    lines: int = 0
    malformed: int = 0

    def read(self, lines: Iterable[bytes]) -> None:
        """Look at these lines too."""
        for line in lines:
            if not line.strip():
                continue
            self.lines += 1
            try:
                found = json.loads(line, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_number)
            except (ValueError, ArithmeticError, RecursionError):
                found = None
            if isinstance(found, dict):
                self._see(found)
            else:
                self.malformed += 1

    def _see(self, record: Mapping[str, Any]) -> None:
        for key, value in record.items():
            name = key.lower()
            if not name or _FORBIDDEN.search(name):
                self.unnamed.add(name)
            elif (kind := type_of(value)) is not None:
                self._widen(name, kind)
                if isinstance(value, Decimal):
                    before, behind = self.digits.get(name, (0, 0))
                    self.digits[name] = (max(before, value.adjusted() + 1), max(behind, _scale(value)))

    def fit(self, name: str, kind: ColumnType) -> bool:
        """Does a column of this type hold all that was seen? Whole numbers say less by their types than they need."""
        seen = self.columns.get(name, kind)
        if kind.name == "decimal" and seen.name in ("int", "bigint", "decimal"):
            precision, scale = kind.arguments
            before, behind = self.digits[name]
            return before <= precision - scale and behind <= scale
        return widened(kind, seen) == kind

    def _widen(self, name: str, kind: ColumnType) -> None:
        known = self.columns.get(name)
        if known is None or known == kind:
            self.columns[name] = kind
            return
        common = widened(known, kind)
        if common == STRING:
            self.mixed.setdefault(name, {known.name}).add(kind.name)
        self.columns[name] = common


def _no_number(_: str) -> Any:
    raise ValueError("NaN and Infinity are no JSON")


def type_of(value: Any) -> ColumnType | None:
    """The narrowest type of a JSON value; None when it says nothing (null, an empty object)."""
    if value is None:
        return None
    if isinstance(value, bool):
        return BOOLEAN
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, str):
        return TIMESTAMP if _MOMENT.fullmatch(value) else DATE if _DAY.fullmatch(value) else STRING
    if isinstance(value, list):
        return array(_common(value) or STRING)
    fields = {key.lower(): kind for key, one in value.items() if (kind := type_of(one)) is not None}
    if not fields:
        return None
    if all(_WORD.fullmatch(key) for key in value):
        return struct(fields)
    return map_of(STRING, _common(value.values()) or STRING)


def _common(values: Iterable[Any]) -> ColumnType | None:
    common: ColumnType | None = None
    for value in values:
        kind = type_of(value)
        if kind is not None:
            common = kind if common is None else widened(common, kind)
    return common


def _number(value: Decimal) -> ColumnType:
    if value == value.to_integral_value() and value.adjusted() < MAX_PRECISION:
        for kind, end in ((INT, 2**31), (BIGINT, 2**63)):
            if -end <= value < end:
                return kind
        return decimal(value.adjusted() + 1, 0)
    scale = _scale(value)
    precision = max(value.adjusted() + 1, 0) + scale
    return decimal(max(precision, 1), scale) if precision <= MAX_PRECISION else DOUBLE


def _scale(value: Decimal) -> int:
    """Digits behind the point, without zeros at the end."""
    _, digits, exponent = value.as_tuple()
    zeros = len(digits) - len("".join(map(str, digits)).rstrip("0"))
    return max(-int(exponent) - zeros, 0)


def roomy(kind: ColumnType) -> ColumnType:
    """The type with room for more digits than were seen."""
    if kind.name == "decimal":
        precision, scale = kind.arguments
        return decimal(_USUAL_PRECISION if precision <= _USUAL_PRECISION else MAX_PRECISION, scale)
    return ColumnType(kind.name, kind.arguments, tuple((name, roomy(part)) for name, part in kind.parts))
