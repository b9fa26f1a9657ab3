"""What a pipeline costs that has nothing to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psutil

from benchmarks import orders
from benchmarks.figure import Figure, megabytes
from benchmarks.server import database
from benchmarks.sizes import Sizes
from benchmarks.subject import Subject, subject
from catchment.demo.postgres import EmbeddedPostgres


def idle(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """CPU and memory while nothing changes, after it has captured something."""
    pace = threading.Event()
    with database(server, "idle") as base:
        one = subject(base, "idle")
        one.run_until_caught_up()
        with base.connect() as connection:
            orders.warm_up(connection)
        with one.running() as child:
            _wait_for_rows(one, pace)
            processes = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            before, start = _cpu(processes), time.monotonic()
            pace.wait(sizes.idle_seconds)
            share = (_cpu(processes) - before) / (time.monotonic() - start)
            resident = sum(process.memory_info().rss for process in processes)
    yield Figure("idle pipeline, share of a core", 100 * share, "%", less_than=2)
    yield Figure("– its memory", megabytes(resident), "MB", less_than=300)


def _wait_for_rows(one: Subject, pace: threading.Event) -> None:
    """Until it captures live and has made something durable."""
    deadline = time.monotonic() + 60
    while not one.bronze_rows():
        assert time.monotonic() < deadline, "nothing arrived within a minute"
        pace.wait(0.2)


def _cpu(processes: list[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
