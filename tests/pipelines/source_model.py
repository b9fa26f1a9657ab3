"""A source table simulated in Python: what it holds, and the changes that capture would land in bronze.

Its own rows are the oracle, not a replay of the changes: nothing of the logic under test is in here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from catchment.schema import Column, TableId, TableSchema

COLUMNS = ("world", "id", "small", "big", "bigger", "odd")
SCHEMA = TableSchema(
    TableId("public", "things"),
    (
        Column("world", pa.int32(), key=True),
        Column("id", pa.string(), key=True),
        Column("small", pa.int64()),
        Column("big", pa.string()),
        Column("bigger", pa.string()),
        Column("odd", pa.timestamp("us")),
    ),
)
IDS = ("a", "b", "c", "d")
TOASTED = "toasted-"
UNREPRESENTABLE = "-beyond"


@dataclass
class Row:
    """A row of the source. page: which half of the table's pages it lies in; an update may move it."""

    values: dict[str, Any]
    page: int


@dataclass
class World:
    """One small table with a few keys, driven at random.

    Values that begin with `toasted-` are not sent again while they stay the same; values that end in
    `-beyond` do not fit their column's type and are carried as text.
    """

    number: int
    random: random.Random
    full_identity: bool
    rows: dict[str, Row] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    lsn: int = 100
    ordinal: int = 0
    captured: bool = False
    _values: int = 0

    def run(self, steps: int) -> None:
        """Rows from before capture, two snapshot chunks, maybe a crash between them, changes all along."""
        for _ in range(self.random.randrange(4)):
            self.transaction()
        self.captured = True
        for _ in range(self.random.randrange(3)):
            self.transaction()
        seen = self.snapshot(page=0)
        for _ in range(self.random.randrange(4)):
            self.transaction()
        seen |= self.snapshot(page=1)
        self._read_by_key(seen)
        for _ in range(steps):
            self.transaction()
            if self.random.random() < 0.05:
                self.snapshot(page=self.random.randrange(2))
        for event in self.random.sample(self.events, k=self.random.randrange(len(self.events) + 1) // 4):
            self.events.append(dict(event, _lane=self.random.choice(["slot", "again"])))
        self.random.shuffle(self.events)

    def transaction(self) -> None:
        """A few changes that commit together."""
        self.lsn += self.random.randrange(1, 300)
        self.ordinal = 0
        for _ in range(self.random.choice([1, 1, 1, 2, 4])):
            actions = [*[self.insert] * 2, *[self.update] * 3, *[self.move] * 2]
            action = self.random.choice([*actions, self.delete, self.chain, self.swap, self.replace])
            action()

    def insert(self) -> None:
        free = [one for one in IDS if one not in self.rows]
        if free:
            self._insert(self.random.choice(free))

    def update(self) -> None:
        if self.rows:
            key = self.random.choice(sorted(self.rows))
            self._update(key, key, self.random.random() < 0.5)

    def move(self) -> None:
        free = [one for one in IDS if one not in self.rows]
        if self.rows and free:
            self._update(self.random.choice(sorted(self.rows)), self.random.choice(free), self.random.random() < 0.3)

    def chain(self) -> None:
        for _ in range(3):
            self.move()

    def swap(self) -> None:
        if len(self.rows) >= 2:
            one, other = self.random.sample(sorted(self.rows), k=2)
            for old, new in ((one, "aside"), (other, one), ("aside", other)):
                self._update(old, new, False)

    def delete(self) -> None:
        if self.rows:
            self._delete(self.random.choice(sorted(self.rows)))

    def replace(self) -> None:
        if self.rows:
            key = self.random.choice(sorted(self.rows))
            self._delete(key)
            self._insert(key)

    def truncate(self) -> None:
        """Like TRUNCATE in a transaction of its own, at the LSN that the caller has set."""
        self.rows.clear()
        self.ordinal = 0
        self._emit("t", None, None, [])

    def snapshot(self, page: int) -> set[int]:
        """Reads the rows of one half; returns which rows those were, whatever their keys become."""
        self.lsn += 1
        found = {key for key, row in self.rows.items() if row.page == page}
        for key in sorted(found):
            self._read(key)
        return {id(self.rows[key]) for key in found}

    def expected(self) -> list[dict[str, Any]]:
        """The rows as `current` should show them."""
        return [self._as_sent(key, row, ()) for key, row in self.rows.items()]

    def _read_by_key(self, seen: set[int]) -> None:
        # A row that neither chunk saw, because it moved between the halves, the source reads again by key.
        self.lsn += 1
        for key in sorted(self.rows):
            if id(self.rows[key]) not in seen:
                self._read(key)

    def _read(self, key: str) -> None:
        sent = self._as_sent(key, self.rows[key], ())
        unrepresentable = sent.pop("_unrepresentable")
        self._append("r", self._version(self.lsn, 0), "snapshot", None, sent, [], unrepresentable)

    def _insert(self, key: str) -> None:
        self.rows[key] = Row({name: self._value(name) for name in COLUMNS[2:]}, self.random.randrange(2))
        self._emit("c", None, (key, self.rows[key]), [])

    def _update(self, old: str, new: str, touch_toast: bool) -> None:
        row = self.rows.pop(old)
        before = Row(dict(row.values), row.page)
        for name in COLUMNS[2:]:
            if self.random.random() < (0.4 if name in ("small", "odd") or touch_toast else 0.0):
                row.values[name] = self._value(name)
        row.page = self.random.randrange(2)
        self.rows[new] = row
        unchanged = [
            name
            for name, value in row.values.items()
            if value is not None and value == before.values[name] and value.startswith(TOASTED)
        ]
        self._emit("u", (old, before) if self.full_identity or old != new else None, (new, row), unchanged)

    def _delete(self, key: str) -> None:
        self._emit("d", (key, self.rows.pop(key)), None, [])

    def _value(self, name: str) -> str | None:
        """Values are kept as text and cast to the column's type when they are sent."""
        self._values += 1
        if self.random.random() < 0.15:
            return None
        if name == "small":
            return str(self._values)
        if name == "odd":
            return f"{self._values}{UNREPRESENTABLE}" if self.random.random() < 0.4 else str(self._values)
        toasted = TOASTED if self.random.random() < 0.7 else ""
        # Under FULL an unchanged value stands in `before`, and its text would not.
        beyond = UNREPRESENTABLE if not self.full_identity and self.random.random() < 0.2 else ""
        return f"{toasted}{self._values}{beyond}"

    def _emit(
        self, op: str, before: tuple[str, Row] | None, after: tuple[str, Row] | None, unchanged: list[str]
    ) -> None:
        self.ordinal += 1
        if not self.captured:
            return
        old = self._as_sent(*before, ()) if before else None
        if old is not None:
            old.pop("_unrepresentable")
            if not self.full_identity:
                old.update(dict.fromkeys(COLUMNS[2:]))
        new = self._as_sent(*after, unchanged) if after else None
        unrepresentable = new.pop("_unrepresentable") if new is not None else None
        self._append(op, self._version(self.lsn, self.ordinal), "slot", old, new, unchanged, unrepresentable)

    def _append(self, op: str, version: bytes, lane: str, old: Any, new: Any, unchanged: list[str], odd: Any) -> None:
        self.events.append(
            {
                "_op": op,
                "_lane": lane,
                "_position": version,
                "_version": version,
                "_transaction": None,
                "_committed_at": None,
                "_schema_version": 1,
                "_unchanged": unchanged or None,
                "_unrepresentable": sorted(odd.items()) if odd else None,
                "before": old,
                "after": new,
            }
        )

    def _as_sent(self, key: str, row: Row, unchanged: Any) -> dict[str, Any]:
        sent: dict[str, Any] = {"world": self.number, "id": key}
        odd = {}
        for name, value in row.values.items():
            sent[name] = None
            if name in unchanged or value is None:
                continue
            if value.endswith(UNREPRESENTABLE):
                odd[name] = value
            else:
                sent[name] = int(value) if name in ("small", "odd") else value
        return {**sent, "_unrepresentable": odd or None}

    @staticmethod
    def _version(lsn: int, ordinal: int) -> bytes:
        return lsn.to_bytes(8, "big") + ordinal.to_bytes(4, "big")


def bronze(worlds: list[World]) -> pa.Table:
    """All the worlds' changes as one bronze table; their keys keep them apart."""
    events = [event for world in worlds for event in world.events]
    return pa.Table.from_pylist(events, schema=SCHEMA.envelope)
