"""`catchment resume`: the end of a rollback."""

from __future__ import annotations

from catchment.cli.arguments import AsJson, PipelinePath, SilverTable


def resume(pipeline: PipelinePath, table: SilverTable, as_json: AsJson = False) -> None:
    """Go on with a silver table that was set back: replay from bronze what came since, then merge as before.

    Works while the pipeline runs.
    """
    import json

    from catchment.cli.asking import ask
    from catchment.config import load

    config = load(pipeline)
    done = ask(config, "resume", {"table": table})
    if as_json:
        print(json.dumps({"pipeline": config.name, **done}, indent=2))
    else:
        print(f"{done['table']} has all that bronze has: {done['rows']:,} rows, those in quarantine counted.")
