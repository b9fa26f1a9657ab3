"""Objects fetched from S3 side by side, and read as the rows of a table."""

from __future__ import annotations

import gzip
import io
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from catchment.aws_errors import error_code
from catchment.errors import SourceRefused
from catchment.glue import json_lines
from catchment.glue.column_types import ColumnType, in_arrow
from catchment.glue.layout import S3Object
from catchment.glue.segments import PATH, KnownObject, reader_of
from catchment.glue.session import THREADS, Client, asking
from catchment.glue.table import JSON_SERDES, PARQUET_SERDE, GlueTable

_BATCH_BYTES = 32 * 1024 * 1024
"""So much is fetched before it is kept: memory stays bounded."""
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Batch:
    """The rows of some objects, and the objects by their place. An object that was gone or changed is not there."""

    rows: pa.RecordBatchReader
    objects: Mapping[str, KnownObject]


def check_readable(table: GlueTable) -> None:
    """Raise SourceRefused for a table whose objects are in a form that is not read here."""
    if not table.is_iceberg and table.serde not in JSON_SERDES and table.serde != PARQUET_SERDE:
        raise SourceRefused(
            f"{table.full_name} has the SerDe {table.serde or 'none'}: JSON lines, Parquet and Iceberg are read "
            "here. Ask Athena: --on athena."
        )


def fetch(s3: Client, table: GlueTable, objects: Sequence[S3Object]) -> Iterator[Batch]:
    """Fetch these objects and read them, in batches of bounded size."""
    with ThreadPoolExecutor(min(THREADS, len(objects) or 1), thread_name_prefix="s3") as pool:
        for group in _groups(objects):
            contents = pool.map(lambda one: _content(s3, one), group)
            read = [
                (one, _rows(table, one, content))
                for one, content in zip(group, contents, strict=True)
                if content is not None
            ]
            if read:
                yield Batch(
                    reader_of(pa.concat_tables([rows.table for _, rows in read])),
                    {one.location: KnownObject(one.etag, rows.unfit) for one, rows in read},
                )


def _groups(objects: Sequence[S3Object]) -> Iterator[list[S3Object]]:
    group: list[S3Object] = []
    size = 0
    for one in objects:
        if group and size + one.size > _BATCH_BYTES:
            yield group
            group, size = [], 0
        group.append(one)
        size += one.size
    if group:
        yield group


def _content(s3: Client, one: S3Object) -> bytes | None:
    """An object as it was listed, unpacked; None when it has gone or changed since."""
    with asking(f"fetching {one.location}"):
        try:
            answer = s3.get_object(Bucket=one.bucket, Key=one.key, IfMatch=one.etag)
            data: bytes = answer["Body"].read()
        except s3.exceptions.ClientError as error:
            if error_code(error) in ("NoSuchKey", "404", "PreconditionFailed", "412"):
                return None
            raise
    packed = one.key.endswith(".gz") or "gzip" in (answer.get("ContentEncoding") or "")
    return unpacked(data, one.location) if packed and data.startswith(GZIP) else data


def unpacked(data: bytes, location: str) -> bytes:
    """What gzip packed. Raises SourceRefused when it is broken."""
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceRefused(f"{location} is broken: it cannot be unpacked. Put it back, or move it away.") from error


def _rows(table: GlueTable, one: S3Object, content: bytes) -> json_lines.Rows:
    found = _parquet(table, one, content) if table.serde == PARQUET_SERDE else json_lines.read(content, table.columns)
    rows = found.table
    for (name, kind), value in zip(table.keys.items(), one.partition, strict=False):
        rows = rows.append_column(name, _constant(value, kind, rows.num_rows))
    place = pa.DictionaryArray.from_arrays(pa.array([0] * rows.num_rows, pa.int32()), pa.array([one.location]))
    return json_lines.Rows(rows.append_column(PATH, place.cast(pa.string())), found.unfit)


def _constant(value: str, kind: ColumnType, count: int) -> pa.Array:
    try:
        scalar = pa.scalar(value, pa.string()).cast(in_arrow(kind))
    except pa.ArrowException:
        scalar = pa.scalar(None, in_arrow(kind))
    return pa.repeat(scalar, count)


def _parquet(table: GlueTable, one: S3Object, content: bytes) -> json_lines.Rows:
    unfit: Counter[str] = Counter()
    try:
        found = pq.read_table(io.BytesIO(content))
    except pa.ArrowException as error:
        raise SourceRefused(f"{one.location} is no Parquet file. Put it back, or move it away.") from error
    there = {name.lower(): name for name in found.column_names}
    arrays = []
    for name, kind in table.columns.items():
        wanted = in_arrow(kind)
        column = found.column(there[name]) if name in there else pa.chunked_array([pa.nulls(len(found), wanted)])
        try:
            arrays.append(column.cast(wanted))
        except pa.ArrowException:
            unfit[name] += len(found)
            arrays.append(pa.chunked_array([pa.nulls(len(found), wanted)]))
    return json_lines.Rows(pa.table(arrays, names=list(table.columns)), dict(unfit))
