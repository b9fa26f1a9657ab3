"""DynamoDB's tables at a point, to be compared with the lake.

A scan is of no one moment: what is written meanwhile is in it or not. So the stream is read from where the lake is,
over the whole scan, up to its tip: an item that changed since is as its last change left it, and all others as they
were scanned. That is the table at the tip, exactly. Scanned items wait in a temporary file.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Any

from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.change import ChangeBatch
from catchment.errors import SourceUnavailable
from catchment.formats.dynamodb_changes import ChangeDecoder
from catchment.formats.dynamodb_json import compact_json, event_form
from catchment.formats.stream_record import REMOVE, event_of
from catchment.progress import ALL_CHUNKS, Progress
from catchment.schema import TableSchema
from catchment.sources.attribute_types import arrow_types
from catchment.sources.dynamodb.config import DynamoDbSourceConfig
from catchment.sources.dynamodb.generations import Generations
from catchment.sources.dynamodb.stream import DynamoDbStream
from catchment.sources.dynamodb.table import DynamoDbTable, describe_table
from catchment.sources.known_attributes import known_attributes
from catchment.sources.shard_positions import sequence_position, shard_places, time_position
from catchment.sources.shard_reader import ShardReader
from catchment.sources.verification import SourcePoint, VerifiableTable

MOST_CHANGES = 500_000
"""The lake may be so many changes behind its source; they are held in memory."""
ROWS = 5_000
"""Items that are decoded at once."""
LATEST_VERSION = b"\xff" * 24


class DynamoDbVerification:
    """Contract: `catchment.sources.verification.SourceVerification`."""

    def __init__(self, config: DynamoDbSourceConfig) -> None:
        self._config = config
        self._client: Any = None

    def tables(self, held: Progress) -> list[VerifiableTable]:
        return [self._verifiable(describe_table(self._asked(), name), held) for name in self._config.tables]

    @contextmanager
    def point(self, tables: Sequence[str], held: Progress, seconds: float) -> Iterator[SourcePoint]:
        readings = {}
        try:
            for name in tables:
                table = describe_table(self._asked(), name.partition(".")[2])
                readings[name] = _Reading(self._config, self._asked(), table, held)
                readings[name].read(time.monotonic() + seconds)
            yield _Point(readings)
        finally:
            for one in readings.values():
                one.close()

    def changes(self, tables: Sequence[str], since: Progress, point: SourcePoint) -> Iterator[ChangeBatch]:
        assert isinstance(point, _Point)  # noqa: S101 - it was made here
        point.settled = True
        for name in tables:
            yield from point.readings[name].changes()

    def close(self) -> None:
        """Nothing is held."""

    def _asked(self) -> Any:
        if self._client is None:
            self._client = aws_client("dynamodb", self._config.region)
        return self._client

    def _verifiable(self, table: DynamoDbTable, held: Progress) -> VerifiableTable:
        known = Generations(table, held)
        snapshot = f"{table.id}@{known.newest}"

        def obstacle(text: str, *, lasting: bool) -> VerifiableTable:
            return VerifiableTable(str(table.id), table.items, text, lasting)

        if self._config.snapshot == "never":
            return obstacle("`snapshot: never`: the lake does not have the items of before capture", lasting=True)
        if held.chunks.get(snapshot) != ALL_CHUNKS:
            return obstacle("its scan is not finished in the lake yet; run the pipeline until it is", lasting=False)
        if not table.enabled or table.label != known.label:
            return obstacle(
                "its stream is off, or another one; run the pipeline until it has scanned it", lasting=False
            )
        return VerifiableTable(str(table.id), table.items, reading=snapshot)


@dataclass
class _Point:
    """Tables at the tip of their streams. Contract: `catchment.sources.verification.SourcePoint`.

    settled: is it known that nobody runs the pipeline?
    """

    readings: Mapping[str, _Reading]
    settled: bool = False
    made_at: float = field(default_factory=time.time)

    @property
    def label(self) -> str:
        return datetime.fromtimestamp(self.made_at, UTC).isoformat(timespec="milliseconds")

    @property
    def position(self) -> Progress:
        if (lane := self._only_lane()) is not None:
            return Progress({lane[0]: lane[1]})
        return Progress({"verify": time_position(int(self.made_at * 1e6))})

    @property
    def version(self) -> bytes:
        """Without one lane no version is the last: then nobody may run the pipeline, and all that is there counts."""
        if self._only_lane() is None:
            return LATEST_VERSION
        (reading,) = self.readings.values()
        return reading.version

    def schema(self, table: str) -> TableSchema:
        return self.readings[table].schema

    def chunks(self, table: str) -> int:
        if not self.settled and self._only_lane() is None:
            raise SourceUnavailable(
                "There are several tables, or several shards of a stream, and the pipeline runs: which changes came "
                "before a moment cannot be told. Verify one table by its name, or stop the pipeline and verify then."
            )
        return 1

    def rows(self, table: str, chunks: Sequence[int], *, key_only: bool = False) -> Iterator[tuple[int, ChangeBatch]]:
        for _ in chunks:
            for batch in self.readings[table].rows():
                yield 0, _key_of(batch) if key_only else batch

    def late_defaults(self, table: str) -> frozenset[str]:
        return frozenset()

    def _only_lane(self) -> tuple[str, bytes] | None:
        if len(self.readings) != 1:
            return None
        (reading,) = self.readings.values()
        return reading.only_lane


class _Reading:
    """One table: its items, and the changes since the lake."""

    def __init__(self, config: DynamoDbSourceConfig, client: Any, table: DynamoDbTable, held: Progress) -> None:
        known = Generations(table, held)
        self._client = client
        self._table = table
        self._prefix = f"{table.name}@{known.newest}/{known.label}/"
        self._arn = table.stream_arn(known.label or "")
        self._held = held
        self._types = arrow_types(config.column_types.get(table.name, {}))
        self._generation = known.newest
        self._known = known_attributes(table.id, held)
        places = shard_places(self._prefix, held.positions)
        self._reader = ShardReader(DynamoDbStream(self._arn, config.region), places)
        self._items: IO[bytes] = tempfile.TemporaryFile(prefix="catchment-verify-")  # noqa: SIM115 - closed in close
        self._records: list[tuple[str, str, bytes]] = []
        self._changed: dict[str, bytes | None] = {}
        self.only_lane: tuple[str, bytes] | None = None

    def read(self, deadline: float) -> None:
        """The scan, and the stream over it. Raises `Retriable` when that takes too long."""
        self._reader.open()
        self._scan(deadline)
        scanned = time.monotonic()
        while self._reader.read_until() < scanned:
            self._reader.hurry()
            page = self._reader.next(0.25)
            if page is not None:
                self._take(page.shard, page.records, page.sequence_numbers)
            self._in_time(deadline)
            if len(self._records) > MOST_CHANGES:
                raise SourceUnavailable(
                    f"The lake is more than {MOST_CHANGES:,} changes behind {self._table.name}. Run the pipeline until "
                    "it has caught up, then verify."
                )
        places = self._reader.places()
        lanes = [lane for lane in self._held.positions if lane.startswith(self._prefix)]
        if len(places) == 1 and lanes == [f"{self._prefix}{shard}" for shard in places]:
            last = sequence_position(self._records[-1][1]) if self._records else self._held.positions[lanes[0]]
            self.only_lane = (lanes[0], last)
        self._reader.close()
        self._learn()

    def changes(self) -> Iterator[ChangeBatch]:
        """The changes since the lake, in order."""
        decoder = self._decoder()
        for shard in dict.fromkeys(shard for shard, _, _ in self._records):
            mine = [(number, record) for one, number, record in self._records if one == shard]
            for at in range(0, len(mine), ROWS):
                part = mine[at : at + ROWS]
                positions = [sequence_position(number) for number, _ in part]
                events = decoder.decode(
                    [record for _, record in part], lane=f"{self._prefix}{shard}", positions=positions
                )
                yield from (one for one in events if isinstance(one, ChangeBatch))

    def rows(self) -> Iterator[ChangeBatch]:
        """The items at the point."""
        decoder = self._decoder()
        waiting: list[bytes] = []
        for item in self._at_point():
            waiting.append(item)
            if len(waiting) == ROWS:
                yield from self._decoded(decoder, waiting)
                waiting = []
        yield from self._decoded(decoder, waiting)

    def close(self) -> None:
        """Let go of the stream and the file."""
        self._reader.close()
        self._items.close()

    def _scan(self, deadline: float) -> None:
        pages = self._client.get_paginator("scan").paginate(TableName=self._table.name, ConsistentRead=True)
        with translated(f"scanning {self._table.name}"):
            for page in pages:
                self._items.writelines(compact_json(event_form(item)) + b"\n" for item in page["Items"])
                self._in_time(deadline)

    def _in_time(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise SourceUnavailable(f"{self._table.name} was not read in time. Give verify more time.")

    def _take(self, shard: str, records: Sequence[Mapping[str, Any]], numbers: Sequence[str]) -> None:
        region = self._table.arn.split(":")[3]
        for record, number in zip(records, numbers, strict=True):
            event = event_of(record, self._arn, region)
            self._records.append((shard, number, compact_json(event)))
            image = event["dynamodb"].get("NewImage") if event["eventName"] != REMOVE else None
            self._changed[self._key(event["dynamodb"]["Keys"])] = None if image is None else compact_json(image)

    def _at_point(self) -> Iterator[bytes]:
        self._items.seek(0)
        for line in self._items:
            if not self._changed or self._key(json.loads(line)) not in self._changed:
                yield line.rstrip(b"\n")
        yield from (item for item in self._changed.values() if item is not None)

    def _key(self, item: Mapping[str, Any]) -> str:
        return json.dumps([item[name] for name in self._table.key], sort_keys=True)

    def _decoder(self) -> ChangeDecoder:
        return ChangeDecoder(
            self._table.id, self._table.key, declared=self._types, known=self._known, generation=self._generation
        )

    def _learn(self) -> None:
        """Attributes that the lake does not know: of the changes first, as the pipeline will see them."""
        decoder = self._decoder()
        self.version = LATEST_VERSION[:0]
        for shard in dict.fromkeys(shard for shard, _, _ in self._records):
            mine = [record for one, _, record in self._records if one == shard]
            for event in decoder.decode(mine, lane="", positions=[b""] * len(mine)):
                if isinstance(event, ChangeBatch):
                    self.version = max(self.version, *event.records.column("_version").to_pylist())
        self._known = decoder.known
        self.schema = decoder.schema
        if not self.version:
            # Nothing came: everything that the lake has came before.
            self.version = LATEST_VERSION

    def _decoded(self, decoder: ChangeDecoder, items: Sequence[bytes]) -> Iterator[ChangeBatch]:
        for event in decoder.scan(items, lane="verify", chunk="verify"):
            if isinstance(event, ChangeBatch):
                if event.schema.version != self.schema.version:
                    raise SourceUnavailable(
                        f"{self._table.name} has attributes that are in no change since its scan. Run the pipeline, "
                        "then verify."
                    )
                yield event


def _key_of(batch: ChangeBatch) -> ChangeBatch:
    """The rows' key columns and no others."""
    import pyarrow as pa

    from catchment.schema import TableSchema as Schema

    columns = tuple(column for column in batch.schema.columns if column.key)
    schema = Schema(batch.schema.table, columns, batch.schema.version)
    row = batch.records.column("after")
    after = pa.StructArray.from_arrays([row.field(one.name) for one in columns], fields=list(schema.row_type))
    nothing = pa.nulls(len(batch), schema.row_type)
    kept = {name: batch.records.column(name) for name in schema.envelope.names} | {"before": nothing, "after": after}
    return ChangeBatch(schema, batch.lane, pa.RecordBatch.from_arrays(list(kept.values()), schema=schema.envelope))
