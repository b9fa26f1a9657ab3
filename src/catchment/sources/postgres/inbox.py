"""Where the reading threads leave what they read, bounded in bytes, for the one thread that decodes."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass

from catchment.change import ChangeBatch
from catchment.sources.postgres.pgoutput import Block


@dataclass(frozen=True, slots=True)
class Reached:
    """The WAL was read up to here; nothing below is still to come."""

    lsn: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """All rows of a finished snapshot chunk. key: of `Progress.chunks`. table_done: no chunk of it is left."""

    key: str
    name: str
    batches: tuple[ChangeBatch, ...]
    table_done: bool

    @property
    def nbytes(self) -> int:
        return sum(int(batch.records.nbytes) for batch in self.batches)


class Inbox:
    """Two bounded queues and one reader. WAL and snapshot chunks wait apart: a chunk may only come out
    between transactions, and must not hold up the WAL while it waits.
    """

    def __init__(self, most_bytes: int = 48 << 20) -> None:
        self._most = most_bytes
        self._changed = threading.Condition()
        self._wal: deque[Block | Reached] = deque()
        self._chunks: deque[Chunk] = deque()
        self._wal_bytes = 0
        self._chunk_bytes = 0
        self._error: BaseException | None = None
        self._closed = False

    def put_wal(self, item: Block | Reached, timeout: float | None = None) -> bool:
        """Leave what the WAL reader has; False when there was no room in time, or the inbox is closed."""
        size = item.nbytes if isinstance(item, Block) else 0
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._closed or not self._wal or self._wal_bytes < self._most, timeout
            ):
                return False
            if self._closed:
                return False
            self._wal.append(item)
            self._wal_bytes += size
            self._changed.notify_all()
            return True

    def put_chunk(self, chunk: Chunk) -> bool:
        """Leave a chunk; waits for room. False when the inbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._chunks or self._chunk_bytes < self._most)
            if self._closed:
                return False
            self._chunks.append(chunk)
            self._chunk_bytes += chunk.nbytes
            self._changed.notify_all()
            return True

    def fail(self, error: BaseException) -> None:
        """A reading thread cannot go on: the next `get` raises this."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def get(self, timeout: float, *, chunks_too: bool) -> Block | Reached | Chunk | None:
        """The next item: a chunk first where it may come. None after `timeout` seconds. Raises what failed."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                if chunks_too and self._chunks:
                    chunk = self._chunks.popleft()
                    self._chunk_bytes -= chunk.nbytes
                    self._changed.notify_all()
                    return chunk
                if self._wal:
                    item = self._wal.popleft()
                    if isinstance(item, Block):
                        self._wal_bytes -= item.nbytes
                    self._changed.notify_all()
                    return item
                if self._error is not None:
                    raise self._error
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def close(self) -> None:
        """Wake everybody who waits for room."""
        with self._changed:
            self._closed = True
            self._wal.clear()
            self._chunks.clear()
            self._changed.notify_all()
