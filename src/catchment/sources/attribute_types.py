"""The types that a pipeline file may declare for attributes: `quantity: bigint`, `price: "decimal(10,2)"`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

if TYPE_CHECKING:
    import pyarrow as pa

NAMES = ("bigint", "integer", "double", "string", "boolean", "timestamp", "date", "binary")
_DECIMAL = re.compile(r"decimal\((\d{1,2}), ?(\d{1,2})\)")


def _checked(text: str) -> str:
    found = _DECIMAL.fullmatch(text)
    if found is None and text not in NAMES:
        raise ValueError(f"a column's type is one of {', '.join(NAMES)}, or decimal(precision,scale)")
    if found is not None and not (1 <= int(found[1]) <= 38 and int(found[2]) <= int(found[1])):
        raise ValueError("a decimal has a precision of 1 to 38, and a scale of at most that")
    return text


AttributeType = Annotated[str, AfterValidator(_checked)]
AttributeTypes = dict[str, dict[str, AttributeType]]
"""Table → attribute → type."""


def arrow_types(declared: Mapping[str, str]) -> dict[str, pa.DataType]:
    """Attribute → the Arrow type that was declared for it."""
    import pyarrow as pa

    from catchment.schema import UTC_MICROSECONDS

    kinds = {
        "bigint": pa.int64(),
        "integer": pa.int32(),
        "double": pa.float64(),
        "string": pa.string(),
        "boolean": pa.bool_(),
        "timestamp": UTC_MICROSECONDS,
        "date": pa.date32(),
        "binary": pa.binary(),
    }
    found = {}
    for name, text in declared.items():
        decimal = _DECIMAL.fullmatch(text)
        found[name] = pa.decimal128(int(decimal[1]), int(decimal[2])) if decimal else kinds[text]
    return found
