"""The types of Glue's columns (Hive's words for them), and what each is in Arrow, DuckDB and Athena's SQL.

Source: "Data types in Amazon Athena" and the AWS Glue Data Catalog's type strings: `int`, `decimal(10,2)`,
`array<string>`, `map<string,string>`, `struct<name:type,…>`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catchment.errors import ConfigError
from catchment.lakehouse.sql import identifier

if TYPE_CHECKING:
    import pyarrow as pa

_ALIASES = {"integer": "int", "long": "bigint", "numeric": "decimal", "real": "float", "character": "char"}
_SCALARS = frozenset({"boolean", "tinyint", "smallint", "int", "bigint", "float", "double", "decimal"}) | frozenset(
    {"string", "varchar", "char", "binary", "date", "timestamp"}
)
MAX_PRECISION = 38


@dataclass(frozen=True)
class ColumnType:
    """A type: its name, a decimal's precision and scale, the parts of a nested one with their names.

    An array has one part, a map two (key and value), a struct one a field.
    """

    name: str
    arguments: tuple[int, ...] = ()
    parts: tuple[tuple[str, ColumnType], ...] = ()

    def __str__(self) -> str:
        if self.name == "struct":
            return f"struct<{','.join(f'{name}:{part}' for name, part in self.parts)}>"
        if self.parts:
            return f"{self.name}<{','.join(str(part) for _, part in self.parts)}>"
        return f"{self.name}({','.join(map(str, self.arguments))})" if self.arguments else self.name

    @property
    def is_nested(self) -> bool:
        return bool(self.parts)


BOOLEAN, INT, BIGINT, DOUBLE = (ColumnType(name) for name in ("boolean", "int", "bigint", "double"))
STRING, DATE, TIMESTAMP = (ColumnType(name) for name in ("string", "date", "timestamp"))


def decimal(precision: int, scale: int) -> ColumnType:
    """decimal(precision, scale)."""
    return ColumnType("decimal", (precision, scale))


def array(item: ColumnType) -> ColumnType:
    """array<item>."""
    return ColumnType("array", parts=(("item", item),))


def map_of(key: ColumnType, value: ColumnType) -> ColumnType:
    """map<key,value>."""
    return ColumnType("map", parts=(("key", key), ("value", value)))


def struct(fields: dict[str, ColumnType]) -> ColumnType:
    """struct<name:type,…>."""
    return ColumnType("struct", parts=tuple(fields.items()))


def parse(text: str) -> ColumnType:
    """The type that Glue writes as this text. Raises ConfigError for what is none."""
    reader = _Reader(text)
    found = reader.type()
    if reader.rest():
        raise ConfigError(f"`{text}` is no column type of Glue's: something stands behind its end. Correct the table.")
    return found


class _Reader:
    """Reads a type's text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def rest(self) -> str:
        return self._text[self._at :].strip()

    def type(self) -> ColumnType:
        word = self._match(r"\s*([A-Za-z_]+)\s*").lower()
        name = _ALIASES.get(word, word)
        if name == "array":
            return array(*self._types(1))
        if name == "map":
            return map_of(*self._types(2))
        if name == "struct":
            return self._struct()
        if name not in _SCALARS:
            raise self._wrong()
        arguments = self._arguments()
        if name == "decimal":
            precision, scale = (*(arguments or (10,)), 0)[:2]
            return decimal(precision, scale)
        return STRING if name in ("varchar", "char") else ColumnType(name)

    def _arguments(self) -> tuple[int, ...]:
        found = re.compile(r"\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)\s*").match(self._text, self._at)
        if found is None:
            return ()
        self._at = found.end()
        return tuple(int(number) for number in found.groups() if number is not None)

    def _types(self, count: int) -> list[ColumnType]:
        self._match("(<)")
        found = [self.type()]
        while len(found) < count:
            self._match(r"(,)\s*")
            found.append(self.type())
        self._match(r"(>)\s*")
        return found

    def _struct(self) -> ColumnType:
        fields: dict[str, ColumnType] = {}
        self._match("(<)")
        while True:
            name = self._match(r"\s*`?([^:,<>`]+?)`?\s*:").lower()
            fields[name] = self.type()
            if self._match(r"([,>])\s*") == ">":
                return struct(fields)

    def _match(self, pattern: str) -> str:
        found = re.compile(pattern).match(self._text, self._at)
        if found is None:
            raise self._wrong()
        self._at = found.end()
        return found[1]

    def _wrong(self) -> ConfigError:
        return ConfigError(
            f"`{self._text}` is no column type that can be read here: at character {self._at + 1}. Known are "
            f"{', '.join(sorted(_SCALARS))}, array<…>, map<…,…> and struct<name:…>."
        )


