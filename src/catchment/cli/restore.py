"""`catchment restore`: a backup of the embedded catalog put in place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catchment.cli.arguments import AsJson, PipelinePath

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catchment.config import PipelineConfig
    from catchment.lakehouse.recovery.restore import Mode, Restore
    from catchment.progress import Progress

    Progresses = Mapping[tuple[str, str], Progress]


def restore(
    pipeline: PipelinePath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `catchment backup` wrote.")],
    newest: Annotated[
        bool, typer.Option("--newest", help="Take the tables as the warehouse's newest whole files have them.")
    ] = False,
    as_it_was: Annotated[
        bool, typer.Option("--as-it-was", help="Set tables that moved on back to the time of the backup.")
    ] = False,
    complete: Annotated[
        bool,
        typer.Option(
            "--warehouse-is-complete",
            help="With --newest: nothing of the warehouse was lost or set back, so go on where the source was told to.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look, say what would be, change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup of the embedded catalog in place. The replaced catalog is kept beside it.

    Refused while the pipeline runs. When tables moved on after the backup, nothing is changed until one of
    --newest and --as-it-was is chosen.
    """
    import json

    from catchment.config import load
    from catchment.errors import ConfigError, SinkRefused
    from catchment.lakehouse.recovery.restore import Mode, positions_json, restoring

    if newest and as_it_was:
        raise ConfigError("--newest and --as-it-was exclude each other: leave one out.")
    if complete and not newest:
        raise ConfigError("--warehouse-is-complete says something about --newest: add that.")
    config = load(pipeline)
    with restoring(config.lakehouse, config.directory, config.name, file) as plan:
        mode = Mode.NEWEST if newest else Mode.AS_IT_WAS if as_it_was else plan.usual_mode
        refusal = plan.refusal(mode)
        progress: Progresses = plan.progress(mode) if mode is not None and refusal is None else {}
        notes: list[str] = []
        if mode is not None and refusal is None:
            notes, progress = _source(config, mode, progress, complete)
            notes += _left_out(plan, mode)
        aside = None
        if mode is not None and refusal is None and not dry_run:
            aside = plan.carry_out(mode, progress)
        document = {
            "pipeline": config.name,
            "restored": mode is not None and refusal is None and not dry_run,
            "mode": mode,
            "refusal": refusal,
            "made_at": plan.manifest.made_at,
            "replaced": str(aside) if aside is not None else None,
            "progress": positions_json(progress),
            "tables": [one.to_dict() for one in plan.outlook],
            "notes": notes,
        }
    if as_json:
        print(json.dumps(document, indent=2))
    elif refusal is None:
        _tell(document)
    if refusal is not None:
        raise SinkRefused(refusal)


def _source(
    config: PipelineConfig, mode: Mode, progress: Progresses, complete: bool
) -> tuple[list[str], dict[tuple[str, str], Progress]]:
    """What the source says of the progress, and the progress to keep."""
    from catchment.errors import CatchmentError
    from catchment.lakehouse.recovery.restore import Mode

    kept = dict(progress)
    mine = [key for key in kept if key[0] == config.name]
    notes = []
    for key in mine:
        try:
            told = config.source_config.acknowledged(config.context, kept[key])
        except CatchmentError as unknown:
            notes.append(f"Whether the source was told more than the lake holds is not known: {unknown}")
            continue
        if told is None or kept[key].covers(told):
            continue
        if mode is Mode.NEWEST and complete:
            kept[key] = kept[key].join(told)
            notes.append("The lake goes on where the source was told to, beyond its last commit: taken for idle time.")
        elif mode in (Mode.NEWEST, Mode.EXACT):
            notes.append(
                "The source was told of more than the last commit of any table says. If nothing of the warehouse was "
                "lost or set back, that was idle time: repeat with --newest --warehouse-is-complete. Otherwise changes "
                "are missing: `catchment run --resnapshot` reads every table again. Until then `run` refuses to go on."
            )
        else:
            notes.append(
                "The source has let go of what was captured after this backup, and does not send it again: `catchment "
                "run` refuses to go on. `catchment run --resnapshot` reads every table again."
            )
    return notes, kept


def _left_out(plan: Restore, mode: Mode) -> list[str]:
    names = [".".join(name) for name in plan.left_out(mode)]
    if not names:
        return []
    return [f"Not whole, and left out: {', '.join(names)}. They are made anew: silver from bronze, gold by its models."]


def _tell(document: dict[str, Any]) -> None:
    import sys

    moved = sum(one["moved_on"] for one in document["tables"])
    verb = "was put in place" if document["restored"] else "would be put in place"
    state = {
        "exact": "as the backup has it; no table moved on since",
        "as it was": f"as the backup has it; {moved} tables are set back",
        "newest": f"with the warehouse's newest state; {moved} tables are newer than the backup",
    }[document["mode"]]
    print(f"The catalog of {len(document['tables'])} tables {verb}, {state}.")
    if document["replaced"]:
        print(f"The catalog that it replaced is {document['replaced']}.")
    for note in document["notes"]:
        print(note, file=sys.stderr)
