"""How far a pipeline has come: a position for each lane, and the finished snapshot chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce

ALL_CHUNKS = frozenset({"*"})
"""Stands for every chunk of a table: its snapshot is finished."""

RETIRED = b"\xff" * 64
"""The position of a lane that is over, and of which nothing can ever be read again: it is forgotten when kept.

Above every position, so that joining needs no rule of its own. For shards, of which a stream makes new ones every day.
"""


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been handled, as a point in a lattice: `meet` is what two sinks both hold.

    positions: lane → position. Everything of that lane at or below the position is handled; reading
    resumes at the next change. Positions are bytes that compare within a lane and are opaque outside
    the source.
    chunks: snapshot of a table → its finished chunks; `ALL_CHUNKS` when finished. A snapshot is called as its table is,
    or `<table>@<anything>`: a table read anew is another snapshot. A source may keep what else it must know of a table
    there, as durably, under a key that is no snapshot's: a sink that is added later begins without.
    facts: table → what a source has found out about it, and all sinks must be told alike, one added later as well.
    """

    positions: Mapping[str, bytes] = field(default_factory=dict)
    chunks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    facts: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def covers(self, other: Progress) -> bool:
        """Is everything that `other` has handled also handled here?"""
        return (
            all(self.positions.get(lane, b"") >= at for lane, at in other.positions.items() if at != RETIRED)
            and all(self._has_chunks(table, chunks) for table, chunks in other.chunks.items())
            and all(facts <= self.facts.get(table, frozenset()) for table, facts in other.facts.items())
        )

    def _has_chunks(self, table: str, chunks: frozenset[str]) -> bool:
        mine = self.chunks.get(table, frozenset())
        return mine == ALL_CHUNKS or chunks <= mine

    def join(self, other: Progress) -> Progress:
        """What is handled here or there: the later position of each lane, all chunks."""
        positions = dict(self.positions)
        for lane, at in other.positions.items():
            positions[lane] = max(at, positions.get(lane, b""))
        chunks = dict(self.chunks)
        for table, names in other.chunks.items():
            mine = chunks.get(table, frozenset())
            chunks[table] = ALL_CHUNKS if ALL_CHUNKS in (mine, names) else mine | names
        return Progress(positions, chunks, _all_facts((self, other)))

    def meet(self, other: Progress) -> Progress:
        """What is handled both here and there: the earlier position of each lane, common chunks."""
        positions = {
            lane: min(at, other.positions[lane]) for lane, at in self.positions.items() if lane in other.positions
        }
        chunks: dict[str, frozenset[str]] = {}
        for table, names in self.chunks.items():
            theirs = other.chunks.get(table, frozenset())
            both = theirs if names == ALL_CHUNKS else names if theirs == ALL_CHUNKS else names & theirs
            if both:
                chunks[table] = both
        shared = {table: facts & other.facts.get(table, frozenset()) for table, facts in self.facts.items()}
        return Progress(positions, chunks, {table: facts for table, facts in shared.items() if facts})

    @property
    def snapshots_finished(self) -> bool:
        """Is every snapshot that was begun read to its end?"""
        return all(names == ALL_CHUNKS for names in self.chunks.values())

    def snapshots(self) -> dict[str, dict[str, frozenset[str]]]:
        """`chunks` by table. A snapshot without rows is here only: no batch of changes names it."""
        found: dict[str, dict[str, frozenset[str]]] = {}
        for snapshot, names in self.chunks.items():
            found.setdefault(snapshot.rpartition("@")[0] or snapshot, {})[snapshot] = names
        return found

    def without_retired(self) -> Progress:
        """The same, with retired lanes forgotten."""
        return Progress({lane: at for lane, at in self.positions.items() if at != RETIRED}, self.chunks, self.facts)

    def brief(self) -> Progress:
        """The same with fewer words: of a snapshot that is not finished, only that it was begun (no chunks)."""
        chunks = {table: names if names == ALL_CHUNKS else frozenset() for table, names in self.chunks.items()}
        return Progress(self.positions, chunks, self.facts)

    def to_json(self) -> str:
        """One line of JSON with sorted keys; positions in hex. Retired lanes are left out."""
        data: dict[str, Mapping[str, str | list[str]]] = {
            "positions": {lane: at.hex() for lane, at in self.without_retired().positions.items()},
            "chunks": {table: sorted(names) for table, names in self.chunks.items()},
        }
        if self.facts:
            data["facts"] = {table: sorted(facts) for table, facts in self.facts.items()}
        return json.dumps(data, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """The inverse of `to_json`, but for retired lanes. Raises ValueError or KeyError on anything else."""
        data = json.loads(text)
        return cls(
            {lane: bytes.fromhex(at) for lane, at in data["positions"].items()},
            {table: frozenset(names) for table, names in data["chunks"].items()},
            {table: frozenset(facts) for table, facts in data.get("facts", {}).items()},
        )


def minimum(progresses: Iterable[Progress | None]) -> Progress | None:
    """What all of them hold; None when one holds nothing yet, or there are none."""
    held = list(progresses)
    if not held or any(one is None for one in held):
        return None
    return reduce(Progress.meet, (one for one in held if one is not None))


def resume_point(progresses: Iterable[Progress | None]) -> Progress | None:
    """Where a source resumes for sinks that hold this; None when none of them holds anything.

    A sink that holds nothing (it was added to a pipeline that has run) needs every snapshot again, while the
    stream must still begin where the others are: they would otherwise miss what is between. What any of them knows
    of a table is known to all: the first value of an attribute must not be another one because one sink is behind.
    """
    held = list(progresses)
    known = [one for one in held if one is not None]
    common = minimum(known)
    if common is None:
        return None
    return Progress(common.positions, {} if None in held else common.chunks, _all_facts(known))


def _all_facts(progresses: Iterable[Progress]) -> dict[str, frozenset[str]]:
    facts: dict[str, frozenset[str]] = {}
    for one in progresses:
        for table, found in one.facts.items():
            facts[table] = facts.get(table, frozenset()) | found
    return facts
