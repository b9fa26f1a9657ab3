"""`catchment query`: SQL over the lake."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from catchment.cli.arguments import PipelinePath


class Format(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


def query(
    pipeline: PipelinePath,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="DuckDB's SQL, or - to read it from stdin.")],
    format_: Annotated[Format, typer.Option("--format", "-f", help="How the result is written.")] = Format.TABLE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it to this file instead of stdout.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows that a table shows at most.")] = 200,
) -> None:
    """Run SQL over bronze, current, gold and ops, as they are at this moment. Read-only.

    JSON is one list of objects, without loss: decimals are strings, moments ISO 8601, bytes hex. CSV and
    Parquet keep every row; a table shows the first ones.
    """
    import sys

    import duckdb

    import catchment
    from catchment.cli.results import write
    from catchment.errors import ConfigError
    from catchment.lakehouse.connection import refuse_writes

    text = sys.stdin.read() if sql == "-" else sql
    if format_ is Format.PARQUET and output is None and sys.stdout.isatty():
        raise ConfigError("Parquet is not for a terminal: add --output FILE, or send it into a pipe.")
    refuse_writes(text)
    with catchment.connect(pipeline) as lake:
        try:
            found = lake.execute(text)
            write(found.to_arrow_reader(), format_.value, output, limit=limit)
        except duckdb.Error as error:
            raise ConfigError(f"The query failed: {error}") from error
