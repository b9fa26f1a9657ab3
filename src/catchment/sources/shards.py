"""The shards of a stream (DynamoDB Streams, Kinesis): parents before their children, many in fair turns.

A shard ends when its stream is split, merged or rolled over (DynamoDB: every four hours), and its children go on.
Records of one key are in order only when a parent is read to its end before its children begin. The order in which
AWS lists shards says nothing; `ParentShardId` and `AdjacentParentShardId` do. A parent that is listed no more was
trimmed, and counts as finished.

Source: DynamoDB Streams and Kinesis API references, GetShardIterator and GetRecords; AWS.md, 3.4 and 3.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from catchment.errors import PositionLost, SourceUnavailable

TRIM_HORIZON = "TRIM_HORIZON"
"""The place before the oldest record that the shard still has."""
LATEST = "LATEST"
"""The place after the newest record there is now."""
SHARD_END = "SHARD_END"
"""The place after a closed shard's last record."""
_SINCE = "SINCE:"


class Throttled(SourceUnavailable):
    """AWS asks for fewer calls. The reader waits and asks again; nobody else sees this."""


class IteratorExpired(SourceUnavailable):
    """An iterator was kept for too long (DynamoDB 15 minutes, Kinesis 5). The reader takes a new one."""


class Trimmed(PositionLost):
    """Records that were not read yet are no longer there (DynamoDB keeps 24 hours, Kinesis its retention)."""


class StreamGone(PositionLost):
    """There is no such stream (any more)."""


def since(epoch_seconds: float) -> str:
    """The place before what was written at this time. Where a stream cannot be asked by time it is TRIM_HORIZON."""
    return f"{_SINCE}{int(epoch_seconds * 1_000_000)}"


def since_microseconds(place: str) -> int | None:
    """The time of a place that `since` made; None of any other."""
    return int(place.removeprefix(_SINCE)) if place.startswith(_SINCE) else None


def is_sequence_number(place: str) -> bool:
    """Is this place after a record (rather than at an end, a beginning or a time)?"""
    return place.isdecimal()


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard as it is listed. closed: it takes no more records (it may have some to read)."""

    id: str
    parents: tuple[str, ...] = ()
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What one GetRecords gave.

    records: as boto3 gives them. sequence_numbers: of each. next_iterator: None when the shard was read to its end.
    behind_ms: Kinesis' MillisBehindLatest; None where the service does not say. newest_at: when the last record was
    written, by the service's clock (epoch seconds); None without one. told_at: what that clock said of the answer,
    to the second.
    """

    records: Sequence[Mapping[str, Any]]
    sequence_numbers: Sequence[str]
    next_iterator: str | None
    behind_ms: int | None = None
    newest_at: float | None = None
    told_at: float | None = None


class StreamClient(Protocol):
    """One stream, as its service offers it. Used by several threads.

    Raises `Throttled`, `IteratorExpired`, `Trimmed` and `StreamGone` for what the reader handles; `Retriable` and
    `Fatal` for everything else.
    """

    @property
    def stream(self) -> str:
        """What people call the stream."""
        ...

    @property
    def reads_apart_seconds(self) -> float:
        """How long to wait between two reads of one shard at least."""
        ...

    @property
    def empty_reads_at_tip(self) -> int:
        """After how many answers without records, one after the other, a shard is taken to be read up to now."""
        ...

    def shards(self) -> list[Shard]:
        """All shards that there are, in any order."""
        ...

    def children(self, shard: str) -> list[Shard]:
        """The children of a shard that has ended; it may give others as well."""
        ...

    def iterator(self, shard: str, place: str) -> str:
        """An iterator from a place: TRIM_HORIZON, LATEST, `since(…)`, or after a sequence number."""
        ...

    def read(self, iterator: str) -> Answer:
        """The next records."""
        ...

    def newer(self, answer: Answer, begun_at: int) -> Answer:
        """What of an answer was written at this time (epoch microseconds) or later, where that must be sorted out."""
        ...


