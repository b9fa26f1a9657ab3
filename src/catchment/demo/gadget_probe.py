"""What a person who asks sees of the gadgets, from a process of its own.

`python -m catchment.demo.gadget_probe serverless CACHE` asks the Glue database over the objects in S3;
`… direct PIPELINE` the lake of a pipeline. It looks as often as it can without being in the way, and tells when it saw
how many changes, and of which moment the newest new order was: its order_timestamp, taken when it was written.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from catchment.demo.child import run_child, tell
from catchment.demo.gadget_places import DATABASE
from catchment.demo.gadgets_outcome import CHANGES_BY_UPI, UNITS_TODAY, answers
from catchment.demo.probe import snapshots, tables
from catchment.errors import CatchmentError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

LOOK_SECONDS = 0.05
REST = 1.0
"""After each look, rest so many times as long as it took: seeing must not slow down what is seen."""
ANSWER_SECONDS = 1.0
"""How often the questions of the demo are asked."""
ROWS = 6

SEEN = "SELECT COUNT(*), MAX(CASE WHEN event_type = 'INSERT' THEN order_timestamp END) FROM sales_data_table"
BRONZE = "dynamodb_OrderTable"
SEEN_IN_BRONZE = f"SELECT count(*), max(after.order_timestamp) FILTER (WHERE _op = 'c') FROM bronze.{BRONZE}"


class Sight(Protocol):
    """Somewhere to look."""

    def changed(self) -> bool:
        """Is there anything that was not looked at?"""
        ...

    def newest(self) -> tuple[int, datetime | None]:
        """How many changes there are, and the newest insert's time."""
        ...

    def answers(self) -> Mapping[str, Any]:
        """What the demo's questions are answered with now."""
        ...


class ServerlessSight:
    """The Glue database's tables, as Athena would read them."""

    def __init__(self, cache: Path) -> None:
        import catchment.glue

        self._database = catchment.glue.connect(DATABASE, cache=cache)
        self._looked = False

    def changed(self) -> bool:
        return self._database.refresh().fetched > 0 or not self._looked

    def newest(self) -> tuple[int, datetime | None]:
        self._looked = True
        return _pair(self._database.execute(SEEN))

    def answers(self) -> Mapping[str, Any]:
        return answers(self._database.execute, CHANGES_BY_UPI, UNITS_TODAY, limit=ROWS)


class DirectSight:
    """The lake's tables, as `catchment query` reads them."""

    def __init__(self, pipeline: Path) -> None:
        self._pipeline = pipeline
        self._seen: dict[str, str] = {}
        self._there: dict[str, str] = {}

    def changed(self) -> bool:
        there = snapshots(self._pipeline.parent / "lake" / "catalog.db")
        self._there = {name: at for name, at in there.items() if name.startswith("bronze.")}
        return self._there != self._seen

    def newest(self) -> tuple[int, datetime | None]:
        import catchment

        with catchment.connect(self._pipeline) as lake:
            # Before the first flush there is no table.
            found = _pair(lake.execute(SEEN_IN_BRONZE)) if BRONZE in tables(lake, "bronze") else (0, None)
        self._seen = self._there
        return found

    def answers(self) -> Mapping[str, Any]:
        return {}


def main(arguments: list[str]) -> int:
    """Look until told to stop, then once more."""
    shape, place = arguments

    def work(stop: threading.Event) -> None:
        watch(ServerlessSight(Path(place)) if shape == "serverless" else DirectSight(Path(place)), stop)

    return run_child(work)


def watch(sight: Sight, stop: threading.Event) -> None:
    """Tell of what is new, until `stop`."""
    answered_at, unanswered = 0.0, False
    tell(changes=0, seen_at=time.time(), newest=None)
    while True:
        ending = stop.wait(LOOK_SECONDS)
        began = time.monotonic()
        try:
            if sight.changed():
                changes, newest = sight.newest()
                tell(changes=changes, seen_at=time.time(), newest=_epoch(newest))
                unanswered = True
            if unanswered and (ending or time.monotonic() - answered_at > ANSWER_SECONDS):
                tell(answers=sight.answers())
                answered_at, unanswered = time.monotonic(), False
        except CatchmentError:
            if ending:
                raise
            # The lake is being made, or locked for the moment; the next look will tell.
        if ending:
            return
        stop.wait(REST * (time.monotonic() - began))


def _pair(answer: DuckDBPyConnection) -> tuple[int, datetime | None]:
    row = answer.fetchone()
    return (int(row[0]), row[1]) if row is not None else (0, None)


def _epoch(moment: datetime | None) -> float | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
