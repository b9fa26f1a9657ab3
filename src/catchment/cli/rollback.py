"""`catchment rollback`: a silver table as it was."""

from __future__ import annotations

from typing import Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath, SilverTable


def rollback(
    pipeline: PipelinePath,
    table: SilverTable,
    snapshot: Annotated[
        int | None, typer.Option("--snapshot", metavar="ID", help="To this one; `catchment snapshots` lists them.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="To the last one committed by then: 2026-11-20T10:00, in UTC."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set a silver table, with its quarantine, back to a snapshot, and pin it there.

    A pinned table stays as it is, and gold goes on reading it, until `catchment resume`. Bronze goes on meanwhile.
    Works while the pipeline runs.
    """
    import json

    from catchment.cli.asking import ask
    from catchment.config import load
    from catchment.errors import ConfigError

    if (snapshot is None) == (to is None):
        raise ConfigError("Say where to: either --snapshot ID or --to TIME.")
    config = load(pipeline)
    done = ask(config, "rollback", {"table": table, "snapshot": snapshot, "to": to})
    if as_json:
        print(json.dumps({"pipeline": config.name, **done}, indent=2))
        return
    rows = f"{done['rows']:,} rows" if done["rows"] is not None else "its rows"
    together = f", with {done['quarantine']}" if done["quarantine"] else ""
    print(f"{done['table']} is as it was at {done['at']} (snapshot {done['snapshot']}): {rows}{together}.")
    print(f"It is pinned there: `catchment resume {pipeline} {done['table']}` replays what came since, and goes on.")