@dataclass(frozen=True, slots=True)
class Page:
    """Records of one shard, in order. ended: the shard has no more, ever. May be empty when it ended.

    read_at: when AWS was asked (epoch seconds).
    """

    shard: str
    records: Sequence[Mapping[str, Any]]
    sequence_numbers: Sequence[str]
    ended: bool
    read_at: float
    behind_ms: int | None = None


class Lineage:
    """Which shards may be read: those whose parents were read to their ends. Pure.

    places: how far each shard that was begun has been read. A shard of which a child was begun is finished, though it
    is in `places` no more.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = dict(places)
        self._shards: dict[str, Shard] = {}
        self._finished: set[str] = {one for one, place in places.items() if place == SHARD_END}

    def lists(self, shards: Iterable[Shard]) -> None:
        """These shards are there."""
        self._shards.update((one.id, one) for one in shards)
        for shard in list(self.places):
            self._finished |= self._ancestors(shard)

    def forgets(self, listed: Iterable[str]) -> None:
        """Only these are still there; others matter no more, unless they are being read."""
        kept = set(listed) | self.places.keys()
        self._shards = {name: one for name, one in self._shards.items() if name in kept}
        self._finished &= kept

    def knows(self, shards: Iterable[str]) -> bool:
        """Were all of these listed, or read to their ends?"""
        return all(one in self._shards or one in self._finished for one in shards)

    def missing(self) -> list[str]:
        """Shards that should be read, or read on, and are not there (any more)."""
        gone = [one for one in self.places if one not in self._finished and one not in self._shards]
        return sorted({*gone, *self.skipped()})

    def skipped(self) -> list[str]:
        """Shards that nobody read, and that were trimmed: others are there that come after them."""
        waiting = [one for one in self._shards.values() if one.id not in self._finished and one.id not in self.places]
        parents = {parent for one in waiting for parent in one.parents}
        return sorted(one for one in parents if one not in self._shards and one not in self._finished)

    def leaves(self) -> list[Shard]:
        """The shards without children: where the stream is now."""
        with_children = {parent for one in self._shards.values() for parent in one.parents}
        return [one for one in self._shards.values() if one.id not in with_children]

    def parents(self, shard: str) -> tuple[str, ...]:
        """The shards that this one came of, as far as it was listed."""
        found = self._shards.get(shard)
        return () if found is None else found.parents

    def begin(self) -> list[str]:
        """Shards that may be read from their beginnings now; they are begun."""
        ready = [one for one in self._shards.values() if self._ready(one)]
        for shard in ready:
            self.begin_at(shard.id, TRIM_HORIZON)
        self._let_go(one for one, place in self.places.items() if place == SHARD_END and self._children(one))
        return [one.id for one in ready]

    def begin_at(self, shard: str, place: str) -> None:
        """This shard is begun; those before it are finished, and need no place any more once no child waits."""
        self.places[shard] = place
        before = self._ancestors(shard)
        self._finished |= before
        self._let_go(before & self.places.keys())

    def end(self, shard: str) -> None:
        """This shard was read to its end."""
        self.places[shard] = SHARD_END
        self._finished.add(shard)

    def _let_go(self, shards: Iterable[str]) -> None:
        for one in list(shards):
            if all(child in self.places or child in self._finished for child in self._children(one)):
                del self.places[one]

    def _ready(self, shard: Shard) -> bool:
        if shard.id in self.places or shard.id in self._finished:
            return False
        return all(parent in self._finished or parent not in self._shards for parent in shard.parents)

    def _children(self, shard: str) -> list[str]:
        return [one.id for one in self._shards.values() if shard in one.parents]

    def _ancestors(self, shard: str) -> set[str]:
        found: set[str] = set()
        left = [shard]
        while left:
            one = self._shards.get(left.pop())
            for parent in one.parents if one is not None else ():
                if parent not in found:
                    found.add(parent)
                    left.append(parent)
        return found
