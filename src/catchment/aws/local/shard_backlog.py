"""What a mapping has read of one shard and is not done with: its records in order, and how far the shard is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from catchment.aws.local.function import PAYLOAD_BYTES
from catchment.aws.local.stream_batch import Batch

Record = Mapping[str, Any]

EVENT_BYTES = PAYLOAD_BYTES - 4096
"""What the records of one event take at most."""
_RECORD_ENVELOPE_BYTES = 700


class ShardBacklog:
    """One shard's records that are not done. Used by one thread.

    place: of the shard, up to which everything is done. batch: what is on its way, with so many records; it is not
    tried before `due` (monotonic). trouble: how it failed last, for people. ended: nothing comes after what is here.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.ended = False
        self.batch: Batch | None = None
        self.under_way: Sequence[Record] = ()
        self.due = float("-inf")
        self.trouble = ""
        self._records: deque[Record] = deque()
        self._bytes = 0
        self._since = 0.0
        self._arrived = 0
        self._done = 0
        self._pages: deque[tuple[str, int]] = deque()

    def arrive(self, records: Sequence[Record], place: str, *, ended: bool) -> None:
        """A page was read; `place` is after it."""
        if not self._records:
            self._since = time.monotonic()
        self._records.extend(records)
        self._bytes += sum(map(_event_bytes, records))
        self._arrived += len(records)
        self._pages.append((place, self._arrived))
        self.ended = ended

    def full(self, batch_size: int) -> bool:
        """Do the records that wait fill a batch?"""
        return len(self._records) >= batch_size or self._bytes >= EVENT_BYTES

    def wait(self, batch_size: int, window_seconds: float) -> float | None:
        """Seconds until something is to be done; None when nothing waits for that."""
        if self.batch is not None:
            return max(0.0, self.due - time.monotonic())
        if not self._records:
            return None
        # The end of a shard is not waited for: its children may be.
        if self.ended or self.full(batch_size):
            return 0.0
        return max(0.0, self._since + window_seconds - time.monotonic())

    def take(self, batch_size: int) -> Sequence[Record]:
        """The records of the next batch: they are under way."""
        taken: list[Record] = []
        size = 0
        while self._records and len(taken) < batch_size:
            more = _event_bytes(self._records[0])
            if taken and size + more > EVENT_BYTES:
                break
            taken.append(self._records.popleft())
            size += more
        self._bytes -= size
        self.under_way = taken
        return taken

    def done(self) -> None:
        """What was under way is done."""
        self._done += len(self.under_way)
        self.batch, self.under_way, self.trouble = None, (), ""
        while self._pages and self._pages[0][1] <= self._done:
            self.place = self._pages.popleft()[0]

    @property
    def empty(self) -> bool:
        """Is all done that came?"""
        return not self._pages


def _event_bytes(record: Record) -> int:
    """What a record takes of an event, at most."""
    return 4 * ((len(record["Data"]) + 2) // 3) + len(record["PartitionKey"]) * 6 + _RECORD_ENVELOPE_BYTES
