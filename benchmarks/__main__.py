"""`python -m benchmarks`: every target of "how fast", in one run.

Progress goes to stderr; the table, or with --json one document, to stdout. Exit code 0 even when a target is
missed, unless --strict: figures are for people, and a machine with neighbours has bad minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks import (
    catch_up,
    commits,
    dynamodb_decode,
    firehose_handler,
    freshness,
    idle,
    live,
    quality,
    silver_growth,
    silver_merge,
    silver_pipeline,
    silver_read,
    snapshot,
    startup,
)
from benchmarks.figure import Figure, table
from benchmarks.server import embedded_server
from benchmarks.sizes import FULL, QUICK, Sizes
from catchment.demo.postgres import EmbeddedPostgres

Benchmark = Callable[[EmbeddedPostgres, Sizes], Iterator[Figure]]

BENCHMARKS: dict[str, Benchmark] = {
    "startup": startup.startup,
    "catch-up": catch_up.large,
    "one-row": catch_up.one_row,
    "live": live.live,
    "one-transaction": catch_up.one_transaction,
    "snapshot": snapshot.snapshot,
    "freshness": freshness.freshness,
    "idle": idle.idle,
    "commits": commits.commits,
    "silver-merge": silver_merge.silver_merge,
    "silver-growth": silver_growth.silver_growth,
    "silver-pipeline": silver_pipeline.silver_pipeline,
    "silver-freshness": freshness.silver_freshness,
    "silver-read": silver_read.silver_read,
    "quality": quality.quality,
    "dynamodb-decode": dynamodb_decode.dynamodb_decode,
    "firehose-handler": firehose_handler.firehose_handler,
}


def main() -> int:
    """Run what was asked for and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, once: does it work? Not to judge by")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="may be given several times")
    parser.add_argument("--repeat", type=int, help="of each comparison; the fastest of either side counts")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a target is missed")
    arguments = parser.parse_args()
    sizes = (QUICK if arguments.quick else FULL).with_repeat(arguments.repeat)
    figures: list[Figure] = []
    failures: list[str] = []
    with embedded_server() as server:
        about = _machine(server)
        for name in arguments.only or BENCHMARKS:
            _measure(name, server, sizes, figures, failures)
    if arguments.json:
        print(json.dumps({**about, "figures": [one.to_dict() for one in figures], "failures": failures}, indent=2))
    else:
        print(table(figures, judge=not arguments.quick))
        if arguments.quick:
            print("Quick sizes: fixed costs weigh too much to judge by. Run without --quick for that.")
    missed = any(one.met is False for one in figures)
    return 1 if failures or (arguments.strict and missed) else 0


def _measure(name: str, server: EmbeddedPostgres, sizes: Sizes, figures: list[Figure], failures: list[str]) -> None:
    """One benchmark; its failure does not take the others away."""
    start = time.monotonic()
    print(f"{name} …", end=" ", file=sys.stderr, flush=True)
    try:
        figures.extend(BENCHMARKS[name](server, sizes))
    except Exception as error:  # noqa: BLE001 - reported, and it makes the exit code
        failures.append(f"{name}: {error}")
        print(f"failed: {error}", file=sys.stderr)
    else:
        print(f"{time.monotonic() - start:.0f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)


def _machine(server: EmbeddedPostgres) -> dict[str, object]:
    return {
        "postgres": server.version,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
    }


if __name__ == "__main__":
    sys.exit(main())
