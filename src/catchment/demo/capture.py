"""A pipeline that runs in a thread of this process, and its last report."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import Fatal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catchment.config import PipelineConfig
    from catchment.pipeline import Pipeline
    from catchment.telemetry import Report


class Capture:
    """Runs the pipeline of a file: `start`, look at `report`, `drain` or `stop`.

    Every method raises what the pipeline raised, once it has ended with an error.
    """

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        from catchment.config import load

        self._config: PipelineConfig = load(path, environ)
        self._pipeline: Pipeline = self._config.build(reporters=[self])
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.last: Report | None = None
        """The newest report."""
        self.live = False
        """Has it read every table and does it follow the changes?"""

    def report(self, report: Report) -> None:
        """Called by the pipeline."""
        self.last = report
        unread = any(one.chunks_done < one.chunks_total for one in report.snapshots.values())
        if report.state == "running" and report.mode == "live" and not unread:
            self.live = True

    def start(self) -> None:
        """Capture until told otherwise."""
        self._run(until_caught_up=False)

    @property
    def running(self) -> bool:
        """Does it run? Raises what it ended with."""
        if self._thread is not None and not self._thread.is_alive() and self._error is not None:
            raise self._error
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """End at the next boundary, all of it durable."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._stop = threading.Event()

    def begin_drain(self) -> None:
        """Stop, and go on until all that the source holds at this moment is durable; watch `running`."""
        self.stop()
        if self._error is not None:
            raise self._error
        self._run(until_caught_up=True)

    def refresh_gold(self) -> None:
        """Bring gold up to what is durable now; beside capture it runs a little behind."""
        from catchment.lakehouse.gold.refresher import GoldRefresher

        refresher = GoldRefresher.of(self._config.lakehouse, self._config.directory, self._config.name)
        if refresher is None:
            return
        with closing(refresher):
            failed = {name: status.error for name, status in refresher.refresh().items() if status.error}
        if failed:
            raise Fatal(f"Gold could not be refreshed: {'; '.join(f'{name}: {why}' for name, why in failed.items())}")

    def _run(self, *, until_caught_up: bool) -> None:
        if self._thread is not None and self._thread.is_alive():
            raise Fatal("This pipeline runs already.")
        stop = self._stop

        def run() -> None:
            try:
                self._pipeline.run(stop, until_caught_up=until_caught_up)
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that asks
                self._error = error

        self._thread = threading.Thread(target=run, name="capture", daemon=True)
        self._thread.start()
