"""How a run shows itself on stderr: one line that is rewritten on a terminal, else a line every ten seconds."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from typing import TextIO

from catchment.cli.quantities import duration, size
from catchment.telemetry import LOGGER, Report

LINE_SECONDS = 10.0
CLEAR = "\r\x1b[K"


class ProgressLine:
    """Reports as one line, and log messages above it. Takes reports from one thread.

    environment: said in every line, so that those of several can be kept in one place. lands: False for a dry run,
    of which nothing is durable.
    """

    def __init__(self, stream: TextIO | None = None, environment: str | None = None, *, lands: bool = True) -> None:
        self._lands = lands
        self._where = f"[{environment}] " if environment else ""
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._told_at = float("-inf")
        self._state = ""
        self._text = ""

    def report(self, report: Report) -> None:
        """Show one report."""
        now = time.monotonic()
        if not self._terminal and report.state == self._state and now - self._told_at < LINE_SECONDS:
            return
        self._told_at, self._state = now, report.state
        text = f"{self._where}{line(report, lands=self._lands)}"
        self._text = text
        if self._terminal:
            # A line that is wider than the terminal would wrap, and its beginning could not be written over.
            columns = shutil.get_terminal_size().columns
            print(f"{CLEAR}{text[: columns - 1]}", end="", file=self._stream)
        else:
            print(text, file=self._stream)
        self._stream.flush()

    def log(self, level: str) -> None:
        """Send the package's log messages to the same stream, in order with the line."""
        log_to(self._stream, self._where)
        logging.getLogger(LOGGER).setLevel(level)

    def end(self) -> None:
        """Leave the last line, whole, and go to the next."""
        if self._terminal and self._state:
            print(f"{CLEAR}{self._text}", file=self._stream)


def log_to(stream: TextIO, where: str = "") -> None:
    """Send the package's log messages to the stream, in UTC; on a terminal over the line that is there.

    where: what every message begins with.
    """
    handler = logging.StreamHandler(stream)
    clear = CLEAR if stream.isatty() else ""
    formatter = logging.Formatter(
        f"{clear}%(asctime)s.%(msecs)03dZ %(levelname)s {where}%(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.getLogger(LOGGER).addHandler(handler)


def line(report: Report, *, lands: bool = True) -> str:
    """A report in one line."""
    changes = sum(table.changes for table in report.tables.values())
    durable = sum(table.durable_changes for table in report.tables.values())
    rate = sum(table.changes_per_second for table in report.tables.values())
    parts = [
        f"{report.state}{f' ({report.mode})' if report.mode else ''}",
        f"{changes:,} changes ({rate:,.0f}/s)",
        *([f"{durable:,} durable"] if lands else []),
        f"behind {size(report.lag_bytes)}, {duration(report.lag_ms / 1000)}"
        if report.lag_bytes is not None
        else f"behind {duration(report.lag_ms / 1000)}",
    ]
    unread = {name: one for name, one in report.snapshots.items() if one.chunks_done < one.chunks_total}
    if unread:
        done, total = sum(one.rows_done for one in unread.values()), sum(one.rows_total for one in unread.values())
        left = max((one.seconds_left for one in unread.values() if one.seconds_left is not None), default=None)
        share = f"{min(99, 100 * done // total)} %" if total else "begun"
        parts.append(
            f"snapshot of {len(unread)} tables {share}{f', {duration(left)} left' if left is not None else ''}"
        )
    if report.notes:
        parts.append("; ".join(report.notes))
    return " · ".join(parts)
