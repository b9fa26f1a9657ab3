"""`catchment maintain`: all that is due in the lake, now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from catchment.cli.arguments import AsJson, PipelinePath


def maintain(
    pipeline: PipelinePath,
    table: Annotated[
        str | None, typer.Option("--table", metavar="TABLE", help="Only this table: silver.orders, or orders for all.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is due, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make few large files of many small ones, leave dead rows out, delete what no kept snapshot needs.

    A running pipeline does the same by itself, within its budget. Then this asks it to do all of it now; capture
    goes on meanwhile.
    """
    import json

    from catchment.cli.asking import ask
    from catchment.config import load

    config = load(pipeline)
    outcome = ask(config, "maintain", {"table": table, "dry_run": dry_run})
    if as_json:
        print(json.dumps({"pipeline": config.name, **outcome}, indent=2))
    else:
        _show(outcome, config.lakehouse.maintenance.dead_row_percent)


def _show(outcome: dict[str, Any], dead_row_percent: float) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from catchment.cli.quantities import size

    for one in outcome.get("due", ()):
        print(f"{one['table']}: {one['kind']} is due, of {one['files']:,} files ({size(one['bytes'])}).")
    if not (outcome.get("due") or outcome.get("done")):
        print("Nothing is due.")
    elif not outcome["dry_run"]:
        seconds = sum(one["seconds"] for one in outcome["done"])
        print(f"Done: {len(outcome['done']):,} pieces of work in {seconds:.1f} s.")
    screen = Table(box=SIMPLE_HEAD, pad_edge=False)
    screen.add_column("table")
    for heading in ("files", "size", "rows", "dead rows", "delete files"):
        screen.add_column(heading, justify="right")
    for name, one in outcome["tables"].items():
        counts = (f"{one[key]:,}" for key in ("rows", "dead_rows", "delete_files"))
        screen.add_row(name, f"{one['files']:,}", size(one["bytes"]), *counts)
    if outcome["tables"]:
        Console(highlight=False).print(screen)
    _tell_why_dead_rows_stay(outcome["tables"], dead_row_percent)
    if outcome["waiting_files"]:
        print(f"{outcome['waiting_files']:,} files go when the snapshots that need them have expired.")


def _tell_why_dead_rows_stay(tables: dict[str, Any], dead_row_percent: float) -> None:
    from catchment.lakehouse.maintenance.plan import NOTICED_DEAD_ROWS, too_many_dead

    few = [
        name
        for name, one in tables.items()
        if one["dead_rows"] and not too_many_dead(one["dead_rows"], one["rows"], dead_row_percent)
    ]
    if not few:
        return
    keeps, its = ("keeps its", "its") if len(few) == 1 else ("keep their", "a table's")
    print(
        f"{', '.join(few)} {keeps} dead rows until there are {NOTICED_DEAD_ROWS:,} of them and they are "
        f"{dead_row_percent:g} % of {its} rows (`dead_row_percent`): so few slow no reader down."
    )
