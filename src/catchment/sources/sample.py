"""The contract of a source that can show rows of its tables before anything is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.schema import TableId


@dataclass
class Sample:
    """Rows of one table, read as `batches` is gone through; `after` is the row.

    rows_estimate: roughly how many the table has. whole: were all of them read? Right once `batches` has ended.
    obstacle: why the table cannot be read, a sentence; `batches` is empty then.
    """

    table: TableId
    rows_estimate: int = 0
    whole: bool = False
    obstacle: str | None = None
    batches: Iterator[ChangeBatch] = field(default_factory=lambda: iter(()))


@runtime_checkable
class Sampled(Protocol):
    """A source's configuration whose tables can be looked into. Leaves nothing behind at the source."""

    def sample(self, context: BuildContext, wanted: Callable[[TableId], bool], rows: int | None) -> Iterator[Sample]:
        """The wanted ones of the captured tables, one after the other, all as they were at one moment.

        rows: at most so many of each table, from all over it; None for all. Each sample's batches are gone through
        before the next sample is asked for. Raises `Retriable` when the source cannot be reached.
        """
        ...
