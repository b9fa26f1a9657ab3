"""The columns of a DynamoDB table, which appear as its attributes do.

The first type that is seen of an attribute stays its column's. Some attributes never have a column: one whose name
differs from a column's by case only (the engines that read the lake ignore case), one with a name that silver needs
itself (AppSync writes `_version` into every item), and all that come when there are `MOST_COLUMNS` already.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from catchment.formats.dynamodb_columns import AttributeColumn, attribute_column, letter_is_fixed
from catchment.schema import Column, TableId, TableSchema, version_of

MOST_COLUMNS = 1_000
"""Enough for any table but one whose attributes' names are data."""

RESERVED = frozenset(
    {"_version", "_committed_at", "_unrepresentable", "_quality", "_op", "_lane", "_position", "_valid_from"}
)
"""What silver and its history call columns of their own."""


class GrowingSchema:
    """One table's columns by attribute, and the schema that they make.

    key, declared, known: as `ChangeDecoder` has them. A schema's version is a fingerprint of its columns. Raises
    ValueError when the key is declared to be what it is not, or something is declared as what no attribute can be.
    """

    def __init__(
        self, table: TableId, key: Mapping[str, str], declared: Mapping[str, pa.DataType], known: Mapping[str, str]
    ) -> None:
        self._table = table
        self.key = dict(key)
        self._declared = dict(declared)
        self._folded: set[str] = set()
        self.columns: dict[str, AttributeColumn] = {}
        for name, letter in key.items():
            self._add(name, letter)
            if letter not in self.columns[name].letters:
                raise ValueError(f"{table}: the key attribute {name} is {letter} and cannot be declared otherwise")
        self._folded |= RESERVED
        for name in declared:
            self._add(name, "")
        for name, letter in known.items():
            self._add(name, letter)
        self.schema = self._new_schema()

    @property
    def known(self) -> dict[str, str]:
        """Attribute → the type that was seen first, of those columns where that matters."""
        return {
            name: column.letters[0]
            for name, column in self.columns.items()
            if name not in self.key and column.letters and not letter_is_fixed(self._declared.get(name))
        }

    def add(self, attributes: Mapping[str, str]) -> None:
        """Columns for those of these attributes that are new: name → type."""
        for name, letter in attributes.items():
            self._add(name, letter)
        if attributes:
            self.schema = self._new_schema()

    def would_add(self, name: str) -> bool:
        """Is this a new column, or one that is declared as string and waits for its first value's type?"""
        if name in self.columns:
            return not self.columns[name].letters
        return bool(name) and name.lower() not in self._folded and len(self.columns) < MOST_COLUMNS

    def _add(self, name: str, letter: str) -> None:
        if self.would_add(name):
            self._folded.add(name.lower())
            self.columns[name] = attribute_column(name, letter, self._declared.get(name))

    def _new_schema(self) -> TableSchema:
        """The key first, the rest by name: the same columns make the same schema, whatever came first."""
        names = [*self.key, *sorted(name for name in self.columns if name not in self.key)]
        made = [self.columns[name] for name in names]
        columns = tuple(Column(one.name, one.type, one.source_type, one.name in self.key) for one in made)
        return TableSchema(self._table, columns, version_of(columns))
