"""`catchment backup`: the embedded catalog in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath


def backup(
    pipeline: PipelinePath,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write; one of that name is replaced.")],
    as_json: AsJson = False,
) -> None:
    """Copy the lake's embedded catalog, with progress and operations data, into one file; also during a run.

    The copy is one state of the whole catalog. The warehouse's files are not in it: copy that directory as well,
    after this.
    """
    import json
    from dataclasses import asdict

    from catchment.cli.quantities import size
    from catchment.config import load
    from catchment.errors import ConfigError
    from catchment.lakehouse.recovery.backup import back_up

    if file.is_dir() or not file.parent.is_dir():
        what = "is a directory" if file.is_dir() else "would be in a directory that does not exist"
        raise ConfigError(f"{file} {what}. Give the name of a file, in a directory that is there.")
    config = load(pipeline)
    made = back_up(config.lakehouse, config.directory, config.name, file)
    if as_json:
        print(json.dumps({"file": str(file), **asdict(made)}, indent=2))
    else:
        print(f"{file}: the catalog of {len(made.tables)} tables ({size(made.bytes)}), checked.")
