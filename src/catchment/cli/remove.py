"""`catchment remove`: offboard a pipeline, or one table of it."""

from __future__ import annotations

from typing import Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath


def remove(
    pipeline: PipelinePath,
    table: Annotated[
        str | None, typer.Option("--table", metavar="SCHEMA.TABLE", help="Only this table; the pipeline stays.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take what the pipeline set up off the source: its replication slot and its publications.

    An abandoned slot keeps WAL until the server's disk is full. What was captured stays in the lake. Says
    what it will do, and asks.
    """
    import json
    import sys

    from catchment.config import load
    from catchment.errors import ConfigError, LeaseHeld
    from catchment.lakehouse.lease import holder

    config = load(pipeline)
    running = holder(config.name, config.directory)
    if running is not None:
        raise LeaseHeld(f"Process {running} runs pipeline {config.name}. Stop it first, then remove.")
    plan = config.source_config.removal(config.context, table)
    for line in plan.steps:
        print(f"will {line}", file=sys.stderr)
    for line in plan.notes:
        print(line, file=sys.stderr)
    if plan.steps and not yes:
        if not sys.stdin.isatty():
            raise ConfigError("Nothing was removed: add --yes to do it without a terminal to ask on.")
        typer.confirm(f"Do it, for {config.title}?", abort=True, err=True)
    done = plan.carry_out() if plan.steps else []
    for line in done:
        print(line, file=sys.stderr)
    if not plan.steps:
        print("There is nothing to remove.", file=sys.stderr)
    if as_json:
        print(json.dumps({"pipeline": config.name, "table": table, "done": done, "notes": plan.notes}, indent=2))
