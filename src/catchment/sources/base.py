"""The contract of a source: ordered lanes of changes that can be resumed at any boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from catchment.change import ChangeBatch
from catchment.progress import Progress
from catchment.schema import TableSchema
from catchment.telemetry import SnapshotReport


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """From here on, batches of this table have this schema. Comes before the first batch of it."""

    schema: TableSchema


@dataclass(frozen=True, slots=True)
class TransactionEnd:
    """One or many transactions (or a snapshot chunk) end here: a sink may cut here, and only here.

    progress: cumulative; everything emitted so far is at or below it.
    """

    progress: Progress


@dataclass(frozen=True, slots=True)
class Idle:
    """The source has moved on without rows for us: `progress` may be acknowledged once all before it is."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be decoded: where it is at its source, and why. Never its values.

    Comes in its lane's order. It is durable before a boundary after it is; it may come again in a replay.
    """

    table: str
    lane: str
    position: bytes
    reason: str


Event = ChangeBatch | SchemaChange | TransactionEnd | Idle | DeadLetter


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """What a person wants to know of a running source. Cheap to make; nothing in it is a promise.

    mode: how it reads now (`snapshot`, `catch-up`, `live`, …). lag_bytes: unread at the source, where known.
    """

    mode: str
    lag_bytes: int | None = None
    notes: tuple[str, ...] = ()
    snapshots: Mapping[str, SnapshotReport] = field(default_factory=dict)


class Source(Protocol):
    """Ordered lanes of changes. One thread calls it; threads of its own are its own affair.

    Life: `open`, then `next`, `acknowledge` and `status` in any order, then `close`, once. After any
    exception only `close` may be called, and a new instance is opened from what is durable.

    Order: within a lane, changes come in the lane's order and no position comes twice, except that a
    source may repeat what is at or below `resume` (`ChangeBatch.after` skips it). Between two boundaries a source
    may group the changes of many whole transactions by table; batches of one large transaction may come apart, and
    nothing of another comes between them. A chunk comes whole, with a boundary before and after it. A position
    is the same in every replay.

    Errors: `Retriable` when opening again may help, else `Fatal`. A `Poison` record is not raised: it is
    emitted as a `DeadLetter`, and the rest goes on.
    """

    def open(self, resume: Progress | None) -> None:
        """Start at the change after `resume`, or from the beginning (with a snapshot, if so configured).

        Raises `PositionLost` when the source no longer has what follows `resume`: never goes on silently.
        """
        ...

    def next(self, timeout: float) -> Event | None:
        """The next event, or None after `timeout` seconds without one. Never blocks much longer."""
        ...

    def acknowledge(self, progress: Progress) -> None:
        """Everything up to `progress` is durable everywhere; the source may let go of it.

        `progress` is never above what was emitted, never goes backwards; may return before the source
        has heard of it.
        """
        ...

    def head(self) -> Progress:
        """Where the source itself stands now, snapshots included: what `--until-caught-up` waits for."""
        ...

    def status(self) -> SourceStatus:
        """How it is going."""
        ...

    def close(self) -> None:
        """Let go of connections and threads. Acknowledges nothing. May be called after any failure."""
        ...
