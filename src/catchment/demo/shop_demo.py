"""The demo: PostgreSQL, a shop, traffic in it, a pipeline that captures it, and proof that the lake is equal.

Capture runs in this process; traffic and the probe that reads the lake have processes of their own. All of
it lives in one directory, and a second run resumes::

    DIR/pipeline.yaml, .env    the pipeline, as one would write it for a database of one's own
    DIR/gold/                  the gold models
    DIR/quality.yaml           the quality rules
    DIR/postgres/              the embedded server
    DIR/lake/                  the catalog and the warehouse
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from catchment.demo.capture import Capture
from catchment.demo.child import Child
from catchment.demo.outcome import Outcome, compare, freshness
from catchment.demo.postgres import EmbeddedPostgres
from catchment.demo.probe import gold_rows
from catchment.demo.shop import TABLES, connect, open_shop
from catchment.demo.traffic import check_rate
from catchment.demo.views import Moment, View
from catchment.errors import ConfigError

DATABASE = "shop"
VARIABLE = "SHOP_DSN"
SHOW_SECONDS = 0.25
GOLD_ROWS = 50
"""Of each gold table, for the outcome: a table may have a row for each user."""

PIPELINE = """\
name: shop
source:
  type: postgres
  dsn: ${SHOP_DSN}              # from .env beside this file
  tables: [public.*]            # patterns, and `exclude:`
  snapshot: initial             # initial | never | only
lakehouse:
  catalog: {type: sql, uri: "sqlite:///lake/catalog.db", warehouse: "lake/warehouse"}
  gold: gold/
  gold_budget_percent: 50       # of the time, at most: a demo wants its gold to move
  quality: quality.yaml
sinks:
  - {type: iceberg, flush_interval_seconds: 1, flush_rows: 100000}
"""


def demo_server(directory: Path, *, port: int | None = None) -> EmbeddedPostgres:
    """The PostgreSQL of the demo in this directory, not started."""
    return EmbeddedPostgres(directory / "postgres", port=port)


def server_dsn(directory: Path, postgres: EmbeddedPostgres) -> str:
    """Where to connect on a running server: the shop if there is one. Keeps the demo's .env right."""
    if not _has_database(postgres):
        return postgres.dsn
    if (directory / "pipeline.yaml").exists():
        _write_variable(directory / ".env", postgres.dsn_of(DATABASE))
    return postgres.dsn_of(DATABASE)


def to_json(outcome: Outcome) -> str:
    """The demo's one JSON document."""
    return json.dumps(asdict(outcome), indent=2, ensure_ascii=False)


@dataclass
class _Watched:
    """What the child processes told, and when."""

    operations: int = 0
    traffic_seconds: float = 0.0
    per_second: float = 0.0
    gold: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    probing: bool = False
    sightings: list[tuple[float, float]] = field(default_factory=list)

    def hear_traffic(self, message: dict[str, Any]) -> None:
        """A summary of the traffic so far."""
        seconds = message["seconds"] - self.traffic_seconds
        if seconds > 0.5:
            self.per_second = (message["operations"] - self.operations) / seconds
        self.operations, self.traffic_seconds = message["operations"], message["seconds"]

    def hear_probe(self, message: dict[str, Any]) -> None:
        """A sighting of the lake."""
        self.probing = True
        if message["newest"] is not None:
            self.sightings.append((message["seen_at"], message["newest"]))
        if message["gold"] is not None:
            self.gold = message["gold"]

    @property
    def seen_after_ms(self) -> float | None:
        """How old the newest change of the last sighting was."""
        if not self.sightings:
            return None
        seen_at, newest = self.sightings[-1]
        return max(0.0, (seen_at - newest) * 1e3)


