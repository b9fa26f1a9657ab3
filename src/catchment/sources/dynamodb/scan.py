"""Scans a table by segments, some at the same time, and hands them over one whole segment after the other.

A segment is a chunk of the table's snapshot, called `<number>/<segments>`. After a crash only those are read that were
not whole in every sink. Source: DynamoDB API reference, Scan (parallel scan, 1 MB a page).
"""

from __future__ import annotations

import threading
import time
from binascii import a2b_base64
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catchment.aws_errors import THROTTLING, translated
from catchment.errors import CatchmentError, SourceUnavailable
from catchment.formats.dynamodb_json import event_form
from catchment.sources.aws_answers import PLAIN
from catchment.sources.dynamodb.table import DynamoDbTable
from catchment.telemetry import SnapshotReport

PAGES_AHEAD = 4
"""How many pages of 1 MB a segment may be ahead of what takes them."""
MOST_SEGMENTS = 100_000
LONGEST_WAIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ItemPage:
    """Items of one segment: typed values as JSON has them. last: the segment ends with them."""

    segment: int
    items: Sequence[Any]
    last: bool


@dataclass
class _Segment:
    number: int
    pages: deque[ItemPage] = field(default_factory=deque)


class TableScan:
    """Reads the segments of a table that are not done. One thread takes; `wake` is set when there is something.

    segments: how many the table is cut into; done: those that need not be read. Throttling is waited out. Reads are
    consistent: an item is at least as new as the moment its page was asked for.
    """

    def __init__(
        self,
        client: Any,
        table: DynamoDbTable,
        segments: int,
        done: Collection[int],
        *,
        workers: int,
        wake: threading.Event,
    ) -> None:
        self._client = client
        self._table = table
        self._segments = segments
        self._left = deque(number for number in range(segments) if number not in done)
        self._open: deque[_Segment] = deque()
        self._wake = wake
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._unfinished = len(self._left)
        self._rows_done = 0
        self._began = time.monotonic()
        self._read_here = 0
        count = min(workers, len(self._left))
        self._threads = [
            threading.Thread(target=self._work, name=f"catchment-scan-{n}", daemon=True) for n in range(count)
        ]

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    @property
    def finished(self) -> bool:
        """Was every segment taken to its end?"""
        with self._changed:
            return self._unfinished == 0

    def take(self) -> ItemPage | None:
        """The next page, if one is there: all of a segment's, before any of another. Raises what a thread failed of."""
        with self._changed:
            if self._error is not None:
                raise self._error
            segment = self._open[0] if self._open else None
            if segment is None or not segment.pages:
                return None
            page = segment.pages.popleft()
            self._rows_done += len(page.items)
            if page.last:
                self._open.popleft()
                self._unfinished -= 1
                self._read_here += 1
            self._changed.notify_all()
            return page

    def report(self) -> SnapshotReport:
        """How far it is."""
        with self._changed:
            left = None
            if self._read_here:
                left = (time.monotonic() - self._began) / self._read_here * self._unfinished
            done = self._segments - self._unfinished
            return SnapshotReport(self._rows_done, self._table.items, done, self._segments, left)

    def stop(self) -> None:
        """End the threads; what was not taken is dropped."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=40.0)

    # -- in the scanning threads

    def _work(self) -> None:
        try:
            while (segment := self._begin()) is not None:
                self._read(segment)
        except BaseException as error:  # noqa: BLE001 - whatever stops a thread is raised by take()
            with self._changed:
                self._error = self._error or error
        self._wake.set()

    def _begin(self) -> _Segment | None:
        with self._changed:
            if self._stopped or not self._left:
                return None
            segment = _Segment(self._left.popleft())
            self._open.append(segment)
            return segment

    def _read(self, segment: _Segment) -> None:
        more: dict[str, Any] = {}
        while True:
            answer = self._ask(segment.number, more)
            if answer is None:
                return
            last = not answer.get("LastEvaluatedKey")
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or len(segment.pages) < PAGES_AHEAD)
                if self._stopped:
                    return
                segment.pages.append(ItemPage(segment.number, _plain(answer), last))
            self._wake.set()
            if last:
                return
            more = {"ExclusiveStartKey": _client_form(answer, answer["LastEvaluatedKey"])}

    def _ask(self, segment: int, more: dict[str, Any]) -> Any:
        """One page; None when stopped meanwhile."""
        wait = 0.2
        while True:
            try:
                with translated(f"scanning {self._table.name}", _throttled):
                    return self._client.scan(
                        TableName=self._table.name,
                        Segment=segment,
                        TotalSegments=self._segments,
                        ConsistentRead=True,
                        **more,
                    )
            except _Throttled:
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopped, wait):
                        return None
                wait = min(LONGEST_WAIT_SECONDS, wait * 2)


class _Throttled(SourceUnavailable):
    """DynamoDB asks for fewer reads."""


def _throttled(code: str, message: str) -> CatchmentError | None:
    return _Throttled("DynamoDB asks for fewer reads.") if code in THROTTLING else None


def _plain(answer: Any) -> Sequence[Any]:
    """The items of an answer, binary values as base64 text."""
    return answer["Items"] if answer.get(PLAIN) else [event_form(item) for item in answer["Items"]]


def _client_form(answer: Any, key: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """A key of an answer as boto3 takes it: binary values as bytes."""
    if not answer.get(PLAIN):
        return key
    return {name: {"B": a2b_base64(value["B"])} if "B" in value else value for name, value in key.items()}


def segments_for(table: DynamoDbTable, segment_bytes: int) -> int:
    """Into how many segments to cut a table of this size."""
    return max(1, min(MOST_SEGMENTS, -(-table.size_bytes // segment_bytes)))
