"""Where the rows of a table's keys are: a rebuildable cache of sorted runs, searched by binary search.

Every row of every data file has a *place*: the file's base and the row's position in it, one number. A run is
immutable: keys, sorted, and the places where rows of these keys were written. A place is alive until a position
delete names it or its file leaves; a key has at most one live place, so the order of runs does not matter and
nothing is ever removed from one: dead entries go when runs are merged. Runs are merged by size, large ones on a
thread of their own.
"""

from __future__ import annotations

import contextlib
import json
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from catchment.lakehouse.silver.key_hash import Keys, Words

Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FAN_OUT = 6
"""How many runs of a size class there may be before they are merged."""
SMALLEST = 8_192
"""Runs up to this size are one class."""
ASIDE = 1_000_000
"""A merge of so many entries is done on a thread of its own."""
MANIFEST = "index.json"
FORMAT = 3

NOWHERE = -1
"""The place of a key that has no row."""


@dataclass(frozen=True, eq=False)
class Run:
    """Keys, ascending, and their places. saved: the files that hold them, without their endings."""

    keys: Keys
    places: Places
    saved: str | None = None

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def of(cls, keys: Keys, places: Places) -> Run:
        """A run of these entries, in any order."""
        order = keys.order()
        return cls(keys.take(order), places[order])

    def find(self, keys: Keys, rows: npt.NDArray[np.intp], dead: Flags, found: Places) -> None:
        """Fill `found` at those of `rows` whose key has a live place here. keys: ascending."""
        wanted = keys.main[rows]
        at = np.searchsorted(self.keys.main, wanted)
        inside = at < len(self)
        rows, at = rows[inside], at[inside]
        while len(rows):
            same = self.keys.main[at] == keys.main[rows]
            rows, at = rows[same], at[same]
            places = self.places[at]
            alive = ~dead[places]
            if self.keys.check is not None and keys.check is not None:
                alive &= self.keys.check[at] == keys.check[rows]
            found[rows[alive]] = places[alive]
            # Another key may have the same first half, or a dead place may stand before the live one.
            rows, at = rows[~alive], at[~alive] + 1
            inside = at < len(self)
            rows, at = rows[inside], at[inside]


