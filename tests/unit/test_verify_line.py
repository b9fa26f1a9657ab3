"""How `catchment verify` says what it does: a line that is rewritten on a terminal, else only what takes long."""

from __future__ import annotations

import io

import pytest

from catchment.cli.verify import PATIENCE_SECONDS, StepLine
from catchment.testing.clock import FakeClock
from catchment.verify.verification import WAITING, Step


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_a_wait_is_told_once_when_it_takes_long() -> None:
    stream, clock = io.StringIO(), FakeClock()
    line = StepLine(stream, clock.monotonic)
    waiting = Step("public.orders", "waiting for the running pipeline")
    for _ in range(5):
        line.tell(waiting)
        clock.turn(PATIENCE_SECONDS / 4)
    assert stream.getvalue() == "", "a short wait is nobody's business"
    for _ in range(20):
        line.tell(waiting)
        clock.turn(PATIENCE_SECONDS / 4)
    assert stream.getvalue() == "public.orders · waiting for the running pipeline\n"
    line.clear()
    assert stream.getvalue().count("\n") == 1


def test_on_a_terminal_the_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    screen = Terminal()
    line = StepLine(screen, FakeClock().monotonic)
    line.tell(Step("public.a, public.b", WAITING))
    line.clear()
    assert [len(one) for one in screen.getvalue().split("\r\x1b[K")] == [0, 59, 0]


def test_without_a_terminal_rows_that_are_read_are_not_told() -> None:
    stream, clock = io.StringIO(), FakeClock()
    line = StepLine(stream, clock.monotonic)
    for rows in range(1, 50):
        line.tell(Step("public.orders", "reading the source", rows))
        clock.turn(PATIENCE_SECONDS)
    assert stream.getvalue() == ""
