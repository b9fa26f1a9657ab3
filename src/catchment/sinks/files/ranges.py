"""The log of ranges under `_catchment/`: what is meant to be written, and what is complete.

A *range* is everything between two boundaries. Its life, each step durable before the next:

1. `intents/<range>-<attempt>.json` is created: from, to, and the names of its objects.
2. The objects are written under these names.
3. `done/<range>.json` is created: the range is complete. This is the commit.

After a crash between 1 and 3 the same range is cut again, to the same names, so that even somebody who
only lists the directories never sees a change under two names. A further attempt that needs other names
(snapshot rows read again may be more or fewer) says so first, in an intent of its own; names that the
last attempt does not use are removed before the range is done. Where the source comes back by another road
and never gets to that end (a new slot, a table read anew), the range is abandoned: its objects are removed,
then its intents, and then another range begins under its number.
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
HINT_EVERY = 64
"""So many ranges are looked through at most to find the last one."""


@dataclass(frozen=True, slots=True)
class DataObject:
    """One complete object of a range."""

    table: str
    path: str
    rows: int
    schema_version: int


@dataclass(frozen=True, slots=True)
class Range:
    """A complete range: everything after `start` up to `end`."""

    number: int
    start: Progress | None
    end: Progress
    objects: tuple[DataObject, ...]


@dataclass(frozen=True, slots=True)
class Intent:
    """A range that was begun. names: of all its attempts so far."""

    number: int
    end: Progress
    names: frozenset[str]
    attempts: int


class RangeLog:
    """What is complete, what was begun, and how to add to it. Made by `open`, under the store's lock."""

    def __init__(self, store: Store, number: int, progress: Progress | None, begun: Intent | None) -> None:
        self._store = store
        self._number = number
        self.progress = progress
        """Up to here everything is complete."""
        self.begun = begun
        """The range that was begun after it, and has to be cut again."""

    @classmethod
    def open(cls, store: Store, pipeline: str) -> RangeLog:
        """Read where the log stands."""
        _claim(store, pipeline)
        number, progress = _hint(store)
        while (last := read_range(store, number + 1)) is not None:
            number, progress = last.number, last.end
        return cls(store, number, progress, _begun(store, number))

    def begin(self, end: Progress, names: Sequence[str]) -> Intent:
        """Say what the next range is going to be, before its first object is written.

        A range that was begun before is begun again: its end is `begun.end`.
        """
        begun = self.begun or Intent(self._number + 1, end, frozenset(), 0)
        if begun.attempts and begun.names.issuperset(names):
            return begun
        attempt = begun.attempts + 1
        record = {
            "range": begun.number,
            "attempt": attempt,
            "from": _to_json(self.progress),
            "to": _to_json(begun.end),
            "objects": sorted(names),
        }
        self._create(_intent_path(begun.number, attempt), record)
        self.begun = Intent(begun.number, begun.end, begun.names.union(names), attempt)
        return self.begun

    def finish(self, intent: Intent, objects: Sequence[DataObject]) -> None:
        """The range that was begun is complete."""
        for name in sorted(intent.names.difference(one.path for one in objects)):
            self._store.delete(name)
        record = {
            "range": intent.number,
            "from": _to_json(self.progress),
            "to": _to_json(intent.end),
            "objects": [asdict(one) for one in objects],
        }
        self._create(_done_path(intent.number), record)
        self._number, self.progress, self.begun = intent.number, intent.end, None
        for attempt in range(1, intent.attempts + 1):
            self._store.delete(_intent_path(intent.number, attempt))
        if self._number % HINT_EVERY == 0:
            self._write_hint()

    def abandon(self, intent: Intent) -> None:
        """The range that was begun will never be complete: nothing is left of it."""
        for name in sorted(intent.names):
            self._store.delete(name)
        for attempt in range(1, intent.attempts + 1):
            self._store.delete(_intent_path(intent.number, attempt))
        self.begun = None

    def move_on(self, progress: Progress) -> None:
        """Everything up to `progress` is complete, and nothing in it was for us."""
        self.progress = progress
        self._write_hint()

    def next_number(self) -> int:
        """The number of the range that is begun, or comes next."""
        return self._number + 1

    def _write_hint(self) -> None:
        record = {"range": self._number, "progress": _to_json(self.progress)}
        self._store.put("_catchment/progress.json", _dump(record))

    def _create(self, path: str, record: dict[str, Any]) -> None:
        if not self._store.put_if_absent(path, _dump(record)):
            raise LeaseLost(f"{path} was written by another process. Two pipelines must not share a directory.")


def _done_path(number: int) -> str:
    return f"_catchment/done/{number:012d}.json"


def _intent_path(number: int, attempt: int) -> str:
    return f"_catchment/intents/{number:012d}-{attempt:04d}.json"


def read_range(store: Store, number: int) -> Range | None:
    """A complete range; None when there is none of this number (yet)."""
    record = _load(store, _done_path(number))
    if record is None:
        return None
    objects = tuple(DataObject(**one) for one in record["objects"])
    return Range(record["range"], _from_json(record["from"]), _progress(record["to"]), objects)


def _claim(store: Store, pipeline: str) -> None:
    """The directory belongs to the pipeline that wrote to it first."""
    record = {"layout": LAYOUT, "pipeline": pipeline}
    if store.put_if_absent("_catchment/owner.json", _dump(record)):
        return
    owner = _load(store, "_catchment/owner.json") or {}
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


def _hint(store: Store) -> tuple[int, Progress | None]:
    record = _load(store, "_catchment/progress.json")
    return (0, None) if record is None else (record["range"], _from_json(record["progress"]))


def _begun(store: Store, number: int) -> Intent | None:
    """The intents of the range after `number`, as one; those of complete ranges are removed."""
    attempts: list[dict[str, Any]] = []
    for name in store.list("_catchment/intents"):
        path = f"_catchment/intents/{name}"
        record = _load(store, path)
        if record is None or record["range"] <= number:
            store.delete(path)
        else:
            attempts.append(record)
    if not attempts:
        return None
    names = frozenset(name for record in attempts for name in record["objects"])
    return Intent(number + 1, _progress(attempts[-1]["to"]), names, attempts[-1]["attempt"])


def _load(store: Store, path: str) -> dict[str, Any] | None:
    data = store.get(path)
    if data is None:
        return None
    try:
        record: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise SinkRefused(f"{path} is not what Catchment wrote there. Restore it, or use a new directory.") from error
    return record


def _dump(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode() + b"\n"


def _to_json(progress: Progress | None) -> Any:
    return None if progress is None else json.loads(progress.to_json())


def _from_json(value: Any) -> Progress | None:
    return None if value is None else _progress(value)


def _progress(value: Any) -> Progress:
    return Progress.from_json(json.dumps(value))