class ShopDemo:
    """One run of the demo in `directory`."""

    def __init__(self, directory: Path, *, rate: float, seconds: float | None, seed: int) -> None:
        check_rate(rate)
        self._directory = directory
        self._rate = rate
        self._seconds = seconds
        self._seed = seed
        self._watched = _Watched()
        self._capture: Capture | None = None
        self._dsn = ""
        self._traffic_began: float | None = None
        self._measured_since = float("inf")

    def run(self, stop: threading.Event, view: View[Moment]) -> Outcome:
        """Make traffic and capture it until `stop` or the seconds are over; drain; compare; stop all.

        Raises a CatchmentError when a part of it cannot run; what was started is stopped then too.
        """
        self._refuse_foreign_directory()
        with ExitStack() as stack:
            stack.enter_context(view)
            self._open_source(stack, view)
            probe = self._child(stack, "probe", str(self._directory / "pipeline.yaml"), hear=self._watched.hear_probe)
            capture = self._open_capture(stack, view)
            self._wait_until_live(stop, view, capture, probe)
            self._make_traffic(stack, stop, view, capture)
            self._drain(view, capture)
            self._show(view, "Comparing the lake with PostgreSQL")
            probe.stop()
            return self._outcome(capture)

    # -- the parts, in the order they start --------------------------------------------------------

    def _refuse_foreign_directory(self) -> None:
        if (self._directory / "pipeline.yaml").exists() and not (self._directory / "postgres").exists():
            raise ConfigError(
                f"{self._directory} holds a pipeline.yaml that is not the demo's. Choose another directory with --dir."
            )

    def _open_source(self, stack: ExitStack, view: View[Moment]) -> None:
        self._show(view, "Starting PostgreSQL")
        server = demo_server(self._directory)
        stack.callback(server.stop)
        server.start()
        if not _has_database(server):
            with connect(server.dsn) as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}".encode())
        self._dsn = server.dsn_of(DATABASE)
        _write_pipeline(self._directory, self._dsn)
        self._show(view, "Opening the shop")
        open_shop(self._dsn, seed=self._seed)

    def _open_capture(self, stack: ExitStack, view: View[Moment]) -> Capture:
        self._show(view, "Starting capture")
        # The demo's own .env says where its server is, whatever the caller's environment says.
        environ = {name: value for name, value in os.environ.items() if name != VARIABLE}
        capture = Capture(self._directory / "pipeline.yaml", environ)
        self._capture = capture
        stack.callback(capture.stop)
        capture.start()
        return capture

    def _wait_until_live(self, stop: threading.Event, view: View[Moment], capture: Capture, probe: Child) -> None:
        """Traffic begins when the shop has been read and the probe looks, so that all of it is measured."""
        while capture.running and not stop.wait(SHOW_SECONDS / 5):
            if probe.ended:
                probe.stop()  # raises why it ended
            if capture.live and self._watched.probing:
                return
            self._show(view, "Reading the shop's tables" if capture.last is not None else "Starting capture")

    def _make_traffic(self, stack: ExitStack, stop: threading.Event, view: View[Moment], capture: Capture) -> None:
        arguments = (self._dsn, str(self._rate), str(self._seconds or 0), str(self._seed))
        traffic = self._child(stack, "traffic_process", *arguments, hear=self._watched.hear_traffic)
        self._traffic_began = time.monotonic()
        self._measured_since = time.time()
        while capture.running and not traffic.ended and not stop.wait(SHOW_SECONDS):
            self._show(view, "Capturing")
        self._show(view, "Capturing")
        traffic.stop()

    def _drain(self, view: View[Moment], capture: Capture) -> None:
        capture.begin_drain()
        while capture.running:
            self._show(view, "Draining")
            time.sleep(SHOW_SECONDS / 5)

    def _child(self, stack: ExitStack, module: str, *arguments: str, hear: Callable[[dict[str, Any]], None]) -> Child:
        child = Child(f"catchment.demo.{module}", *arguments, hear=hear)
        stack.callback(child.stop)
        return child

    # -- what it shows and says --------------------------------------------------------------------

    def _show(self, view: View[Moment], phase: str) -> None:
        watched = self._watched
        began = self._traffic_began
        view.show(
            Moment(
                phase=phase,
                dsn=self._dsn,
                seconds=time.monotonic() - began if began is not None else 0.0,
                seconds_wanted=self._seconds,
                operations=watched.operations,
                operations_per_second=watched.per_second,
                seen_after_ms=watched.seen_after_ms,
                report=self._capture.last if self._capture is not None else None,
                gold=watched.gold,
            )
        )

    def _outcome(self, capture: Capture) -> Outcome:
        import catchment

        watched = self._watched
        path = self._directory / "pipeline.yaml"
        capture.refresh_gold()
        with catchment.connect(path) as lake:
            return Outcome(
                directory=str(self._directory),
                seconds=round(watched.traffic_seconds, 3),
                operations=watched.operations,
                tables={name: compare(lake, self._dsn, name) for name in TABLES},
                freshness_ms=freshness(lake, TABLES, watched.sightings, self._measured_since),
                gold=gold_rows(lake, limit=GOLD_ROWS),
            )


def _has_database(server: EmbeddedPostgres) -> bool:
    with connect(server.dsn) as connection:
        row = connection.execute("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s)", (DATABASE,)).fetchone()
    return row is not None and bool(row[0])


def _write_pipeline(directory: Path, dsn: str) -> None:
    """Write what is not there yet: what somebody changed stays as it is, except for the DSN."""
    _write_variable(directory / ".env", dsn)
    path = directory / "pipeline.yaml"
    if not path.exists():
        path.write_text(PIPELINE)
    gold = directory / "gold"
    if not gold.exists():
        with as_file(files("catchment.demo") / "gold") as models:
            shutil.copytree(models, gold, ignore=shutil.ignore_patterns("__*"))
    rules = directory / "quality.yaml"
    if not rules.exists():
        rules.write_text((files("catchment.demo") / "quality.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def _write_variable(path: Path, dsn: str) -> None:
    lines = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in lines if line.partition("=")[0].strip() != VARIABLE]
    text = "\n".join([f"{VARIABLE}={dsn}", *kept]) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
