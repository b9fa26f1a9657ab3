"""How `catchment run` shows itself on a terminal."""

from __future__ import annotations

import io
import logging

import pytest

from catchment.cli.progress_line import ProgressLine, line
from catchment.telemetry import LOGGER, Report


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_never_wraps_and_the_last_one_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    screen = Terminal()
    shown = ProgressLine(screen)
    long = Report(
        0.0, "running", notes=("OrderTable was scanned again, because changes were missed: it has another one.",)
    )
    shown.report(long)
    shown.report(long)
    shown.end()
    *rewritten, last = screen.getvalue().split("\r\x1b[K")[1:]
    assert [len(one) for one in rewritten] == [59, 59]
    assert last == f"{line(long)}\n"


def test_the_environment_is_in_every_line_and_in_every_message() -> None:
    stream = io.StringIO()
    logger = logging.getLogger(LOGGER)
    before = list(logger.handlers)
    shown = ProgressLine(stream, "prod")
    shown.report(Report(0.0, "running"))
    try:
        shown.log("INFO")
        logger.warning("shop: the connection is gone.")
    finally:
        logger.handlers[:] = before
        logger.setLevel(logging.NOTSET)
    report, message = stream.getvalue().splitlines()
    assert report.startswith("[prod] running")
    assert message.endswith("WARNING [prod] shop: the connection is gone.")


def test_a_source_that_cannot_count_bytes_is_behind_by_time_alone() -> None:
    assert "behind 0 ms" in line(Report(0.0, "running"))
    assert "behind 5.0 kB, 0 ms" in line(Report(0.0, "running", lag_bytes=5_000))


def test_a_dry_run_calls_nothing_durable() -> None:
    stream = io.StringIO()
    ProgressLine(stream, lands=False).report(Report(0.0, "running"))
    assert "durable" not in stream.getvalue()
    assert "durable" in line(Report(0.0, "running"))
