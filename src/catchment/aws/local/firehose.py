"""A Firehose on this machine: records from Kinesis or Direct PUT, a Lambda transform, objects in S3.

At least once, as Firehose is: its checkpoint moves when objects are stored. A killed runner repeats at most what it had
read and not stored; `gadget_sales` settles duplicates.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from pathlib import Path

from catchment.aws.local.checkpoint import Checkpoint, Pages
from catchment.aws.local.counters import Counters, RunnerSnapshot
from catchment.aws.local.delivery import Delivery
from catchment.aws.local.delivery_stream import MIB, DeliveryStreamConfig
from catchment.aws.local.direct_put import DirectPut
from catchment.aws.local.function import Function, function_of
from catchment.aws.local.intake import IncomingPage, Intake
from catchment.aws.local.kinesis_intake import KinesisIntake
from catchment.aws.local.transformation import ArrivedRecord, Transformation, Transformed, batches
from catchment.aws_client import aws_client
from catchment.failpoint import reach
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

LONGEST_WAIT_SECONDS = 0.5
CHECKPOINT_SECONDS = 0.5
OUTSTANDING_BYTES = 256 * MIB
"""So much of what was read may wait for its object; then everything is stored at once."""


class Firehose:
    """Runs one delivery stream. `run` once, in one thread; `snapshot` from any.

    state: a directory for the checkpoint (and for what is put directly). One process at a time: `LeaseHeld` otherwise.
    """

    def __init__(self, config: DeliveryStreamConfig, state: Path, *, start: str = "TRIM_HORIZON") -> None:
        self.config = config
        self._counters = Counters()
        self._pages = Pages()
        self._s3 = aws_client("s3")
        self._intake = _intake(config, state, start)
        self._delivery = Delivery(config, self._s3, self._pages, self._counters)
        self._transformation = _transformation(config, self._intake, self._s3.meta.region_name)
        if self._transformation is not None:
            self._delivery.names_function(self._transformation.function.arn)
        self._checkpoint = Checkpoint(state, f"firehose-{config.name}")
        self._waiting: deque[ArrivedRecord] = deque()
        self._waiting_bytes = 0
        self._waiting_since = 0.0
        self._unsaved: dict[str, str] | None = None
        self._saved_at = 0.0
        self.ready = threading.Event()
        """Set when it reads, and `endpoint` can be asked for."""

    @property
    def endpoint(self) -> str | None:
        """Where Direct PUT is taken, once `ready`; None of a stream that reads Kinesis."""
        return self._intake.endpoint if isinstance(self._intake, DirectPut) else None

    def snapshot(self) -> RunnerSnapshot:
        """What was done so far."""
        return self._counters.snapshot()

    def run(self, stop: threading.Event, *, idle_seconds: float | None = None) -> RunnerSnapshot:
        """Deliver until `stop` is set, then store what is buffered, and return.

        idle_seconds: end also when so long nothing came and everything is stored. Raises `SinkRefused` when the bucket
        does not take objects, `SourceRefused` when the stream cannot be read.
        """
        try:
            self._open()
            self.ready.set()
            last = time.monotonic()
            while not stop.is_set():
                page = self._intake.next(self._pause())
                if page is not None:
                    last = time.monotonic()
                    self._arrive(page)
                self._move(stop)
                if idle_seconds is not None and time.monotonic() - last > idle_seconds and self._idle(last):
                    break
            self._finish(stop)
        finally:
            self._intake.close()
            self._checkpoint.close()
        return self.snapshot()

    def _open(self) -> None:
        saved = self._checkpoint.read()
        places = saved.get("places")
        if saved and saved["of"] != self._intake.identity:
            places = {}
            self._counters.note("the stream was made anew: it is read from its start")
            log.warning("%s: the stream was made anew since the last run; it is read from its start.", self.config.name)
        self._intake.open(places, self._counters)

    def _pause(self) -> float:
        """How long nothing has to be done."""
        due = [LONGEST_WAIT_SECONDS]
        if self._waiting:
            due.append(self._waiting_since + self.config.function_buffer_seconds - time.monotonic())
        if (stored := self._delivery.due_in()) is not None:
            due.append(stored)
        return max(0.0, min(due))

    def _idle(self, since: float) -> bool:
        """Is everything stored, and nothing there that came before this time?"""
        return not self._waiting and self._pages.outstanding == 0 and self._intake.caught_up(since)

    def _arrive(self, page: IncomingPage) -> None:
        number = self._pages.begin(page.places, len(page.records))
        self._counters.add(read=len(page.records))
        if page.records and not self._waiting:
            self._waiting_since = time.monotonic()
        for one in page.records:
            self._waiting.append(
                ArrivedRecord(
                    f"{uuid.uuid4().hex}{one.sequence_number or ''}",
                    one.data,
                    one.arrival_ms,
                    number,
                    one.shard_id,
                    one.partition_key,
                    one.sequence_number,
                )
            )
            self._waiting_bytes += len(one.data)

    def _move(self, stop: threading.Event) -> None:
        """Transform and store what is due."""
        full = self._waiting_bytes >= self.config.function_buffer_mib * MIB
        aged = time.monotonic() - self._waiting_since >= self.config.function_buffer_seconds
        if self._waiting and (full or aged or self._transformation is None):
            self._transform(stop)
        self._delivery.store_due(stop, everything=self._delivery.buffered_bytes > OUTSTANDING_BYTES)
        self._save()

    def _transform(self, stop: threading.Event) -> None:
        records = list(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        if self._transformation is None:
            for one in records:
                self._delivery.take(Transformed(one, one.data), stop)
            return
        for batch in batches(records, int(self.config.function_buffer_mib * MIB)):
            outcome = self._transformation.apply(batch)
            self._counters.add(retried=outcome.retried)
            for transformed in outcome.transformed:
                self._delivery.take(transformed, stop)
            for dropped in outcome.dropped:
                self._delivery.drop(dropped)
            for refused in outcome.refused:
                self._delivery.refuse(refused, stop)

    def _finish(self, stop: threading.Event) -> None:
        """Take in what was acknowledged already, store all of it, and keep how far that is."""
        if isinstance(self._intake, DirectPut):
            self._intake.refuse()
            while (page := self._intake.next(0)) is not None:
                self._arrive(page)
                self._move(stop)
        if self._waiting:
            self._transform(stop)
        self._delivery.store_due(stop, everything=True)
        self._save(at_once=True)

    def _save(self, *, at_once: bool = False) -> None:
        """Keep how far everything is stored; not more often than is useful."""
        settled = self._pages.settled()
        if settled is not None:
            self._unsaved = dict(settled)
        if self._unsaved is None or not (at_once or time.monotonic() - self._saved_at > CHECKPOINT_SECONDS):
            return
        reach("before_acknowledge")
        self._checkpoint.write({"of": self._intake.identity, "places": self._unsaved})
        self._intake.settled(self._unsaved)
        self._unsaved, self._saved_at = None, time.monotonic()


def _intake(config: DeliveryStreamConfig, state: Path, start: str) -> Intake:
    if config.stream is None:
        return DirectPut(config.name, state / f"firehose-{config.name}-put")
    return KinesisIntake(config.stream, start)


def _transformation(config: DeliveryStreamConfig, intake: Intake, region: str) -> Transformation | None:
    if config.function is None:
        return None
    function: Function = function_of(config.function)
    arn = config.arn or f"arn:aws:firehose:{region}:000000000000:deliverystream/{config.name}"
    return Transformation(function, arn, region, intake.arn if isinstance(intake, KinesisIntake) else None)
