"""A stream as AWS documents it, in memory: shards roll, split, merge and are trimmed; calls are refused.

MiniStack's streams have one shard that never ends, so what AWS says about lineage is played here.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catchment.sources.shards import (
    LATEST,
    Answer,
    IteratorExpired,
    Shard,
    Throttled,
    Trimmed,
    is_sequence_number,
)


@dataclass
class _Shard:
    shard: str
    parents: tuple[str, ...]
    numbers: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    closed: bool = False
    trimmed_to: int = 0


class ScriptedStream:
    """Records of keys in shards. A key's records go to the open shard whose share of the keys it falls into.

    page: records in an answer at most. refusals, expiries, empties: the share of calls that are refused, whose iterator
    has expired, that are answered with nothing although there is more.
    """

    stream = "The scripted stream"
    reads_apart_seconds = 0.0

    def __init__(
        self,
        seed: int = 1,
        *,
        shards: int = 1,
        page: int = 3,
        refusals: float = 0.0,
        expiries: float = 0.0,
        empties: float = 0.0,
    ) -> None:
        self.empty_reads_at_tip = 3 if empties else 1
        self.calls: list[str] = []
        self._lock = threading.RLock()
        self._random = random.Random(seed)
        self._page = page
        self._refusals, self._expiries, self._empties = refusals, expiries, empties
        self._shards: dict[str, _Shard] = {}
        self._open: list[str] = []
        self._number = 10**20
        self._streak = 0
        for _ in range(shards):
            self._add(())
        self.disabled = False

    # -- writing

    def put(self, key: str) -> int:
        """A record of this key; its sequence number."""
        with self._lock:
            self._number += self._random.randrange(1, 1000)
            shard = self._shards[self._open[hash_of(key) % len(self._open)]]
            shard.numbers.append(self._number)
            shard.keys.append(key)
            return self._number

    def roll(self) -> None:
        """Every open shard ends, and has one child."""
        with self._lock:
            for name in list(self._open):
                self._shards[name].closed = True
                self._replace([name], 1)

    def split(self) -> None:
        """All keys are dealt out anew over one shard more, each of which has all open ones as parents.

        AWS splits one shard in two; what matters is the same: a key's later records are in descendants only.
        """
        with self._lock:
            self._deal(len(self._open) + 1)

    def merge(self) -> None:
        """The same with one shard less."""
        with self._lock:
            self._deal(max(1, len(self._open) - 1))

    def disable(self) -> None:
        """All shards end, and none follows."""
        with self._lock:
            for name in self._open:
                self._shards[name].closed = True
            self.disabled = True

    def trim(self, shard: str) -> None:
        """What this shard has now is let go of; a closed shard is no longer listed."""
        with self._lock:
            one = self._shards[shard]
            if one.closed:
                del self._shards[shard]
            else:
                one.trimmed_to = len(one.numbers)

    def names(self) -> list[str]:
        with self._lock:
            return list(self._shards)

    def _deal(self, count: int) -> None:
        old = list(self._open)
        for name in old:
            self._shards[name].closed = True
        self._open = []
        for _ in range(count):
            self._add(tuple(old))

    def _replace(self, old: Sequence[str], count: int) -> None:
        at = self._open.index(old[0])
        self._open.remove(old[0])
        for _ in range(count):
            name = self._add(tuple(old))
            self._open.remove(name)
            self._open.insert(at, name)

    def _add(self, parents: tuple[str, ...]) -> str:
        name = f"shardId-{self._random.randrange(10**6):06}-{len(self._shards):04}"
        self._shards[name] = _Shard(name, parents)
        self._open.append(name)
        return name

    # -- the contract of a stream's client

    def shards(self) -> list[Shard]:
        self._note("list")
        with self._lock:
            found = [Shard(one.shard, one.parents, one.closed) for one in self._shards.values()]
            self._random.shuffle(found)
            return found

    def children(self, shard: str) -> list[Shard]:
        return [one for one in self.shards() if shard in one.parents]

    def iterator(self, shard: str, place: str) -> str:
        self._note("iterator")
        with self._lock:
            one = self._shards.get(shard)
            if one is None:
                raise Trimmed(f"{shard} is gone")
            if place == LATEST:
                return f"{shard}:{len(one.numbers)}"
            if not is_sequence_number(place):
                return f"{shard}:{one.trimmed_to}"
            at = next((i for i, number in enumerate(one.numbers) if number > int(place)), len(one.numbers))
            if at < one.trimmed_to:
                raise Trimmed(f"{shard} no longer has what follows {place}")
            return f"{shard}:{at}"

    def read(self, iterator: str) -> Answer:
        self._note("read")
        with self._lock:
            if self._chance(self._expiries):
                raise IteratorExpired("expired")
            name, _, at = iterator.partition(":")
            one, first = self._shards.get(name), int(at)
            if one is None or first < one.trimmed_to:
                raise Trimmed(f"{name} was trimmed")
            if self._streak < self.empty_reads_at_tip - 1 and self._chance(self._empties):
                self._streak += 1
                return Answer([], [], iterator)
            self._streak = 0
            end = min(first + self._page, len(one.numbers))
            records = [{"key": key, "shard": name} for key in one.keys[first:end]]
            ended = one.closed and end == len(one.numbers)
            numbers = [str(number) for number in one.numbers[first:end]]
            return Answer(records, numbers, None if ended else f"{name}:{end}")

    def newer(self, answer: Answer, begun_at: int) -> Answer:
        return answer

    def _note(self, call: str) -> None:
        with self._lock:
            self.calls.append(call)
            if self._chance(self._refusals):
                raise Throttled("slow down")

    def _chance(self, share: float) -> bool:
        return share > 0 and self._random.random() < share


def hash_of(key: str) -> int:
    """The same in every process."""
    return sum(key.encode())


def keys_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of a page's records."""
    return [str(one["key"]) for one in records]
