"""What a runner of `catchment aws` shows while it runs."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest

from catchment.aws.local.counters import Counters, RunnerSnapshot
from catchment.cli import runner_line


class Screen(io.StringIO):
    """A stderr that is a terminal, or is none."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Idle:
    """Has done much, and does nothing more."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.ready.set()
        self._counters = Counters()
        self._counters.add(read=13_232, put=13_232, objects=3, bytes=5_200_000)
        self.asked = 0

    def snapshot(self) -> RunnerSnapshot:
        self.asked += 1
        return self._counters.snapshot()

    def run(self, stop: threading.Event, *, idle_seconds: float | None = None) -> RunnerSnapshot:
        deadline = time.monotonic() + 30
        while self.asked < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.snapshot()


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(runner_line, "_TERMINAL_SECONDS", 0.01)
    monkeypatch.setattr(runner_line, "_LINE_SECONDS", 0.001)
    monkeypatch.setenv("COLUMNS", "60")
    runner_line.run(Idle(), "gadget-sales-stream → s3://gadget-sales-data", None, as_json=False)
    return screen.getvalue()


def test_a_line_on_a_terminal_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *lines = shown(monkeypatch, terminal=True).split("\r\x1b[K")
    assert first.endswith("runs; Ctrl-C ends it.\n")
    assert len(lines) > 3
    assert max(map(len, lines)) == 59


def test_without_a_terminal_a_line_comes_only_when_something_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False).count("13,232 read") == 1
