"""Places in shards as positions in lanes: 24 bytes that compare as the places follow each other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping

from catchment.progress import RETIRED, Progress
from catchment.sources.shards import SHARD_END, TRIM_HORIZON, is_sequence_number, since, since_microseconds

POSITION_BYTES = 24
END = b"\xff" * POSITION_BYTES
"""The position of a shard that was read to its end."""
RETIRED_SECONDS = 600.0
"""How long it is said that a lane is retired."""
_LATEST_TIME = 1 << 63
"""Sequence numbers of AWS have 21 digits and more; a smaller number is a time in microseconds, 0 the beginning."""


def sequence_position(number: str) -> bytes:
    """The position of the record with this sequence number (up to 56 digits).

    One more byte counts leading zeros, where there are any: a service wants its number back as it wrote it.
    """
    zeros = len(number) - len(number.lstrip("0"))
    return int(number).to_bytes(POSITION_BYTES, "big") + (bytes([zeros]) if zeros else b"")


def place_position(place: str) -> bytes:
    """The position of a shard that was read up to this place."""
    if place == SHARD_END:
        return END
    if is_sequence_number(place):
        return sequence_position(place)
    return (since_microseconds(place) or 0).to_bytes(POSITION_BYTES, "big")


def position_place(position: bytes) -> str:
    """The inverse of `place_position`."""
    if position >= END:
        return SHARD_END
    number, zeros = int.from_bytes(position[:POSITION_BYTES], "big"), position[POSITION_BYTES:]
    if number == 0:
        return TRIM_HORIZON
    return since(number / 1_000_000) if number < _LATEST_TIME else f"{'0' * (zeros[0] if zeros else 0)}{number}"


def time_position(epoch_microseconds: int) -> bytes:
    """The position of a lane of times."""
    return epoch_microseconds.to_bytes(POSITION_BYTES, "big")


class Lanes:
    """The lanes of a stream's shards, `<prefix><shard id>`: how far each is, and which of them can be forgotten.

    A lane whose shard is over and followed by others stays at its end until a boundary in which it and its followers
    were is durable in every sink; only then it is retired. A sink that forgot it before another one had it whole would
    be given its changes again, and one that stores tables and progress apart could no longer tell what it has.
    """

    def __init__(self, lanes: Iterable[str]) -> None:
        """lanes: those that there are in what is held."""
        self._known = set(lanes)
        self._over: deque[tuple[str, Progress]] = deque()
        self._retired: dict[str, float] = {}

    def at(self, prefix: str, places: Mapping[str, str]) -> dict[str, bytes]:
        """The positions of all lanes, given how far the shards were read."""
        here = {f"{prefix}{shard}": place_position(place) for shard, place in places.items()}
        over = dict.fromkeys(sorted(self._known - here.keys()), END)
        self._over.extend((lane, Progress({**here, **over})) for lane in over)
        self._known = set(here)
        ended = dict.fromkeys((lane for lane, _ in self._over), END)
        return {**dict.fromkeys(self._retired, RETIRED), **ended, **here}

    def read(self, lane: str) -> None:
        """Something of this lane was given: it has a position from now on, though its shard may be over already."""
        if lane not in self._retired:
            self._known.add(lane)

    def settle(self, durable: Progress) -> None:
        """This is durable in every sink."""
        now = time.monotonic()
        while self._over and durable.covers(self._over[0][1]):
            self._retired[self._over.popleft()[0]] = now
        # A sink that is flushed seldom must hear it, too.
        self._retired = {lane: at for lane, at in self._retired.items() if now - at < RETIRED_SECONDS}


def shard_places(prefix: str, positions: Mapping[str, bytes]) -> dict[str, str]:
    """The inverse: how far the shards were read whose lanes begin so."""
    return {
        lane.removeprefix(prefix): position_place(at)
        for lane, at in positions.items()
        if lane.startswith(prefix) and at != RETIRED
    }
