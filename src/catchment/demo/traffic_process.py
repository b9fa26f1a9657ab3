"""The shop's traffic as a child process: `python -m catchment.demo.traffic_process DSN RATE SECONDS SEED`."""

from __future__ import annotations

import sys
import threading
from dataclasses import asdict

from catchment.demo.child import run_child, tell
from catchment.demo.traffic import Traffic, TrafficSummary


def main(arguments: list[str]) -> int:
    """SECONDS 0 means until told to stop."""
    dsn, rate, seconds, seed = arguments

    def show(summary: TrafficSummary) -> None:
        tell(**asdict(summary))

    def work(stop: threading.Event) -> None:
        show(Traffic(dsn, seed=int(seed)).run(stop, float(rate), float(seconds) or None, show))

    return run_child(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
