"""What a sink has accepted and made durable, counted per table, for reports."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from catchment.change import ChangeBatch
from catchment.telemetry import TableReport

RATE_WINDOW_SECONDS = 5.0


@dataclass
class _Table:
    accepted: int = 0
    durable: int = 0
    open_rows: int = 0
    bounded_rows: int = 0
    newest_us: int | None = None
    bounded_newest_us: int | None = None
    durable_at_us: int | None = None
    freshness_ms: float | None = None
    history: deque[tuple[float, int]] = field(default_factory=deque)


class Ledger:
    """Counts one sink's rows: accepted, closed by a boundary, durable. Totals outlive a reopening."""

    def __init__(self) -> None:
        self._tables: dict[str, _Table] = defaultdict(_Table)
        self._oldest_open: float | None = None
        self._oldest_bounded: float | None = None
        self.bounded_rows = 0

    def reset(self) -> None:
        """Forget what was accepted and not durable: it will come again."""
        for table in self._tables.values():
            table.accepted -= table.open_rows + table.bounded_rows
            table.open_rows = table.bounded_rows = 0
        self.bounded_rows = 0
        self._oldest_open = self._oldest_bounded = None

    def accept(self, batch: ChangeBatch, now: float) -> None:
        """Count a batch that the sink took at `now` (epoch seconds)."""
        table = self._tables[str(batch.table)]
        table.accepted += len(batch)
        table.open_rows += len(batch)
        committed = batch.records.column("_committed_at")
        newest = committed[len(batch) - 1].value
        if newest is not None:
            table.newest_us = newest
        oldest = committed[0].value
        since = oldest / 1e6 if oldest is not None and batch.chunk is None else now
        self._oldest_open = since if self._oldest_open is None else min(self._oldest_open, since)

    def close_boundary(self) -> None:
        """All that was accepted so far may be flushed."""
        for table in self._tables.values():
            if table.open_rows:
                self.bounded_rows += table.open_rows
                table.bounded_rows += table.open_rows
                table.open_rows = 0
                table.bounded_newest_us = table.newest_us
        if self._oldest_open is not None:
            self._oldest_bounded = (
                self._oldest_open if self._oldest_bounded is None else min(self._oldest_bounded, self._oldest_open)
            )
            self._oldest_open = None

    def settle(self, now: float) -> None:
        """A flush at `now` made all that was bounded durable."""
        for table in self._tables.values():
            if table.bounded_rows:
                table.durable += table.bounded_rows
                table.bounded_rows = 0
                table.durable_at_us = table.bounded_newest_us
                if table.durable_at_us is not None:
                    table.freshness_ms = max(0.0, now * 1e3 - table.durable_at_us / 1e3)
        self.bounded_rows = 0
        self._oldest_bounded = None

    def lag_ms(self, now: float) -> float:
        """The age of the oldest change that is not durable, 0 when all is."""
        ages = [now - since for since in (self._oldest_open, self._oldest_bounded) if since is not None]
        return max(0.0, max(ages, default=0.0) * 1e3)

    @staticmethod
    def merged(ledgers: Sequence[Ledger], at: float) -> Mapping[str, TableReport]:
        """One report a table: emitted by the fastest sink, durable in the slowest. at: monotonic seconds."""
        reports: dict[str, TableReport] = {}
        for ledger in ledgers:
            for name, table in ledger._tables.items():
                mine = TableReport(
                    changes=table.accepted,
                    durable_changes=table.durable,
                    changes_per_second=_rate(table, at),
                    last_committed_at=None if table.durable_at_us is None else table.durable_at_us / 1e6,
                    freshness_ms=table.freshness_ms,
                )
                other = reports.get(name)
                reports[name] = mine if other is None or mine.durable_changes < other.durable_changes else other
        return reports


def _rate(table: _Table, at: float) -> float:
    history = table.history
    history.append((at, table.accepted))
    while len(history) > 2 and at - history[0][0] > RATE_WINDOW_SECONDS:
        history.popleft()
    seconds = at - history[0][0]
    return max(0.0, (table.accepted - history[0][1]) / seconds) if seconds > 0 else 0.0
