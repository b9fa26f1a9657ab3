"""A rule about one row as SQL: a condition that is true for rows that break it.

NULL breaks nothing but `not_null`, as in SQL's CHECK. A value that its column cannot hold (NaN, infinity) is NULL
there and stands as text in `_unrepresentable`: it is not missing, so `not_null` holds; it lies in no `range` and is
no accepted value; a `regex` sees its text; an `expression` sees NULL. A row for which a rule cannot be computed
breaks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from catchment.lakehouse.sql import identifier, literal
from catchment.quality.config import AcceptedValues, Expression, NotNull, Range, Regex, RuleConfig, Scalar

if TYPE_CHECKING:
    import pyarrow as pa

UNREPRESENTABLE = "_unrepresentable"


class Unfit(Exception):
    """A rule that cannot be judged on a table of this schema; the message says why."""


def resolved(schema: pa.Schema, name: str) -> str:
    """The column that a rule means: by its name, else (in expressions) the only one that is alike but for the case."""
    alike = [name] if name in schema.names else [one for one in schema.names if one.lower() == name.lower()]
    if len(alike) != 1:
        raise Unfit(f"there is no column {name}" if not alike else f"{name} may be any of {', '.join(alike)}")
    return str(alike[0])


def types_of(names: Iterable[str], schema: pa.Schema) -> dict[str, pa.DataType]:
    """The types of these columns. Raises `Unfit` when one is not there."""
    return {name: schema.field(resolved(schema, name)).type for name in names}


def broken(check: RuleConfig, types: Mapping[str, pa.DataType], *, kept_as_text: bool) -> str:
    """The condition. types: of the columns that the rule reads, by the names that the rule uses.

    kept_as_text: may the rows have something in `_unrepresentable`? Without it the condition is quicker. Raises
    `Unfit` when types and rule do not go together.
    """
    if isinstance(check, Expression):
        return _fails(f"(\n{check.sql}\n)")
    name, kind = _column(check, types)
    kept = f"map_extract_value({UNREPRESENTABLE}, {literal(name)})"
    if isinstance(check, NotNull):
        return f"{identifier(name)} IS NULL" + (f" AND {kept} IS NULL" if kept_as_text else "")
    if isinstance(check, Regex):
        return _fails(_like(check, name, kind, kept if kept_as_text else None))
    if not isinstance(check, AcceptedValues | Range):
        raise Unfit(f"a {check.type} rule is about more than one row")
    held = _among(check, name, kind) if isinstance(check, AcceptedValues) else _between(check, name, kind)
    return f"({_fails(held)} OR {kept} IS NOT NULL)" if kept_as_text else _fails(held)


def constants(check: RuleConfig, types: Mapping[str, pa.DataType]) -> list[str]:
    """The file's values as the condition has them, for trying whether they can be had at all."""
    if not isinstance(check, AcceptedValues | Range):
        return []
    _, kind = _column(check, types)
    values = check.values if isinstance(check, AcceptedValues) else tuple(check.bounds.values())
    return [_constant(value, kind) for value in values]


def _column(check: RuleConfig, types: Mapping[str, pa.DataType]) -> tuple[str, pa.DataType]:
    name = check.subject()[0]
    if name not in types:
        raise Unfit(f"there is no column {name}")
    return name, types[name]


def _fails(held: str) -> str:
    """NULL is made true inside TRY: so what TRY gives when it cannot be computed can be told from it."""
    return f"TRY(coalesce({held}, true)) IS NOT TRUE"


def _among(check: AcceptedValues, name: str, kind: pa.DataType) -> str:
    return f"{identifier(name)} IN ({', '.join(_constant(value, kind) for value in check.values)})"


def _between(check: Range, name: str, kind: pa.DataType) -> str:
    """Is it between the bounds? Text with bounds that are numbers is read as numbers (numeric without digits)."""
    import pyarrow as pa

    if pa.types.is_boolean(kind) or pa.types.is_binary(kind):
        raise Unfit(f"a column of {kind} has no range")
    numbers = all(isinstance(bound, int | float) for bound in check.bounds.values())
    if _is_text(kind) and numbers:
        number = f"TRY_CAST({identifier(name)} AS DOUBLE)"
        parts = [f"{number} {operator} {_number(bound)}" for operator, bound in check.bounds.items()]
        return f"({identifier(name)} IS NULL OR coalesce(isfinite({number}) AND {' AND '.join(parts)}, false))"
    parts = [f"{identifier(name)} {operator} {_constant(bound, kind)}" for operator, bound in check.bounds.items()]
    if pa.types.is_floating(kind):
        # For DuckDB NaN is the largest number.
        parts.insert(0, f"isfinite({identifier(name)})")
    return f"({' AND '.join(parts)})"


def _like(check: Regex, name: str, kind: pa.DataType, kept: str | None) -> str:
    import pyarrow as pa

    if pa.types.is_binary(kind):
        raise Unfit(f"a column of {kind} has no text")
    text = identifier(name) if _is_text(kind) else f"CAST({identifier(name)} AS VARCHAR)"
    text = text if kept is None else f"coalesce({text}, {kept})"
    return f"regexp_full_match({text}, {literal(check.pattern)})"


def _constant(value: Scalar, kind: pa.DataType) -> str:
    """A value of the file as a constant that compares exactly with a column of this type."""
    import pyarrow as pa

    if pa.types.is_boolean(kind) or isinstance(value, bool):
        if not (pa.types.is_boolean(kind) and isinstance(value, bool)):
            raise Unfit(f"{value!r} is not of type {kind}")
        return str(value).lower()
    if pa.types.is_temporal(kind):
        return _moment(value, kind)
    if _is_number(kind):
        return _number(value)
    if _is_text(kind):
        return literal(value.isoformat() if isinstance(value, date | datetime) else str(value))
    raise Unfit(f"a column of {kind} cannot be compared with values of a file")


def _number(value: Scalar) -> str:
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise Unfit(f"{value!r} is no number") from None
    if not number.is_finite():
        raise Unfit(f"{value!r} is no finite number")
    return f"({number:f})"


def _moment(value: Scalar, kind: pa.DataType) -> str:
    import pyarrow as pa

    if not isinstance(value, str | date | datetime):
        raise Unfit(f"{value!r} is no {kind}")
    zoned = getattr(kind, "tz", None) is not None
    target = "DATE" if pa.types.is_date(kind) else "TIMESTAMPTZ" if zoned else "TIMESTAMP"
    return f"CAST({literal(value if isinstance(value, str) else value.isoformat())} AS {target})"


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
