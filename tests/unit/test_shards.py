"""Shards are read parents first, whole, and from where they were left, however AWS deals them out."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from catchment.errors import PositionLost, SourceUnavailable
from catchment.sources import shard_reader
from catchment.sources.shard_reader import ShardReader
from catchment.sources.shards import (
    LATEST,
    SHARD_END,
    TRIM_HORIZON,
    Answer,
    Lineage,
    Page,
    Shard,
    Trimmed,
    since_microseconds,
)
from catchment.testing.changes import replay_seed
from unit.shard_script import ScriptedStream, keys_of

PATIENCE = 120.0


class Readers:
    """Opens readers, and closes them at the end."""

    def __init__(self) -> None:
        self._open: list[ShardReader] = []

    def __call__(
        self, stream: ScriptedStream, places: dict[str, str] | None = None, *, start: str = TRIM_HORIZON
    ) -> ShardReader:
        reader = ShardReader(stream, places, start=start)
        self._open.append(reader)
        reader.open()
        return reader

    def close(self) -> None:
        for one in self._open:
            one.close()


@pytest.fixture
def reading() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    readers.close()


def take(reader: ShardReader, done: Callable[[list[Page]], bool]) -> list[Page]:
    """Pages until `done`."""
    pages: list[Page] = []
    deadline = time.monotonic() + PATIENCE
    while not done(pages):
        assert time.monotonic() < deadline, f"after {len(pages)} pages; shards: {reader.places()}"
        page = reader.next(0.05)
        if page is not None:
            pages.append(page)
    return pages


def take_all(reader: ShardReader) -> list[Page]:
    """Everything that the stream has now."""
    since = time.monotonic()
    reader.hurry()
    return take(reader, lambda pages: reader.read_until() >= since)


def take_some(reader: ShardReader, count: int) -> list[Page]:
    """So many pages, or fewer when there are no more."""
    return take(reader, lambda pages: len(pages) >= count or reader.read_until() > 0)


def by_key(pages: list[Page]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for page in pages:
        for key, number in zip(keys_of(page.records), page.sequence_numbers, strict=True):
            found[key].append(int(number))
    return found


def test_a_parent_is_read_to_its_end_before_its_children(reading: Readers) -> None:
    stream = ScriptedStream()
    for number in range(40):
        stream.put(f"k{number % 4}")
        if number % 5 == 4:
            stream.roll()
    pages = take_all(reading(stream))
    numbers = [int(number) for page in pages for number in page.sequence_numbers]
    assert numbers == sorted(numbers)
    assert len(numbers) == 40


@pytest.mark.parametrize("round_", range(4))
def test_any_splits_and_merges_under_load_lose_nothing_and_keep_each_keys_order(reading: Readers, round_: int) -> None:
    rng = random.Random(replay_seed() + round_)
    stream = ScriptedStream(rng.randrange(10**9), shards=3, refusals=0.05, expiries=0.05, empties=0.1)
    written: dict[str, list[int]] = defaultdict(list)
    reader = reading(stream)

    def write() -> None:
        for _ in range(600):
            key = f"key-{rng.randrange(20)}"
            written[key].append(stream.put(key))
            if rng.random() < 0.02:
                rng.choice([stream.roll, stream.split, stream.merge])()

    writer = threading.Thread(target=write)
    writer.start()
    pages = take(reader, lambda pages: not writer.is_alive() and sum(len(p.records) for p in pages) >= 600)
    writer.join()
    pages += take_all(reader)
    assert by_key(pages) == written


@pytest.mark.parametrize("round_", range(4))
def test_reading_goes_on_from_any_place_that_was_kept(reading: Readers, round_: int) -> None:
    rng = random.Random(replay_seed() + round_)
    stream = ScriptedStream(rng.randrange(10**9), shards=2)
    written: dict[str, list[int]] = defaultdict(list)
    pages: list[Page] = []
    places: dict[str, str] | None = None
    for _ in range(8):
        for _ in range(30):
            key = f"key-{rng.randrange(9)}"
            written[key].append(stream.put(key))
            if rng.random() < 0.1:
                rng.choice([stream.roll, stream.split, stream.merge])()
        reader = reading(stream, places)
        count = rng.randrange(12)
        pages += take_some(reader, count)
        places = json.loads(json.dumps(reader.places()))
        reader.close()
    pages += take_all(reading(stream, places))
    assert by_key(pages) == written


def test_places_do_not_grow_with_the_shards_that_are_over(reading: Readers) -> None:
    stream = ScriptedStream()
    reader = reading(stream)
    for number in range(50):
        stream.put(f"k{number}")
        stream.roll()
    take_all(reader)
    assert len(reader.places()) <= 2


def test_a_trimmed_parent_counts_as_finished(reading: Readers) -> None:
    stream = ScriptedStream()
    stream.put("lost")
    parent = stream.names()[0]
    stream.roll()
    stream.put("kept")
    stream.trim(parent)
    assert list(by_key(take_all(reading(stream)))) == ["kept"]


def test_records_that_were_trimmed_before_they_were_read_are_not_passed_over(reading: Readers) -> None:
    stream = ScriptedStream()
    stream.put("read")
    reader = reading(stream)
    take_all(reader)
    places = reader.places()
    reader.close()
    stream.put("never read")
    (shard,) = places
    stream.roll()
    stream.trim(shard)
    with pytest.raises(Trimmed, match=shard):
        reading(stream, places)


def test_a_trimmed_shard_between_what_was_read_and_what_is_there_is_noticed(reading: Readers) -> None:
    stream = ScriptedStream()
    stream.put("read")
    reader = reading(stream)
    take_all(reader)
    stream.disable()
    take(reader, lambda pages: reader.over)
    places = reader.places()
    reader.close()
    assert list(places.values()) == [SHARD_END]
    stream.roll()
    (between,) = set(stream.names()) - places.keys()
    stream.put("never read")
    stream.roll()
    stream.trim(between)
    with pytest.raises(Trimmed, match=between):
        reading(stream, places)


def test_a_trim_while_reading_is_a_lost_position(reading: Readers) -> None:
    stream = ScriptedStream(page=1)
    for _ in range(3):
        stream.put("k")
    reader = reading(stream)
    take(reader, lambda pages: len(pages) == 1)
    stream.trim(stream.names()[0])
    with pytest.raises(PositionLost):
        take(reader, lambda pages: len(pages) == 3)


def test_a_shard_that_comes_and_is_trimmed_between_two_looks_is_noticed(reading: Readers) -> None:
    stream = ScriptedStream()
    stream.put("k")
    reader = reading(stream)
    take_all(reader)
    with stream._lock:
        stream.roll()
        stream.put("never read")
        stream.roll()
        stream.trim(stream.names()[1])
        stream.put("k")
    with pytest.raises(PositionLost):
        take(reader, lambda pages: sum(len(page.records) for page in pages) > 0)


def test_latest_begins_after_what_is_there_and_reads_what_comes(reading: Readers) -> None:
    stream = ScriptedStream(shards=2)
    for number in range(10):
        stream.put(f"old-{number}")
    stream.roll()
    reader = reading(stream, start=LATEST)
    for number in range(10):
        stream.put(f"new-{number}")
    stream.roll()
    stream.put("new-last")
    keys = by_key(take_all(reader))
    assert len(keys) == 11
    assert all(key.startswith("new") for key in keys)


class SlowClockStream(ScriptedStream):
    """Its service's clock is an hour behind ours."""

    def read(self, iterator: str) -> Answer:
        return replace(super().read(iterator), told_at=time.time() - 3600)


