"""`catchment run`: capture."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath
from catchment.cli.exits import INTERRUPTED

if TYPE_CHECKING:
    from catchment.config import PipelineConfig


def run(
    pipeline: PipelinePath,
    until_caught_up: Annotated[
        bool, typer.Option("--until-caught-up", help="End when what the source held at the start is durable.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read, transform and count; land nothing, acknowledge nothing.")
    ] = False,
    resnapshot: Annotated[
        bool, typer.Option("--resnapshot", help="Begin anew: a new slot, and every table is read again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Capture changes until stopped.

    Ctrl-C and SIGTERM end it at the next boundary, with everything before it durable; run again, it resumes.
    A lost connection is waited out. --dry-run begins where the lake is and ends when it has caught up.
    """
    from catchment.config import load
    from catchment.errors import ConfigError

    if dry_run and resnapshot:
        raise ConfigError("--dry-run and --resnapshot exclude each other: leave one out.")
    config = load(pipeline)
    if dry_run:
        _dry_run(config, as_json)
    else:
        _run(config, until_caught_up, resnapshot, as_json)


def _run(config: PipelineConfig, until_caught_up: bool, resnapshot: bool, as_json: bool) -> None:
    from catchment.cli.progress_line import ProgressLine
    from catchment.cli.signals import stop_on_signals

    shown = ProgressLine(environment=config.environment)
    shown.log(config.telemetry.log_level)
    built = config.build([shown], resnapshot=resnapshot)
    with stop_on_signals() as stop:
        try:
            report = built.run(stop, until_caught_up=until_caught_up)
        finally:
            shown.end()
        if until_caught_up and stop.signal is None:
            _refresh_gold(config)
    if as_json:
        print(report.to_json())
    # SIGTERM is how a service is ended; a run that had an end of its own to reach did not reach it.
    if stop.signal == signal.SIGINT or (stop.signal is not None and until_caught_up):
        raise typer.Exit(INTERRUPTED)


def _refresh_gold(config: PipelineConfig) -> None:
    """Once more after the last change: beside capture it is refreshed under a budget only."""
    from contextlib import closing

    from catchment.lakehouse.gold.refresher import GoldRefresher

    refresher = GoldRefresher.of(config.lakehouse, config.directory, config.name)
    if refresher is not None:
        with closing(refresher):
            refresher.refresh()


def _dry_run(config: PipelineConfig, as_json: bool) -> None:
    from catchment.cli.dry_run import as_document, as_table
    from catchment.cli.progress_line import ProgressLine
    from catchment.cli.signals import stop_on_signals
    from catchment.sinks.counting import Counts

    shown, counts = ProgressLine(environment=config.environment, lands=False), Counts()
    shown.log(config.telemetry.log_level)
    built = config.build_dry(counts, [shown])
    with stop_on_signals() as stop:
        try:
            built.run(stop, until_caught_up=True)
        finally:
            shown.end()
    print(as_document(counts) if as_json else as_table(counts))
    if stop.signal is not None:
        raise typer.Exit(INTERRUPTED)
