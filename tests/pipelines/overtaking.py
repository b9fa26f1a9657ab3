"""A source in memory whose snapshot and stream overtake each other, as far as the contract lets them.

Rows with a large column that updates do not send, key moves and swaps, deletes, re-inserts, truncates. The chunks of
a snapshot are read at one moment, and each comes at any later one; the stream comes in order. Everything follows
from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from catchment.change import ChangeBatch
from catchment.progress import ALL_CHUNKS, Progress
from catchment.schema import Column, TableId, TableSchema
from catchment.sinks.base import Sink

TABLE = TableId("public", "items")
SCHEMA = TableSchema(
    TABLE,
    (
        Column("id", pa.int64(), "bigint", key=True),
        Column("part", pa.string(), "text", key=True),
        Column("amount", pa.int32(), "integer"),
        Column("note", pa.string(), "text"),
        Column("born", pa.date32(), "date"),
    ),
)
SIMPLE = TableSchema(TABLE, (Column("id", pa.int64(), "bigint", key=True), *SCHEMA.columns[2:]))
LANE = "stream"
SNAPSHOT = "public.items@1"

Row = dict[str, object]
Key = tuple[object, ...]


@dataclass
class Overtaking:
    """Makes changes and hands them to a sink. chunks: how many the snapshot has; 0 for none."""

    seed: int
    schema: TableSchema = SCHEMA
    chunks: int = 4
    keys: int = 30
    full: bool = False
    rows: dict[Key, Row] = field(default_factory=dict)
    journal: list[tuple[int, frozenset[Key] | None, Key | None, Row | None]] = field(default_factory=list)
    """What happened: when, the keys that a row left or changed at (None: all), and the key and row that came."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.lsn = 0
        self.stream: list[Row] = []
        self.read: list[tuple[str, list[Row]]] = []
        self._unread = list(range(self.chunks))
        for _ in range(self.keys):
            self._insert(quiet=self.chunks > 0)

    # -- the database

    def key(self) -> Key:
        """Any key."""
        chance = self.chance
        number = chance.randrange(self.keys)
        return (number, chance.choice(["a", "bb"])) if len(self.schema.key) > 1 else (number,)

    def act(self) -> None:
        """One change."""
        chance = self.chance.random()
        if self._unread and chance < 0.06:
            self.finish()
        elif chance < 0.3:
            self._insert()
        elif chance < 0.6:
            self._update()
        elif chance < 0.75:
            self._move()
        elif chance < 0.8:
            self._swap()
        elif chance < 0.985:
            self._delete()
        else:
            self._truncate()

    def finish(self) -> None:
        """Read the snapshot, if it is not read yet: all of its chunks at one moment."""
        self.lsn += bool(self._unread)
        while self._unread:
            self._read_chunk(self._unread.pop())

    def _fresh(self, key: Key) -> Row:
        chance = self.chance
        odd = chance.random() < 0.1
        row: Row = dict(zip(self.schema.key, key, strict=True))
        row.update(amount=chance.randrange(9), note="n" * chance.randrange(3) + str(chance.random()), born=None)
        row["_text"] = {"born": "infinity"} if odd else None
        if not odd:
            row["born"] = chance.randrange(1000)
        return row

    def _insert(self, *, quiet: bool = False) -> None:
        key = self.key()
        if key in self.rows:
            return
        self.rows[key] = self._fresh(key)
        if not quiet:
            self._emit("c", None, self.rows[key])
            self.journal.append((self.lsn, frozenset(), key, self.rows[key]))

    def _update(self) -> None:
        key = self.key()
        old = self.rows.get(key)
        if old is None:
            return
        self._change(old, key, keep=self.chance.choice([(), ("note",), ("note", "born")]))

    def _change(self, old: Row, key: Key, keep: tuple[str, ...]) -> None:
        new = self._fresh(key)
        for name in keep:
            new[name] = old[name]
            if name == "born":
                new["_text"] = old["_text"]
        moved = key != self._key_of(old)
        self.rows.pop(self._key_of(old), None)
        self.rows[key] = new
        self._emit("u", old if moved or self.full else None, new, keep)
        self.journal.append((self.lsn, frozenset({key, self._key_of(old)}), key, new))

    def _move(self) -> None:
        old, key = self.rows.get(self.key()), self.key()
        if old is not None and key not in self.rows:
            self._change(old, key, keep=self.chance.choice([(), ("note",), ("note", "born")]))

    def _swap(self) -> None:
        one, other = self.key(), self.key()
        if one not in self.rows or other not in self.rows or one == other:
            return
        aside = (-1, "a")[: len(one)]
        for source, target in ((one, aside), (other, one), (aside, other)):
            self._change(self.rows[source], target, keep=("note", "born"))

    def _delete(self) -> None:
        old = self.rows.pop(self.key(), None)
        if old is not None:
            self._emit("d", old, None)
            self.journal.append((self.lsn, frozenset({self._key_of(old)}), None, None))

    def _truncate(self) -> None:
        self.rows.clear()
        self._emit("t", None, None)
        self.journal.append((self.lsn, None, None, None))

    def _key_of(self, row: Row) -> Key:
        return tuple(row[name] for name in self.schema.key)

    def _emit(self, op: str, before: Row | None, after: Row | None, keep: tuple[str, ...] = ()) -> None:
        self.lsn += 1
        sent = dict(after) if after is not None else None
        text = (after if after is not None else before or {}).get("_text")
        if sent is not None:
            for name in keep:
                sent[name] = None
            if "born" in keep:
                text = None
        known = before
        if before is not None and not self.full:
            known = {name: before[name] for name in self.schema.key}
            text = text if after is not None else None
        self.stream.append(self._record(op, self.lsn, known, sent, list(keep), text))

    def _read_chunk(self, number: int) -> None:
        rows = [row for key, row in self.rows.items() if int(str(key[0])) % self.chunks == number]
        records = [self._record("r", self.lsn, None, row, [], row["_text"], f"chunk {number}") for row in rows]
        self.read.append((f"chunk {number}", records))

    def _record(
        self, op: str, lsn: int, before: Row | None, after: Row | None, keep: list[str], text: object, lane: str = LANE
    ) -> Row:
        position = lsn.to_bytes(8, "big") + bytes(8)

        def side(row: Row | None) -> Row | None:
            return None if row is None else {c.name: row.get(c.name) for c in self.schema.columns}

        return {
            "_op": op,
            "_lane": lane,
            "_position": position,
            "_version": position,
            "_transaction": str(lsn),
            "_committed_at": lsn * 1_000_000,
            "_schema_version": 1,
            "_unchanged": keep or None,
            "_unrepresentable": list(text.items()) if isinstance(text, dict) else None,
            "before": side(before),
            "after": side(after),
        }

    # -- the delivery

    def deliver(self, progress: Progress) -> Iterator[tuple[ChangeBatch | None, Progress]]:
        """Some of what waits, in an order that the contract allows; a boundary follows each batch."""
        positions, chunks = dict(progress.positions), dict(progress.chunks)
        while self.stream or self.read:
            if self.read and self.chance.random() < 0.25:
                name, rows = self.read.pop(self.chance.randrange(len(self.read)))
                chunks[SNAPSHOT] = chunks.get(SNAPSHOT, frozenset()) | {name}
                batch = ChangeBatch(self.schema, name, self._batch(rows), chunk=name, snapshot=SNAPSHOT)
            elif self.stream:
                count = self.chance.randint(1, 12)
                rows, self.stream = self.stream[:count], self.stream[count:]
                batch = ChangeBatch(self.schema, LANE, self._batch(rows))
                position = rows[-1]["_position"]
                assert isinstance(position, bytes)
                positions[LANE] = position
            else:
                continue
            if not self._unread and not self.read and self.chunks:
                chunks[SNAPSHOT] = ALL_CHUNKS
            yield (batch if len(batch) else None), Progress(dict(positions), dict(chunks))

    def _batch(self, rows: list[Row]) -> pa.RecordBatch:
        return pa.RecordBatch.from_pylist(rows, schema=self.schema.envelope)

    def expected(self) -> list[Row]:
        """The rows that there are, with what their types cannot hold."""
        rows = [
            {**{c.name: row[c.name] for c in self.schema.columns}, "_unrepresentable": row["_text"]}
            for row in self.rows.values()
        ]
        return sorted(rows, key=lambda row: str([row[name] for name in self.schema.key]))


def write(sink: Sink, batch: ChangeBatch | None, progress: Progress) -> None:
    """Hand a sink a batch and its boundary."""
    if batch is not None:
        sink.write(batch)
    sink.advance(progress)
