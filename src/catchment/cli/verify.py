"""`catchment verify`: is the lake what the source is?"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from catchment.cli.arguments import AsJson, PipelinePath

if TYPE_CHECKING:
    from catchment.verify.report import Keys, TableResult, Verdict
    from catchment.verify.verification import Step

_SHOWN = 10
PATIENCE_SECONDS = 2.0
"""A wait that is shorter is not told where there is no terminal."""


def verify(
    pipeline: PipelinePath,
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="Only this table; all of them when not given.")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Compare every value of every row.")] = False,
    timeout: Annotated[
        float, typer.Option(min=1, help="How many seconds a snapshot may be held at the source at most.")
    ] = 3600.0,
    as_json: AsJson = False,
) -> None:
    """Compare the lake with its source, at one exact position, while changes go on.

    Every key of both sides is compared, and the values of some chunks of each table, others at each run. Names the
    keys that differ, and never a value. Ends with 1 when something differs, and with 4 when a table could
    not be compared now.
    """
    import json

    from catchment.config import load
    from catchment.verify.verification import Verification

    line = StepLine()
    try:
        verdict = Verification(load(pipeline), table=table, deep=deep, timeout_seconds=timeout, tell=line.tell).run()
    finally:
        line.clear()
    if as_json:
        print(json.dumps(verdict.to_dict(), indent=2))
    else:
        _show(verdict)
    raise typer.Exit(_exit_code(verdict))


def _exit_code(verdict: Verdict) -> int:
    from catchment.cli.exits import FATAL, OK, UNAVAILABLE
    from catchment.verify.report import Outcome

    return {Outcome.DIFFERENT: FATAL, Outcome.UNSETTLED: UNAVAILABLE}.get(verdict.outcome, OK)


class StepLine:
    """What it does now: on a terminal one line that is rewritten, else a line for each wait that takes long."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._now = now
        self._terminal = self._stream.isatty()
        self._told_at = float("-inf")
        self._wait: tuple[Step, float] | None = None

    def tell(self, step: Step) -> None:
        """Show a step, ten times a second at most."""
        now = self._now()
        if not self._terminal:
            self._tell_wait(step, now)
            return
        if step.rows and now - self._told_at < 0.1:
            return
        self._told_at = now
        share = f", about {min(99, 100 * step.rows // step.rows_estimate)} %" if step.rows_estimate else ""
        rows = f": {step.rows:,} rows{share}" if step.rows else ""
        # A line that is wider than the terminal would wrap, and its beginning could not be written over.
        columns = shutil.get_terminal_size().columns
        print(f"\r\x1b[K{f'{step.table} · {step.doing}{rows}'[: columns - 1]}", end="", file=self._stream, flush=True)

    def _tell_wait(self, step: Step, now: float) -> None:
        """A step that is told again, with no row read meanwhile, waits for somebody: said once."""
        if self._wait is None or self._wait[0] != step:
            self._wait = (step, now)
        elif not step.rows and now - self._wait[1] > PATIENCE_SECONDS:
            print(f"{step.table} · {step.doing}", file=self._stream, flush=True)
            self._wait = (step, float("inf"))

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def _show(verdict: Verdict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        # Into a file or a pipe nothing is cut off.
        console = Console(width=200)
    screen = Table(title=f"{verdict.pipeline}: {verdict.outcome}", title_justify="left", box=None, pad_edge=False)
    for name in ("table", "outcome", "at", "source", "lake", "values compared", "differences"):
        screen.add_column(
            name, justify="right" if name in ("source", "lake", "values compared") else "left", overflow="fold"
        )
    for one in verdict.tables:
        screen.add_row(*_row(one))
    console.print(screen)
    for one in verdict.tables:
        _explain(one)


def _row(one: TableResult) -> list[str]:
    if one.layer is None or one.reason is not None:
        return [one.table, one.outcome, one.position or "", "", "", "", ""]
    counts = (("missing", one.missing), ("extra", one.extra), ("different", one.different))
    return [
        one.table,
        one.outcome,
        one.position or "",
        f"{one.source_rows:,}",
        f"{one.lake_rows:,}",
        f"{one.compared} of {one.chunks} chunks",
        ", ".join(f"{keys.count:,} {what}" for what, keys in counts if keys.count),
    ]


def _explain(one: TableResult) -> None:
    if one.reason is not None:
        print(f"{one.table}: {one.reason}")
    for what, keys in (
        ("missing in the lake", one.missing),
        ("extra in the lake", one.extra),
        ("different", one.different),
    ):
        if keys.count:
            print(f"{one.table}: {what}: {_keys(keys)}")
    if one.columns:
        print(f"{one.table}: columns that differ: {', '.join(f'{name} ({n})' for name, n in one.columns.items())}")
    for note in one.notes:
        print(f"{one.table}: {note}")
    if one.quarantined_rows:
        print(f"{one.table}: {one.quarantined_rows:,} of the lake's rows are in quarantine")


def _keys(keys: Keys) -> str:
    shown = [
        "(" + ", ".join(f"{name}={'NULL' if text is None else text}" for name, text in key.items()) + ")"
        for key in keys.named[:_SHOWN]
    ]
    left = keys.count - len(shown)
    return " ".join(shown) + (f" and {left:,} more" if left else "")
