"""What a runner has done so far, for screens, JSON and tests."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

_LATENCIES_KEPT = 4096


@dataclass(frozen=True, slots=True)
class RunnerSnapshot:
    """Counts since the start. Nothing in it is a value of a record.

    read: records that came in. put: records that are stored or accepted at the target. retried: repetitions of calls
    and of single records. failed: records in the error output, the dead letters, or at the on-failure destination.
    bytes: what was written, before compression. last_event_at: the newest record's own time, seconds since 1970.
    latency_*: from a record's own time (its arrival, for Firehose) to `put`, over the latest records.
    """

    read: int
    put: int
    dropped: int
    retried: int
    failed: int
    bytes: int
    objects: int
    last_event_at: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    note: str


class Counters:
    """Adds up; any thread may ask for a snapshot."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(("read", "put", "dropped", "retried", "failed", "bytes", "objects"), 0)
        self._latencies: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._last_event_at: float | None = None
        self._note = ""

    def add(self, **counts: int) -> None:
        """Add to the sums of these names."""
        with self._lock:
            for name, count in counts.items():
                self._sums[name] += count

    def arrived(self, event_ms: int) -> None:
        """A record of this time is at the target now."""
        now = time.time()
        with self._lock:
            self._latencies.append(max(0.0, now * 1000 - event_ms))
            self._last_event_at = max(self._last_event_at or 0.0, event_ms / 1000)

    def note(self, text: str) -> None:
        """What a person should know now; shown until the next note."""
        with self._lock:
            self._note = text

    def snapshot(self) -> RunnerSnapshot:
        """The counts of this moment."""
        with self._lock:
            ordered = sorted(self._latencies)
            return RunnerSnapshot(
                **self._sums,
                last_event_at=self._last_event_at,
                latency_p50_ms=_quantile(ordered, 0.5),
                latency_p99_ms=_quantile(ordered, 0.99),
                note=self._note,
            )


def _quantile(ordered: list[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1) if ordered else None
