"""What the tests of the files sink read its directory with: Python's own json and gzip, Arrow's Parquet."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catchment.schema import TableSchema
from catchment.sinks.base import Sink
from catchment.sinks.files.reader import complete_ranges
from catchment.sinks.files.sink import FilesSink
from catchment.sinks.files.store import LocalStore
from catchment.testing.sinks import SinkHarness


class FilesHarness(SinkHarness):
    """Reads what the records of complete ranges name, with Python's own json, gzip and Arrow's Parquet."""

    def __init__(
        self,
        directory: Path,
        format_: Literal["ndjson", "parquet"],
        compression: str,
        *,
        file_rows: int = 1_000_000,
        buffer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.directory = directory
        self._format = format_
        self._compression = compression
        self._file_rows = file_rows
        self._buffer_bytes = buffer_bytes

    def sink(self) -> Sink:
        return FilesSink(
            LocalStore(self.directory),
            pipeline="suite",
            format=self._format,
            compression=self._compression,
            file_rows=self._file_rows,
            buffer_bytes=self._buffer_bytes,
        )

    def read(self, schema: TableSchema) -> pa.Table:
        parts = [
            read_file(self.directory / data.path, schema, data.rows)
            for one in complete_ranges(self.directory)
            for data in one.objects
            if data.table == str(schema.table)
        ]
        return pa.concat_tables(parts) if parts else schema.envelope.empty_table()


def read_file(path: Path, schema: TableSchema, rows: int) -> pa.Table:
    """One file's changes in the envelope of `schema`, which may be younger than the file."""
    found = read_parquet(path, schema) if path.suffix == ".parquet" else read_ndjson(path, schema)
    assert found.num_rows == rows, f"{path.name} has {found.num_rows} rows, its record says {rows}"
    return found


def read_parquet(path: Path, schema: TableSchema) -> pa.Table:
    table = pq.read_table(path, partitioning=None)
    columns = []
    for field in schema.envelope:
        column = table.column(field.name).combine_chunks()
        if field.name in ("before", "after"):
            mine = dict(zip((child.name for child in column.type), column.flatten(), strict=True))
            children = [mine.get(c.name, pa.nulls(len(column), c.type)) for c in schema.columns]
            column = pa.StructArray.from_arrays(children, fields=list(field.type), mask=column.is_null())
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema.envelope)


def read_ndjson(path: Path, schema: TableSchema) -> pa.Table:
    lines = [json.loads(line, parse_float=str) for line in _text(path).split("\n")[:-1]]
    assert all(line["table"] == str(schema.table) for line in lines)
    columns: dict[str, list[Any]] = {
        "_op": [line["op"] for line in lines],
        "_lane": [line["lane"] for line in lines],
        "_position": [bytes.fromhex(line["position"]) for line in lines],
        "_version": [bytes.fromhex(line["version"]) for line in lines],
        "_transaction": [line["transaction"] for line in lines],
        "_committed_at": [_micros(line["committed_at"]) for line in lines],
        "_schema_version": [line["schema_version"] for line in lines],
        "_unchanged": [line["unchanged"] for line in lines],
        "_unrepresentable": [
            None if line["unrepresentable"] is None else list(line["unrepresentable"].items()) for line in lines
        ],
    }
    arrays = [
        _row(schema, [line[name] for line in lines])
        if (name := field.name) in ("before", "after")
        else pa.array(columns[name], field.type)
        for field in schema.envelope
    ]
    return pa.Table.from_arrays(arrays, schema=schema.envelope)


def _text(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
            data = stream.read()
    return data.decode()


def _row(schema: TableSchema, rows: list[Mapping[str, Any] | None]) -> pa.StructArray:
    children = [
        pa.array([_value(column.type, (row or {}).get(column.name)) for row in rows], column.type)
        for column in schema.columns
    ]
    mask = pa.array([row is None for row in rows])
    return pa.StructArray.from_arrays(children, fields=list(schema.row_type), mask=mask)


def _value(kind: pa.DataType, value: Any) -> Any:
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return np.float32(value) if kind.bit_width == 32 else float(value)
    if pa.types.is_decimal(kind):
        return Decimal(value)
    if pa.types.is_binary(kind):
        return base64.b64decode(value, validate=True)
    if pa.types.is_date32(kind):
        return int(np.datetime64(value, "D").astype(int))
    if pa.types.is_timestamp(kind):
        assert value.endswith("Z") == (kind.tz is not None)
        return _micros(value)
    return value


def _micros(text: str | None) -> int | None:
    return None if text is None else int(np.datetime64(text.removesuffix("Z"), "us").astype(int))
