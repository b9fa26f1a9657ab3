"""The contract of a sink: accepted is not durable, and only a boundary can become durable."""

from __future__ import annotations

from typing import Protocol

from catchment.change import ChangeBatch
from catchment.progress import Progress
from catchment.schema import TableSchema


class Sink(Protocol):
    """A target that keeps its own progress. One thread calls it; threads of its own are its own affair.

    Life: `open`, then `schema_change`, `write`, `advance` and `flush`, then `close`, once. After any
    exception only `close` may be called, and a new instance is opened: it must then find every change
    once, whatever moment the failure came at (a lost answer included).

    Order: changes of a table stay in the order they were written.

    Errors: `Retriable` when opening again may help, else `Fatal`.
    """

    def open(self) -> Progress | None:
        """Take hold of the target and say what it holds durably; None when nothing yet."""
        ...

    def schema_change(self, schema: TableSchema) -> None:
        """From here on, batches of this table have this schema. Comes before the first batch of it."""
        ...

    def write(self, batch: ChangeBatch) -> None:
        """Accept a batch. It may stay in memory or in files nobody sees until a flush.

        Batches at or below the sink's own progress were filtered out before. Blocks when the sink
        cannot keep up: this is the back-pressure.
        """
        ...

    def advance(self, progress: Progress) -> None:
        """A boundary: everything written so far is at or below `progress`. Cheap; comes often."""
        ...

    def flush(self) -> Progress | None:
        """Make everything up to the last boundary durable and visible, at once, and return what is held.

        What was written after the last boundary stays accepted. Without anything new it changes nothing.
        A sink that has to complete a range it began before a crash may return less, until a boundary covers
        that range's end.
        """
        ...

    def close(self) -> None:
        """Let go. Drops what was not flushed; never flushes. May be called after any failure."""
        ...
