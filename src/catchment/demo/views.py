"""How the demo shows itself: as lines without a terminal, as a screen on one (see `screen`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, Self, TextIO, TypeVar

from catchment.demo.outcome import Outcome
from catchment.telemetry import Report, TableReport

LINE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Moment:
    """All there is to show. phase: what is being done. seconds: since traffic began."""

    phase: str
    dsn: str = ""
    seconds: float = 0.0
    seconds_wanted: float | None = None
    operations: int = 0
    operations_per_second: float = 0.0
    seen_after_ms: float | None = None
    report: Report | None = None
    gold: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


class Timed(Protocol):
    """A moment of any demo. phase: what is being done. seconds: since traffic began, 0 before."""

    @property
    def phase(self) -> str: ...

    @property
    def seconds(self) -> float: ...


Shown = TypeVar("Shown", bound=Timed)
Seen = TypeVar("Seen", contravariant=True)


class View(Protocol[Seen]):
    """Shows moments. Everything is called by one thread."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, moment: Seen) -> None:
        """Show this moment; comes several times a second."""
        ...


class Lines(Generic[Shown]):
    """A line for each phase, and one every two seconds."""

    def __init__(self, stream: TextIO, line: Callable[[Shown], str]) -> None:
        self._stream = stream
        self._line = line
        self._phase = ""
        self._at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, moment: Shown) -> None:
        now = time.monotonic()
        if moment.phase == self._phase and (not moment.seconds or now - self._at < LINE_SECONDS):
            return
        self._phase, self._at = moment.phase, now
        print(self._line(moment), file=self._stream, flush=True)


def line(moment: Moment) -> str:
    """A moment in one line."""
    report = moment.report
    if report is None or not moment.seconds:
        return f"{moment.phase} …"
    durable = sum(table.durable_changes for table in report.tables.values())
    rate = sum(table.changes_per_second for table in report.tables.values())
    late = max((late_ms(report, table) for table in report.tables.values()), default=0.0)
    return (
        f"{moment.phase}: {moment.seconds:.0f} s, {moment.operations:,} operations, {durable:,} rows in the lake, "
        f"{rate:,.0f} changes/s, lag {size(report.lag_bytes)}, {late:,.0f} ms"
        + (f" ({report.mode})" if report.mode else "")
    )


def late_ms(report: Report, table: TableReport) -> float:
    """How far a table's rows in the lake are behind: what waits now, or how old the last ones were when they came."""
    waiting = report.lag_ms if table.changes > table.durable_changes else 0.0
    moving = table.freshness_ms or 0.0 if table.changes_per_second else 0.0
    return max(waiting, moving)


def size(count: int | None) -> str:
    """Bytes for people: `12.3 kB`."""
    if count is None:
        return "?"
    amount, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            break
        amount /= 1000
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def summary_text(outcome: Outcome) -> str:
    """The last word, for people."""
    lines = [f"{outcome.operations:,} operations in {outcome.seconds:.0f} s, captured into {outcome.directory}:"]
    for name, table in outcome.tables.items():
        verdict = "equal, row for row" if table.equal else "NOT EQUAL: please report this"
        apart = f", {table.quarantined_rows:,} in quarantine" if table.quarantined_rows else ""
        lines.append(
            f"  {name:<14} {table.source_rows:>9,} rows in PostgreSQL, {table.silver_rows:>9,} in silver{apart}"
            f" ({table.bronze_rows:,} changes): {verdict}"
        )
    fresh = outcome.freshness_ms
    if fresh.p50 is not None and fresh.p99 is not None:
        lines.append(f"  seen by a query after {fresh.p50:,.0f} ms (half of the changes), {fresh.p99:,.0f} ms (99 %)")
    lines += [
        "",
        f'  catchment query {outcome.directory}/pipeline.yaml "SELECT * FROM gold.city_performance"',
        f"  catchment demo server {outcome.directory}     starts its PostgreSQL again",
        f"  catchment demo shop --dir {outcome.directory}   resumes",
    ]
    return "\n".join(lines)
