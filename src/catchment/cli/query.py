"""`catchment query`: SQL over the lake."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.cli.results import Origin


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
    as_of: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="As of a source commit time: 2026-11-20T10:00, UTC unless it has an offset."),
    ] = None,
    snapshot: Annotated[
        int | None, typer.Option(metavar="ID", help="Show the table that has this Iceberg snapshot as it was then.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run SQL over bronze, current, silver, gold and ops, as they are at this moment or were. Read-only.

    JSON is one list of objects, without loss: decimals are strings, moments ISO 8601, bytes hex. CSV and
    Parquet keep every row; a table shows the first ones. --json gives one document: the rows, and with
    --as-of where each table's rows came from, which otherwise goes to stderr.
    """
    import sys

    import duckdb

    from catchment import config
    from catchment.cli.results import write, write_document
    from catchment.errors import ConfigError
    from catchment.lakehouse.reading.connection import connect_lake, refuse_writes
    from catchment.lakehouse.reading.time_travel import parse_moment

    text = sys.stdin.read() if sql == "-" else sql
    if as_json and format_ is not Format.TABLE:
        raise ConfigError("--json and --format exclude each other: --json is a document with the rows in it.")
    if format_ is Format.PARQUET and output is None and sys.stdout.isatty():
        raise ConfigError("Parquet is not for a terminal: add --output FILE, or send it into a pipe.")
    refuse_writes(text)
    moment = parse_moment(as_of) if as_of is not None else None
    loaded = config.load(pipeline)
    with connect_lake(
        loaded.lakehouse, loaded.directory, loaded.name, as_of=moment, snapshot=snapshot, query=text
    ) as lake:
        origins = _origins(lake, text) if moment is not None else []
        if not as_json:
            for one in origins:
                print(f"{one['table']}: {one['detail']}", file=sys.stderr)
        try:
            found = lake.execute(text).to_arrow_reader()
            if as_json:
                write_document(found, origins, moment, output)
            else:
                write(found, format_.value, output, limit=limit)
        except duckdb.Error as error:
            raise ConfigError(f"The query failed: {error}") from error


def _origins(lake: DuckDBPyConnection, text: str) -> list[Origin]:
    """Where the rows of the tables that the text names come from."""
    from catchment.lakehouse.reading.mentions import is_mentioned

    found = lake.execute("SELECT name, read_from, detail FROM ops.as_of ORDER BY name").fetchall()
    return [
        {"table": name, "read_from": read_from, "detail": detail}
        for name, read_from, detail in found
        if is_mentioned(text, *name.split(".", 1))
    ]
