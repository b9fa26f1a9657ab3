"""An EventBridge pipe on this machine: the change records of a DynamoDB table's stream, put to a Kinesis stream.

At least once, in the order of each partition key: the checkpoint moves when Kinesis has accepted a whole page. A stream
that was disabled and enabled again is another one, with another ARN. AWS's pipe stays with the old one; this one reads
the old one to its end, says so, and goes over. What was changed between the two is in neither: `reconcile` finds it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from catchment.aws.local.change_event import KeyPath, TooLarge, change_entry
from catchment.aws.local.change_table import ChangeTable
from catchment.aws.local.checkpoint import Checkpoint
from catchment.aws.local.counters import Counters, RunnerSnapshot
from catchment.aws.local.dead_letters import DeadLetters
from catchment.aws.local.kinesis_intake import identity_of, stream_name
from catchment.aws.local.ordered_put import Entry, OrderedPut
from catchment.aws.local.patience import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS
from catchment.aws.local.shard_pages import ShardPages
from catchment.aws_client import aws_client
from catchment.errors import PositionLost, Retriable, SourceUnavailable
from catchment.failpoint import reach
from catchment.sources.dynamodb.stream import DynamoDbStream
from catchment.sources.shards import Page, StreamGone
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

LONGEST_WAIT_SECONDS = 0.5
LOOK_SECONDS = 2.0
"""How often the table is asked whether it has another stream now."""

Reconcile = Callable[[threading.Event], Any]


class Pipe:
    """Carries one table's changes to one Kinesis stream. `run` once, in one thread; `snapshot` from any.

    partition_key: a path such as `$.dynamodb.Keys.orderid.S`; the table's hash key when not given. start: TRIM_HORIZON
    or LATEST at first. reconcile: is called after changes were missed, before the new stream is read; see
    `catchment.aws.local.reconciliation`. state: a directory; one process at a time has it, `LeaseHeld` otherwise.
    """

    def __init__(
        self,
        table: str,
        stream: str,
        state: Path,
        *,
        partition_key: str | None = None,
        start: str = "TRIM_HORIZON",
        reconcile: Reconcile | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._dynamodb = aws_client("dynamodb", None)
        self.table = ChangeTable.described(table, self._dynamodb)
        self.stream = stream_name(stream)
        identity_of(self.stream)  # a stream that is not there is said now
        self._path = KeyPath(partition_key) if partition_key else KeyPath.of_table(self.table.description)
        self._start = start
        self._reconcile = reconcile
        self._look_seconds = look_seconds
        self._counters = Counters()
        self._put = OrderedPut(self.stream, self._counters)
        self._checkpoint = Checkpoint(state, f"pipe-{table}")
        self._dead_letters = DeadLetters(state / f"pipe-{table}.dead-letters.ndjson")
        self._arn = self.table.stream_arn
        self._pages: ShardPages | None = None
        self._looked_at = 0.0
        self._begun = False
        self._active_at = time.monotonic()
        self._replaced_at: float | None = None
        self.ready = threading.Event()
        """Set when it reads."""

    def snapshot(self) -> RunnerSnapshot:
        """What was done so far. `failed` are dead letters."""
        return self._counters.snapshot()

    def run(self, stop: threading.Event, *, idle_seconds: float | None = None) -> RunnerSnapshot:
        """Carry changes until `stop` is set; every page is then carried wholly, or read again by the next run.

        idle_seconds: end also when so long nothing came. Raises `PositionLost` when changes were trimmed before they
        were read and nothing reconciles, `SinkRefused` when Kinesis does not take them.
        """
        try:
            self._resume(stop)
            self._loop(stop, idle_seconds)
        except Retriable:
            # What could not be put before the end was not checkpointed: the next run reads it again.
            if not stop.is_set():
                raise
        finally:
            if self._pages is not None:
                self._pages.close()
            self._checkpoint.close()
        return self.snapshot()

    def _loop(self, stop: threading.Event, idle_seconds: float | None) -> None:
        self.ready.set()
        while not stop.is_set():
            if (page := self._next(stop)) is not None:
                self._carry(page, stop)
                self._active_at = time.monotonic()
            if idle_seconds is not None and self._idle(idle_seconds):
                return

    def _idle(self, seconds: float) -> bool:
        """Did nothing come for so long, and is nothing there: in the stream, or another stream of the table?"""
        assert self._pages is not None  # noqa: S101 - set by `_resume`
        if time.monotonic() - self._active_at < seconds or self._replaced_at is not None:
            return False
        looked = self._looked_at > self._active_at
        return looked and (self._pages.over or self._pages.caught_up(self._active_at))

    def _resume(self, stop: threading.Event) -> None:
        saved = self._checkpoint.read()
        self._arn = saved.get("stream_arn", self.table.stream_arn)
        if saved.get("reconcile"):
            self._settle_gap(stop)
        self._read_from(self._arn, saved.get("places"), "TRIM_HORIZON" if saved else self._start)

    def _read_from(self, arn: str, places: Mapping[str, str] | None, start: str) -> None:
        if self._pages is not None:
            self._pages.close()
        self._arn, self._replaced_at, self._active_at = arn, None, time.monotonic()
        self._pages = ShardPages(DynamoDbStream(arn), places, self._counters, start=start)

    def _next(self, stop: threading.Event) -> Page | None:
        assert self._pages is not None  # noqa: S101 - set by `_resume`
        try:
            page = self._pages.next(min(LONGEST_WAIT_SECONDS, self._look_seconds))
        except StreamGone:
            self.table = ChangeTable.described(self.table.name, self._dynamodb)
            if self.table.stream_arn == self._arn:
                raise
            self._go_over(stop)
            return None
        except PositionLost:
            if self._reconcile is None:
                raise
            self._begin_anew(stop)
            return None
        if page is None:
            if not self._begun and self._pages.places():
                # So that a run that got no change leaves no gap after LATEST.
                self._save(self._pages.places())
            self._look_for_another_stream(stop)
        return page

    def _carry(self, page: Page, stop: threading.Event) -> None:
        assert self._pages is not None  # noqa: S101 - set by `_resume`
        self._counters.add(read=len(page.records))
        self._put.put(self._entries(page), stop)
        reach("before_acknowledge")
        self._save(self._pages.places())

    def _entries(self, page: Page) -> list[Entry]:
        entries = []
        for record, number in zip(page.records, page.sequence_numbers, strict=True):
            try:
                entries.append(change_entry(record, self._arn, self.table.region, self._path))
            except TooLarge as error:
                log.warning("A change at %s of shard %s is a dead letter: %s.", number, page.shard, error)
                self._dead_letters.add(self._arn, page.shard, number, str(error))
                self._counters.add(failed=1)
        return entries

    def _save(self, places: Mapping[str, str], *, reconcile: bool = False) -> None:
        self._begun = True
        self._checkpoint.write({"stream_arn": self._arn, "places": dict(places), "reconcile": reconcile})

    def _look_for_another_stream(self, stop: threading.Event) -> None:
        """Go over to the table's newest stream once this one was read to its end."""
        assert self._pages is not None  # noqa: S101 - set by `_resume`
        if time.monotonic() - self._looked_at > self._look_seconds:
            self._looked_at = time.monotonic()
            try:
                self.table = ChangeTable.described(self.table.name, self._dynamodb)
            except SourceUnavailable as error:
                self._counters.note(f"waits for the table: {error}")
                return
            if self.table.stream_arn != self._arn and self._replaced_at is None:
                self._replaced_at = time.monotonic()
            elif not self.table.enabled:
                self._counters.note("the table's stream is disabled: changes are not recorded; enable it again")
        if self._replaced_at is not None and (self._pages.over or self._pages.caught_up(self._replaced_at)):
            self._go_over(stop)

    def _go_over(self, stop: threading.Event) -> None:
        """Leave a stream that was read to its end, or is gone, for the table's newest one."""
        advice = "" if self._reconcile else "; `catchment aws reconcile` brings what was changed between the two"
        self._tell(f"the stream was enabled anew ({self.table.label}): the pipe goes over to it{advice}")
        self._arn = self.table.stream_arn
        self._save({}, reconcile=self._reconcile is not None)
        self._settle_gap(stop)
        self._read_from(self._arn, None, "TRIM_HORIZON")

    def _begin_anew(self, stop: threading.Event) -> None:
        """Changes of this stream were trimmed before they were read: go on with what is there, and find the rest."""
        self._tell("changes were trimmed before they were read: the pipe goes on with what is there")
        self._save({}, reconcile=True)
        self._settle_gap(stop)
        self._read_from(self._arn, None, "TRIM_HORIZON")

    def _settle_gap(self, stop: threading.Event) -> None:
        """Bring what was missed. Until that is done the checkpoint remembers it."""
        if self._reconcile is None:
            return
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                found = self._reconcile(stop)
                break
            except Retriable as error:
                self._tell(f"the reconciliation is tried again: {error}")
                if stop.wait(pause):
                    raise
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self._save({})
        self._tell(f"reconciled: {found}")

    def _tell(self, text: str) -> None:
        log.warning("%s: %s.", self.table.name, text)
        self._counters.note(text)
