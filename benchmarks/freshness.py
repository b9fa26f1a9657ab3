"""Freshness: from the commit in PostgreSQL to a query in another process that sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import orders
from benchmarks.figure import Figure
from benchmarks.server import Database, database
from benchmarks.sizes import Sizes
from benchmarks.subject import subject
from catchment.demo.postgres import EmbeddedPostgres

_TRANSACTIONS_PER_SECOND = 100


def freshness(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """A steady load of small transactions; the watcher is a process of its own."""
    expected = sizes.freshness_seconds * sizes.freshness_rate
    with database(server, "freshness") as base:
        one = subject(base, "freshness")
        one.run_until_caught_up()
        with base.connect() as connection:
            orders.warm_up(connection)
        with one.running():
            watcher = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.watch", one.pipeline, str(expected)],
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parent.parent,
            )
            try:
                # It says when it has seen the first row: nothing before that is measured.
                assert watcher.stdout is not None
                assert watcher.stdout.readline() == "ready\n", "the watcher did not start"
                changes, seconds = _load(base, sizes)
                answer, _ = watcher.communicate(timeout=120)
            finally:
                watcher.kill()
                watcher.wait()
    seen = json.loads(answer)
    assert seen["changes"] == changes, f"{changes} changes were written, {seen['changes']} seen"
    beside = {"changes/s": changes / seconds, "queries": seen["queries"], "median query s": seen["query_seconds"]}
    yield Figure("freshness at 1,000 changes/s, p50", seen["p50"], "s", less_than=1, beside=beside)
    yield Figure("– p99", seen["p99"], "s", less_than=2, beside={"max s": seen["max"]})


def _load(base: Database, sizes: Sizes) -> tuple[int, float]:
    """Write at the rate, on time: a late transaction does not push the later ones back."""
    per_transaction = sizes.freshness_rate // _TRANSACTIONS_PER_SECOND
    transactions = sizes.freshness_seconds * _TRANSACTIONS_PER_SECOND
    pace = threading.Event()
    start = time.monotonic()
    with base.connect() as connection:
        for number in range(transactions):
            pace.wait(max(0.0, start + number / _TRANSACTIONS_PER_SECOND - time.monotonic()))
            orders.small_transaction(connection, number, per_transaction)
    return transactions * per_transaction, time.monotonic() - start
