"""How a table's Iceberg schema follows its batches, and what a data file of such a batch looks like.

A column is added where a batch brings a new one, also inside `before` and `after`; one that no longer comes
stays, as NULL. A type widens where Iceberg can read the old files as the new type. Where it cannot, the
new values go to a column of their own, `<name>__v<schema version>`: never a stall, never a changed value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
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
from catchment.schema import UTC_MICROSECONDS

FIELD_ID = b"PARQUET:field_id"

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


@dataclass(frozen=True)
class Fit:
    """A table's schema after a batch's columns were fitted in.

    file: the Arrow schema of a data file with these columns: the table's names, Iceberg's field ids.
    renamed: does `file` name a column otherwise than the batch (an incompatible change)?
    """

    schema: Schema
    file: pa.Schema
    changed: bool
    renamed: bool


def fit(
    current: Schema | None, batch: pa.Schema, *, last_column_id: int = 0, schema_id: int = 0, version: int = 1
) -> Fit:
    """Fit a batch's columns into a table's schema; None makes a new one.

    last_column_id: the table's highest field id. schema_id: what a changed schema gets. version: the
    source's, for the names of columns whose type changed beyond what Iceberg can widen.
    """
    fitting = _Fitting(last_column_id, version, creating=current is None)
    fields, file = fitting.struct(current.fields if current is not None else (), list(batch))
    return _fitted(current, fields, file, schema_id, fitting)


def fit_exactly(current: Schema, table: pa.Schema, *, last_column_id: int, schema_id: int) -> Fit:
    """The schema of a table whose rows are all replaced: these columns and no others."""
    fitting = _Fitting(last_column_id, 1, creating=False)
    old = {field.name: field for field in current.fields}
    pairs = [fitting.column(_unless(old.get(c.name), c.type), c.name, c) for c in table]
    return _fitted(current, [field for field, _ in pairs], [written for _, written in pairs], schema_id, fitting)


def _unless(old: NestedField | None, new: pa.DataType) -> NestedField | None:
    """The old field, unless its id would then stand for another type."""
    return old if old is not None and any(fits(old.field_type, new) for fits in (_same, _holds, _widens)) else None


def _fitted(
    current: Schema | None, fields: list[NestedField], file: list[pa.Field], schema_id: int, fitting: _Fitting
) -> Fit:
    changed = current is None or tuple(fields) != tuple(current.fields)
    schema = Schema(*fields, schema_id=schema_id) if current is None or changed else current
    return Fit(schema, pa.schema(file), changed, fitting.renamed)


def relabel(batch: pa.RecordBatch, file: pa.Schema) -> pa.RecordBatch:
    """The batch under the names of its data file. Values are not copied."""
    arrays = [_relabel(column, field.type) for column, field in zip(batch.columns, file, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=file)


def _relabel(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_struct(kind) or array.type == kind:
        return array
    children = [_relabel(array.field(i), kind.field(i).type) for i in range(kind.num_fields)]
    return pa.StructArray.from_arrays(children, fields=list(kind), mask=array.is_null())


class _Fitting:
    """One fitting: hands out field ids above the table's highest."""

    def __init__(self, last_column_id: int, version: int, *, creating: bool) -> None:
        self.version = version
        self.creating = creating
        self.renamed = False
        self._ids = count(last_column_id + 1)

    def _next_id(self) -> int:
        return next(self._ids)

    def struct(self, old: Iterable[NestedField], new: list[pa.Field]) -> tuple[list[NestedField], list[pa.Field]]:
        """Old fields first, in their order, then new ones; and the fields of the data file."""
        fields = {field.name: field for field in old}
        taken = {field.name for field in new}
        file = []
        for column in new:
            name = self._place(fields, column, taken)
            self.renamed = self.renamed or name != column.name
            fields[name], written = self.column(fields.get(name), name, column)
            file.append(written)
        return list(fields.values()), file

    def _place(self, fields: dict[str, NestedField], column: pa.Field, taken: set[str]) -> str:
        """The name under which the table can take a column: its own, or that of one of its versions."""
        if column.name not in fields:
            return str(column.name)
        versions = [n for n in fields if n not in taken and re.fullmatch(re.escape(column.name) + r"__v\d+(_\d+)?", n)]
        candidates = [column.name, *reversed(versions)]
        for fits in (_same, _holds, _widens):
            for name in candidates:
                if fits(fields[name].field_type, column.type):
                    return str(name)
        fresh = f"{column.name}__v{self.version}"
        names = (fresh, *(f"{fresh}_{n}" for n in range(2, 1000)))
        return next(name for name in names if name not in fields and name not in taken)

    def column(self, old: NestedField | None, name: str, column: pa.Field) -> tuple[NestedField, pa.Field]:
        """A column as the table has it, and as the data file has it."""
        field_id = old.field_id if old is not None else self._next_id()
        kind, written = self._type(old.field_type if old is not None else None, column.type)
        # Files that are already there have no value for a column that comes later.
        required = old.required if old is not None else self.creating and not column.nullable
        field = NestedField(field_id, name, kind, required=required, doc=old.doc if old is not None else None)
        return field, pa.field(name, written, column.nullable, metadata=_metadata(field_id))

    def _type(self, old: IcebergType | None, new: pa.DataType) -> tuple[IcebergType, pa.DataType]:
        if pa.types.is_struct(new):
            fields, file = self.struct(old.fields if isinstance(old, StructType) else (), list(new))
            return StructType(*fields), pa.struct(file)
        if pa.types.is_map(new):
            return self._map(old if isinstance(old, MapType) else None, new)
        if pa.types.is_list(new):
            return self._list(old if isinstance(old, ListType) else None, new)
        fresh = primitive(new)
        if old is None or _widens(old, new):
            return fresh, new
        return old, new

    def _list(self, old: ListType | None, new: pa.ListType) -> tuple[IcebergType, pa.DataType]:
        element_id = old.element_id if old is not None else self._next_id()
        kind, written = self._type(old.element_type if old is not None else None, new.value_type)
        item = pa.field(new.value_field.name, written, new.value_field.nullable, metadata=_metadata(element_id))
        return ListType(element_id, kind, element_required=False), pa.list_(item)

    def _map(self, old: MapType | None, new: pa.MapType) -> tuple[IcebergType, pa.DataType]:
        key_id, value_id = (old.key_id, old.value_id) if old is not None else (self._next_id(), self._next_id())
        key, written_key = self._type(old.key_type if old is not None else None, new.key_type)
        value, written_value = self._type(old.value_type if old is not None else None, new.item_type)
        file = pa.map_(
            pa.field("key", written_key, nullable=False, metadata=_metadata(key_id)),
            pa.field("value", written_value, metadata=_metadata(value_id)),
        )
        return MapType(key_id, key, value_id, value, value_required=False), file


