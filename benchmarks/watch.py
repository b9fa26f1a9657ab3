"""Watches a lake from outside: `PIPELINE LAYER BEFORE CHANGES` → how old each change was when a query first saw it.

Prints `ready` when the rows from before the changes are there, then JSON. A query is what a person would do:
connect, which fixes the lake's moment, and select.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np

import catchment
from catchment.errors import CatchmentError

POLL_SECONDS = 0.05


VERSIONS = {"bronze": "_position", "silver": "_version"}
"""A layer's column that grows with every change."""


def watch(pipeline: str, layer: str, before: int, expected: int) -> dict[str, float]:
    """Poll until all expected changes were seen; their ages at first sight, in seconds."""
    last = _wait_for_those_before(pipeline, layer, before)
    print("ready", flush=True)
    ages: list[np.ndarray] = []
    queries: list[float] = []
    seen = 0
    while seen < expected:
        began = time.perf_counter()
        committed, newest = _new(pipeline, layer, last)
        queries.append(time.perf_counter() - began)
        if len(committed):
            ages.append(time.time() - committed)
            last, seen = newest, seen + len(committed)
        time.sleep(POLL_SECONDS)
    every = np.concatenate(ages)
    return {
        "changes": seen,
        "queries": len(queries),
        "query_seconds": statistics.median(queries),
        "p50": float(np.quantile(every, 0.5)),
        "p99": float(np.quantile(every, 0.99)),
        "max": float(every.max()),
    }


def _wait_for_those_before(pipeline: str, layer: str, rows: int) -> bytes:
    while True:
        try:
            committed, newest = _new(pipeline, layer, b"")
            if len(committed) >= rows:
                return newest
        except (CatchmentError, _duckdb_error()):
            # Not there yet: the table is made at the first flush.
            pass
        time.sleep(POLL_SECONDS)


def _duckdb_error() -> type[Exception]:
    import duckdb

    return duckdb.CatalogException


def _new(pipeline: str, layer: str, last: bytes) -> tuple[np.ndarray, bytes]:
    """Commit times (epoch seconds) of what came after `last`, and the newest version."""
    version = VERSIONS[layer]
    connection = catchment.connect(pipeline)
    try:
        rows = connection.execute(
            f"select epoch_us(_committed_at) as at, {version} as version from {layer}.orders"
            f" where {version} > ? order by 2",
            [last],
        ).to_arrow_table()
    finally:
        connection.close()
    at = rows.column("at").to_numpy() / 1e6
    return at, rows.column("version")[-1].as_py() if len(at) else last


def main() -> None:
    """Watch as the arguments say."""
    print(json.dumps(watch(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))


if __name__ == "__main__":
    main()
