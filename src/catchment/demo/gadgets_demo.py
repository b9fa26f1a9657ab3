"""The gadgets' demo: AWS's stand-in, orders in DynamoDB, one or both shapes of the pipeline, nothing lost.

Pipe, Firehose and direct capture run in this process; orders, and the probes that ask, have processes of their own.
What it leaves is in one directory; the next run begins anew, as the stand-in keeps nothing::

    DIR/aws.env          leads another terminal to the stand-in, while it runs
    DIR/stand-in/        MiniStack's files and its log
    DIR/runners/         checkpoints of pipe and Firehose
    DIR/cache/           what was read of S3
    DIR/pipeline.yaml, gold/, lake/     the direct shape
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from catchment.demo.capture import Capture
from catchment.demo.child import Child
from catchment.demo.gadget_places import (
    BUCKET,
    DATABASE,
    ERRORS,
    PARTITION_KEY,
    STREAM,
    TABLE,
    aws_environment,
    delivery_stream,
    make_delivery,
    make_table,
)
from catchment.demo.gadgets_outcome import (
    CHANGES_BY_UPI,
    COLUMNS,
    UNITS_TODAY,
    GadgetsOutcome,
    Order,
    ShapeOutcome,
    answers,
    asked_orders,
    compare_orders,
    scanned_orders,
)
from catchment.demo.gadgets_views import GadgetsMoment, Sighting
from catchment.demo.ministack import MiniStack
from catchment.demo.outcome import seen_after
from catchment.demo.runner_thread import RunnerThread
from catchment.demo.traffic import check_rate
from catchment.demo.views import View
from catchment.errors import ConfigError, Fatal, LeaseHeld

SHOW_SECONDS = 0.25
STALLED_SECONDS = 60.0
"""When all orders are written and so long nothing of them moves, something is wrong."""
ANSWER_ROWS = 20
OURS = "aws.env"
MADE = ("stand-in", "runners", "cache", "lake")

ORDERS = f"SELECT {', '.join(COLUMNS)} FROM gadget_sales"
NEWEST = "SELECT event_id FROM sales_data_table ORDER BY event_time DESC, sequence_number DESC LIMIT 1"
INSERTED = "SELECT order_timestamp FROM sales_data_table WHERE event_type = 'INSERT'"


class Shape(StrEnum):
    """What carries the changes: the managed parts, Catchment alone, or both beside each other."""

    SERVERLESS = "serverless"
    DIRECT = "direct"
    BOTH = "both"


def to_json(outcome: GadgetsOutcome) -> str:
    """The demo's one JSON document."""
    return json.dumps({**asdict(outcome), "equal": outcome.equal}, indent=2, ensure_ascii=False)


@dataclass
class _Watched:
    """What a probe told of one shape."""

    changes: int = 0
    answers: Mapping[str, Any] = field(default_factory=dict)
    sightings: list[tuple[float, float]] = field(default_factory=list)
    looking: bool = False

    def hear(self, message: dict[str, Any]) -> None:
        self.looking = True
        if "answers" in message:
            self.answers = message["answers"]
            return
        self.changes = message["changes"]
        if message["newest"] is not None:
            self.sightings.append((message["seen_at"], message["newest"]))

    def sighting(self) -> Sighting:
        late = None
        if self.sightings:
            seen_at, newest = self.sightings[-1]
            late = max(0.0, (seen_at - newest) * 1e3)
        return Sighting(self.changes, late, self.answers)


