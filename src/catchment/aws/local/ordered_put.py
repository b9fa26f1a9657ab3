"""PutRecords into Kinesis so that the records of a key stay in order, whatever part of a call fails.

PutRecords may fail for some records of a call; putting these again would move them behind later ones of their key. So a
call holds at most one record of a partition key, and the next one of it waits until that is accepted.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from catchment.aws.local.counters import Counters
from catchment.aws.local.patience import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, patiently, throttled
from catchment.aws_client import aws_client
from catchment.errors import SinkRefused, SinkUnavailable

CALL_RECORDS = 500
CALL_BYTES = 5 * 1024 * 1024
"""Kinesis takes 10 MiB now; 5 is what it took before, and what stand-ins take."""
RECORD_BYTES = 1024 * 1024
KEY_LETTERS = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """A record to put. event_ms: its own time, for the latency."""

    key: str
    data: bytes
    event_ms: int | None = None

    @property
    def size(self) -> int:
        """What Kinesis counts of it."""
        return len(self.data) + len(self.key.encode())


def partition_key(text: str) -> str:
    """A partition key of this text: itself, or, where it is too long or empty, its digest."""
    if 0 < len(text) <= KEY_LETTERS:
        return text
    return hashlib.sha256(text.encode()).hexdigest()


class OrderedPut:
    """Puts to one stream."""

    def __init__(self, stream: str, counters: Counters) -> None:
        self.stream = stream
        self._counters = counters
        self._client = aws_client("kinesis")

    def put(self, entries: Iterable[Entry], stop: threading.Event) -> None:
        """Put all of them; returns when each is accepted, in the order of its key.

        Raises `SinkRefused` when the stream does not take them, and `SinkUnavailable` when `stop` is set while Kinesis
        throttles or is away: then some were accepted, and all of them are to be put again.
        """
        left = deque(entries)
        pause = FIRST_PAUSE_SECONDS
        while left:
            call, later = _next_call(left)
            failed = self._put_once(call, stop)
            later.extendleft(reversed(failed))
            left = later
            if len(failed) < len(call):
                pause = FIRST_PAUSE_SECONDS
            if failed:
                if stop.wait(pause):
                    raise SinkUnavailable(f"The stream {self.stream} throttles; what is left is put by the next run.")
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _put_once(self, call: list[Entry], stop: threading.Event) -> list[Entry]:
        """Put a call's records; gives those that were not accepted."""
        records = [{"Data": one.data, "PartitionKey": one.key} for one in call]
        answer = patiently(
            lambda: self._client.put_records(StreamName=self.stream, Records=records),
            f"PutRecords to the stream {self.stream}",
            stop,
            self._counters,
        )
        failed = [one for one, code in zip(call, _codes(answer, self.stream), strict=True) if code is not None]
        for one, result in zip(call, answer["Records"], strict=True):
            if not result.get("ErrorCode"):
                self._counters.add(put=1, bytes=len(one.data))
                if one.event_ms is not None:
                    self._counters.arrived(one.event_ms)
        self._counters.add(retried=len(failed))
        return failed


def _codes(answer: dict[str, Any], stream: str) -> Iterator[str | None]:
    for result in answer["Records"]:
        code = result.get("ErrorCode")
        if code and not throttled(code):
            raise SinkRefused(f"The stream {stream} refuses a record: {code}. Check the stream and its key.")
        yield code or None


def _next_call(left: deque[Entry]) -> tuple[list[Entry], deque[Entry]]:
    """The next call, and what is left after it: the first record of each key, as far as a call goes."""
    call: list[Entry] = []
    later: deque[Entry] = deque()
    keys: set[str] = set()
    size = 0
    while left and len(call) < CALL_RECORDS:
        one = left.popleft()
        if one.key in keys:
            later.append(one)
            continue
        keys.add(one.key)
        if call and size + one.size > CALL_BYTES:
            later.append(one)
            break
        call.append(one)
        size += one.size
    later.extend(left)
    return call, later
