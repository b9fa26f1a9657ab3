"""`catchment query`: SQL over the lake."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.arguments import AsJson

if TYPE_CHECKING:
    from datetime import datetime

    from duckdb import DuckDBPyConnection
    from pyarrow import RecordBatchReader

    from catchment.cli.results import Origin


class Format(StrEnum):
    """How a result is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class Place(StrEnum):
    """Where a question about a Glue database is answered."""

    LOCAL = "local"
    ATHENA = "athena"


class QueryDialect(StrEnum):
    """Whose SQL is printed."""

    ATHENA = "athena"
    DUCKDB = "duckdb"


def query(
    pipeline: Annotated[
        str | None,
        typer.Argument(metavar="PIPELINE", help="The path of a pipeline.yaml; left out with --database."),
    ] = None,
    sql: Annotated[
        str | None,
        typer.Argument(metavar="SQL", help="DuckDB's SQL, with --database Athena's; or - to read it from stdin."),
    ] = None,
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
    database: Annotated[
        str | None, typer.Option(metavar="NAME", help="Ask this AWS Glue database instead of a pipeline's lake.")
    ] = None,
    on: Annotated[
        Place | None,
        typer.Option(
            help="Who answers for a Glue database: this machine or Athena. Athena, unless AWS_ENDPOINT_URL is set."
        ),
    ] = None,
    workgroup: Annotated[str | None, typer.Option(metavar="NAME", help="Athena's workgroup.")] = None,
    output_location: Annotated[
        str | None, typer.Option(metavar="S3", help="Where Athena keeps results, when the workgroup does not say.")
    ] = None,
    dialect: Annotated[
        QueryDialect, typer.Option(help="With --print: the text for Athena, or what runs here.")
    ] = QueryDialect.ATHENA,
    print_: Annotated[bool, typer.Option("--print", help="Print the SQL instead of running it.")] = False,
) -> None:
    """Run SQL over bronze, current, silver, gold and ops, as they are at this moment or were. Read-only.

    JSON is one list of objects, without loss: decimals are strings, moments ISO 8601, bytes hex. CSV and
    Parquet keep every row; a table shows the first ones. --json gives one document: the rows, and with
    --as-of where each table's rows came from, which otherwise goes to stderr.

    With --database, tables of an AWS Glue database are asked in Athena's SQL: on this machine, over the objects on S3,
    or by Athena itself.
    """
    import sys

    from catchment.errors import ConfigError

    if as_json and format_ is not Format.TABLE:
        raise ConfigError("--json and --format exclude each other: --json is a document with the rows in it.")
    if format_ is Format.PARQUET and output is None and sys.stdout.isatty():
        raise ConfigError("Parquet is not for a terminal: add --output FILE, or send it into a pipe.")
    shape = _Shape(format_, output, limit, as_json)
    if database is not None:
        if sql is not None or pipeline is None:
            raise ConfigError("With --database there is no pipeline: give the SQL only.")
        if as_of is not None or snapshot is not None:
            raise ConfigError("--as-of and --snapshot are for a pipeline's lake; leave them out with --database.")
        text = sys.stdin.read() if pipeline == "-" else pipeline
        if print_:
            print(_printed(text, database, dialect))
        else:
            _ask_database(text, database, on, workgroup, output_location, shape)
        return
    if pipeline is None or sql is None:
        raise ConfigError("Give a pipeline.yaml and the SQL, or --database NAME and the SQL.")
    if print_ or on is not None or workgroup is not None or output_location is not None:
        raise ConfigError(
            "--print, --on, --workgroup and --output-location belong to --database. `catchment gold PIPELINE --dialect "
            "athena --print` prints gold models."
        )
    _ask_lake(Path(pipeline), sys.stdin.read() if sql == "-" else sql, as_of, snapshot, shape)


@dataclass(frozen=True)
class _Shape:
    """How a result is written."""

    format: Format
    output: Path | None
    limit: int
    as_json: bool

    def write(self, rows: RecordBatchReader, origins: list[Origin], moment: datetime | None = None) -> None:
        from catchment.cli.results import write, write_document

        if self.as_json:
            write_document(rows, origins, moment, self.output)
        else:
            write(rows, self.format.value, self.output, limit=self.limit)


def _ask_lake(pipeline: Path, text: str, as_of: str | None, snapshot: int | None, shape: _Shape) -> None:
    import sys

    import duckdb

    from catchment import config
    from catchment.errors import ConfigError
    from catchment.lakehouse.reading.connection import connect_lake, refuse_writes
    from catchment.lakehouse.reading.time_travel import parse_moment

    refuse_writes(text)
    moment = parse_moment(as_of) if as_of is not None else None
    loaded = config.load(pipeline)
    with connect_lake(
        loaded.lakehouse, loaded.directory, loaded.name, as_of=moment, snapshot=snapshot, query=text
    ) as lake:
        origins = _origins(lake, text) if moment is not None else []
        if not shape.as_json:
            for one in origins:
                print(f"{one['table']}: {one['detail']}", file=sys.stderr)
        try:
            shape.write(lake.execute(text).to_arrow_reader(), origins, moment)
        except duckdb.Error as error:
            raise ConfigError(f"The query failed: {error}") from error


def _printed(text: str, database: str, dialect: QueryDialect) -> str:
    from catchment.glue import athena_sql, connect

    if dialect is QueryDialect.ATHENA:
        return athena_sql.in_athena_sql(athena_sql.parse(text, database))
    with connect(database) as found:
        return found.in_duckdb_sql(text)


def _ask_database(
    text: str, database: str, on: Place | None, workgroup: str | None, output_location: str | None, shape: _Shape
) -> None:
    import sys

    import duckdb

    from catchment.errors import ConfigError
    from catchment.glue import connect
    from catchment.glue.session import is_on_aws

    if on is Place.ATHENA or (on is None and is_on_aws()):
        from catchment.glue import athena, athena_sql

        answer = athena.ask(
            athena_sql.in_athena_sql(athena_sql.parse(text, database)),
            database,
            workgroup=workgroup,
            output_location=output_location,
            started=lambda query: print(f"Athena runs query {query}", file=sys.stderr),
        )
        shape.write(answer.rows, [])
        return
    with connect(database) as found:
        try:
            shape.write(found.execute(text).to_arrow_reader(), [])
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
