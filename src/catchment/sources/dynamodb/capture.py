"""One table being captured: its scan and its stream, as events, and how far both are.

A table is read in *generations*: `dynamodb.<table>@<generation>` in `Progress.chunks` is a generation's scan, and its
lanes are `<table>@<generation>/<stream label>/<shard id>`. When changes were missed (trimmed after 24 hours; a stream
that was disabled and enabled again) the next generation begins: all rows go, by a truncate that stands below the new
rows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from catchment import failpoint
from catchment.errors import PositionLost
from catchment.formats.dynamodb_changes import ChangeDecoder
from catchment.formats.dynamodb_json import compact_json
from catchment.progress import ALL_CHUNKS, Progress
from catchment.sources.attribute_types import arrow_types
from catchment.sources.base import Event, Idle, TransactionEnd
from catchment.sources.dynamodb.config import DynamoDbSourceConfig
from catchment.sources.dynamodb.generations import Generations
from catchment.sources.dynamodb.scan import ItemPage, TableScan, segments_for
from catchment.sources.dynamodb.stream import DynamoDbStream, wire_form
from catchment.sources.dynamodb.table import DynamoDbTable, describe_table
from catchment.sources.known_attributes import keeping_attributes, known_attributes
from catchment.sources.shard_positions import Lanes, sequence_position, shard_places, time_position
from catchment.sources.shard_reader import ShardReader
from catchment.sources.shards import LATEST, Page
from catchment.telemetry import LOGGER, SnapshotReport

log = logging.getLogger(LOGGER)

BEGUN = "begun"
"""The chunk with which a generation's scan begins: its truncate, where there was a generation before."""
NOTED_SECONDS = 60.0
"""How often it is kept that everything up to now was read, when nothing comes."""


