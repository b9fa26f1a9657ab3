"""Iceberg tables that Glue knows: read by PyIceberg as of the metadata that Glue names, deletes applied.

A table is one object here, its metadata file: another commit is another object, and the table is read anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from catchment.errors import SourceRefused, SourceUnavailable
from catchment.glue.column_types import in_arrow
from catchment.glue.fetch import Batch
from catchment.glue.layout import S3Object
from catchment.glue.segments import PATH, KnownObject
from catchment.glue.table import GlueTable
from catchment.lakehouse.catalog import s3_properties
from catchment.s3_address import bucket_and_key

_METADATA = "metadata_location"


def current(table: GlueTable) -> S3Object:
    """The metadata file that is the table now. Raises SourceRefused when Glue names none."""
    location = table.parameters.get(_METADATA)
    if not location:
        raise SourceRefused(f"{table.full_name} is an Iceberg table without a `{_METADATA}`. Mend it in Glue.")
    bucket, key = bucket_and_key(location)
    return S3Object(bucket, key, etag=location, size=1)


def read(table: GlueTable, one: S3Object) -> Iterator[Batch]:
    """The rows of the table, as one batch that is read while it is taken."""
    from pyiceberg.table import StaticTable

    try:
        found = StaticTable.from_metadata(one.etag, s3_properties())
        reader = found.scan().to_arrow_batch_reader()
        first = next(iter(reader), None)
    except (OSError, ValueError) as error:
        raise SourceUnavailable(
            f"{table.full_name} could not be read at {one.etag}: {type(error).__name__}. Try again."
        ) from error
    names = list(table.columns)
    schema = pa.schema(
        [pa.field(name, _kind(table, name, reader.schema)) for name in names] + [pa.field(PATH, pa.string())]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        batch = first
        while batch is not None:
            yield _batch(batch, schema, one.location)
            batch = next(iter(reader), None)

    yield Batch(pa.RecordBatchReader.from_batches(schema, batches()), {one.location: KnownObject(one.etag, {})})


def _kind(table: GlueTable, name: str, schema: pa.Schema) -> pa.DataType:
    """A moment with a zone is one without, in UTC, as in Glue's types; the rest is as Iceberg says."""
    at = _position(schema, name)
    if at is None:
        return in_arrow(table.columns[name])
    kind = schema.field(at).type
    return pa.timestamp("us") if pa.types.is_timestamp(kind) else kind


def _position(schema: pa.Schema, name: str) -> int | None:
    return next((at for at, one in enumerate(schema.names) if one.lower() == name), None)


def _batch(batch: pa.RecordBatch, schema: pa.Schema, place: str) -> pa.RecordBatch:
    arrays = []
    for field in list(schema)[:-1]:
        at = _position(batch.schema, field.name)
        arrays.append(pa.nulls(len(batch), field.type) if at is None else batch.column(at).cast(field.type))
    return pa.RecordBatch.from_arrays([*arrays, pa.repeat(place, len(batch))], schema=schema)
