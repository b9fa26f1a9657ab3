"""`catchment catalog`: tables in AWS Glue, kept up to what is on S3."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.prose import Prose

if TYPE_CHECKING:
    import threading

    from catchment.glue.definitions import Definitions
    from catchment.glue.partition_layout import Target
    from catchment.glue.sync import Synced

app = typer.Typer(cls=Prose, no_args_is_help=True, help="Keep tables in AWS Glue up to what is on S3.")


@app.callback()
def group() -> None:
    """Keep tables in AWS Glue up to what is on S3."""


@app.command(
    epilog="Example: catchment catalog sync --database gadgets_sales_db --table sales_data_table "
    "--location s3://gadget-sales-data/ --example gadgets --every 60"
)
def sync(
    database: Annotated[str, typer.Option(metavar="NAME", help="The Glue database; made if absent.")],
    table: Annotated[str, typer.Option(metavar="NAME", help="The table; made if absent.")],
    location: Annotated[
        str | None, typer.Option(metavar="S3", help="Where its objects are; left out, where the table says.")
    ] = None,
    example: Annotated[
        str | None, typer.Option(metavar="NAME", help="Declared columns and views of an example: gadgets.")
    ] = None,
    tables: Annotated[Path | None, typer.Option(metavar="FILE", help="Declared columns and views, in YAML.")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PREFIX", help="Prefixes below the location that are not the table's: errors/."),
    ] = None,
    every: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="Again and again, until Ctrl-C.")
    ] = None,
    projection: Annotated[
        bool, typer.Option(help="A new table over yyyy/MM/dd/HH/ has its partitions computed, not registered.")
    ] = True,
    anew: Annotated[bool, typer.Option("--anew", help="Look again at objects that an earlier run has seen.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a run on stdout, for programs.")] = False,
) -> None:
    """Find partitions and columns as a crawler would, and add them to the table in Glue.

    Looks into objects that are new since the last run. Adds columns and widens numbers; drops and narrows nothing.
    Values that do not fit a column that is there are said, and stay NULL.
    """
    from catchment.cli.signals import stop_on_signals

    target, definitions = _target(database, table, location, example, tables, exclude, project=projection)
    with stop_on_signals() as stop:
        _run(target, definitions, dry_run=dry_run, anew=anew, as_json=as_json)
        while every is not None and not stop.wait(every):
            _run_again(target, definitions, stop, dry_run=dry_run, as_json=as_json)


def _target(
    database: str,
    table: str,
    location: str | None,
    example: str | None,
    tables: Path | None,
    exclude: list[str] | None,
    *,
    project: bool,
) -> tuple[Target, Definitions]:
    from catchment.errors import ConfigError
    from catchment.glue.definitions import EXAMPLES, Definitions, read_definitions
    from catchment.glue.partition_layout import ERROR_PREFIX, Target

    if example is not None and tables is not None:
        raise ConfigError("--example and --tables exclude each other.")
    if example is not None and example not in EXAMPLES:
        raise ConfigError(f"There is no example {example}; there is: {', '.join(EXAMPLES)}.")
    definitions = EXAMPLES[example] if example is not None else read_definitions(tables) if tables else Definitions()
    name = table.lower()
    place = location or _known_location(definitions, database.lower(), name)
    target = Target(
        database.lower(),
        name,
        place,
        exclude=tuple(exclude or (ERROR_PREFIX,)),
        declared=definitions.columns(name),
        project=project,
    )
    return target, definitions


def _known_location(definitions: Definitions, database: str, table: str) -> str:
    from catchment.errors import ConfigError
    from catchment.glue.session import client
    from catchment.glue.table import find, table_of

    declared = definitions.tables.get(table)
    if declared is not None and declared.location is not None:
        return declared.location
    found = find(client("glue"), database, table)
    if found is None:
        raise ConfigError(f"Nothing says where {database}.{table} is. Add --location s3://bucket/prefix/.")
    return table_of(found).location


def _run_again(
    target: Target, definitions: Definitions, stop: threading.Event, *, dry_run: bool, as_json: bool
) -> None:
    """A run that may fail for the moment: the next one sees what this one did not."""
    import sys

    from catchment.errors import Retriable

    try:
        _run(target, definitions, dry_run=dry_run, anew=False, as_json=as_json)
    except Retriable as error:
        if not stop.is_set():
            print(f"catchment: {error}", file=sys.stderr, flush=True)


def _run(target: Target, definitions: Definitions, *, dry_run: bool, anew: bool, as_json: bool) -> None:
    from catchment.glue.definitions import ensure_table, ensure_views
    from catchment.glue.session import client
    from catchment.glue.sync import sync as run
    from catchment.glue.table import ensure_database

    glue = client("glue")
    try:
        changes = [] if dry_run else ensure_database(glue, target.database)
        changes += ensure_table(glue, definitions, target.database, target.table, target.location, dry_run=dry_run)
        done = run(target, dry_run=dry_run, anew=anew)
        done.changes = [*changes, *done.changes, *ensure_views(glue, definitions, target.database, dry_run=dry_run)]
    finally:
        glue.close()
    _tell(done, dry_run=dry_run, as_json=as_json)


def _tell(done: Synced, *, dry_run: bool, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        print(json.dumps({**asdict(done), "dry_run": dry_run}), flush=True)
        return
    would = "would: " if dry_run else ""
    for line in done.changes:
        print(f"{would}{line}")
    for line in done.notes:
        print(f"note: {line}")
    if not done.changes:
        print("nothing to change")
    print(f"{done.objects:,} objects, {done.new_objects:,} new, {done.sampled:,} looked into", flush=True)
