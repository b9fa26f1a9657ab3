"""What a table's data files look like in Arrow, and how batches become that.

A file has every column that its table has when it is written, with Iceberg's field ids. So all files of one
schema are alike, and a reader that goes by names and by the first file is right as well.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
)

from catchment.errors import SinkRefused
from catchment.lakehouse.table_schema import Place, Places
from catchment.schema import UTC_MICROSECONDS

FIELD_ID = b"PARQUET:field_id"

_PRIMITIVES: dict[IcebergType, pa.DataType] = {
    BooleanType(): pa.bool_(),
    IntegerType(): pa.int32(),
    LongType(): pa.int64(),
    FloatType(): pa.float32(),
    DoubleType(): pa.float64(),
    StringType(): pa.string(),
    BinaryType(): pa.binary(),
    DateType(): pa.date32(),
    TimestampType(): pa.timestamp("us"),
    TimestamptzType(): UTC_MICROSECONDS,
}


def file_schema(schema: Schema) -> pa.Schema:
    """The Arrow schema of a table's data files, with field ids for Parquet."""
    return pa.schema([_field(field) for field in schema.fields])


class Arrangement:
    """How batches of one schema become rows of a table's files."""

    def __init__(self, batch: pa.Schema, schema: Schema, places: Places) -> None:
        self.file = file_schema(schema)
        self._places = places
        self._alike = batch.equals(self.file, check_metadata=False)

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch in the file's columns. Values are shared with it, except where a type is widened."""
        if self._alike:
            return batch
        arrays = _arrange(batch.columns, list(self.file), self._places, batch.num_rows)
        return pa.RecordBatch.from_arrays(arrays, schema=self.file)


def _arrange(columns: Sequence[pa.Array], fields: Sequence[pa.Field], places: Places, rows: int) -> list[pa.Array]:
    arranged = []
    for field in fields:
        place = places.get(field.name)
        if place is None:
            arranged.append(pa.nulls(rows, field.type))
            continue
        array = columns[place.index]
        if array.type == field.type:
            arranged.append(array)
        elif pa.types.is_struct(field.type):
            children = [array.field(i) for i in range(array.type.num_fields)]
            inner = _arrange(children, list(field.type), place.fields, rows)
            arranged.append(pa.StructArray.from_arrays(inner, fields=list(field.type), mask=array.is_null()))
        else:
            arranged.append(array.cast(field.type))
    return arranged


def by_field_id(file: pa.Schema, table: pa.Schema) -> Places:
    """Which of a file's columns fills each column of the table; both carry Iceberg's field ids."""
    return _places(list(file), list(table))


def _places(file: Sequence[pa.Field], table: Sequence[pa.Field]) -> Places:
    at = {_id_of(field): index for index, field in enumerate(file)}
    found: dict[str, Place] = {}
    for field in table:
        index = at.get(_id_of(field))
        if index is not None:
            inner = _places(list(file[index].type), list(field.type)) if pa.types.is_struct(field.type) else {}
            found[field.name] = Place(index, inner)
    return found


def _id_of(field: pa.Field) -> bytes | None:
    found: bytes | None = (field.metadata or {}).get(FIELD_ID)
    return found


def _field(field: NestedField) -> pa.Field:
    kind = _type(field.field_type)
    return pa.field(field.name, kind, nullable=not field.required, metadata=_id(field.field_id))


def _type(kind: IcebergType) -> pa.DataType:
    if isinstance(kind, StructType):
        return pa.struct([_field(field) for field in kind.fields])
    if isinstance(kind, ListType):
        return pa.list_(pa.field("item", _type(kind.element_type), metadata=_id(kind.element_id)))
    if isinstance(kind, MapType):
        key = pa.field("key", _type(kind.key_type), nullable=False, metadata=_id(kind.key_id))
        return pa.map_(key, pa.field("value", _type(kind.value_type), metadata=_id(kind.value_id)))
    if isinstance(kind, DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    found = _PRIMITIVES.get(kind)
    if found is None:
        raise SinkRefused(f"The table has a column of Iceberg's type {kind}, which Catchment does not write.")
    return found


def _id(field_id: int) -> dict[bytes, bytes]:
    return {FIELD_ID: str(field_id).encode()}
