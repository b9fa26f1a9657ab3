"""The Kinesis source: change records of DynamoDB's tables out of one data stream."""

from __future__ import annotations

import threading
import time
from collections import deque

from catchment import failpoint
from catchment.aws_client import aws_client
from catchment.errors import PositionLost
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema
from catchment.sources.base import Event, Idle, SchemaChange, SourceStatus, TransactionEnd
from catchment.sources.kinesis.config import KinesisSourceConfig
from catchment.sources.kinesis.preflight import describe_stream
from catchment.sources.kinesis.stream import KinesisStream
from catchment.sources.kinesis.tables import StreamedTables
from catchment.sources.shard_positions import Lanes, sequence_position, shard_places, time_position
from catchment.sources.shard_reader import ShardReader
from catchment.sources.shards import LATEST, TRIM_HORIZON, Page

NOTED_SECONDS = 60.0
"""How often it is kept that everything up to now was read, when nothing comes."""
WAIT_SECONDS = 0.25


class KinesisSource:
    """Reads a data stream. Contract: `catchment.sources.base.Source`.

    A lane is `<stream>/<shard id>`. Each record is given once, also where the stream has a change twice: a Pipe puts at
    least once, and DynamoDB itself may put changes of a key in another order. `_version` says which is later. There is
    no snapshot: what the stream no longer has is not read. resnapshot: pass over what was lost, and read what it has.
    """

    def __init__(self, config: KinesisSourceConfig, *, resnapshot: bool = False) -> None:
        self._config = config
        self._resnapshot = resnapshot
        self._pending: deque[Event] = deque()
        self._announced: dict[TableId, TableSchema] = {}
        self._wake = threading.Event()
        self._progress = Progress()
        self._reader: ShardReader | None = None
        self._asked: tuple[float, int] | None = None
        self._noted_at = time.monotonic()

    def open(self, resume: Progress | None) -> None:
        held = resume or Progress()
        client = aws_client("kinesis", self._config.region)
        told = describe_stream(client, self._config.stream)
        self._prefix = f"{self._config.stream}/"
        self._tip_lane = f"{self._config.stream}/read until"
        mine = {lane: at for lane, at in held.positions.items() if lane.startswith(self._prefix)}
        mine.pop(self._tip_lane, None)
        self._lanes = Lanes(mine)
        self._progress = held
        self._tables = StreamedTables(self._config.stream, self._config.column_types, held)
        places = shard_places(self._prefix, mine)
        self._refuse_gap(held, told["RetentionPeriodHours"])
        first = LATEST if self._config.start == "latest" and not self._resnapshot else TRIM_HORIZON
        stream = KinesisStream(self._config.stream, client=client)
        self._reader = ShardReader(stream, None if self._resnapshot else places, start=first, wake=self._wake)
        self._reader.open()
        self._pending.append(TransactionEnd(self._reach(Progress(self._positions()))))

    def next(self, timeout: float) -> Event | None:
        deadline = time.monotonic() + timeout
        while not self._pending:
            self._wake.clear()
            page = self._opened().next(0.0)
            if page is not None:
                self._page(page)
                self._note_tip()
                continue
            if self._note_tip():
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._wake.wait(min(left, WAIT_SECONDS))
        return self._pending.popleft()

    def acknowledge(self, progress: Progress) -> None:
        # Kinesis itself is told nothing. Lanes that are retired are said again, for a while, by `_positions`.
        self._lanes.settle(progress)
        self._progress = self._progress.without_retired()

    def head(self) -> Progress:
        now = time.time_ns() // 1000
        self._asked = (time.monotonic(), now)
        self._opened().hurry()
        return Progress({self._tip_lane: time_position(now)})

    def status(self) -> SourceStatus:
        reader = self._opened()
        behind = reader.behind_ms
        live = reader.read_until() > time.monotonic() - 5.0
        notes = [f"{self._config.stream}: {reader.shards} shards, {(behind or 0) / 1000:.1f} s behind"]
        if reader.throttled:
            notes.append(f"{self._config.stream}: AWS asked for fewer calls {reader.throttled} times")
        return SourceStatus("live" if live else "catch-up", None, tuple(notes))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _opened(self) -> ShardReader:
        if self._reader is None:
            raise RuntimeError("open() comes first")
        return self._reader

    def _refuse_gap(self, held: Progress, hours: int) -> None:
        """Kinesis does not say that what follows a position was trimmed; when all had been read last, does."""
        told = held.positions.get(self._tip_lane)
        if told is None or self._resnapshot:
            return
        age = time.time() - int.from_bytes(told, "big") / 1_000_000
        if age > hours * 3600:
            raise PositionLost(
                f"Everything in stream {self._config.stream} was last read {age / 3600:,.0f} hours ago, and it keeps "
                f"records for {hours}: some may be lost. `catchment run --resnapshot` goes on with what it still has."
            )

    def _page(self, page: Page) -> None:
        records = [record["Data"] for record in page.records]
        positions = [sequence_position(number) for number in page.sequence_numbers]
        lane = f"{self._prefix}{page.shard}"
        self._lanes.read(lane)
        for event in self._tables.decode(records, lane=lane, positions=positions):
            self._add(event)
        failpoint.reach("decoded")
        progress = Progress(self._positions()).join(self._tables.known())
        self._pending.append(TransactionEnd(self._reach(progress)))

    def _add(self, event: Event) -> None:
        """Announce a schema before its first batch, and once."""
        if isinstance(event, SchemaChange):
            if self._announced.get(event.schema.table) == event.schema:
                return
            self._announced[event.schema.table] = event.schema
        self._pending.append(event)

    def _note_tip(self) -> bool:
        """Say that everything up to a moment was read: when it was asked for, and now and then."""
        tip = self._opened().read_until()
        if self._asked is not None:
            asked_at, asked = self._asked
            if tip < asked_at:
                self._opened().hurry()
                return False
            self._asked = None
            self._idle(asked)
            return True
        if tip < self._noted_at + NOTED_SECONDS:
            return False
        self._idle((time.time_ns() - int((time.monotonic() - tip) * 1e9)) // 1000)
        return True

    def _idle(self, epoch_microseconds: int) -> None:
        self._noted_at = time.monotonic()
        tip = {self._tip_lane: time_position(epoch_microseconds)}
        self._pending.append(Idle(self._reach(Progress({**self._positions(), **tip}))))

    def _positions(self) -> dict[str, bytes]:
        return self._lanes.at(self._prefix, self._opened().places())

    def _reach(self, progress: Progress) -> Progress:
        self._progress = self._progress.join(progress)
        return self._progress
