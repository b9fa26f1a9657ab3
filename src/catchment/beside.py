"""What runs beside a pipeline: its reports and dead letters kept for other processes, its gold refreshed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.gold.refresher import GoldRefresher
from catchment.lakehouse.lease import holder
from catchment.lakehouse.ops import OpsReporter, OpsStore
from catchment.sources.base import DeadLetter
from catchment.telemetry import Report

UNDER_WAY = ("running", "stopped")


class KeptReports:
    """Keeps a pipeline's reports in `ops.metrics`, while the pipeline is ours.

    A second process on a pipeline ends at once, with an error of its own: the reports of the first go on
    undisturbed.
    """

    def __init__(self, pipeline: str, lakehouse: LakehouseConfig, directory: Path) -> None:
        self._pipeline = pipeline
        self._directory = directory
        self._store = OpsStore.open(lakehouse, directory)
        self._reporter = OpsReporter(self._store, pipeline)

    def report(self, report: Report) -> None:
        """Keep one report."""
        if report.state in UNDER_WAY or holder(self._pipeline, self._directory) in (None, os.getpid()):
            self._reporter.report(report)

    def close(self) -> None:
        """Let go of the database until there is a report again."""
        self._store.close()


class KeptLetters:
    """Keeps a pipeline's dead letters in `ops.dead_letters`."""

    def __init__(self, pipeline: str, lakehouse: LakehouseConfig, directory: Path) -> None:
        self._pipeline = pipeline
        self._store = OpsStore.open(lakehouse, directory)

    def __call__(self, letters: Sequence[DeadLetter]) -> str:
        """Keep them durably, each once; says where."""
        self._store.set_aside(self._pipeline, letters)
        return "ops.dead_letters"

    def close(self) -> None:
        """Let go of the database until there are letters again."""
        self._store.close()


class GoldBeside:
    """Refreshes gold while a pipeline runs; makes sure of the models when it is made."""

    def __init__(self, lakehouse: LakehouseConfig, directory: Path, pipeline: str) -> None:
        self._lakehouse = lakehouse
        self._directory = directory
        self._pipeline = pipeline
        GoldRefresher.of(lakehouse, directory)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        refresher = GoldRefresher.of(self._lakehouse, self._directory, self._pipeline)
        if refresher is None:
            yield
            return
        refresher.start()
        try:
            yield
        finally:
            refresher.stop()
            refresher.close()
