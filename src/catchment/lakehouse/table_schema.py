"""How a table's Iceberg schema follows its batches.

A column is added where a batch brings a new one, also inside `before` and `after`; one that no longer comes
stays, as NULL. A type widens where Iceberg can read the old files as the new type. Where it cannot, the
new values go to a column of their own, `<name>__v<schema version>`: never a stall, never a changed value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count

import pyarrow as pa
from pyiceberg.schema import Schema
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    PrimitiveType,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from catchment.errors import SinkRefused
from catchment.lakehouse.column_versions import source_column, versioned_column
from catchment.schema import UTC_MICROSECONDS


@dataclass(frozen=True, slots=True)
class Place:
    """Which of a batch's columns fills a table's column; and the same for the fields of a struct."""

    index: int
    fields: Mapping[str, Place]


Places = Mapping[str, Place]
"""By the table's names. A column that has no place is NULL in these batches."""


@dataclass(frozen=True)
class Fit:
    """A table's schema after a batch's columns were fitted in, and where they went."""

    schema: Schema
    changed: bool
    places: Places


def fit(
    current: Schema | None, batch: pa.Schema, *, last_column_id: int = 0, schema_id: int = 0, version: int = 1
) -> Fit:
    """Fit a batch's columns into a table's schema; None makes a new one.

    last_column_id: the table's highest field id. schema_id: what a changed schema gets. version: the
    source's, for the names of columns whose type changed beyond what Iceberg can widen.
    """
    fitting = _Fitting(last_column_id, version, creating=current is None)
    fields, places = fitting.struct(current.fields if current is not None else (), list(batch))
    return _fitted(current, fields, places, schema_id)


def fit_exactly(current: Schema, table: pa.Schema, *, last_column_id: int, schema_id: int) -> Fit:
    """The schema of a table whose rows are all replaced: these columns and no others."""
    fitting = _Fitting(last_column_id, 1, creating=False)
    old = {field.name: field for field in current.fields}
    made = [fitting.column(_unless(old.get(c.name), c.type), c.name, c, i) for i, c in enumerate(table)]
    places = {field.name: place for field, place in made}
    return _fitted(current, [field for field, _ in made], places, schema_id)


def _unless(old: NestedField | None, new: pa.DataType) -> NestedField | None:
    """The old field, unless its id would then stand for another type."""
    return old if old is not None and any(fits(old.field_type, new) for fits in (_same, _holds, _widens)) else None


def _fitted(current: Schema | None, fields: list[NestedField], places: Places, schema_id: int) -> Fit:
    if current is not None and tuple(fields) == tuple(current.fields):
        return Fit(current, changed=False, places=places)
    return Fit(Schema(*fields, schema_id=schema_id), changed=True, places=places)


class _Fitting:
    """One fitting: hands out field ids above the table's highest."""

    def __init__(self, last_column_id: int, version: int, *, creating: bool) -> None:
        self._version = version
        self._creating = creating
        self._ids = count(last_column_id + 1)

    def struct(self, old: Iterable[NestedField], new: list[pa.Field]) -> tuple[list[NestedField], Places]:
        """Old fields first, in their order, then new ones."""
        fields = {field.name: field for field in old}
        taken = {field.name for field in new}
        places = {}
        for index, column in enumerate(new):
            name = self._name(fields, column, taken)
            fields[name], places[name] = self.column(fields.get(name), name, column, index)
        return list(fields.values()), places

    def _name(self, fields: dict[str, NestedField], column: pa.Field, taken: set[str]) -> str:
        """The name under which the table can take a column: its own, or that of one of its versions."""
        if column.name not in fields:
            return str(column.name)
        versions = [n for n in fields if n not in taken and source_column(n, [column.name]) == column.name]
        candidates = [column.name, *reversed(versions)]
        for fits in (_same, _holds, _widens):
            for name in candidates:
                if fits(fields[name].field_type, column.type):
                    return str(name)
        fresh = versioned_column(column.name, self._version)
        names = (fresh, *(f"{fresh}_{n}" for n in range(2, 1000)))
        return next(name for name in names if name not in fields and name not in taken)

    def column(self, old: NestedField | None, name: str, column: pa.Field, index: int) -> tuple[NestedField, Place]:
        """A column as the table has it from now on, and its place."""
        field_id = old.field_id if old is not None else next(self._ids)
        kind, places = self._type(old.field_type if old is not None else None, column.type)
        # Files that are already there have no value for a column that comes later.
        required = old.required if old is not None else self._creating and not column.nullable
        field = NestedField(field_id, name, kind, required=required, doc=old.doc if old is not None else None)
        return field, Place(index, places)

    def _type(self, old: IcebergType | None, new: pa.DataType) -> tuple[IcebergType, Places]:
        if pa.types.is_struct(new):
            fields, places = self.struct(old.fields if isinstance(old, StructType) else (), list(new))
            return StructType(*fields), places
        if pa.types.is_map(new):
            return (old if isinstance(old, MapType) else self._map(new)), {}
        if pa.types.is_list(new):
            return (old if isinstance(old, ListType) else self._list(new)), {}
        return (primitive(new) if old is None or _widens(old, new) else old), {}

    def _list(self, new: pa.ListType) -> ListType:
        return ListType(next(self._ids), primitive(new.value_type), element_required=False)

    def _map(self, new: pa.MapType) -> MapType:
        key, value = primitive(new.key_type), primitive(new.item_type)
        return MapType(next(self._ids), key, next(self._ids), value, value_required=False)


def primitive(kind: pa.DataType) -> PrimitiveType:
    """Iceberg's type for an Arrow type of the closed set in `catchment.schema`."""
    if pa.types.is_decimal128(kind):
        return DecimalType(kind.precision, kind.scale)
    found = _PRIMITIVES.get(kind)
    if found is None:
        raise SinkRefused(f"The Iceberg sink has no type for Arrow's {kind}. The source should send it as text.")
    return found


_PRIMITIVES: dict[pa.DataType, PrimitiveType] = {
    pa.bool_(): BooleanType(),
    pa.int32(): IntegerType(),
    pa.int64(): LongType(),
    pa.float32(): FloatType(),
    pa.float64(): DoubleType(),
    pa.string(): StringType(),
    pa.large_string(): StringType(),
    pa.binary(): BinaryType(),
    pa.large_binary(): BinaryType(),
    pa.date32(): DateType(),
    pa.timestamp("us"): TimestampType(),
    UTC_MICROSECONDS: TimestamptzType(),
}


def _same(old: IcebergType, new: pa.DataType) -> bool:
    if pa.types.is_struct(new):
        return isinstance(old, StructType)
    if pa.types.is_map(new):
        return isinstance(old, MapType)
    if pa.types.is_list(new):
        return isinstance(old, ListType)
    return old == primitive(new)


def _holds(old: IcebergType, new: pa.DataType) -> bool:
    """Can the table's column hold the narrower type?"""
    return not pa.types.is_nested(new) and _promotes(primitive(new), old)


def _widens(old: IcebergType, new: pa.DataType) -> bool:
    """Can the table's column become the wider type?"""
    return not pa.types.is_nested(new) and _promotes(old, primitive(new))


def _promotes(narrow: IcebergType, wide: IcebergType) -> bool:
    """Iceberg v2's promotions: int to long, float to double, a decimal of more digits and the same scale."""
    if isinstance(narrow, DecimalType) and isinstance(wide, DecimalType):
        return narrow.scale == wide.scale and narrow.precision < wide.precision
    return (narrow, wide) in ((IntegerType(), LongType()), (FloatType(), DoubleType()))
