"""The demo's live screen: a line a table, the snapshot's progress, a gold table that changes."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Self

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from catchment.demo.views import Moment, Shown, late_ms, size
from catchment.telemetry import Report, SnapshotReport, TableReport

GOLD_ROWS = 5
SHOWN = {
    "city_performance": ("city", "orders", "revenue", "premium_revenue", "standard_revenue", "premium_share_percent"),
    "sales_kpis": ("period", "orders", "cancelled_orders", "revenue", "average_order_value", "newest_order_at"),
}
"""Gold tables on the screen, and of their columns those that move most."""
HIGH = 36
"""Lines of a terminal that has room for all of them; a lower one gets the first."""
CHANGED_SECONDS = 1.5
LATE_MS = 2_000


class LiveScreen(ABC, Generic[Shown]):
    """Draws moments in place; leaves the terminal as it was."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, moment: Shown) -> None:
        self._live.update(self.draw(moment), refresh=True)

    @abstractmethod
    def draw(self, moment: Shown) -> RenderableType:
        """The whole screen of a moment."""


class Screen(LiveScreen[Moment]):
    """The shop's."""

    def __init__(self, directory: Path, console: Console | None = None) -> None:
        super().__init__(console)
        self._directory = directory
        self._gold = Highlight()

    def draw(self, moment: Moment) -> RenderableType:
        """The whole screen of a moment."""
        report = moment.report
        parts: list[RenderableType] = [_headline(moment)]
        if report is not None:
            parts.append(_tables(report))
            unfinished = {
                name: one
                for name, one in report.snapshots.items()
                if one.chunks_done < one.chunks_total or report.mode == "snapshot"
            }
            if unfinished:
                parts.append(_snapshots(unfinished))
        parts.extend(self._gold.table(name, moment.gold[name]) for name in self._shown(moment))
        parts.append(_foot(moment, self._directory))
        return Panel(Group(*parts), title="[bold]Catchment[/] · the shop", border_style="cyan", padding=(0, 1))

    def _shown(self, moment: Moment) -> list[str]:
        """Models may have been changed: without ours the first there is."""
        names = [name for name in SHOWN if name in moment.gold] or list(moment.gold)
        return names if self._console.height >= HIGH else names[:1]


class Highlight:
    """A gold table whose cells light up for a moment when they change."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], Any] = {}
        self._changed: dict[tuple[str, str, str], datetime] = {}

    def table(
        self, name: str, rows: list[dict[str, Any]], title: str | None = None, limit: int = GOLD_ROWS
    ) -> RenderableType:
        """The table with its first rows; the first column says which row is which."""
        now = datetime.now(UTC)
        result = Table(
            box=SIMPLE, title=title or f"gold.{name}", title_justify="left", title_style="bold", pad_edge=False
        )
        columns = [column for column in (rows[0] if rows else ()) if column in SHOWN.get(name, (column,))]
        for column in columns:
            numeric = any(isinstance(row[column], (int, float)) for row in rows)
            result.add_column(column.replace("_", " "), justify="right" if numeric else "left")
        for row in rows[:limit]:
            key = str(next(iter(row.values())))
            result.add_row(*(self._cell((name, key, column), row[column], now) for column in columns))
        return result

    def _cell(self, place: tuple[str, str, str], value: Any, now: datetime) -> Text:
        if place in self._values and self._values[place] != value:
            self._changed[place] = now
        self._values[place] = value
        text = _text(value)
        changed = self._changed.get(place)
        fresh = changed is not None and (now - changed).total_seconds() < CHANGED_SECONDS
        return Text(text, style="bold green" if fresh else "")


def _text(value: Any) -> str:
    """A value for people: moments to the second."""
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, int):
        return f"{value:,}"
    moment = _MOMENT.match(str(value))
    return moment[0] if moment is not None else str(value)


_MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def _headline(moment: Moment) -> RenderableType:
    report = moment.report
    grid = Table.grid(padding=(0, 3))
    cells = [Text(moment.phase, style="bold")]
    if moment.seconds:
        wanted = f" of {moment.seconds_wanted:.0f}" if moment.seconds_wanted else ""
        cells.append(Text(f"{moment.seconds:.0f}{wanted} s"))
        cells.append(Text(f"{moment.operations:,} operations, {moment.operations_per_second:,.0f}/s"))
    if report is not None:
        cells.append(Text(f"mode: {report.mode or report.state}", style="cyan"))
        cells.append(Text(f"unread: {size(report.lag_bytes)}"))
    if moment.seen_after_ms is not None:
        cells.append(Text(f"seen by a query after {moment.seen_after_ms:,.0f} ms", style="green"))
    grid.add_row(*cells)
    return grid


def _tables(report: Report) -> RenderableType:
    result = Table(box=SIMPLE, pad_edge=False)
    result.add_column("table", style="bold")
    for title in ("rows captured", "changes/s", "lag bytes", "lag ms", "last commit"):
        result.add_column(title, justify="right")
    for name, table in sorted(report.tables.items()):
        waiting = table.changes > table.durable_changes
        result.add_row(
            name.removeprefix("public."),
            f"{table.durable_changes:,}",
            f"{table.changes_per_second:,.0f}",
            size(report.lag_bytes) if waiting else "0 B",
            _late(late_ms(report, table)),
            _ago(table, report.at),
        )
    return result


def _late(milliseconds: float) -> Text:
    return Text(f"{milliseconds:,.0f}", style="yellow" if milliseconds > LATE_MS else "")


def _ago(table: TableReport, now: float) -> str:
    if table.last_committed_at is None:
        return "–"
    at = datetime.fromtimestamp(table.last_committed_at, UTC)
    return f"{at:%H:%M:%S}, {max(0.0, now - table.last_committed_at):,.1f} s ago"


def _snapshots(snapshots: Mapping[str, SnapshotReport]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, one in sorted(snapshots.items()):
        total = max(one.rows_total, one.rows_done, 1)
        left = f"{one.seconds_left:,.0f} s left" if one.seconds_left else ""
        grid.add_row(
            Text(f"snapshot of {name.removeprefix('public.')}"),
            ProgressBar(total=total, completed=one.rows_done, width=30),
            Text(f"{one.rows_done:,} of about {total:,} rows"),
            Text(left),
        )
    return grid


def _foot(moment: Moment, directory: Path) -> RenderableType:
    lines = Text()
    report = moment.report
    for note in report.notes if report is not None else ():
        lines.append(f"{note}\n", style="yellow")
    if report is not None and report.state == "waiting" and report.last_error:
        lines.append(f"{report.last_error}\n", style="red")
    lines.append(
        f'In another terminal: catchment query {directory}/pipeline.yaml "SELECT * FROM gold.city_performance"\n'
    )
    if moment.dsn:
        lines.append(f"                     psql {moment.dsn}\n")
    lines.append("Ctrl-C ends it; run it again and it goes on.", style="dim")
    return lines
