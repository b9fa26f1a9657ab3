"""The pages of a stream's shards, for a runner that goes on through outages."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from catchment.aws.local.counters import Counters
from catchment.errors import PositionLost, SourceUnavailable
from catchment.sources.shard_reader import ShardReader
from catchment.sources.shards import Page, StreamClient, StreamGone, Trimmed

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0


class ShardPages:
    """A `ShardReader` that is opened again, where it was, after the service was away. Used by one thread.

    places, start: as `ShardReader` has them. `next` raises `StreamGone` when the stream is not there, `PositionLost`
    when records were trimmed before they were read, and `Fatal` for what will not mend itself.
    """

    def __init__(
        self, client: StreamClient, places: Mapping[str, str] | None, counters: Counters, *, start: str
    ) -> None:
        self._client = client
        self._counters = counters
        self._start = start
        self._places = dict(places) if places else None
        self.before: Mapping[str, str] = {}
        """How far the pages reach that were taken before the last one."""
        self._reader: ShardReader | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = 0.0

    def next(self, timeout: float, takes: Callable[[str], bool] = lambda shard: True) -> Page | None:
        """The next page; None after `timeout` seconds without one, also while the service is away. takes: as there."""
        wait = self._not_before - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, timeout))
            return None
        try:
            page = self._opened().next(timeout, takes)
        except StreamGone:
            raise
        except Trimmed as error:
            raise PositionLost(
                f"{error} Move the runner's state away to begin at what is there; then `catchment aws reconcile` "
                "brings what was missed."
            ) from error
        except SourceUnavailable as error:
            self._step_back(error)
            return None
        if self._pause > FIRST_PAUSE_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
            self._counters.note("")
        if page is not None:
            self.before, self._places = self._places or {}, self._opened().places()
        return page

    def places(self) -> dict[str, str]:
        """How far the pages that were taken reach."""
        return dict(self._places or {})

    def parents(self, shard: str) -> tuple[str, ...]:
        """The shards that this one came of."""
        return self._reader.parents(shard) if self._reader is not None else ()

    @property
    def over(self) -> bool:
        """Were all shards read to their ends, with none to follow? So it is with a stream that was disabled."""
        return self._reader is not None and self._reader.over

    def caught_up(self, since: float) -> bool:
        """Was everything taken that the stream gave until `since` (`time.monotonic`)?"""
        return self._reader is not None and self._reader.read_until() >= since

    def close(self) -> None:
        """Stop reading. May be called twice."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _opened(self) -> ShardReader:
        if self._reader is None:
            reader = ShardReader(self._client, self._places, start=self._start)
            try:
                reader.open()
            except BaseException:
                reader.close()
                raise
            self._reader = reader
            self._places = reader.places()
        return self._reader

    def _step_back(self, error: SourceUnavailable) -> None:
        self.close()
        self._counters.add(retried=1)
        self._counters.note(f"waits for the source: {error}")
        self._not_before = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)