_IN_DUCKDB = {
    "tinyint": "TINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
}
_IN_ATHENA = {
    "int": "integer",
    "string": "varchar",
    "float": "real",
    "binary": "varbinary",
    "timestamp": "timestamp(3)",
    "struct": "row",
}


def in_duckdb(kind: ColumnType) -> str:
    """The type in DuckDB's SQL."""
    if kind.name == "decimal":
        return f"DECIMAL({kind.arguments[0]}, {kind.arguments[1]})"
    parts = [in_duckdb(part) for _, part in kind.parts]
    if kind.name == "array":
        return f"{parts[0]}[]"
    if kind.name == "map":
        return f"MAP({parts[0]}, {parts[1]})"
    if kind.name == "struct":
        named = zip((name for name, _ in kind.parts), parts, strict=True)
        return f"STRUCT({', '.join(f'{identifier(name)} {part}' for name, part in named)})"
    return _IN_DUCKDB[kind.name]


def in_athena(kind: ColumnType) -> str:
    """The type in Athena's SQL (Trino's): what a view's columns are declared as."""
    if kind.name == "struct":
        return f"row({', '.join(f'{identifier(name)} {in_athena(part)}' for name, part in kind.parts)})"
    if kind.parts:
        return f"{kind.name}({', '.join(in_athena(part) for _, part in kind.parts)})"
    return _IN_ATHENA.get(kind.name, str(kind))


def in_arrow(kind: ColumnType) -> pa.DataType:
    """The type in Arrow."""
    import pyarrow as pa

    if kind.name == "decimal":
        return pa.decimal128(*kind.arguments)
    parts = [in_arrow(part) for _, part in kind.parts]
    if kind.name == "array":
        return pa.list_(parts[0])
    if kind.name == "map":
        return pa.map_(parts[0], parts[1])
    if kind.name == "struct":
        return pa.struct([pa.field(name, part) for (name, _), part in zip(kind.parts, parts, strict=True)])
    return {
        "tinyint": pa.int8(),
        "smallint": pa.int16(),
        "int": pa.int32(),
        "bigint": pa.int64(),
        "boolean": pa.bool_(),
        "float": pa.float32(),
        "double": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us"),
    }[kind.name]


_WHOLE = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}
"""Whole numbers, from the narrowest up, and how many digits they may have."""


def widened(one: ColumnType, other: ColumnType) -> ColumnType:
    """The narrowest type that holds the values of both, as a crawler widens: numbers stay exact where they can, and
    what has nothing in common is a string."""
    if one == other:
        return one
    if one.name in _WHOLE and other.name in _WHOLE:
        return max(one, other, key=lambda kind: _WHOLE[kind.name])
    if (common := _common_decimal(one, other)) is not None:
        return common
    if {one.name, other.name} <= {*_WHOLE, "decimal", "float", "double"}:
        return DOUBLE
    if {one.name, other.name} == {"date", "timestamp"}:
        return TIMESTAMP
    if one.name == other.name == "array":
        return array(widened(one.parts[0][1], other.parts[0][1]))
    if one.name == other.name == "map":
        return map_of(*(widened(mine, theirs) for (_, mine), (_, theirs) in zip(one.parts, other.parts, strict=True)))
    if one.name == other.name == "struct":
        return _all_fields(one, other)
    return STRING


def _common_decimal(one: ColumnType, other: ColumnType) -> ColumnType | None:
    digits = [_digits(kind) for kind in (one, other)]
    if "decimal" not in (one.name, other.name) or None in digits:
        return None
    whole = max(before for before, _ in filter(None, digits))
    scale = max(after for _, after in filter(None, digits))
    return decimal(whole + scale, scale) if whole + scale <= MAX_PRECISION else STRING


def _digits(kind: ColumnType) -> tuple[int, int] | None:
    """How many digits before and after the point."""
    if kind.name in _WHOLE:
        return _WHOLE[kind.name], 0
    return (kind.arguments[0] - kind.arguments[1], kind.arguments[1]) if kind.name == "decimal" else None


def _all_fields(one: ColumnType, other: ColumnType) -> ColumnType:
    fields = dict(one.parts)
    for name, kind in other.parts:
        fields[name] = widened(fields[name], kind) if name in fields else kind
    return struct(fields)
