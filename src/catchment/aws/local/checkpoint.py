"""How far a runner has come, in one small file: replaced whole, fsynced, and held by one process at a time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from catchment.durable import replace_durably
from catchment.errors import ConfigError, Fatal, LeaseHeld, SinkUnavailable
from catchment.process_lock import ProcessLock, Taken


class Checkpoint:
    """The positions of one runner, in `<directory>/<name>.json`.

    Raises `LeaseHeld` while another process has it, ConfigError where there can be none.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory / f"{name}.json"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = ProcessLock.take(directory / f"{name}.lock")
        except Taken as taken:
            raise LeaseHeld(
                f"Process {taken.pid or 'unknown'} runs {name} with {directory}. Stop it, or give another --state."
            ) from None
        except OSError as error:
            raise ConfigError(f"{directory} cannot be written: {error.strerror}. Give another --state.") from error

    def read(self) -> dict[str, Any]:
        """What was written last; empty at first."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise Fatal(f"{self.path} is not a checkpoint. Move it away to begin anew.") from error
        return dict(document)

    def write(self, document: Mapping[str, Any]) -> None:
        """Replace it. It is durable when this returns, and whole whatever happens. Raises `SinkUnavailable`."""
        beside = self.path.with_suffix(".new")
        try:
            beside.write_text(json.dumps(document), encoding="utf-8")
            replace_durably(beside, self.path)
        except OSError as error:
            raise SinkUnavailable(
                f"{self.path} cannot be written: {error.strerror}. Make room; the next run goes on from the one before."
            ) from error

    def close(self) -> None:
        """Let another process have it. May be called twice."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Page:
    places: Mapping[str, str]
    left: int


class Pages:
    """How far a source is done with, though the records of its pages are delivered in any order.

    It may be resumed after a page only when all pages before it are done too.
    """

    def __init__(self) -> None:
        self._pages: deque[_Page] = deque()
        self._first = 0
        self.outstanding = 0
        """Records of pages that were begun and are not done with."""

    def begin(self, places: Mapping[str, str], records: int) -> int:
        """A page of so many records was read; `places` is where the source is resumed after it. Gives its number."""
        self._pages.append(_Page(places, records))
        self.outstanding += records
        return self.begun - 1

    @property
    def begun(self) -> int:
        """How many pages were begun."""
        return self._first + len(self._pages)

    def done(self, page: int, records: int = 1) -> None:
        """So many more records of a page are where they must be."""
        self._pages[page - self._first].left -= records
        self.outstanding -= records

    def settled(self) -> Mapping[str, str] | None:
        """Where the source may be resumed now; None when that has not moved since it was asked last."""
        places = None
        while self._pages and self._pages[0].left == 0:
            places = self._pages.popleft().places
            self._first += 1
        return places
