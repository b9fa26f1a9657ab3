"""A runner of a managed part, in a thread of this process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from catchment.aws.local.counters import RunnerSnapshot

STOP_SECONDS = 30.0


class Runner(Protocol):
    """Works until the event is set, then leaves everything in order."""

    def run(self, stop: threading.Event) -> object: ...

    def snapshot(self) -> RunnerSnapshot: ...


class RunnerThread:
    """Runs it: `start`, look at `snapshot`, `stop`. What it ends with is raised where it is looked at."""

    def __init__(self, name: str, runner: Runner) -> None:
        self._runner = runner
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def snapshot(self) -> RunnerSnapshot:
        """What was done so far. Raises what it ended with."""
        if self._error is not None:
            raise self._error
        return self._runner.snapshot()

    def stop(self) -> None:
        """End it in order. May be called twice; raises nothing."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            self._runner.run(self._stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that looks
            self._error = error
