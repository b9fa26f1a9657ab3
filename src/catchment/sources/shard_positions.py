"""Places in shards as positions in lanes: 24 bytes that compare as the places follow each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from catchment.progress import RETIRED
from catchment.sources.shards import SHARD_END, TRIM_HORIZON, is_sequence_number, since, since_microseconds

POSITION_BYTES = 24
END = b"\xff" * POSITION_BYTES
"""The position of a shard that was read to its end."""
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


def lane_positions(prefix: str, places: Mapping[str, str], known: Iterable[str]) -> dict[str, bytes]:
    """The positions of a stream's lanes, `<prefix><shard id>`, given how far its shards were read.

    known: the lanes that there were before. One whose shard is over and followed by others is retired.
    """
    positions = {f"{prefix}{shard}": place_position(place) for shard, place in places.items()}
    for lane in known:
        if lane.startswith(prefix):
            positions.setdefault(lane, RETIRED)
    return positions


def shard_places(prefix: str, positions: Mapping[str, bytes]) -> dict[str, str]:
    """The inverse: how far the shards were read whose lanes begin so."""
    return {
        lane.removeprefix(prefix): position_place(at)
        for lane, at in positions.items()
        if lane.startswith(prefix) and at != RETIRED
    }
