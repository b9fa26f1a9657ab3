"""Query results as a table, JSON, CSV or Parquet, batch by batch."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict

import pyarrow as pa

from catchment.cli.values import exact
from catchment.errors import ConfigError

if TYPE_CHECKING:
    from datetime import datetime


class Origin(TypedDict):
    """Where a table's rows come from, as of a moment: bronze, history, snapshot, or nothing."""

    table: str
    read_from: str
    detail: str


def write(rows: pa.RecordBatchReader, format_: str, output: Path | None, *, limit: int) -> None:
    """Write all rows (a table: the first `limit`) to a file or to stdout."""
    names = _distinct(rows.schema.names)
    if format_ == "parquet":
        _parquet(rows, names, output)
        return
    with _text(output) as stream:
        if format_ == "json":
            _json(rows, names, stream)
        elif format_ == "csv":
            _csv(rows, names, stream)
        else:
            _table(rows, names, stream, limit)


def write_document(
    rows: pa.RecordBatchReader, origins: Sequence[Origin], as_of: datetime | None, output: Path | None
) -> None:
    """Write one JSON object: `as_of`, `tables` (where their rows come from) and `rows`."""
    head = {"as_of": as_of.isoformat().replace("+00:00", "Z") if as_of is not None else None, "tables": origins}
    with _text(output) as stream:
        stream.write(f'{json.dumps(head, ensure_ascii=False)[:-1]}, "rows": ')
        _json(rows, _distinct(rows.schema.names), stream, end="")
        stream.write("}\n")


def _json(rows: pa.RecordBatchReader, names: Sequence[str], stream: IO[str], end: str = "\n") -> None:
    separator = "[\n"
    for batch in rows:
        for row in zip(*(exact(column) for column in batch.columns), strict=True):
            document = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, allow_nan=False)
            stream.write(f"{separator}{document}")
            separator = ",\n"
    stream.write(("[]" if separator == "[\n" else "\n]") + end)


def _csv(rows: pa.RecordBatchReader, names: Sequence[str], stream: IO[str]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for batch in rows:
        writer.writerows(zip(*(map(_cell, exact(column)) for column in batch.columns), strict=True))


def _cell(value: Any) -> Any:
    """A value in a CSV field: NULL is nothing, what has parts is JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _parquet(rows: pa.RecordBatchReader, names: Sequence[str], output: Path | None) -> None:
    import pyarrow.parquet as pq

    schema = pa.schema([field.with_name(name) for field, name in zip(rows.schema, names, strict=True)])
    with _binary(output) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in rows:
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))


def _table(rows: pa.RecordBatchReader, names: Sequence[str], stream: IO[str], limit: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, kind in zip(names, rows.schema.types, strict=True):
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    shown, more = 0, False
    for batch in rows:
        part = batch.slice(0, limit - shown)
        for row in zip(*(exact(column) for column in part.columns), strict=True):
            table.add_row(*(Text("" if value is None else str(_cell(value))) for value in row))
        shown += part.num_rows
        if batch.num_rows > part.num_rows:
            more = True
            break
    # Without a terminal nothing may be cut off: a column is as wide as it needs to be.
    Console(file=stream, width=None if stream.isatty() else 10_000).print(table)
    if more:
        print(f"These are the first {shown:,} rows; --limit shows more, --format csv all.", file=sys.stderr)


def _distinct(names: Sequence[str]) -> list[str]:
    """The columns' names; a repeated one gets a number, so that no value is lost in an object."""
    result: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in result:
            number += 1
            candidate = f"{name}_{number}"
        result.append(candidate)
    return result


@contextmanager
def _text(output: Path | None) -> Iterator[IO[str]]:
    if output is None:
        yield sys.stdout
        return
    with _opened(output) as stream, stream:
        import io

        with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
            yield text


@contextmanager
def _binary(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        return
    with _opened(output) as stream:
        yield stream


@contextmanager
def _opened(output: Path) -> Iterator[IO[bytes]]:
    try:
        stream = output.open("wb")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}. Choose another file.") from error
    with stream:
        yield stream
