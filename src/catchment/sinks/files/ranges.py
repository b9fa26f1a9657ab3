"""The log of ranges under `_catchment/`: what is meant to be written, and what is complete.

A *range* is everything between two boundaries. Its life, each step durable before the next:

1. `intents/<range>-0001.json` is created: from, to, and the names of its objects.
2. The objects are written under these names.
3. `intents/<range>-0002.json` is created, with the record of the complete range. This is the commit.
4. `done/<range>.json` is created with that record, for readers; then the intents are removed.

After a crash before 3 the same range is cut again, to the same names, so that even somebody who only lists the
directories never sees a change under two names. A further attempt that needs other names (snapshot rows read again may
be more or fewer) says so first, in the next intent; names that the last attempt does not use are removed before the
range is done. After a crash between 3 and 4 whoever opens the log finishes what is left. Where the source comes back by
another road and never gets to that end (a new slot, a table read anew), the range is abandoned: it is committed without
objects and without progress, and another begins under the next number. So no name that was given up is ever used again.

The intents of a range are one sequence, and each is only created when there is none of its number. That is what keeps a
late writer out (ADR 11): in a store where a predecessor may still be at work, opening the log adds a *claim* to the
sequence. From then on nothing that the predecessor knows to be next can be created: it neither begins nor commits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from catchment.errors import LeaseLost, SinkRefused
from catchment.progress import Progress
from catchment.sinks.files.store import Store

LAYOUT = 1
"""The version of what this module writes."""
OWNER = "_catchment/owner.json"
HINT_EVERY = 64
"""So many ranges are looked through at most to find the last one."""
MOST_CLAIMS = 32
"""A sequence of so many claims and nothing else is closed by a range without objects."""

_HINT = "_catchment/progress.json"


@dataclass(frozen=True, slots=True)
class DataObject:
    """One complete object of a range."""

    table: str
    path: str
    rows: int
    schema_version: int


@dataclass(frozen=True, slots=True)
class Range:
    """A complete range: everything after `start` up to `end`. Without objects it was abandoned."""

    number: int
    start: Progress | None
    end: Progress | None
    objects: tuple[DataObject, ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """A range that was begun. names: of all its attempts so far. moment: what its names may be made of, in µs."""

    end: Progress
    names: frozenset[str]
    moment: int


class RangeLog:
    """What is complete, what was begun, and how to add to it. Made by `open`, by the holder of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 0
        self._hint_version: str | None = None
        self._intents = 0
        self.progress: Progress | None = None
        """Up to here everything is complete."""
        self.begun: Intent | None = None
        """The range that was begun after it, and has to be cut again."""

    @classmethod
    def open(cls, store: Store, pipeline: str) -> RangeLog:
        """Read where the log stands, finish what was committed, and keep earlier writers out."""
        _claim(store, pipeline)
        log = cls(store)
        # Again when a predecessor wrote meanwhile: it does so a few times at most before it is fenced.
        while not (log._read() and log._fence()):
            pass
        return log

    def begin(self, end: Progress, names: Sequence[str], moment: int) -> Intent:
        """Say what the next range is going to be, before its first object is written.

        A range that was begun before is begun again: its end is `begun.end`.
        """
        begun = self.begun or Intent(end, frozenset(), moment)
        if self.begun is None or not begun.names.issuperset(names):
            record = {"to": _to_json(begun.end), "objects": sorted(names), "moment": begun.moment}
            self._must(self._append(record))
            self.begun = Intent(begun.end, begun.names.union(names), begun.moment)
            return self.begun
        return begun

    def finish(self, intent: Intent, objects: Sequence[DataObject]) -> None:
        """The range that was begun is complete."""
        self._close(intent.end, intent.names, objects)

    def abandon(self, intent: Intent) -> None:
        """The range that was begun will never be complete: nothing is left of it."""
        self._close(self.progress, intent.names, ())

    def move_on(self, progress: Progress) -> None:
        """Everything up to `progress` is complete, and nothing in it was for us."""
        self.progress = progress
        self._must(self._write_hint())

    def next_number(self) -> int:
        """The number of the range that is begun, or comes next."""
        return self._number + 1

    def _read(self) -> bool:
        """Find where the log stands; False when it moved on by what was found."""
        self._find_last()
        self.begun, self._intents = None, 0
        names: frozenset[str] = frozenset()
        for path in _intents(self._store, self._number):
            record = _load(self._store, path)
            if record is None:
                return False
            self._intents += 1
            names = names.union(record.get("objects", ()))
            if "done" in record:
                self._settle(record["done"], names)
                return False
            if "to" in record:
                self.begun = Intent(_progress(record["to"]), names, record.get("moment", 0))
        return True

    def _find_last(self) -> None:
        found = self._store.read(_HINT)
        self._number, self.progress, self._hint_version = 0, None, None
        if found is not None:
            record = _parsed(_HINT, found[0])
            self._number, self.progress, self._hint_version = record["range"], _from_json(record["progress"]), found[1]
        while (last := read_range(self._store, self._number + 1)) is not None:
            self._number, self.progress = last.number, last.end

    def _fence(self) -> bool:
        """Whoever wrote here before adds nothing more; False when it just did."""
        if self._store.exclusive:
            return True
        if self.begun is not None:
            # Before the claim: what a successor of ours writes comes after its own, and must not be adopted.
            self._store.adopt(sorted(self.begun.names))
        if not self._append({"claim": True}) or not self._write_hint():
            return False
        if self.begun is None and self._intents >= MOST_CLAIMS:
            self._close(self.progress, frozenset(), ())
            return False
        return True

    def _append(self, record: dict[str, Any]) -> bool:
        """Add to the sequence of the next range; False when that place is taken, or the range done by another."""
        number, attempt = self._number + 1, self._intents + 1
        path = _intent_path(number, attempt)
        about = {"range": number, "attempt": attempt, "writer": self._store.writer, "from": _to_json(self.progress)}
        if not self._store.put_if_absent(path, _dump(about | record)):
            return False
        # The intents of a range that is done are removed: their places look free.
        if self._store.get(_done_path(number)) is not None:
            self._store.delete(path)
            return False
        self._intents = attempt
        return True

    def _close(self, end: Progress | None, names: frozenset[str], objects: Sequence[DataObject]) -> None:
        done = {
            "range": self._number + 1,
            "from": _to_json(self.progress),
            "to": _to_json(end),
            "objects": [asdict(one) for one in objects],
        }
        self._must(self._append({"objects": sorted(names), "done": done}))
        self._settle(done, names)
        if self._number % HINT_EVERY == 0:
            self._must(self._write_hint())

    def _settle(self, done: dict[str, Any], names: frozenset[str]) -> None:
        """What follows a commit; done again by whoever finds it half done."""
        number = done["range"]
        for name in sorted(names.difference(one["path"] for one in done["objects"])):
            self._store.delete(name)
        path, data = _done_path(number), _dump(done)
        self._must(self._store.put_if_absent(path, data) or self._store.get(path) == data)
        self._number, self.progress, self.begun = number, _from_json(done["to"]), None
        for attempt in range(1, self._intents + 1):
            self._store.delete(_intent_path(number, attempt))
        self._intents = 0

    def _write_hint(self) -> bool:
        record = {"range": self._number, "progress": _to_json(self.progress), "writer": self._store.writer}
        version = self._store.replace(_HINT, _dump(record), self._hint_version)
        self._hint_version = version
        return version is not None

    def _must(self, done: bool) -> None:
        if not done:
            raise LeaseLost(
                f"Another process writes to {self._store.place}, and was first. Leave the work to it; two pipelines "
                "must not share a place."
            )


