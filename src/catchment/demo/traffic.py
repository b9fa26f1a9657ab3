"""Traffic for the shop at a steady rate: orders come, move and go, people move house, prices change."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catchment.demo.choices import STATEMENTS, read_choices
from catchment.demo.shop import connect
from catchment.errors import ConfigError, SourceUnavailable

if TYPE_CHECKING:
    import psycopg

FASTEST = 5_000
"""Operations a second that one generator is made for."""

TICK_SECONDS = 0.02
LONGEST_BATCH_SECONDS = 0.1
"""How much of a second's work is sent at once at most, so that stopping takes effect soon."""
COMMITS_PER_SECOND = 500
"""Above that many operations a second, several share a transaction, as few as the server keeps up with."""
LARGEST_TRANSACTION = 32
LATE_SECONDS = 0.25
"""Behind by more than that, transactions become twice as large: commits wait for the server's disk."""


@dataclass(frozen=True, slots=True)
class TrafficSummary:
    """What was done. kinds: operations by kind; transactions: commits; seconds: how long it took."""

    operations: int
    transactions: int
    seconds: float
    kinds: Mapping[str, int]


def check_rate(rate: float) -> None:
    """Raises `ConfigError` for a rate that one generator is not made for."""
    if not 0 < rate <= FASTEST:
        raise ConfigError(f"The rate must be above 0 and at most {FASTEST:,} operations a second.")


class Traffic:
    """Makes things happen in a shop at a steady rate, over one connection, in small transactions."""

    def __init__(self, dsn: str, *, seed: int = 1) -> None:
        self._dsn = dsn
        self._seed = seed

    def run(
        self,
        stop: threading.Event,
        rate: float,
        seconds: float | None = None,
        progress: Callable[[TrafficSummary], None] | None = None,
    ) -> TrafficSummary:
        """Go on at `rate` operations a second until `stop` is set or the seconds are over.

        A server that is slower than that gets as much as it takes; what was missed for more than a second
        is not made up for. `progress` is called about once a second. Everything counted is committed.

        Raises `SourceUnavailable` when the server goes away.
        """
        import psycopg

        check_rate(rate)
        try:
            with connect(self._dsn) as connection:
                return _Run(connection, self._seed, rate).go(stop, seconds, progress)
        except psycopg.OperationalError as error:
            raise SourceUnavailable(f"PostgreSQL went away under the shop's traffic: {str(error).strip()}") from None


class Pace:
    """How many operations are due, and what is forgiven: more than a second's worth is not made up for."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._since = now
        self._done = 0

    def due(self, now: float) -> int:
        """How many should have been done by now and were not."""
        owed = int((now - self._since) * self._rate + 1e-6) - self._done  # 0.2 s × 4,500/s is 899.9999…
        most = max(1, int(self._rate))
        if owed > most:
            self._since, self._done, owed = now - most / self._rate, 0, most
        return owed

    def did(self, count: int) -> None:
        """So many were done."""
        self._done += count

    def wait(self, now: float) -> float:
        """Seconds until the next one is due."""
        return max(0.0, self._since + (self._done + 1) / self._rate - now)


class _Run:
    """One run over one connection."""

    def __init__(self, connection: psycopg.Connection, seed: int, rate: float) -> None:
        self._connection = connection
        self._seed = seed
        self._rate = rate
        self._per_transaction = max(1, round(rate / COMMITS_PER_SECOND))
        self._choices = read_choices(connection, seed)
        self._kinds: Counter[str] = Counter()
        self._transactions = 0
        self._began = time.monotonic()

    def go(
        self,
        stop: threading.Event,
        seconds: float | None,
        progress: Callable[[TrafficSummary], None] | None,
    ) -> TrafficSummary:
        self._began = told = time.monotonic()
        end = self._began + seconds if seconds is not None else float("inf")
        pace = Pace(self._rate, self._began)
        most = max(self._per_transaction, int(self._rate * LONGEST_BATCH_SECONDS))
        while not stop.is_set():
            now = min(time.monotonic(), end)
            owed = pace.due(now)
            due = min(owed, most)
            if due and time.monotonic() < end + LATE_SECONDS:
                self._make(due)
                pace.did(due)
                if owed > self._rate * LATE_SECONDS:
                    self._per_transaction = min(2 * self._per_transaction, LARGEST_TRANSACTION)
            elif now >= end:
                break
            else:
                stop.wait(min(max(TICK_SECONDS, pace.wait(now)), end - now, 1.0))
            if progress is not None and time.monotonic() - told >= 1.0:
                told = time.monotonic()
                progress(self.summary())
        return self.summary()

    def summary(self) -> TrafficSummary:
        return TrafficSummary(
            operations=self._kinds.total(),
            transactions=self._transactions,
            seconds=round(time.monotonic() - self._began, 3),
            kinds=dict(sorted(self._kinds.items())),
        )

    def _make(self, count: int) -> None:
        """Do so many operations, in transactions one after the other, with one wait for all of them."""
        import psycopg

        operations = [self._choices.next() for _ in range(count)]
        groups = [operations[at : at + self._per_transaction] for at in range(0, count, self._per_transaction)]
        try:
            with self._connection.pipeline() as pipeline:
                for group in groups:
                    for operation in group:
                        for statement, parameters in operation.statements:
                            self._connection.execute(STATEMENTS[statement].encode(), parameters, prepare=True)
                    pipeline.sync()  # in a pipeline, what lies between two of these is one transaction
        except (psycopg.IntegrityError, psycopg.errors.DeadlockDetected):
            # Another generator took a user or an order away at the same moment. What was made of this
            # batch is not counted; we look at the shop again and go on.
            self._seed += 1
            self._choices = read_choices(self._connection, self._seed)
            return
        self._transactions += len(groups)
        self._kinds.update(operation.kind for operation in operations)
