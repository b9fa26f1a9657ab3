"""How a runner of `catchment aws` shows itself: a line on stderr, JSON on stdout, a clean end on Ctrl-C."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from catchment.cli.progress_line import CLEAR, log_to
from catchment.cli.quantities import size
from catchment.cli.signals import stop_on_signals

if TYPE_CHECKING:
    from catchment.aws.local.counters import RunnerSnapshot

_TERMINAL_SECONDS, _LINE_SECONDS = 0.5, 10.0


class Runner(Protocol):
    """A pipe, a Firehose, a mapping."""

    ready: threading.Event

    def run(self, stop: threading.Event, *, idle_seconds: float | None = None) -> RunnerSnapshot: ...

    def snapshot(self) -> RunnerSnapshot: ...


def run(runner: Runner, what: str, idle_seconds: float | None, as_json: bool) -> None:
    """Run it until Ctrl-C, SIGTERM or its own end, and say how it goes."""
    log_to(sys.stderr)
    ended = threading.Event()
    shown = threading.Thread(target=_show, args=(runner, what, ended, as_json), daemon=True)
    shown.start()
    try:
        with stop_on_signals() as stop:
            done = runner.run(stop, idle_seconds=idle_seconds)
    finally:
        ended.set()
        shown.join(5.0)
    if as_json:
        print(json.dumps(asdict(done)), flush=True)
    else:
        print(_line(what, done), flush=True)


def _show(runner: Runner, what: str, ended: threading.Event, as_json: bool) -> None:
    while not runner.ready.wait(0.1):
        if ended.is_set():
            return
    _tell_ready(runner, what, as_json)
    terminal = sys.stderr.isatty()
    due, told = time.monotonic() + _LINE_SECONDS, ""
    while not ended.wait(_TERMINAL_SECONDS):
        line = _line(what, runner.snapshot())
        if terminal:
            print(f"{CLEAR}{line[: _columns() - 1]}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() > due:
            due += _LINE_SECONDS
            if line != told:
                print(line, file=sys.stderr, flush=True)
            told = line
    if terminal:
        print(CLEAR, end="", file=sys.stderr, flush=True)


def _columns() -> int:
    """Of the terminal: a line that is wider would wrap, and its beginning could not be written over."""
    return shutil.get_terminal_size().columns


def _tell_ready(runner: Runner, what: str, as_json: bool) -> None:
    endpoint = getattr(runner, "endpoint", None)
    if as_json:
        print(json.dumps({"running": what, "endpoint": endpoint}), flush=True)
        return
    print(f"{what} runs; Ctrl-C ends it.", file=sys.stderr, flush=True)
    if endpoint is not None:
        print(f"export AWS_ENDPOINT_URL_FIREHOSE={endpoint}", flush=True)


def _line(what: str, counts: RunnerSnapshot) -> str:
    parts = [what, f"{counts.read:,} read", f"{counts.put:,} put"]
    parts += [f"{counts.objects:,} objects"] if counts.objects else []
    parts += [size(counts.bytes)]
    for name, count in (("dropped", counts.dropped), ("failed", counts.failed), ("retried", counts.retried)):
        parts += [f"{count:,} {name}"] if count else []
    if counts.latency_p50_ms is not None and counts.latency_p99_ms is not None:
        parts.append(f"{counts.latency_p50_ms / 1000:.1f} s, at most {counts.latency_p99_ms / 1000:.1f} s for 99 %")
    return " · ".join([*parts, *([counts.note] if counts.note else [])])
