"""Maintenance beside capture: a thread that does a piece of what is due, and rests; a burst of changes goes first.

It also does what commands ask of the process that holds the lease. A failure is logged and kept in the status, and
tried again; nothing that happens here stops capture, except a commit whose outcome is unknown: then the writer
refuses further commits, and the pipeline opens everything again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from catchment.errors import CatchmentError, Reopen
from catchment.lakehouse.config import MaintenanceConfig
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.lakehouse.maintenance.table_files import TableFiles
from catchment.lakehouse.maintenance.work import Work, summed_up
from catchment.lakehouse.recovery.requests import pending
from catchment.lakehouse.recovery.tasks import Stopped, serve_requests
from catchment.lakehouse.writer import FindKeyed, LakeWriter
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

Step = Callable[[], bool]

REQUEST_SECONDS = 0.5
"""How soon a command's request is taken."""

STRAIN = 3.0
"""How many times the budget may be spent, at most, where there are so many times too many dead rows."""

LOG_SECONDS = 60.0
"""How often the log says what was done."""

BUSY_CORES = 0.4
"""A process that uses more than this of one core is busy with what it is there for: many pauses are its server's."""

LOOKS = 5
"""Over so many looks; between two it may wait for its server all the time."""

PATIENCE = 3.0
"""For how many intervals work that is due gives way to that: a burst is waited out, what lasts longer is no burst."""

SLICE_SECONDS = 0.2
"""Within a piece of work: so long it works before it rests for the share of time that is not its own."""


@dataclass(frozen=True, slots=True)
class MaintenanceStatus:
    """How maintenance is. last: the last piece of work, and when it ended (epoch seconds). error: why it fails now."""

    last: Work | None = None
    last_at: float | None = None
    pieces: int = 0
    error: str | None = None


class MaintenanceService:
    """Maintains a pipeline's tables while its sink is open: `start`, then `stop`, once each."""

    def __init__(self, writer: LakeWriter, config: MaintenanceConfig, find_keyed: FindKeyed) -> None:
        self._writer = writer
        self._config = config
        self._maintainer = Maintainer(writer, config, find_keyed)
        self._stopping = threading.Event()
        self._pace = _Pace(config.budget_percent, self._stopping)
        self._status = MaintenanceStatus()
        self._log = _Log(writer)
        self._thread = threading.Thread(target=self._run, name="catchment-maintenance", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End: work under way is broken off, and leaves the lake as it was. Before the writer is closed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def status(self) -> MaintenanceStatus:
        """How it is. From any thread."""
        return self._status

    def tables(self) -> Mapping[str, TableFiles]:
        """The files of each table at the last look."""
        return self._maintainer.tables()

    def _run(self) -> None:
        interval, load = self._config.interval_seconds, _Load()
        due = time.monotonic() + interval
        while not self._stopping.wait(REQUEST_SECONDS):
            self._attempt(self._log.tell)
            self._attempt(self._serve)
            busy, waited = load.busy(), time.monotonic() - due
            if not self._config.enabled or waited < 0 or (busy and waited < PATIENCE * interval):
                continue
            if not self._attempt(self._step):
                due = time.monotonic() + interval
        self._attempt(lambda: self._log.tell(now=True))

    def _serve(self) -> bool:
        return pending(self._writer.ops, self._writer.pipeline) and bool(serve_requests(self._writer, self._stopping))

    def _step(self) -> bool:
        """Do one piece, at its pace; was there one?"""
        self._pace.begin(self._maintainer.strain())
        work = self._maintainer.step(self._pace.check)
        if work is None:
            return False
        self._log.add(work)
        self._status = MaintenanceStatus(work, time.time(), self._status.pieces + 1)
        self._pace.rest()
        return True

    def _attempt(self, what: Step) -> bool:
        try:
            return what()
        except (Stopped, Reopen):
            return False
        except CatchmentError as error:
            self._failed(str(error))
        except Exception as error:  # whatever it is, capture goes on
            # Its message may come from anywhere and hold anything; the type does not.
            self._failed(f"{type(error).__name__} while the lake was maintained")
            log.debug("Maintenance failed", exc_info=True)
        return False

    def _failed(self, message: str) -> None:
        if message != self._status.error and not self._stopping.is_set():
            log.warning("The lake could not be maintained; it is tried again, capture goes on. %s", message)
        self._status = MaintenanceStatus(self._status.last, self._status.last_at, self._status.pieces, message)


class _Load:
    """How busy this process has been over the last looks."""

    def __init__(self) -> None:
        self._looks = deque([(time.monotonic(), time.process_time())], maxlen=LOOKS + 1)

    def busy(self) -> bool:
        """Did it use more than `BUSY_CORES`?"""
        self._looks.append((time.monotonic(), time.process_time()))
        (since, before), (at, worked) = self._looks[0], self._looks[-1]
        return worked - before > BUSY_CORES * (at - since)


class _Log:
    """A line a minute, for as long as there is something to tell; each piece is kept in `ops.maintenance`."""

    def __init__(self, writer: LakeWriter) -> None:
        self._writer = writer
        self._done: list[Work] = []
        self._told_at = time.monotonic()

    def add(self, work: Work) -> None:
        log.debug("Maintenance: %s", work)
        self._done.append(work)

    def tell(self, *, now: bool = False) -> bool:
        """Tell of what was done, if it is time to."""
        if not self._done or (time.monotonic() - self._told_at < LOG_SECONDS and not now):
            return False
        self._told_at = time.monotonic()
        self._writer.ops.record_maintenance(self._writer.pipeline, [one.to_row() for one in self._done])
        log.info("Maintenance: %s", summed_up(self._done))
        self._done = []
        return True


class _Pace:
    """Work for a while, rest for the rest: never more of a core than the budget, also within a long piece.

    What counts is the processor's time, not the clock's: waiting for the disk, or for a core, is in nobody's way.
    Where a table has too many dead rows, so that readers wait for it, there is more to the budget.
    """

    def __init__(self, budget_percent: float, stopping: threading.Event) -> None:
        self._budget = max(0.001, budget_percent / 100.0)
        self._rest_for_each_second = 0.0
        self._stopping = stopping
        self._since = 0.0

    def begin(self, strain: float) -> None:
        self._rest_for_each_second = 1.0 / min(1.0, self._budget * min(strain, STRAIN)) - 1.0
        self._since = time.thread_time()

    def check(self) -> None:
        """Rest if it is time to. Raises `Stopped` when the process ends."""
        if self._stopping.is_set():
            raise Stopped
        if time.thread_time() - self._since >= SLICE_SECONDS:
            self.rest()
            if self._stopping.is_set():
                raise Stopped

    def rest(self) -> None:
        """Rest for what was worked since the last rest."""
        self._stopping.wait((time.thread_time() - self._since) * self._rest_for_each_second)
        self._since = time.thread_time()
