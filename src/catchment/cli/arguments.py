"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PipelinePath = Annotated[
    Path, typer.Argument(metavar="PIPELINE", help="The path of a pipeline.yaml.", show_default=False)
]
SilverTable = Annotated[str, typer.Argument(metavar="TABLE", help="silver.orders, orders, or public.orders.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]