def test_where_latest_was_is_kept_by_the_services_clock(reading: Readers) -> None:
    reader = reading(SlowClockStream(), start=LATEST)

    def kept() -> float:
        (place,) = reader.places().values()
        return (since_microseconds(place) or 0) / 1_000_000

    take(reader, lambda pages: kept() < time.time() - 1800)
    assert kept() > time.time() - 3700


def test_a_stream_that_was_disabled_is_over_after_its_last_record(reading: Readers) -> None:
    stream = ScriptedStream()
    stream.put("k")
    stream.disable()
    reader = reading(stream)
    pages = take(reader, lambda pages: reader.over)
    assert by_key(pages).keys() == {"k"}


def test_up_to_now_is_not_said_while_a_page_waits_or_children_may(reading: Readers) -> None:
    stream = ScriptedStream()
    reader = reading(stream)
    since = time.monotonic()
    take(reader, lambda pages: reader.read_until() >= since)
    stream.put("k")
    stream.roll()
    stream.put("k")
    since = time.monotonic()
    pages = take(reader, lambda pages: reader.read_until() >= since)
    assert sum(len(page.records) for page in pages) == 2


class BusyStream(ScriptedStream):
    """Somebody writes before every read: no answer is ever empty."""

    def __init__(self, *, tells_age: bool) -> None:
        super().__init__(page=2)
        self._tells_age = tells_age
        self._count = 0

    def read(self, iterator: str) -> Answer:
        self._count += 1
        self.put(f"k{self._count}")
        answer = super().read(iterator)
        at_tip = 0 if answer.sequence_numbers[-1] == str(self._number) else 60_000
        if self._tells_age:
            return replace(answer, behind_ms=at_tip)
        return replace(answer, newest_at=time.time() - at_tip / 1000)