class KeyIndex:
    """The runs of one table. Used by one thread at a time.

    directory: where runs are kept between processes.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._runs: list[Run] = []
        self._aside: tuple[list[Run], Future[Run]] | None = None
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        """Entries, dead ones too."""
        return sum(len(run) for run in self._runs)

    def add(self, keys: Keys, places: Places, dead: Flags) -> None:
        """Rows of these keys were written at these places."""
        if len(keys):
            self._runs.append(Run.of(keys, places))
            self._merge(dead)

    def find(self, keys: Keys, dead: Flags) -> Places:
        """The live place of each key; `NOWHERE` for a key that has none."""
        order = keys.order()
        ordered = keys.take(order)
        found = np.full(len(keys), NOWHERE, np.int64)
        left = np.arange(len(keys))
        for run in sorted(self._runs, key=len, reverse=True):
            run.find(ordered, left, dead, found)
            left = left[found[left] == NOWHERE]
            if not len(left):
                break
        result = np.empty_like(found)
        result[order] = found
        return result

    def entries(self, dead: Flags) -> tuple[Keys, Places]:
        """The keys that have a live place, and those."""
        self._settle(wait=True)
        live = _merged(self._runs, dead)
        return live.keys, live.places

    def clear(self) -> None:
        """Forget all entries."""
        self._settle(wait=True)
        self._runs = []

    def renumber(self, moved: Callable[[Places], Places], dead: Flags) -> None:
        """Give every live entry the place that `moved` says; the dead ones go."""
        self._settle(wait=True)
        merged = _merged(self._runs, dead)
        self._runs = [Run(merged.keys, moved(merged.places))] if len(merged) else []

    def close(self) -> None:
        """Wait for a merge that goes on."""
        self._settle(wait=True)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _merge(self, dead: Flags) -> None:
        self._settle(wait=False)
        while True:
            classes: dict[int, list[Run]] = {}
            busy = self._aside[0] if self._aside is not None else []
            for run in self._runs:
                if run not in busy:
                    classes.setdefault(_size_class(len(run)), []).append(run)
            due = next((runs for runs in classes.values() if len(runs) >= FAN_OUT), None)
            if due is None:
                return
            if sum(map(len, due)) >= ASIDE:
                if self._aside is None:
                    self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="key-index")
                    self._aside = (due, self._pool.submit(self._merge_aside, due, dead))
                return
            merged = _merged(due, dead)
            self._runs = [run for run in self._runs if run not in due] + ([merged] if len(merged) else [])

    def _merge_aside(self, runs: Sequence[Run], dead: Flags) -> Run:
        merged = _merged(runs, dead)
        return self._save(merged) if self._directory is not None else merged

    def _settle(self, *, wait: bool) -> None:
        """Take over what was merged aside."""
        if self._aside is None or not (wait or self._aside[1].done()):
            return
        runs, future = self._aside
        self._aside = None
        merged = future.result()
        self._runs = [run for run in self._runs if run not in runs] + ([merged] if len(merged) else [])

    # On disk

    def save(self, stamp: Mapping[str, object]) -> None:
        """Keep all runs for the next process, with what they belong to. Errors of the disk are no errors here."""
        if self._directory is None:
            return
        self._settle(wait=True)
        with contextlib.suppress(OSError):
            self._runs = [run if run.saved else self._save(run) for run in self._runs]
            runs = [{"file": run.saved, "entries": len(run), "sum": _sum(run)} for run in self._runs]
            manifest = {"format": FORMAT, "runs": runs, "exact": self._exact(), **stamp}
            temporary = self._directory / f"{MANIFEST}.new"
            temporary.write_text(json.dumps(manifest))
            temporary.replace(self._directory / MANIFEST)
            kept = {run.saved for run in self._runs}
            for file in self._directory.glob("*.npy"):
                if file.name.partition(".")[0] not in kept:
                    file.unlink()

    def load(self) -> dict[str, object] | None:
        """Take up what was saved; its stamp. None, and an empty index, where there is nothing sound."""
        if self._directory is None:
            return None
        try:
            manifest = json.loads((self._directory / MANIFEST).read_text())
            if manifest["format"] != FORMAT:
                return None
            runs = [self._load(one["file"], manifest["exact"]) for one in manifest["runs"]]
            if any(
                len(run) != one["entries"] or _sum(run) != one["sum"]
                for run, one in zip(runs, manifest["runs"], strict=True)
            ):
                return None
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            return None  # EOFError: nothing is fsynced here, a power cut may leave empty files.
        self._runs = runs
        return dict(manifest)

    def _exact(self) -> bool:
        return all(run.keys.check is None for run in self._runs)

    def _save(self, run: Run) -> Run:
        """Write a run, and read it from there from now on: its memory is the page cache's."""
        directory = self._directory
        assert directory is not None  # noqa: S101 - tells the type checker
        directory.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        np.save(directory / f"{name}.main.npy", run.keys.main)
        np.save(directory / f"{name}.places.npy", run.places)
        if run.keys.check is not None:
            np.save(directory / f"{name}.check.npy", run.keys.check)
        return self._load(name, run.keys.check is None)

    def _load(self, name: str, exact: bool) -> Run:
        directory = self._directory
        assert directory is not None  # noqa: S101 - tells the type checker

        def column(kind: str) -> npt.NDArray[np.uint64]:
            array: npt.NDArray[np.uint64] = np.load(directory / f"{name}.{kind}.npy", mmap_mode="r")
            return array

        check: Words | None = None if exact else column("check")
        return Run(Keys(column("main"), check), column("places").view(np.int64), name)


def _size_class(size: int) -> int:
    found, size = 0, size // SMALLEST
    while size >= FAN_OUT:
        size //= FAN_OUT
        found += 1
    return found


def _merged(runs: Sequence[Run], dead: Flags) -> Run:
    """One run of the live entries of several."""
    if not runs:
        return Run(Keys(np.empty(0, np.uint64), None), np.empty(0, np.int64))
    live = [(run.keys.take(rows), run.places[rows]) for run in runs if len(rows := np.flatnonzero(~dead[run.places]))]
    if not live:
        return Run(runs[0].keys.take(np.empty(0, np.intp)), np.empty(0, np.int64))
    return Run.of(Keys.join([keys for keys, _ in live]), np.concatenate([places for _, places in live]))


def _sum(run: Run) -> int:
    total = zlib.crc32(run.keys.main.data)
    if run.keys.check is not None:
        total = zlib.crc32(run.keys.check.data, total)
    return zlib.crc32(run.places.data, total)


def index_directory(directory: Path, table: object) -> Path:
    """Where the index of a table (by its uuid) is kept."""
    return directory / ".catchment" / "keys" / str(table)