class TableCapture:
    """Reads one table. One thread calls it; `wake` is set when `take` may have something.

    client, streams: of DynamoDB and of its streams. reached: progress of the whole source, to which this table's is
    added at every boundary.
    """

    def __init__(
        self,
        config: DynamoDbSourceConfig,
        table: DynamoDbTable,
        client: Any,
        streams: Any,
        reached: Callable[[Progress], Progress],
        held: Progress,
        wake: threading.Event,
    ) -> None:
        self._config = config
        self._table = table
        self._client = client
        self._streams = streams
        self._reached = reached
        self._held = held
        self._wake = wake
        self._fresh = held == Progress()
        self._generation = Generations(table, held).newest
        self._label = Generations(table, held).label
        self._reader: ShardReader | None = None
        self._scan: TableScan | None = None
        self._segment: int | None = None
        # So many changes go before the next segment, if they are there: as many as the last one had rows.
        self._owed = 0
        self._asked: tuple[float, int] | None = None
        self._noted_at = time.monotonic()
        self._checked_at = time.monotonic()
        self._replaced_at: float | None = None
        self._stream_off = False
        self._lanes = Lanes(lane for lane in held.positions if lane.startswith(f"{table.name}@"))
        self._ordinal = 0
        self._segments = 0
        self.notes: list[str] = []

    # -- starting

    def open(self, *, anew: bool) -> Iterator[Event]:
        """Begin, or go on at what is held. anew: read the table again, whatever is held.

        Raises SourceRefused without a stream, PositionLost when changes were missed and `snapshot: never`.
        """
        if self._generation == 0 or self._label is None or anew:
            yield from self._begin_generation(None)
            return
        try:
            self._open_reader(shard_places(self._prefix, self._held.positions))
        except PositionLost as lost:
            yield from self._begin_generation(lost)
            return
        self._open_decoder()
        if self._config.snapshot == "initial":
            yield from self._open_scan()
        if self._label != self._table.label:
            self._replaced_at = time.monotonic()

    def _begin_generation(self, lost: PositionLost | None) -> Iterator[Event]:
        """Read the table anew, and its stream from now on."""
        if lost is not None and self._config.snapshot == "never":
            raise PositionLost(
                f"{lost} Changes of {self._table.name} were missed. `catchment run --resnapshot` goes on from now; "
                "with `snapshot: initial` the table would be scanned again."
            ) from lost
        self._close_readers()
        self._table = describe_table(self._client, self._table.name)
        self._table.require_stream()
        if lost is not None:
            log.warning("%s Changes of %s were missed: scanning it again.", lost, self._table.name)
            self.notes.append(f"{self._table.name} was scanned again, because changes were missed: {lost}")
        self._finish_older()
        self._generation = 1 if self._fresh else _number_of_its_own(self._generation)
        self._fresh = False
        self._label = self._table.label
        self._replaced_at = None
        self._open_reader(None)
        self._open_decoder()
        self._move(Progress(self._positions()))
        if self._config.snapshot == "initial":
            yield from self._open_scan()
        else:
            yield self._boundary(Progress())

    def _finish_older(self) -> None:
        """The generations before are over: their scans count as finished. `_positions` brings their lanes to an end."""
        older = [key for key in self._held.chunks if key.rpartition("@")[0] == str(self._table.id)]
        self._move(Progress({}, dict.fromkeys(older, ALL_CHUNKS)))

    def _open_reader(self, places: dict[str, str] | None) -> None:
        stream = DynamoDbStream(self._table.stream_arn(self._label or ""), client=self._streams)
        self._reader = ShardReader(stream, places, start=LATEST, wake=self._wake)
        self._reader.open()

    def _open_decoder(self) -> None:
        self._decoder = ChangeDecoder(
            self._table.id,
            self._table.key,
            declared=arrow_types(self._config.column_types.get(self._table.name, {})),
            known=known_attributes(self._table.id, self._held),
            generation=self._generation,
        )

    def _open_scan(self) -> Iterator[Event]:
        """Read what is left of the generation's scan."""
        done = self._held.chunks.get(self.snapshot, frozenset())
        if done == ALL_CHUNKS:
            return
        if BEGUN not in done:
            if self._generation > 1:
                yield from self._decoder.truncate(lane=self._scan_lane(BEGUN), chunk=BEGUN, snapshot=self.snapshot)
            yield self._boundary(Progress({}, {self.snapshot: frozenset({BEGUN})}))
        names = [name.partition("/") for name in done - {BEGUN}]
        segments = max((int(total) for _, _, total in names), default=0)
        segments = segments or segments_for(self._table, self._config.scan_segment_bytes)
        finished = {int(number) for number, _, total in names if int(total) == segments}
        if len(finished) == segments:
            yield self._boundary(Progress({}, {self.snapshot: ALL_CHUNKS}))
            return
        self._scan = TableScan(
            self._client, self._table, segments, finished, workers=self._config.scan_workers, wake=self._wake
        )
        self._segments = segments
        self._scan.start()

    # -- reading

    def take(self) -> list[Event]:
        """What there is now, up to a boundary (or within a segment); empty when there is nothing."""
        if self._segment is not None:
            return self._scanned() or []
        turns = (self._scanned, self._streamed) if self._owed == 0 else (self._streamed, self._scanned)
        for turn in turns:
            if (events := turn()) is not None:
                return events
        return [*self._note_tip(), *self._check_stream()]

    def _streamed(self) -> list[Event] | None:
        """The next page of the stream; None when there is none yet."""
        try:
            page = self._opened().next(0.0)
        except PositionLost as lost:
            return list(self._begin_generation(lost))
        if page is None:
            return None
        self._owed = max(0, self._owed - len(page.records))
        return [*self._page(page), *self._note_tip()]

    def _scanned(self) -> list[Event] | None:
        """The next page of the scan; None when there is none yet."""
        scan = self._scan
        items = scan.take() if scan is not None else None
        return None if scan is None or items is None else self._items(scan, items)

    def _opened(self) -> ShardReader:
        if self._reader is None:
            raise RuntimeError("open() comes first")
        return self._reader

    def _page(self, page: Page) -> list[Event]:
        arn = self._table.stream_arn(self._label or "")
        region = self._table.arn.split(":")[3]
        records = [compact_json(wire_form(record, arn, region)) for record in page.records]
        positions = [sequence_position(number) for number in page.sequence_numbers]
        lane = f"{self._prefix}{page.shard}"
        self._lanes.read(lane)
        events: list[Event] = list(self._decoder.decode(records, lane=lane, positions=positions))
        failpoint.reach("decoded")
        return [*events, self._boundary(Progress(self._positions()))]

    def _items(self, scan: TableScan, page: ItemPage) -> list[Event]:
        name = f"{page.segment}/{self._segments}"
        if self._segment != page.segment:
            self._segment, self._ordinal = page.segment, 0
        items = [compact_json(item) for item in page.items]
        lane = self._scan_lane(name)
        events: list[Event] = list(
            self._decoder.scan(items, lane=lane, chunk=name, snapshot=self.snapshot, ordinal=self._ordinal)
        )
        self._ordinal += len(items)
        failpoint.reach("decoded")
        if page.last:
            self._segment = None
            self._owed = max(1, self._ordinal)
            events.append(self._boundary(Progress({}, {self.snapshot: frozenset({name})})))
            if scan.finished:
                scan.stop()
                self._scan = None
                events.append(self._boundary(Progress({}, {self.snapshot: ALL_CHUNKS})))
        return events

    # -- how far

    @property
    def snapshot(self) -> str:
        """The scan's name in `Progress.chunks`."""
        return f"{self._table.id}@{self._generation}"

    @property
    def within_segment(self) -> bool:
        """Are a segment's rows being handed over, between which nothing else may come?"""
        return self._segment is not None

    def _scan_lane(self, chunk: str) -> str:
        # The stream's label stands where a shard's lane has it: flat rows take it for what came after older streams.
        return f"{self._prefix}scan-{chunk.replace('/', '-of-')}"

    @property
    def _prefix(self) -> str:
        return f"{self._table.name}@{self._generation}/{self._label}/"

    @property
    def tip_lane(self) -> str:
        """A lane of times: everything that DynamoDB gave before its position was read."""
        return f"{self._table.name}/read until"

    def _positions(self) -> dict[str, bytes]:
        """The lanes of the stream's shards; those that are over are retired."""
        return self._lanes.at(self._prefix, self._opened().places())

    def settle(self, durable: Progress) -> None:
        """This is durable in every sink."""
        self._lanes.settle(durable)

    def _move(self, progress: Progress) -> Progress:
        self._held = self._reached(progress)
        return self._held

    def _boundary(self, progress: Progress) -> TransactionEnd:
        return TransactionEnd(self._move(progress.join(keeping_attributes(self._table.id, self._decoder.known))))

    def ask(self) -> Progress:
        """What is held once all that is there now was read: what `take` will have given some time later."""
        now = time.time_ns() // 1000
        self._asked = (time.monotonic(), now)
        self._opened().hurry()
        chunks = {self.snapshot: ALL_CHUNKS} if self._config.snapshot == "initial" else {}
        return Progress({self.tip_lane: time_position(now)}, chunks)

    def _note_tip(self) -> list[Event]:
        """Say that everything up to a moment was read: when it was asked for, and now and then."""
        if self._scan is not None or self._replaced_at is not None:
            return []
        tip = self._opened().read_until()
        if self._asked is not None:
            asked_at, asked = self._asked
            if tip < asked_at:
                self._opened().hurry()
                return []
            self._asked = None
            return [self._idle(asked)]
        if tip < self._noted_at + NOTED_SECONDS:
            return []
        return [self._idle((time.time_ns() - int((time.monotonic() - tip) * 1e9)) // 1000)]

    def _idle(self, epoch_microseconds: int) -> Idle:
        self._noted_at = time.monotonic()
        return Idle(
            self._move(Progress({self.tip_lane: time_position(epoch_microseconds)}).join(Progress(self._positions())))
        )

    def _check_stream(self) -> Sequence[Event]:
        """Is the table's stream another one by now? Then this one is read to its end, and the table anew."""
        now = time.monotonic()
        reader = self._opened()
        if self._replaced_at is not None:
            if reader.over or reader.read_until() >= self._replaced_at:
                lost = PositionLost(f"Table {self._table.name} has another stream than {self._label}.")
                return list(self._begin_generation(lost))
            return []
        interval = min(1.0, self._config.stream_check_interval_seconds) if reader.over else None
        if now - self._checked_at < (interval or self._config.stream_check_interval_seconds):
            return []
        self._checked_at = now
        table = describe_table(self._client, self._table.name)
        if table.enabled and table.label != self._label:
            self._replaced_at = time.monotonic()
            reader.hurry()
        elif not table.enabled and not self._stream_off:
            log.warning("%s Its changes are not captured until it is enabled again.", (table.obstacle() or [""])[0])
        self._stream_off = not table.enabled
        return []

    # -- for people

    @property
    def mode(self) -> str:
        """snapshot, catch-up or live."""
        if self._scan is not None:
            return "snapshot"
        return "live" if self._opened().read_until() > time.monotonic() - 5.0 else "catch-up"

    def status_notes(self) -> list[str]:
        """Shards, generation, and what is out of the ordinary."""
        reader = self._opened()
        said = [f"{self._table.name}: {reader.shards} shards, generation {self._generation}"]
        if reader.throttled:
            said.append(f"{self._table.name}: AWS asked for fewer calls {reader.throttled} times")
        if self._stream_off:
            said.append(f"{self._table.name} has no stream now: its changes are not captured")
        return said + self.notes

    def report(self) -> SnapshotReport | None:
        """How far the scan is; None when there is none."""
        return self._scan.report() if self._scan is not None else None

    def _close_readers(self) -> None:
        if self._scan is not None:
            self._scan.stop()
            self._scan = None
        self._segment = None
        if self._reader is not None:
            self._reader.close()

    def close(self) -> None:
        """Let go of the threads."""
        self._close_readers()


def _number_of_its_own(newest: int) -> int:
    """The number of the next generation, by the clock.

    A sink that was ahead may have begun one that nobody else knows of: its number must not be given twice. So the
    second is over before anything is read.
    """
    number = max(newest + 1, int(time.time()))
    time.sleep(max(0.0, min(1.0, number + 1 - time.time())))
    return number