def primitive(kind: pa.DataType) -> PrimitiveType:
    """Iceberg's type for an Arrow type of the closed set in `catchment.schema`."""
    if pa.types.is_decimal128(kind):
        return DecimalType(kind.precision, kind.scale)
    found = _PRIMITIVES.get(kind)
    if found is None:
        raise SinkRefused(f"The Iceberg sink has no type for Arrow's {kind}. The source should send it as text.")
    return found


def _same(old: IcebergType, new: pa.DataType) -> bool:
    if pa.types.is_struct(new):
        return isinstance(old, StructType)
    if pa.types.is_map(new):
        return isinstance(old, MapType)
    if pa.types.is_list(new):
        return isinstance(old, ListType)
    return old == primitive(new)


def _holds(old: IcebergType, new: pa.DataType) -> bool:
    """Can a reader of the table take files of the narrower type?"""
    return not pa.types.is_nested(new) and _promotes(primitive(new), old)


def _widens(old: IcebergType, new: pa.DataType) -> bool:
    """Can the table's column become the wider type?"""
    return not pa.types.is_nested(new) and _promotes(old, primitive(new))


def _promotes(narrow: IcebergType, wide: IcebergType) -> bool:
    """Iceberg v2's promotions: int to long, float to double, a decimal of more digits and the same scale."""
    if isinstance(narrow, DecimalType) and isinstance(wide, DecimalType):
        return narrow.scale == wide.scale and narrow.precision < wide.precision
    return (narrow, wide) in ((IntegerType(), LongType()), (FloatType(), DoubleType()))


def _metadata(field_id: int) -> dict[bytes, bytes]:
    return {FIELD_ID: str(field_id).encode()}
