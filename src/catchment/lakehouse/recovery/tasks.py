"""Work on a pipeline's lake that a command asks for, done by whoever holds the lease.

A command calls `perform`. The process that runs the pipeline calls `serve_requests` now and then, from its
maintenance thread. Both carry the work out in the same way, with the same handlers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from catchment.errors import (
    CatchmentError,
    ConfigError,
    Fatal,
    LeaseHeld,
    LeaseLost,
    Reopen,
    Retriable,
    SinkUnavailable,
)
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.lease import holder
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.recovery import requests
from catchment.lakehouse.recovery.requests import Request, State
from catchment.lakehouse.table import SNAPSHOTS_KEPT
from catchment.lakehouse.writer import LakeWriter
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

HANDLERS: dict[str, str] = {
    "rollback": "catchment.lakehouse.recovery.rollback:roll_back",
    "resume": "catchment.lakehouse.recovery.rebuild:resume",
    "rebuild": "catchment.lakehouse.recovery.rebuild:rebuild",
    "maintain": "catchment.lakehouse.maintenance.command:maintain",
    "release": "catchment.quality.release:release",
}
"""Kind of work → `module:function`, which is imported when it is asked for.

A handler takes the open writer and the `Task`, and returns what JSON can hold. It may be called again after a
crash, so it changes the lake in one commit, or in steps that may be repeated.
"""

POLL_SECONDS = 0.2
IMPATIENT_SECONDS = 15.0
"""After so long the command says that it waits for another process, and why."""

Tell = Callable[[str], None]


class Stopped(Exception):
    """The process ends: the work is broken off, and done by whoever holds the lease next."""


@dataclass(frozen=True, slots=True)
class PipelineLake:
    """Where the lake of a pipeline is, and as which sink its tables are written."""

    pipeline: str
    lakehouse: LakehouseConfig
    directory: Path
    sink: str = "iceberg"
    snapshots_kept: int = SNAPSHOTS_KEPT

    def open_ops(self) -> OpsStore:
        """The operations data."""
        return OpsStore.open(self.lakehouse, self.directory)

    def open_writer(self) -> LakeWriter:
        """The writer, for one piece of work. Raises `LeaseHeld` or `SinkUnavailable` while somebody else writes."""
        return LakeWriter.open(
            self.lakehouse,
            self.pipeline,
            self.directory,
            sink=self.sink,
            snapshots_kept=self.snapshots_kept,
            briefly=True,
        )


class Task:
    """A piece of work while it is done."""

    def __init__(self, request: Request, ops: OpsStore, stopping: threading.Event | None = None) -> None:
        self.kind = request.kind
        self.arguments = request.arguments
        self._request = request
        self._ops = ops
        self._stopping = stopping
        self._told_at = float("-inf")

    def tell(self, note: str) -> None:
        """Say how far the work is, to whoever waits for it; at most a few times a second. Calls `check`."""
        self.check()
        now = time.monotonic()
        if now - self._told_at >= POLL_SECONDS:
            self._told_at = now
            requests.tell(self._ops, self._request.id, note)

    def check(self) -> None:
        """Between two steps of long work: raises `Stopped` when the process is to end."""
        if self._stopping is not None and self._stopping.is_set():
            raise Stopped


Handler = Callable[[LakeWriter, Task], Mapping[str, Any]]


def serve_requests(writer: LakeWriter, stopping: threading.Event | None = None) -> int:
    """Do what commands have asked of the process that holds the lease; how many requests were done.

    Cheap when there is none. A request that fails is answered with its error. Raises `LeaseLost` and errors of
    the operations data.
    """
    served = 0
    while not (writer.retired or (stopping is not None and stopping.is_set())):
        request = requests.take(writer.ops, writer.pipeline)
        if request is None:
            break
        carry_out(writer, request, stopping)
        served += 1
    return served


def carry_out(writer: LakeWriter, request: Request, stopping: threading.Event | None = None) -> None:
    """Do the work of a request that was taken, and answer it."""
    ops = writer.ops
    try:
        outcome = _handler(request.kind)(writer, Task(request, ops, stopping))
    except (Stopped, LeaseLost, Reopen) as reason:
        # Not done, and not refused: whoever holds the lease next, or opens the lake anew, does it.
        requests.put_back(ops, request.id)
        if isinstance(reason, LeaseLost):
            raise
    except CatchmentError as error:
        # The command itself shows it; in another process it is told in the log as well.
        level = logging.WARNING if stopping is not None else logging.DEBUG
        log.log(level, "%s: a request (%s) could not be done: %s", request.pipeline, request.kind, error)
        requests.fail(ops, request.id, error)
    except Exception as error:  # noqa: BLE001 - the process that serves goes on; the command gets it as an error
        # Its message may come from anywhere and hold anything; the trace names places only.
        log.warning("%s: a request (%s) failed unexpectedly: %s", request.pipeline, request.kind, _trace(error))
        requests.fail(ops, request.id, Fatal(f"{request.kind} failed unexpectedly: {_trace(error)}."))
    except BaseException:
        requests.put_back(ops, request.id)
        raise
    else:
        requests.finish(ops, request.id, outcome)


def perform(lake: PipelineLake, kind: str, arguments: Mapping[str, Any], tell: Tell | None = None) -> dict[str, Any]:
    """Have a piece of work done, by this process or by the one that runs the pipeline; its outcome.

    tell: is given a line now and then. Raises what the work raised, wherever it was done.
    """
    with closing(lake.open_ops()) as ops:
        request = requests.submit(ops, lake.pipeline, kind, arguments)
        try:
            return _Waiting(lake, ops, request, tell or (lambda _: None)).outcome()
        except BaseException:
            requests.withdraw(ops, request)
            raise


class _Waiting:
    """A command that waits for its request, and does the work itself as soon as nobody else holds the lease."""

    def __init__(self, lake: PipelineLake, ops: OpsStore, request: int, tell: Tell) -> None:
        self._lake = lake
        self._ops = ops
        self._request = request
        self._tell = tell
        self._told: str | None = None

    def outcome(self) -> dict[str, Any]:
        began = time.monotonic()
        while True:
            self._try_it_ourselves()
            standing = requests.keep_waiting(self._ops, self._request)
            if standing.state is State.DONE and standing.outcome is not None:
                return standing.outcome
            if standing.error is not None:
                raise standing.error
            if standing.state in requests.ENDED:
                raise SinkUnavailable("The request was taken for forgotten, and not done. Give the command again.")
            note = standing.note
            if standing.state is State.WAITING and time.monotonic() - began > IMPATIENT_SECONDS:
                note = self._who_keeps_us_waiting()
            if note is not None and note != self._told:
                self._told = note
                self._tell(note)
            time.sleep(POLL_SECONDS)

    def _try_it_ourselves(self) -> None:
        lake = self._lake
        if holder(lake.pipeline, lake.directory) is not None:
            return
        try:
            writer = lake.open_writer()
        except (LeaseHeld, Retriable):
            if holder(lake.pipeline, lake.directory) is not None:
                return
            raise
        with closing(writer):
            request = requests.take(writer.ops, lake.pipeline, only=self._request)
            if request is None:
                return
            done = threading.Event()
            awaiting = threading.Thread(target=self._relay, args=(done,), name="catchment-relay", daemon=True)
            awaiting.start()
            try:
                carry_out(writer, request)
            finally:
                done.set()
                awaiting.join()

    def _relay(self, done: threading.Event) -> None:
        """While this process itself does the work: pass on what it says, and keep the request from lapsing."""
        while not done.wait(POLL_SECONDS):
            try:
                note = requests.keep_waiting(self._ops, self._request).note
            except CatchmentError:
                continue  # the work itself meets the same trouble, and raises it
            if note is not None and note != self._told:
                self._told = note
                self._tell(note)

    def _who_keeps_us_waiting(self) -> str:
        process = holder(self._lake.pipeline, self._lake.directory)
        return (
            f"Waiting for process {process}, which holds the pipeline, to take the request." if process else "Waiting."
        )


def _handler(kind: str) -> Handler:
    place = HANDLERS.get(kind)
    if place is None:
        raise ConfigError(
            f"The process that runs the pipeline knows no {kind!r}; it may be of another version. Start it again."
        )
    module, _, function = place.partition(":")
    handler: Handler = getattr(import_module(module), function)
    return handler


def _trace(error: BaseException) -> str:
    """Type and places of an error, without its message."""
    at, places = error.__traceback__, []
    while at is not None:
        places.append(f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}")
        at = at.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-4:])}"
