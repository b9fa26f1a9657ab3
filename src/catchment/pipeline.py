"""The only run loop: source → transforms → sinks → acknowledge. It knows no system's name.

Recovery is by one road only: after any failure everything is closed, what was not durable is dropped,
and all is opened again at what every sink holds. There is no second, rarely used way to be wrong.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

from catchment import failpoint
from catchment.change import ChangeBatch
from catchment.clock import Clock, SystemClock
from catchment.errors import CatchmentError, Reopen, Retriable, SourceRefused
from catchment.ledger import Ledger
from catchment.progress import Progress, minimum, resume_point
from catchment.sinks.base import Sink
from catchment.sources.base import DeadLetter, Idle, SchemaChange, Source, SourceStatus, TransactionEnd
from catchment.telemetry import LOGGER, Report, Reporter, SinkReport
from catchment.transforms.base import Chain

log = logging.getLogger(LOGGER)

LETTERS_IN_MEMORY = 1_000


@dataclass(frozen=True, slots=True)
class FlushPolicy:
    """When a sink is flushed: at the first boundary after so many rows or so much time.

    idle_interval_seconds: how often progress without rows is kept.
    """

    interval_seconds: float = 1.0
    rows: int = 100_000
    idle_interval_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the next attempt. patience_seconds: how long to try for the first success."""

    first_seconds: float = 0.5
    factor: float = 2.0
    most_seconds: float = 30.0
    patience_seconds: float = 10.0

    def seconds(self, failures: int) -> float:
        """The wait after so many failures in a row."""
        return min(self.most_seconds, self.first_seconds * self.factor ** max(0, failures - 1))


@dataclass(frozen=True, slots=True)
class SinkPlan:
    """How to make a sink, and when to flush it."""

    open: Callable[[], Sink]
    flush: FlushPolicy = FlushPolicy()


@dataclass
class _SinkRun:
    """One sink while it is open."""

    name: str
    sink: Sink
    policy: FlushPolicy
    durable: Progress | None
    ledger: Ledger
    boundary: Progress | None = None
    flushed_at: float = 0.0
    report: SinkReport = field(default_factory=SinkReport)
    settled_lag_ms: float = 0.0

    def write(self, batch: ChangeBatch, now: float) -> None:
        fresh = batch.after(self.durable)
        if fresh is not None and len(fresh):
            self.sink.write(fresh)
            self.ledger.accept(fresh, now)

    def advance(self, progress: Progress) -> None:
        self.sink.advance(progress)
        self.ledger.close_boundary()
        self.boundary = progress

    def wait(self, now: float) -> float | None:
        """Seconds until a flush is due; None when there is nothing to flush."""
        if self.boundary is None or (self.durable is not None and self.durable.covers(self.boundary)):
            return None
        if self.ledger.bounded_rows >= self.policy.rows:
            return 0.0
        rows = self.ledger.bounded_rows
        interval = self.policy.interval_seconds if rows else self.policy.idle_interval_seconds
        return max(0.0, self.flushed_at + interval - now)

    def lag_ms(self, now: float) -> float:
        """The age that a change reached at most before it was durable, since this was asked last."""
        lag = max(self.settled_lag_ms, self.ledger.lag_ms(now))
        self.settled_lag_ms = 0.0
        return lag

    def flush(self, clock: Clock) -> None:
        started = clock.monotonic()
        held = self.sink.flush()
        self.flushed_at = clock.monotonic()
        if held is not None:
            self.durable = held if self.durable is None else self.durable.join(held)
        if self.boundary is not None and self.durable is not None and self.durable.covers(self.boundary):
            self.settled_lag_ms = max(self.settled_lag_ms, self.ledger.lag_ms(clock.now()))
            self.ledger.settle(clock.now())
        self.report = SinkReport(
            flushes=self.report.flushes + 1,
            last_flush_at=clock.now(),
            flush_seconds=self.flushed_at - started,
            progress=self.durable.to_json() if self.durable else None,
        )


