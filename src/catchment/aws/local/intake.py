"""Where a Firehose takes its records from: a Kinesis stream, or what is put to it directly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from catchment.aws.local.counters import Counters


@dataclass(frozen=True, slots=True)
class IncomingRecord:
    """A record and when it arrived, in milliseconds. The rest is known of records from Kinesis only."""

    data: bytes
    arrival_ms: int
    shard_id: str | None = None
    partition_key: str | None = None
    sequence_number: str | None = None


@dataclass(frozen=True, slots=True)
class IncomingPage:
    """Records, in order, and where the intake is resumed after them."""

    records: Sequence[IncomingRecord]
    places: Mapping[str, str]


class Intake(Protocol):
    """Ordered records that can be read again from a place. Used by one thread."""

    @property
    def identity(self) -> str:
        """Of what the places are. When it is another one than before, a checkpoint of it says nothing."""
        ...

    def open(self, places: Mapping[str, str] | None, counters: Counters) -> None:
        """Begin after `places`; at the beginning when they are empty. None: for the first time."""
        ...

    def next(self, timeout: float) -> IncomingPage | None:
        """The next page; None after `timeout` seconds without one."""
        ...

    def caught_up(self, since: float) -> bool:
        """Was everything taken that came until this time (`time.monotonic`)?"""
        ...

    def settled(self, places: Mapping[str, str]) -> None:
        """Everything up to here is delivered and the checkpoint is durable: it may be let go of."""
        ...

    def close(self) -> None:
        """Let go of threads and connections. May be called twice."""
        ...