def _done_path(number: int) -> str:
    return f"_catchment/done/{number:012d}.json"


def _intent_path(number: int, attempt: int) -> str:
    return f"_catchment/intents/{number:012d}-{attempt:04d}.json"


def _intents(store: Store, number: int) -> list[str]:
    """The intents of the range after `number`, in order; those of complete ranges are removed."""
    found = []
    for name in store.list("_catchment/intents"):
        path = f"_catchment/intents/{name}"
        if int(name.partition("-")[0]) <= number:
            store.delete(path)
        else:
            found.append(path)
    return found


def read_range(store: Store, number: int) -> Range | None:
    """A complete range; None when there is none of this number (yet)."""
    record = _load(store, _done_path(number))
    if record is None:
        return None
    objects = tuple(DataObject(**one) for one in record["objects"])
    return Range(record["range"], _from_json(record["from"]), _from_json(record["to"]), objects)


def owner_of(data: bytes) -> object:
    """The pipeline that a place belongs to, by its `owner.json`. Raises `SinkRefused` when that is garbled."""
    return _parsed(OWNER, data).get("pipeline")


def _claim(store: Store, pipeline: str) -> None:
    """The place belongs to the pipeline that wrote to it first."""
    record = {"layout": LAYOUT, "pipeline": pipeline}
    if store.put_if_absent(OWNER, _dump(record)):
        return
    owner = _load(store, OWNER) or {}
    if owner.get("pipeline") != pipeline:
        raise SinkRefused(
            f"The directory of this files sink belongs to pipeline {owner.get('pipeline')!r}, this is "
            f"{pipeline!r}. Give each pipeline a directory of its own."
        )
    if owner.get("layout") != LAYOUT:
        raise SinkRefused(
            f"The directory of this files sink has layout {owner.get('layout')!r}, this version of Catchment "
            f"writes layout {LAYOUT}. Use a new directory."
        )


def _load(store: Store, path: str) -> dict[str, Any] | None:
    data = store.get(path)
    return None if data is None else _parsed(path, data)


def _parsed(path: str, data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise SinkRefused(f"{path} is not what Catchment wrote there. Restore it, or use a new directory.")
    return record


def _dump(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode() + b"\n"


def _to_json(progress: Progress | None) -> Any:
    return None if progress is None else json.loads(progress.to_json())


def _from_json(value: Any) -> Progress | None:
    return None if value is None else _progress(value)


def _progress(value: Any) -> Progress:
    return Progress.from_json(json.dumps(value))
