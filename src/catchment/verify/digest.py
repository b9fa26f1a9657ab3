"""What is compared of a row, as SQL: one digest of its key and one of its values, the same on both sides.

Source rows and lake rows meet as Arrow values in one DuckDB, cast to one type a column, so that no text format
can make them differ. Rows are compared key by key: a difference that stays hidden is a collision of two 64-bit
hashes of this very row. Floats enter as their shortest exact text, since zero and minus zero hash alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyiceberg.types import StructType

from catchment.lakehouse.column_versions import places_of
from catchment.lakehouse.reading.bronze import duck_type
from catchment.lakehouse.reading.current import may_be_unrepresentable
from catchment.lakehouse.sql import identifier, literal, literals
from catchment.lakehouse.table_schema import Places
from catchment.schema import TableSchema

_UNREPRESENTABLE = "_unrepresentable"
_FLOATS = ("FLOAT", "DOUBLE")


@dataclass(frozen=True, slots=True)
class ComparedColumn:
    """A column of the source and where the lake has it.

    kind: the DuckDB type that both are cast to. places: the lake's columns; after a change of type beyond widening,
    `price__v2` and `price`: the first that has a value counts. textual: a key whose value may be there as text only.
    """

    name: str
    kind: str
    places: tuple[str, ...]
    key: bool
    textual: bool

    def at_source(self, index: int) -> str:
        """The value in a relation whose columns are c0, c1, …"""
        return f"CAST(c{index} AS {self.kind})"

    def in_lake(self) -> str:
        """The value in a relation of the lake's columns."""
        first, *older = (identifier(place) for place in self.places)
        values = [f"CAST({first} AS {self.kind})", *(f"TRY_CAST({one} AS {self.kind})" for one in older)]
        return f"coalesce({', '.join(values)})" if older else values[0]


class RowDigest:
    """The SQL of one table's digests."""

    def __init__(self, schema: TableSchema, row: StructType, places: Places) -> None:
        """row: the lake's columns once they have room for the source's; places: which of the source's fills which."""
        names = [field.name for field in row.fields]
        types = {field.name: field.field_type for field in row.fields}
        filled = {place.index: name for name, place in places.items()}
        self.columns = tuple(
            ComparedColumn(
                column.name,
                duck_type(types[filled[index]]),
                (filled[index], *_others(column.name, filled[index], names)),
                column.key,
                column.key and may_be_unrepresentable(types[filled[index]]),
            )
            for index, column in enumerate(schema.columns)
        )
        self._map = _UNREPRESENTABLE if _UNREPRESENTABLE not in names else None

    @property
    def key(self) -> list[tuple[int, ComparedColumn]]:
        """The key's columns with their numbers."""
        return [(index, column) for index, column in enumerate(self.columns) if column.key]

    def source_key(self, numbers: Sequence[int] | None = None) -> str:
        """The key's digest over c0, c1, …; numbers: of the key's columns there, where there are no others."""
        at = numbers if numbers is not None else [index for index, _ in self.key]
        return _hash([self._key_text(one, one.at_source(n)) for n, (_, one) in zip(at, self.key, strict=True)])

    def lake_key(self) -> str:
        """The key's digest over the lake's columns."""
        return _hash([self._key_text(one, one.in_lake()) for _, one in self.key])

    def source_value(self) -> str:
        """The whole row's digest over c0, c1, …"""
        return _hash([*self.source_columns(), self._texts()])

    def lake_value(self) -> str:
        """The whole row's digest over the lake's columns."""
        return _hash([*self.lake_columns(), self._texts()])

    def source_columns(self) -> list[str]:
        """What of each column is compared, but for values that are there as text only."""
        return [_exact(one.at_source(index), one.kind) for index, one in enumerate(self.columns)]

    def lake_columns(self) -> list[str]:
        """What of each column is compared, but for values that are there as text only."""
        return [_exact(one.in_lake(), one.kind) for one in self.columns]

    def by_column(self, values: Sequence[str]) -> list[str]:
        """A digest for each column, of these values and of texts, and whether it is NULL."""
        texts = [f"{self._map}[{literal(one.name)}]" if self._map else "NULL" for one in self.columns]
        return [
            part
            for value, text in zip(values, texts, strict=True)
            for part in (_hash([value, text]), f"({value}) IS NULL")
        ]

    def source_key_texts(self) -> list[str]:
        """The key for people."""
        return [_text(self._key_text(one, one.at_source(index)), one.kind) for index, one in self.key]

    def lake_key_texts(self) -> list[str]:
        """The key for people."""
        return [_text(self._key_text(one, one.in_lake()), one.kind) for _, one in self.key]

    def _key_text(self, column: ComparedColumn, value: str) -> str:
        if not column.textual or self._map is None:
            return _exact(value, column.kind)
        return f"coalesce(CAST({value} AS VARCHAR), {self._map}[{literal(column.name)}])"

    def _texts(self) -> str:
        """`_unrepresentable` as text, of the columns that there are."""
        if self._map is None:
            return "NULL"
        mine = f"list_contains({literals(one.name for one in self.columns)}, entry.key)"
        listed = f"list_sort(list_filter(map_entries({self._map}), lambda entry: {mine}))"
        return f"CASE WHEN cardinality({self._map}) > 0 THEN nullif(CAST({listed} AS VARCHAR), '[]') END"


def _others(column: str, place: str, names: Sequence[str]) -> list[str]:
    """The lake's other columns that hold values of this column, newest first."""
    return [name for name in places_of(column, names) if name != place]


def _exact(value: str, kind: str) -> str:
    return f"CAST({value} AS VARCHAR)" if kind in _FLOATS else value


def _text(value: str, kind: str) -> str:
    return f"hex({value})" if kind == "BLOB" else f"CAST({value} AS VARCHAR)"


def _hash(values: Sequence[str]) -> str:
    return f"hash({', '.join(values)})"