class Pipeline:
    """Runs one pipeline until it is stopped, has caught up, or cannot go on.

    open_source and each sink's `open` make a new instance for every attempt.
    ends: the source comes to an end by itself, and so does a run. beside: what is entered for each
    run and left at its end, such as the refresh of gold. set_aside: keeps dead letters durably, each once, and may say
    where; without it a record that cannot be decoded ends the run.
    """

    def __init__(
        self,
        name: str,
        *,
        open_source: Callable[[], Source],
        sinks: Mapping[str, SinkPlan],
        transform: Chain | None = None,
        reporters: Sequence[Reporter] = (),
        clock: Clock | None = None,
        backoff: Backoff | None = None,
        acknowledge: bool = True,
        report_interval_seconds: float = 1.0,
        ends: bool = False,
        beside: Sequence[Callable[[], AbstractContextManager[object]]] = (),
        set_aside: Callable[[Sequence[DeadLetter]], str | None] | None = None,
    ) -> None:
        self.name = name
        self._set_aside = set_aside
        self._letters: list[DeadLetter] = []
        self._beside = tuple(beside)
        self._open_source = open_source
        self._plans = dict(sinks)
        self._transform = transform or Chain(())
        self._reporters = tuple(reporters)
        self._clock = clock or SystemClock()
        self._backoff = backoff or Backoff()
        self._acknowledges = acknowledge
        self._ends = ends
        self._report_interval = report_interval_seconds
        self._ledgers = {name: Ledger() for name in self._plans}
        self._last = Report(at=self._clock.now(), state="starting")
        self._reported_at = float("-inf")
        self._succeeded_at: float | None = None
        self._opened_at: float | None = None

    def run(self, stop: threading.Event, *, until_caught_up: bool = False) -> Report:
        """Capture until `stop` is set, or until what the source held at the start is durable.

        Retriable failures are waited out; a first start has `Backoff.patience_seconds` to succeed. Returns
        the last report. Raises `Fatal`, or `Retriable` when the first start does not succeed.
        """
        with ExitStack() as stack:
            for enter in self._beside:
                stack.enter_context(enter())
            return self._run(stop, until_caught_up)

    def _run(self, stop: threading.Event, until_caught_up: bool) -> Report:
        failures = 0
        began = self._clock.monotonic()
        while True:
            try:
                self._attempt(stop, until_caught_up)
            except Reopen as reason:
                self._succeeded_at = self._clock.monotonic()
                log.info("%s: %s", self.name, reason)
                if stop.is_set():
                    break
            except Retriable as error:
                self._note_success()
                if self._succeeded_at is not None and self._succeeded_at > began:
                    failures, began = 0, self._succeeded_at
                failures += 1
                if self._succeeded_at is None and self._clock.monotonic() - began > self._backoff.patience_seconds:
                    self._tell("failed", error)
                    raise
                self._last = replace(self._last, restarts=self._last.restarts + 1)
                self._tell("waiting", error)
                wait = self._backoff.seconds(failures)
                log.warning("%s: %s Trying again in %.1f s; nothing is lost.", self.name, error, wait)
                if self._pause(stop, wait):
                    break
            except CatchmentError as error:
                self._tell("failed", error)
                raise
            else:
                break
        self._tell("stopped")
        return self._last

    def _note_success(self) -> None:
        """A run that was open for longer than a start may take was well, though it had nothing to flush."""
        now = self._clock.monotonic()
        if self._opened_at is not None and now - self._opened_at > self._backoff.patience_seconds:
            self._succeeded_at = now

    def _pause(self, stop: threading.Event, seconds: float) -> bool:
        """Wait, in small steps of the clock; True when stopped meanwhile."""
        end = self._clock.monotonic() + seconds
        while not stop.is_set() and self._clock.monotonic() < end:
            self._clock.sleep(min(0.1, seconds))
        return stop.is_set()

    def _attempt(self, stop: threading.Event, until_caught_up: bool) -> None:
        self._opened_at = None
        self._letters.clear()
        with ExitStack() as stack:
            runs = [self._open_sink(name, plan, stack) for name, plan in self._plans.items()]
            source = self._open_source()
            stack.callback(source.close)
            resume = resume_point(run.durable for run in runs)
            source.open(resume)
            self._opened_at = self._clock.monotonic()
            target = source.head() if until_caught_up or self._ends else None
            self._loop(source, runs, stop, target, resume)

    def _open_sink(self, name: str, plan: SinkPlan, stack: ExitStack) -> _SinkRun:
        sink = plan.open()
        stack.callback(sink.close)
        durable = sink.open()
        ledger = self._ledgers[name]
        ledger.reset()
        report = self._last.sinks.get(name, SinkReport())
        return _SinkRun(name, sink, plan.flush, durable, ledger, None, self._clock.monotonic(), report)

    def _loop(
        self,
        source: Source,
        runs: list[_SinkRun],
        stop: threading.Event,
        target: Progress | None,
        acknowledged: Progress | None,
    ) -> None:
        while not stop.is_set():
            self._handle(source, runs, self._timeout(runs))
            acknowledged = self._flush_due(source, runs, acknowledged, all_of_them=False)
            self._observe(source, runs)
            if target is not None and self._caught_up(runs, target):
                break
        self._flush_due(source, runs, acknowledged, all_of_them=True)
        self._observe(source, runs, now=True)

    def _handle(self, source: Source, runs: list[_SinkRun], timeout: float) -> None:
        event = source.next(timeout)
        match event:
            case None:
                pass
            case ChangeBatch():
                batch = self._transform.apply(event)
                if batch is not None:
                    now = self._clock.now()
                    for run in runs:
                        run.write(batch, now)
            case TransactionEnd(progress) | Idle(progress):
                for run in runs:
                    run.advance(progress)
            case SchemaChange(schema):
                changed = self._transform.schema(schema)
                for run in runs:
                    run.sink.schema_change(changed)
            case DeadLetter():
                self._letters.append(event)
                if len(self._letters) >= LETTERS_IN_MEMORY:
                    self._keep_letters()

    def _timeout(self, runs: list[_SinkRun]) -> float:
        now = self._clock.monotonic()
        waits = [wait for run in runs if (wait := run.wait(now)) is not None]
        return min([*waits, 0.25])

    def _flush_due(
        self, source: Source, runs: list[_SinkRun], acknowledged: Progress | None, *, all_of_them: bool
    ) -> Progress | None:
        now = self._clock.monotonic()
        flushed = False
        for run in runs:
            wait = run.wait(now)
            if wait is not None and (all_of_them or wait <= 0.0):
                self._keep_letters()
                run.flush(self._clock)
                flushed = True
        if not flushed:
            return acknowledged
        self._succeeded_at = self._clock.monotonic()
        durable = minimum(run.durable for run in runs)
        if durable is None or not self._acknowledges:
            return acknowledged
        failpoint.reach("before_acknowledge")
        source.acknowledge(durable)
        return durable

    def _keep_letters(self) -> None:
        """Before a flush makes progress durable that is above them: they would not come again."""
        if not self._letters:
            return
        first = self._letters[0]
        if self._set_aside is None:
            raise SourceRefused(
                f"A record of {first.table} at {first.lane} {first.position.hex()} cannot be decoded: {first.reason}. "
                "This pipeline keeps no dead letters."
            )
        place = self._set_aside(self._letters)
        log.warning(
            "%s: %d records cannot be decoded, such as one of %s at %s %s: %s.%s",
            self.name,
            len(self._letters),
            first.table,
            first.lane,
            first.position.hex(),
            first.reason,
            f" Kept in {place}." if place else "",
        )
        self._last = replace(self._last, dead_letters=self._last.dead_letters + len(self._letters))
        self._letters.clear()

    def _caught_up(self, runs: list[_SinkRun], target: Progress) -> bool:
        """Is the target durable? A boundary that covers it is flushed at once, not at the next interval."""
        for run in runs:
            if run.durable is not None and run.durable.covers(target):
                continue
            if run.boundary is None or not run.boundary.covers(target):
                return False
        return True

    def _observe(self, source: Source, runs: list[_SinkRun], *, now: bool = False) -> None:
        at = self._clock.monotonic()
        if not self._reporters or (not now and at - self._reported_at < self._report_interval):
            return
        self._reported_at = at
        wall = self._clock.now()
        status: SourceStatus = source.status()
        ledgers = [run.ledger for run in runs]
        self._last = replace(
            self._last,
            mode=status.mode,
            lag_bytes=status.lag_bytes,
            lag_ms=max((run.lag_ms(wall) for run in runs), default=0.0),
            notes=status.notes,
            tables=Ledger.merged(ledgers, at),
            sinks={run.name: run.report for run in runs},
            snapshots=dict(status.snapshots),
        )
        self._tell("running")

    def _tell(self, state: str, error: CatchmentError | None = None) -> None:
        self._last = replace(
            self._last,
            at=self._clock.now(),
            state=state,
            last_error=str(error) if error else self._last.last_error,
        )
        for reporter in self._reporters:
            reporter.report(self._last)
