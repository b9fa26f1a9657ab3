"""Freshness: from the commit in PostgreSQL to a query in another process that sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import orders
from benchmarks.figure import Figure
from benchmarks.server import Database, database
from benchmarks.sizes import Sizes
from benchmarks.subject import Subject, subject
from catchment.demo.postgres import EmbeddedPostgres

_TRANSACTIONS_PER_SECOND = 100


@dataclass(frozen=True, slots=True)
class _Load:
    """A steady load. write: one transaction, by its number; visible: how many rows its changes leave to be seen."""

    transactions: int
    changes: int
    visible: int
    write: Callable[[psycopg.Connection[Any], int], None]


def freshness(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Small transactions, seen in bronze."""
    transactions = sizes.freshness_seconds * _TRANSACTIONS_PER_SECOND
    changes = sizes.freshness_rate // _TRANSACTIONS_PER_SECOND

    def write(connection: psycopg.Connection[Any], number: int) -> None:
        orders.small_transaction(connection, number, changes)

    with database(server, "freshness") as base:
        one = subject(base, "freshness")
        one.run_until_caught_up()
        with base.connect() as connection:
            orders.warm_up(connection)
        load = _Load(transactions, transactions * changes, transactions * changes, write)
        seen = _watched(base, one, "bronze", 1, load)
    yield Figure("freshness at 1,000 changes/s, p50", seen["p50"], "s", less_than=1, beside=_beside(seen))
    yield Figure("– p99", seen["p99"], "s", less_than=2, beside={"max s": seen["max"]})


def silver_freshness(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Small transactions of mixed changes on a full table, seen in silver."""
    filled = sizes.mixed_rows
    transactions = sizes.freshness_seconds * _TRANSACTIONS_PER_SECOND
    changes = sizes.freshness_rate // _TRANSACTIONS_PER_SECOND

    def write(connection: psycopg.Connection[Any], number: int) -> None:
        orders.small_mixed_transaction(connection, number, filled, changes)

    with database(server, "silver_freshness") as base:
        with base.connect() as connection:
            orders.fill(connection, filled)
        one = subject(base, "silver_freshness", silver=True)
        one.run_until_caught_up()
        with base.connect() as connection:
            orders.warm_up(connection)
        visible = sum(changes - orders.deletes_of(number, changes) for number in range(transactions))
        # Each change is of another row: what is written is there to be seen, and seen once.
        seen = _watched(base, one, "silver", filled + 1, _Load(transactions, transactions * changes, visible, write))
        one.must_equal(base)
    yield Figure(
        f"freshness of silver at 1,000 changes/s, table of {filled:,} rows, p99",
        *(seen["p99"], "s"),
        less_than=3,
        beside={"p50 s": seen["p50"], "max s": seen["max"], **_beside(seen)},
    )


def _beside(seen: Mapping[str, float]) -> dict[str, float]:
    return {"changes/s": seen["rate"], "queries": seen["queries"], "median query s": seen["query_seconds"]}


def _watched(base: Database, one: Subject, layer: str, before: int, load: _Load) -> dict[str, float]:
    """What a process of its own saw of the load in that layer; before: rows that are there before it."""
    with one.running():
        watcher = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.watch", one.pipeline, layer, str(before), str(load.visible)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        try:
            # It says when it has seen the rows before the load: nothing of them is measured.
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == "ready\n", "the watcher did not start"
            seconds = _write(base, load)
            answer, _ = watcher.communicate(timeout=120)
        finally:
            watcher.kill()
            watcher.wait()
    seen: dict[str, float] = json.loads(answer)
    assert seen["changes"] == load.visible, f"{load.visible} changes were written, {seen['changes']} seen"
    return {**seen, "rate": load.changes / seconds}


def _write(base: Database, load: _Load) -> float:
    """Write at the rate, on time: a late transaction does not push the later ones back. Seconds that it took."""
    pace = threading.Event()
    start = time.monotonic()
    with base.connect() as connection:
        for number in range(load.transactions):
            pace.wait(max(0.0, start + number / _TRANSACTIONS_PER_SECOND - time.monotonic()))
            load.write(connection, number)
    return time.monotonic() - start
