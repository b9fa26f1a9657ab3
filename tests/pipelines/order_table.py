"""A DynamoDB table with its stream in memory, and a source over both that is broken off and begun anew.

Segments of a scan are read at any moment, each at its own; the stream's shards come in turns, each in order. Streams
are trimmed and replaced. Everything follows from a seed.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa

from catchment.change import ChangeBatch
from catchment.formats.dynamodb_changes import ChangeDecoder, Decoded
from catchment.lakehouse.config import LakehouseConfig
from catchment.progress import ALL_CHUNKS, RETIRED, Progress
from catchment.schema import TableId
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from catchment.sources.base import SchemaChange
from catchment.sources.known_attributes import keeping_attributes, known_attributes
from unit.change_records import ARN, item

ORDERS = TableId("dynamodb", "OrderTable")
KEY = {"orderid": "S"}
SHARDS = 2
SEGMENTS = 3


class OrderTable:
    """The table, and its stream as (sequence number, record) of each shard."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.items: dict[str, dict[str, Any]] = {}
        self.shards: list[list[tuple[int, bytes]]] = [[] for _ in range(SHARDS)]
        self._number = 10**20

    def act(self) -> None:
        """Write or delete some item."""
        orderid = f"{self.chance.randrange(40):04d}"
        if orderid in self.items and self.chance.random() < 0.3:
            self.delete(orderid)
        else:
            self.put(orderid, item(self.chance, orderid))

    def put(self, orderid: str, new: dict[str, Any]) -> None:
        """Write an item."""
        old, self.items[orderid] = self.items.get(orderid), new
        if old is None:
            self._emit("INSERT", orderid, NewImage=new)
        else:
            self._emit("MODIFY", orderid, NewImage=new, OldImage=old)

    def delete(self, orderid: str) -> None:
        """Delete an item."""
        self._emit("REMOVE", orderid, OldImage=self.items.pop(orderid))

    def _emit(self, name: str, orderid: str, **images: dict[str, Any]) -> None:
        self._number += self.chance.randint(1, 10**19)
        change = {"Keys": {"orderid": {"S": orderid}}, "SequenceNumber": str(self._number), **images}
        record = {"eventID": str(self._number), "eventName": name, "eventSourceARN": ARN, "dynamodb": change}
        self.shards[int(orderid) % SHARDS].append((self._number, json.dumps(record).encode()))

    def segment(self, number: int) -> list[bytes]:
        """The items of a segment as they are now."""
        return [json.dumps(one).encode() for orderid, one in self.items.items() if int(orderid) % SEGMENTS == number]


class Capture:
    """Brings the table into a lake. What it has reached and not committed is lost when it begins anew."""

    def __init__(self, table: OrderTable, directory: Path) -> None:
        self.table = table
        self._directory = directory
        self._open()

    def _open(self) -> None:
        self._sink = IcebergSink(IcebergSinkConfig(), LakehouseConfig(), "test", self._directory)
        self.held = self._sink.open() or Progress()
        generations = [int(key.partition("@")[2]) for key in self.held.chunks if "@" in key]
        self._begin(max(generations, default=0))
        if not self._generation:
            self.begin_generation()

    def _begin(self, generation: int) -> None:
        self._generation = generation
        known = known_attributes(ORDERS, self.held)
        self._decoder = ChangeDecoder(ORDERS, KEY, known=known, generation=generation)

    @property
    def _snapshot(self) -> str:
        return f"{ORDERS}@{self._generation}"

    def _lane(self, shard: int) -> str:
        return f"OrderTable@{self._generation}/{shard}"

    def begin_generation(self) -> None:
        """What was not read is lost: begin at the stream's end, and read the table."""
        older = dict.fromkeys(self.held.positions, RETIRED)
        finished = dict.fromkeys((key for key in self.held.chunks if "@" in key), ALL_CHUNKS)
        self._begin(self._generation + 1)
        tips = {self._lane(n): _position(shard[-1][0] if shard else 0) for n, shard in enumerate(self.table.shards)}
        self.held = self.held.join(Progress({**older, **tips}, finished))
        if self._generation > 1:
            self._write(self._decoder.truncate(lane=f"{self._snapshot}/begun", chunk="begun", snapshot=self._snapshot))
        self._reach(Progress({}, {self._snapshot: frozenset({"begun"})}))

    def step(self) -> bool:
        """Hand over a page of a shard, or a segment; false when there is nothing."""
        done = self.held.chunks[self._snapshot]
        left = [] if done == ALL_CHUNKS else [n for n in range(SEGMENTS) if str(n) not in done]
        behind = [n for n in range(SHARDS) if self._unread(n)]
        if not left and not behind:
            return False
        if left and (not behind or self.table.chance.random() < 0.3):
            number = self.table.chance.choice(left)
            self.scan(number, items=self.table.segment(number), last=len(left) == 1)
        else:
            self.read(self.table.chance.choice(behind), self.table.chance.randint(1, 20))
        return True

    def _unread(self, shard: int) -> list[tuple[int, bytes]]:
        reached = self.held.positions.get(self._lane(shard), b"")
        return [one for one in self.table.shards[shard] if _position(one[0]) > reached]

    def read(self, shard: int, records: int) -> None:
        """Hand over a page of a shard."""
        page = self._unread(shard)[:records]
        if not page:
            return
        positions = [_position(number) for number, _ in page]
        lane = self._lane(shard)
        self._write(self._decoder.decode([record for _, record in page], lane=lane, positions=positions))
        self._reach(Progress({lane: positions[-1]}))

    def scan(self, number: int, *, items: list[bytes], last: bool = False) -> None:
        """Hand over a segment, in two pages."""
        name, half = str(number), len(items) // 2
        for ordinal, part in ((0, items[:half]), (half, items[half:])):
            lane = f"{self._snapshot}/{name}"
            self._write(self._decoder.scan(part, lane=lane, chunk=name, snapshot=self._snapshot, ordinal=ordinal))
        self._reach(Progress({}, {self._snapshot: ALL_CHUNKS if last else frozenset({name})}))

    def _write(self, events: list[Decoded]) -> None:
        for event in events:
            if isinstance(event, SchemaChange):
                self._sink.schema_change(event.schema)
            else:
                assert isinstance(event, ChangeBatch), event.reason
                self._sink.write(event)

    def _reach(self, progress: Progress) -> None:
        self.held = self.held.join(progress).join(keeping_attributes(ORDERS, self._decoder.known))
        self._sink.advance(self.held)

    def flush(self) -> None:
        """What was handed over is durable."""
        self._sink.flush()

    def begin_anew(self) -> None:
        """As after a crash: on from what is durable."""
        self.close()
        self._open()

    def close(self) -> None:
        """Let go of the lake."""
        self._sink.close()

    def expected(self) -> pa.Table:
        """The table's items as silver must have them."""
        decoder = ChangeDecoder(ORDERS, KEY, known=self._decoder.known)
        items = [json.dumps(one).encode() for one in self.table.items.values()]
        batches = [event for event in decoder.scan(items, lane="", chunk="") if isinstance(event, ChangeBatch)]
        rows = decoder.schema.row_type
        found = pa.table({name: pa.array([], rows.field(name).type) for name in rows.names})
        if batches:
            (batch,) = batches
            found = pa.Table.from_struct_array(batch.records.column("after"))
            found = found.append_column("_unrepresentable", batch.records.column("_unrepresentable"))
        return found.sort_by("orderid")


def _position(number: int) -> bytes:
    return number.to_bytes(24, "big")