class _Traffic:
    """What the writing process told."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.seconds = 0.0
        self.per_second = 0.0

    @property
    def writes(self) -> int:
        return sum(self.kinds.values())

    def hear(self, message: dict[str, Any]) -> None:
        kinds, seconds = message["kinds"], message["seconds"]
        if seconds - self.seconds > 0.1:
            self.per_second = (sum(kinds.values()) - self.writes) / (seconds - self.seconds)
        self.kinds, self.seconds = kinds, seconds


class GadgetsDemo:
    """One run of the demo in `directory`."""

    def __init__(
        self, directory: Path, *, rate: float, seconds: float | None, seed: int, shape: Shape = Shape.SERVERLESS
    ) -> None:
        check_rate(rate)
        self._directory = directory.resolve()
        self._rate = rate
        self._seconds = seconds
        self._seed = seed
        self._serverless = shape in (Shape.SERVERLESS, Shape.BOTH)
        self._direct = shape in (Shape.DIRECT, Shape.BOTH)
        self._traffic = _Traffic()
        self._watched: dict[str, _Watched] = {}
        self._probes: dict[str, Child] = {}
        self._pipe: RunnerThread | None = None
        self._firehose: RunnerThread | None = None
        self._capture: Capture | None = None
        self._server: MiniStack | None = None
        self._began: float | None = None

    def run(self, stop: threading.Event, view: View[GadgetsMoment]) -> GadgetsOutcome:
        """Write orders and carry them until `stop` or the seconds are over; drain; compare; stop all.

        Raises a CatchmentError when a part of it cannot run; what was started is stopped then too.
        """
        with ExitStack() as stack:
            self._claim(stack)
            self._clear()
            stack.enter_context(view)
            self._open_account(stack, view)
            if self._serverless:
                self._open_serverless(stack, view)
            if self._direct:
                self._open_direct(stack, view)
            self._wait_until(lambda: self._ready, "Starting the pipeline", stop, view)
            if not stop.is_set():
                self._write_orders(stack, stop, view)
            if not self._traffic.writes:
                return self._ended_early()
            self._drain(view)
            self._show(view, "Comparing with DynamoDB")
            for probe in self._probes.values():
                probe.stop()
            return self._outcome()

    # -- the parts, in the order they start ------------------------------------------------------------------

    def _claim(self, stack: ExitStack) -> None:
        """The directory is this run's alone until it ends, or is killed: to begin anew is to delete what is there."""
        directory = self._directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()) and not (directory / OURS).exists():
                raise ConfigError(f"{directory} is not empty and not this demo's. Choose another directory with --dir.")
            lock = stack.enter_context((directory / OURS).open("a"))
        except OSError as error:
            raise ConfigError(
                f"The demo cannot write into {directory}: {error.strerror}. Choose another directory with --dir."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeaseHeld(
                f"Another demo runs in {directory}. Stop it, or choose another directory with --dir."
            ) from None

    def _clear(self) -> None:
        """The stand-in begins empty, so all that was made of an earlier one's orders goes."""
        for name in MADE:
            shutil.rmtree(self._directory / name, ignore_errors=True)

    def _open_account(self, stack: ExitStack, view: View[GadgetsMoment]) -> None:
        self._show(view, "Starting AWS's stand-in")
        self._server = server = MiniStack(self._directory / "stand-in")
        stack.callback(server.stop)
        server.start()
        environ = server.environ()
        exports = [f"export {name}={value}" for name, value in environ.items()]
        (self._directory / OURS).write_text("\n".join(exports) + "\n", encoding="utf-8")
        # What is read of S3, also by others of ours, is kept here and not among a person's own.
        stack.enter_context(aws_environment({**environ, "XDG_CACHE_HOME": str(self._directory / "cache")}))
        self._show(view, f"Making the table {TABLE}")
        make_table()

    def _open_serverless(self, stack: ExitStack, view: View[GadgetsMoment]) -> None:
        from catchment.aws.local.firehose import Firehose
        from catchment.aws.local.pipe import Pipe

        self._show(view, "Making stream, bucket and catalog")
        make_delivery()
        state = self._directory / "runners"
        self._firehose = self._runner(stack, "firehose", Firehose(delivery_stream(), state))
        self._pipe = self._runner(stack, "pipe", Pipe(TABLE, STREAM, state, partition_key=PARTITION_KEY))
        self._probe(stack, "serverless", self._directory / "cache" / "catchment" / "athena")

    def _open_direct(self, stack: ExitStack, view: View[GadgetsMoment]) -> None:
        self._show(view, "Starting capture")
        path = write_pipeline(self._directory)
        capture = Capture(path, os.environ)
        self._capture = capture
        stack.callback(capture.stop)
        capture.start()
        self._probe(stack, "direct", path)

    def _runner(self, stack: ExitStack, name: str, runner: Any) -> RunnerThread:
        thread = RunnerThread(name, runner)
        stack.callback(thread.stop)
        thread.start()
        return thread

    def _probe(self, stack: ExitStack, shape: str, place: Path) -> None:
        watched = self._watched[shape] = _Watched()
        probe = Child("catchment.demo.gadget_probe", shape, str(place), hear=watched.hear)
        stack.callback(probe.stop)
        self._probes[shape] = probe

    @property
    def _ready(self) -> bool:
        captures = self._capture is None or (self._capture.running and self._capture.live)
        return captures and all(watched.looking for watched in self._watched.values())

    def _write_orders(self, stack: ExitStack, stop: threading.Event, view: View[GadgetsMoment]) -> None:
        """Orders begin when everything looks, so that all of them are measured."""
        arguments = (TABLE, str(self._rate), str(self._seconds or 0), str(self._seed))
        traffic = Child("catchment.demo.gadget_traffic", *arguments, hear=self._traffic.hear)
        stack.callback(traffic.stop)
        self._began = time.monotonic()
        self._wait_until(lambda: traffic.ended, "Selling gadgets", stop, view)
        traffic.stop()

    def _drain(self, view: View[GadgetsMoment]) -> None:
        if self._capture is not None:
            self._capture.begin_drain()
        moved, last = time.monotonic(), -1
        while self._undone:
            if self._arrived != last:
                moved, last = time.monotonic(), self._arrived
            if time.monotonic() - moved > STALLED_SECONDS:
                raise Fatal(
                    f"{self._traffic.writes:,} changes were written and {self._arrived:,} of them arrived. "
                    f"See {self._directory}/stand-in/ministack.log, or report this."
                )
            self._show(view, "Draining")
            time.sleep(SHOW_SECONDS / 5)

    @property
    def _arrived(self) -> int:
        """Changes that reached an end: of the serverless shape in a query's answer or the error output."""
        if self._firehose is None:
            return self._watched["direct"].changes
        return self._watched["serverless"].changes + self._firehose.snapshot().failed

    @property
    def _undone(self) -> bool:
        self._look()
        if self._capture is not None and self._capture.running:
            return True
        return self._firehose is not None and self._arrived < self._traffic.writes

    def _wait_until(
        self, done: Callable[[], bool], phase: str, stop: threading.Event, view: View[GadgetsMoment]
    ) -> None:
        while not done() and not stop.wait(SHOW_SECONDS):
            self._look()
            self._show(view, phase)

    def _look(self) -> None:
        """Raises why a part has ended that should not have."""
        if self._server is not None and not self._server.running:
            raise Fatal(f"AWS's stand-in has ended. See {self._server.log}.")
        for probe in self._probes.values():
            if probe.ended:
                probe.stop()
                raise Fatal("A probe of the demo ended without a reason; please report this.")
        if self._capture is not None and not self._capture.running and self._capture.last is None:
            raise Fatal("Capture ended before it began; please report this.")
        for runner in (self._pipe, self._firehose):
            if runner is not None:
                runner.snapshot()

    # -- what it shows and says ------------------------------------------------------------------------------

    def _show(self, view: View[GadgetsMoment], phase: str) -> None:
        view.show(
            GadgetsMoment(
                phase=phase,
                seconds=time.monotonic() - self._began if self._began is not None else 0.0,
                seconds_wanted=self._seconds,
                kinds=self._traffic.kinds,
                writes_per_second=self._traffic.per_second,
                pipe=self._pipe.snapshot() if self._pipe is not None else None,
                firehose=self._firehose.snapshot() if self._firehose is not None else None,
                report=self._capture.last if self._capture is not None else None,
                sightings={shape: watched.sighting() for shape, watched in self._watched.items()},
            )
        )

    def _outcome(self) -> GadgetsOutcome:
        table = scanned_orders(TABLE)
        shapes: dict[str, ShapeOutcome] = {}
        orders: dict[str, list[Order]] = {}
        if self._serverless:
            shapes["serverless"], orders["serverless"] = self._serverless_outcome(table)
        if self._direct:
            shapes["direct"], orders["direct"] = self._direct_outcome(table)
        both = len(orders) == 2
        return GadgetsOutcome(
            directory=str(self._directory),
            seconds=round(self._traffic.seconds, 3),
            writes=self._traffic.writes,
            kinds=self._traffic.kinds,
            shapes=shapes,
            shapes_equal=sorted(orders["serverless"]) == sorted(orders["direct"]) if both else None,
            notes=self._next_steps(),
        )

    def _serverless_outcome(self, table: Mapping[str, Order]) -> tuple[ShapeOutcome, list[Order]]:
        import numpy as np

        import catchment.glue

        assert self._pipe is not None and self._firehose is not None  # noqa: S101 - started with this shape
        with catchment.glue.connect(DATABASE, cache=self._directory / "cache" / "catchment" / "athena") as lake:
            orders = asked_orders(lake.execute(ORDERS))
            inserted = lake.execute(INSERTED).fetchnumpy()["order_timestamp"]
            compared = compare_orders(table, orders)
            row = lake.execute("SELECT COUNT(*) FROM sales_data_table").fetchone()
            moments = np.asarray(inserted, "datetime64[us]").astype(np.int64) / 1e6
            outcome = ShapeOutcome(
                changes=int(row[0]) if row is not None else 0,
                orders=compared,
                equal=compared.equal,
                latency_ms=seen_after(moments, self._watched["serverless"].sightings),
                stages={"pipe": asdict(self._pipe.snapshot()), "firehose": asdict(self._firehose.snapshot())},
                queries=answers(lake.execute, CHANGES_BY_UPI, UNITS_TODAY, limit=ANSWER_ROWS),
                journey=_journey(lake.execute(NEWEST).fetchone()),
            )
        return outcome, orders

    def _direct_outcome(self, table: Mapping[str, Order]) -> tuple[ShapeOutcome, list[Order]]:
        import catchment

        assert self._capture is not None  # noqa: S101 - started with this shape
        self._capture.refresh_gold()
        report = self._capture.last
        with catchment.connect(self._directory / "pipeline.yaml") as lake:
            orders = asked_orders(lake.execute(ORDERS.replace("gadget_sales", "gold.gadget_sales")))
            inserted = lake.execute(
                "SELECT epoch_us(after.order_timestamp) AS at FROM bronze.dynamodb_OrderTable WHERE _op = 'c'"
            )
            moments = inserted.fetchnumpy()["at"].astype("float64") / 1e6
            compared = compare_orders(table, orders)
            row = lake.execute("SELECT count(*) FROM gold.sales_data_table").fetchone()
            outcome = ShapeOutcome(
                changes=int(row[0]) if row is not None else 0,
                orders=compared,
                equal=compared.equal,
                latency_ms=seen_after(moments, self._watched["direct"].sightings),
                stages={
                    "bronze": {"changes": sum(one.durable_changes for one in report.tables.values())} if report else {}
                },
                queries=answers(
                    lake.execute,
                    CHANGES_BY_UPI.replace(DATABASE, "gold"),
                    UNITS_TODAY.replace("gadget_sales", "gold.gadget_sales"),
                    limit=ANSWER_ROWS,
                ),
            )
        return outcome, orders

    def _ended_early(self) -> GadgetsOutcome:
        return GadgetsOutcome(str(self._directory), 0.0, 0, {}, {}, notes=["It was ended before the first order."])

    def _next_steps(self) -> list[str]:
        steps = ["What to try next:"]
        if self._direct:
            path = self._directory / "pipeline.yaml"
            steps.append(f'  catchment query {path} "SELECT * FROM gold.product_performance"')
        if not (self._serverless and self._direct):
            steps.append(
                "  catchment demo gadgets --shape both     the managed parts and Catchment alone, side by side"
            )
        steps.append(
            "  catchment aws stand-in                  AWS's stand-in by itself, to run each part in a terminal"
        )
        return [*steps, "  docs/gadgets.md                         each part, and the way to AWS with Terraform"]


def _journey(newest: tuple[Any, ...] | None) -> dict[str, Any] | None:
    """Where a change, by its event id, is in each stage."""
    from catchment.aws.trace import Trace

    return None if newest is None else Trace(TABLE, STREAM, BUCKET, ERRORS, DATABASE)(newest[0]).to_dict()


def write_pipeline(directory: Path) -> Path:
    """The direct shape's pipeline.yaml and gold models, where they are not there yet; what somebody changed stays."""
    shipped = files("catchment.demo") / "gadgets"
    path = directory / "pipeline.yaml"
    if not path.exists():
        path.write_text((shipped / "pipeline.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    if not (directory / "gold").exists():
        with as_file(shipped / "gold") as models:
            shutil.copytree(models, directory / "gold", ignore=shutil.ignore_patterns("__*"))
    return path
