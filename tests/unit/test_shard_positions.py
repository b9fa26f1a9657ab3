"""Places as positions, and lanes that are forgotten only when no sink needs them any more."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

import pytest

from catchment.progress import Progress, minimum
from catchment.sources.shard_positions import Lanes, place_position, position_place, sequence_position, shard_places
from catchment.sources.shard_reader import ShardReader
from catchment.sources.shards import SHARD_END, TRIM_HORIZON, since
from catchment.testing.changes import replay_seed
from unit.shard_script import ScriptedStream

PREFIX = "stream/"


@pytest.mark.parametrize("place", [SHARD_END, TRIM_HORIZON, since(1.7e9), "1" * 21, "0007" + "3" * 21, "9" * 56])
def test_a_place_comes_back_from_its_position(place: str) -> None:
    assert position_place(place_position(place)) == place


@dataclass
class Sink:
    """Keeps progress as sinks do: as JSON, at a boundary, whenever it is flushed."""

    held: Progress | None = None
    kept: list[str] = field(default_factory=list)
    buffered: list[str] = field(default_factory=list)
    boundary: Progress | None = None

    def write(self, lane: str, numbers: list[str]) -> None:
        at = b"" if self.held is None else self.held.positions.get(lane, b"")
        self.buffered += [number for number in numbers if sequence_position(number) > at]

    def flush(self) -> None:
        if self.boundary is None:
            return
        said = self.boundary if self.held is None else self.held.join(self.boundary)
        self.held = Progress.from_json(said.to_json())
        self.kept += self.buffered
        self.buffered = []

    def crash(self) -> None:
        self.buffered, self.boundary = [], None


@pytest.mark.parametrize("round_", range(12))
def test_sinks_that_are_flushed_at_different_times_get_each_record_once(round_: int) -> None:
    rng = random.Random(replay_seed() + round_)
    stream = ScriptedStream(rng.randrange(10**9), shards=2)
    sinks = [Sink(), Sink()]
    written: list[str] = []
    for last in [False] * 8 + [True]:
        for _ in range(rng.randrange(20)):
            written.append(str(stream.put(f"k{rng.randrange(9)}")))
            if rng.random() < 0.2:
                rng.choice([stream.roll, stream.split, stream.merge])()
        _capture(stream, sinks, rng, whole=last)
    for sink in sinks:
        assert sorted(sink.kept, key=int) == written


def _capture(stream: ScriptedStream, sinks: list[Sink], rng: random.Random, *, whole: bool) -> None:
    """Read for a while, with flushes now and then, and break off; or read all there is."""
    held = minimum(sink.held for sink in sinks) or Progress()
    lanes = Lanes(held.positions)
    reader = ShardReader(stream, shard_places(PREFIX, held.positions))
    reader.open()
    since = time.monotonic()
    reader.hurry()
    try:
        while reader.read_until() < since and (whole or rng.random() > 0.05):
            page = reader.next(0.02)
            if page is None:
                continue
            lanes.read(f"{PREFIX}{page.shard}")
            held = held.join(Progress(lanes.at(PREFIX, reader.places())))
            for sink in sinks:
                sink.write(f"{PREFIX}{page.shard}", list(page.sequence_numbers))
                sink.boundary = held
            for sink in sinks:
                if rng.random() < 0.3:
                    sink.flush()
            if (durable := minimum(sink.held for sink in sinks)) is not None:
                lanes.settle(durable)
    finally:
        reader.close()
    for sink in sinks:
        if whole:
            sink.flush()
        sink.crash()
