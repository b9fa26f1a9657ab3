"""The DynamoDB source: tables by scan and stream, each at its own pace, in fair turns."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from catchment.aws_client import aws_client
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema
from catchment.sources.aws_answers import answer_plainly
from catchment.sources.base import Event, SchemaChange, SourceStatus
from catchment.sources.dynamodb.capture import TableCapture
from catchment.sources.dynamodb.config import DynamoDbSourceConfig
from catchment.sources.dynamodb.table import describe_table

WAIT_SECONDS = 0.25
"""How often captures are asked although nothing woke us: they have clocks of their own."""


class DynamoDbSource:
    """Captures tables of DynamoDB. Contract: `catchment.sources.base.Source`.

    Nothing is left at DynamoDB: a stream knows no readers, so a dry run needs no care. resnapshot: scan every table
    again, telling the lake to forget what it has.
    """

    def __init__(self, config: DynamoDbSourceConfig, *, resnapshot: bool = False) -> None:
        self._config = config
        self._resnapshot = resnapshot
        self._captures: deque[TableCapture] = deque()
        self._pending: deque[Event] = deque()
        self._announced: dict[TableId, TableSchema] = {}
        self._wake = threading.Event()
        self._progress = Progress()

    def open(self, resume: Progress | None) -> None:
        self._progress = held = resume or Progress()
        client = aws_client("dynamodb", self._config.region)
        tables = [describe_table(client, name) for name in dict.fromkeys(self._config.tables)]
        for table in tables:
            table.require_stream()
        streams = aws_client("dynamodbstreams", self._config.region)
        answer_plainly(client, "dynamodb", "Scan")
        answer_plainly(streams, "dynamodb-streams", "GetRecords")
        for table in tables:
            capture = TableCapture(self._config, table, client, streams, self._reach, held, self._wake)
            self._captures.append(capture)
            self._add(capture.open(anew=self._resnapshot))

    def next(self, timeout: float) -> Event | None:
        deadline = time.monotonic() + timeout
        while not self._pending:
            self._wake.clear()
            if self._take():
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._wake.wait(min(left, WAIT_SECONDS))
        return self._pending.popleft()

    def acknowledge(self, progress: Progress) -> None:
        # DynamoDB itself is told nothing. Lanes that are retired are said again, for a while, by the captures.
        for capture in self._captures:
            capture.settle(progress)
        self._progress = self._progress.without_retired()

    def head(self) -> Progress:
        head = Progress()
        for capture in self._captures:
            head = head.join(capture.ask())
        return head

    def status(self) -> SourceStatus:
        modes = {capture.mode for capture in self._captures}
        mode = next((one for one in ("snapshot", "catch-up", "live") if one in modes), "starting")
        notes = tuple(note for capture in self._captures for note in capture.status_notes())
        reports = {capture.snapshot.rpartition("@")[0]: capture.report() for capture in self._captures}
        return SourceStatus(mode, None, notes, {name: one for name, one in reports.items() if one is not None})

    def close(self) -> None:
        for capture in self._captures:
            capture.close()

    def _take(self) -> bool:
        """Events of the next table that has some; those of a segment that was begun come first."""
        for _ in range(len(self._captures)):
            capture = self._captures[0]
            if events := capture.take():
                self._add(events)
                if not capture.within_segment:
                    self._captures.rotate(-1)
                return True
            if capture.within_segment:
                return False
            self._captures.rotate(-1)
        return False

    def _add(self, events: Iterable[Event]) -> None:
        """Announce a schema before its first batch, and once."""
        for event in events:
            if isinstance(event, SchemaChange):
                if self._announced.get(event.schema.table) == event.schema:
                    continue
                self._announced[event.schema.table] = event.schema
            self._pending.append(event)

    def _reach(self, progress: Progress) -> Progress:
        """What is reached now, by all tables."""
        self._progress = self._progress.join(progress)
        return self._progress