@pytest.mark.parametrize("tells_age", [True, False])
def test_a_stream_that_is_never_idle_is_read_up_to_a_moment_all_the_same(
    reading: Readers, monkeypatch: pytest.MonkeyPatch, tells_age: bool
) -> None:
    monkeypatch.setattr(shard_reader, "CLOCK_SKEW_SECONDS", 0.2)
    stream = BusyStream(tells_age=tells_age)
    for number in range(20):
        stream.put(f"old-{number}")
    reader = reading(stream)
    since = time.monotonic()
    pages = take(reader, lambda pages: reader.read_until() >= since)
    assert [key for key in by_key(pages) if key.startswith("old")] == [f"old-{number}" for number in range(20)]


def test_an_idle_stream_is_asked_a_few_times_a_second_only(reading: Readers) -> None:
    stream = ScriptedStream()
    stream.reads_apart_seconds = 0.2
    reader = reading(stream)
    take_all(reader)
    began, calls = time.monotonic(), len(stream.calls)
    reader.next(1.0)
    assert len(stream.calls) - calls <= 1.5 + (time.monotonic() - began) * 5


def test_throttling_is_waited_out_and_counted(reading: Readers) -> None:
    stream = ScriptedStream(3, refusals=0.4)
    for number in range(30):
        stream.put(f"k{number}")
    reader = reading(stream)
    assert len(by_key(take_all(reader))) == 30
    assert reader.throttled > 0


def test_a_failure_of_the_network_reaches_the_caller(reading: Readers) -> None:
    stream = ScriptedStream()
    reader = reading(stream)

    def fail(iterator: str) -> None:
        raise SourceUnavailable("the line is cut")

    stream.read = fail  # type: ignore[assignment,method-assign]
    with pytest.raises(SourceUnavailable, match="cut"):
        take(reader, lambda pages: False)


def test_closing_ends_a_wait_at_once(reading: Readers) -> None:
    reader = reading(ScriptedStream())
    began = time.monotonic()
    threading.Timer(0.1, reader.close).start()
    while reader.next(120.0) is not None:
        pass
    assert time.monotonic() - began < 60


def test_a_merged_shard_waits_for_both_of_its_parents() -> None:
    lineage = Lineage({})
    lineage.lists([Shard("c", ("a", "b")), Shard("b"), Shard("a")])
    assert sorted(lineage.begin()) == ["a", "b"]
    lineage.end("a")
    assert lineage.begin() == []
    lineage.end("b")
    assert lineage.begin() == ["c"]
    assert lineage.places == {"c": TRIM_HORIZON}
