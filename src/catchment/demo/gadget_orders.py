"""Sales of gadgets, made up: orders come, move on, are corrected and go, in a DynamoDB table.

::

    orders = GadgetOrders("OrderTable", region="us-east-1")
    orders.insert_order(orders.generate_order())
    orders.run_continuous_generation(interval=3)
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from catchment.demo.gadget_choices import GadgetChoices, Order, OrderChange
from catchment.demo.order_table import OrderTable
from catchment.demo.traffic import Pace, check_rate
from catchment.errors import ConfigError

__all__ = ["GadgetOrders", "GenerationSummary", "Order", "OrderChange"]

LOG = logging.getLogger(__name__)
"""Each order that was written, at INFO. They are made up: nobody's data."""

BATCHED_ABOVE = 20.0
"""Writes a second from which several go together."""
TICK_SECONDS = 0.025
LONGEST_BATCH_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class GenerationSummary:
    """What was written. kinds: writes by kind; unwritten: made but not taken before the end; orders: how many are left.

    throttled: how often AWS asked for patience; seconds: how long it took.
    """

    writes: int
    kinds: Mapping[str, int]
    unwritten: int
    throttled: int
    orders: int
    seconds: float


class GadgetOrders:
    """Makes orders and writes them. The same seed makes the same changes; only their times are the clock's.

    region: None for AWS's own chain, as with the credentials. Raises `ConfigError` without boto3 or a region.
    """

    def __init__(self, table: str = "OrderTable", *, region: str | None = None, seed: int | None = None) -> None:
        self.table = OrderTable(table, region)
        self.choices = GadgetChoices(seed)

    def generate_order(self) -> Order:
        """An order to write: a new one, or one of before with its status moved on or its quantity corrected."""
        return dict(self.choices.next_order().order)

    def insert_order(self, order: Order) -> None:
        """Write one order, over the one of that id if there is one. Raises TypeError for a float: use Decimal."""
        self.table.put(order)
        LOG.info("put %s: %s × %s", order["orderid"], order.get("quantity"), order.get("product_name"))

    def run_continuous_generation(
        self,
        interval: float = 3.0,
        rate: float | None = None,
        *,
        seconds: float | None = None,
        stop: threading.Event | None = None,
        written: Callable[[Sequence[OrderChange]], None] | None = None,
        progress: Callable[[GenerationSummary], None] | None = None,
    ) -> GenerationSummary:
        """Write a change every `interval` seconds, or `rate` a second, until `stop` is set or the seconds are over.

        stop: by default Ctrl-C and SIGTERM, which end it after the write that is under way. written: is told of
        changes as soon as they are in the table; progress: about once a second. A table that is slower gets as much as
        it takes; what was missed for more than a second is not made up for.

        Raises `ConfigError` when there is no such table, `SourceUnavailable` when AWS goes away.
        """
        if rate is None and interval <= 0:
            raise ConfigError("The interval must be above 0 seconds.")
        pace = 1 / interval if rate is None else rate
        check_rate(pace)
        with _stopping(stop) as ended:
            return _Run(self.table, self.choices, pace, ended, written, progress).go(seconds)


class _Run:
    """One run at one pace."""

    def __init__(
        self,
        table: OrderTable,
        choices: GadgetChoices,
        rate: float,
        stop: threading.Event,
        written: Callable[[Sequence[OrderChange]], None] | None,
        progress: Callable[[GenerationSummary], None] | None,
    ) -> None:
        self._table = table
        self._choices = choices
        self._rate = rate
        self._most = max(1, int(rate * LONGEST_BATCH_SECONDS)) if rate > BATCHED_ABOVE else 1
        self._stop = stop
        self._written = written
        self._progress = progress
        self._kinds: Counter[str] = Counter()
        self._unwritten = 0
        self._throttled_before = table.throttled
        self._began = self._told = time.monotonic()

    def go(self, seconds: float | None) -> GenerationSummary:
        end = self._began + seconds if seconds is not None else float("inf")
        pace = Pace(self._rate, self._began - 1 / self._rate)  # the first one is due at once
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= end:
                break
            if due := min(pace.due(now), self._most):
                self._write([self._choices.next() for _ in range(due)])
                pace.did(due)
            else:
                tick = TICK_SECONDS if self._most > 1 else 0.0
                self._stop.wait(min(max(tick, pace.wait(now)), end - now, 1.0))
            self._report()
        return self.summary()

    def summary(self) -> GenerationSummary:
        return GenerationSummary(
            writes=self._kinds.total(),
            kinds=dict(sorted(self._kinds.items())),
            unwritten=self._unwritten,
            throttled=self._table.throttled - self._throttled_before,
            orders=len(self._choices.orders),
            seconds=round(time.monotonic() - self._began, 3),
        )

    def _write(self, changes: list[OrderChange]) -> None:
        done = changes[: self._table.write(changes, self._stop)]
        self._unwritten += len(changes) - len(done)
        self._kinds.update(change.kind for change in done)
        if self._written is not None:
            self._written(done)
        if LOG.isEnabledFor(logging.INFO):
            for change in done:
                LOG.info("%s", change)

    def _report(self) -> None:
        if self._progress is not None and time.monotonic() - self._told >= 1.0:
            self._told = time.monotonic()
            self._progress(self.summary())


@contextmanager
def _stopping(stop: threading.Event | None) -> Iterator[threading.Event]:
    """The caller's event, or one that signals set; in a thread there are no signals, and no end but the seconds'."""
    if stop is not None:
        yield stop
    elif threading.current_thread() is not threading.main_thread():
        yield threading.Event()
    else:
        from catchment.cli.signals import stop_on_signals

        with stop_on_signals() as asked:
            yield asked
