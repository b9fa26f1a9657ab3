"""`catchment rebuild`: a silver table made anew from bronze."""

from __future__ import annotations

from catchment.cli.arguments import AsJson, PipelinePath, SilverTable


def rebuild(pipeline: PipelinePath, table: SilverTable, as_json: AsJson = False) -> None:
    """Make a silver table, with its quarantine, anew from bronze, and put it in place in one commit.

    All rows are judged anew by the quality rules of now. Where old changes have left bronze it begins with the
    oldest kept snapshot instead. Capture goes on meanwhile, and readers see the old rows until the new ones are
    whole.
    """
    import json

    from catchment.cli.asking import ask
    from catchment.config import load

    config = load(pipeline)
    done = ask(config, "rebuild", {"table": table})
    if as_json:
        print(json.dumps({"pipeline": config.name, **done}, indent=2))
        return
    print(f"{done['table']} was made anew: {done['rows']:,} rows, those in quarantine counted.")
    if done["from"] == "snapshot":
        print(
            f"Bronze begins at {done['bronze_since']}, so it was made from the snapshot of {done['snapshot_at']} "
            f"({done['snapshot']}) and the changes since; rows from before were not judged anew."
        )
