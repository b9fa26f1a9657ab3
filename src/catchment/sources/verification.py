"""The contract of a source that can be compared with the lake: its rows as they were at one exact position.

What compares (`catchment.verify`) knows no system: it asks for a point, reads chunks of rows at it, and is told
which changes of the lake's own stream came before the point and which after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.progress import Progress
from catchment.schema import TableSchema


@dataclass(frozen=True, slots=True)
class VerifiableTable:
    """A captured table. obstacle: why it cannot be compared, a sentence; None when it can.

    rows_estimate: roughly how many rows it has. lasting: the obstacle stays until somebody changes something.
    reading: another one once the table was read anew into the lake.
    """

    name: str
    rows_estimate: int = 0
    obstacle: str | None = None
    lasting: bool = False
    reading: str = ""


class SourcePoint(Protocol):
    """Some tables of a source as they were at one position. Used by one thread.

    Any method raises `Retriable` once the source had to let go of the point (it was held for too long, or
    somebody at the source waited for it).
    """

    @property
    def label(self) -> str:
        """The position, as people write it there."""
        ...

    @property
    def position(self) -> Progress:
        """What the lake must hold to have every change before the point."""
        ...

    @property
    def version(self) -> bytes:
        """Changes whose `_version` is at or below this came before the point, all others after it."""
        ...

    def schema(self, table: str) -> TableSchema:
        """The table's schema at the point."""
        ...

    def chunks(self, table: str) -> int:
        """In how many chunks the table is read."""
        ...

    def rows(self, table: str, chunks: Sequence[int], *, key_only: bool = False) -> Iterator[tuple[int, ChangeBatch]]:
        """The rows of these chunks (numbers from 0), in any order, each batch with its chunk; `after` is the row.

        key_only: the rows' key columns and no others.
        """
        ...

    def late_defaults(self, table: str) -> frozenset[str]:
        """Columns that were added with a default when there were rows, which emitted no change then."""
        ...


class SourceVerification(Protocol):
    """What a source offers to be compared with a lake. Used by one thread."""

    def tables(self, held: Progress) -> list[VerifiableTable]:
        """The captured tables, given what the lake holds."""
        ...

    def point(self, tables: Sequence[str], held: Progress, seconds: float) -> AbstractContextManager[SourcePoint]:
        """The tables as they are now, held for so many seconds at most. `held` is what the lake holds.

        Raises `Retriable` when a table was changed in its form at this very moment.
        """
        ...

    def changes(self, tables: Sequence[str], since: Progress, point: SourcePoint) -> Iterator[ChangeBatch]:
        """The changes of these tables between `since` and the point, read beside the pipeline, which goes on.

        Raises `Fatal` when the source no longer has them.
        """
        ...

    def close(self) -> None:
        """Let go of everything. May be called after any failure."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A source's configuration whose source can be compared with the lake."""

    def verification(self, context: BuildContext) -> SourceVerification:
        """A new one; connects when it is first asked."""
        ...
