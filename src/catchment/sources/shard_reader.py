"""Reads the shards of one stream with a few threads: parents before children, in fair turns, and says how far it is."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from catchment.sources.shards import (
    LATEST,
    SHARD_END,
    TRIM_HORIZON,
    Answer,
    IteratorExpired,
    Lineage,
    Page,
    Shard,
    StreamClient,
    Throttled,
    Trimmed,
    since,
    since_microseconds,
)

CLOCK_SKEW_SECONDS = 10
"""How far this machine's clock may be ahead of AWS's, where AWS does not tell: what was begun at LATEST is found again
by time."""
WHOLE_SECONDS = 2
"""How far two times may be apart that are told to the second, and are the same."""
IDLE_SECONDS = 0.2
"""How long to wait after an answer without records, unless somebody is in a hurry."""
LISTING_SECONDS = 60.0
"""How often shards are listed although no shard has ended."""
LONGEST_BACKOFF_SECONDS = 10.0


@dataclass
class _Reading:
    """A shard that is being read. place: after what was handed over. next_place: after what was read.

    taken: a thread reads it, or a page of it waits to be handed over. tip: what it had until then (monotonic) was given
    away. next_tip: was read.
    """

    id: str
    place: str
    next_place: str
    due: float
    iterator: str | None = None
    taken: bool = False
    failures: int = 0
    read_at: float = 0.0
    behind_ms: int | None = None
    empty_since: deque[float] = field(default_factory=deque)
    tip: float = float("-inf")
    next_tip: float = float("-inf")


class ShardReader:
    """Reads all shards of a stream, and those that come after them.

    places: how far each shard was read (what `places` gave, kept durably). Without any it is a first start, at `start`:
    TRIM_HORIZON for all there is, LATEST for what comes. workers: so many reads at the same time. wake: set when there
    is something to take, so that one thread can wait for several readers; who waits clears it.

    Of each shard at most one page waits, so that memory is bounded by the number of shards that are being read.
    Throttling and expired iterators are handled here; anything else that fails is raised by `next`, and after it only
    `close` may be called.
    """

    def __init__(
        self,
        client: StreamClient,
        places: Mapping[str, str] | None = None,
        *,
        start: str = TRIM_HORIZON,
        workers: int = 4,
        wake: threading.Event | None = None,
    ) -> None:
        self._client = client
        self._resumed = bool(places)
        self._start = start
        self._wake = wake
        self._lineage = Lineage(places or {})
        self._reading: dict[str, _Reading] = {}
        self._pages: deque[Page] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._error: BaseException | None = None
        self._ended: set[str] = set()
        self._listing = False
        self._list_due = 0.0
        self._listed_at = float("-inf")
        self._list_wait = 1.0
        self._throttled = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"catchment-shards-{n}", daemon=True) for n in range(workers)
        ]

    def open(self) -> None:
        """List the shards and begin to read.

        Raises `Trimmed` when records after `places` are there no more, `StreamGone` when the stream is not, and
        `Retriable` or `Fatal` when it cannot be asked.
        """
        shards = self._ask(self._client.shards)
        self._lineage.lists(shards)
        if self._resumed and (missing := self._lineage.missing()):
            raise Trimmed(_no_longer(self._client, missing))
        for shard, place in list(self._lineage.places.items()):
            if place != SHARD_END:
                self._read_on(shard, place)
        if not self._resumed and self._start == LATEST:
            self._begin_at_tip()
        for shard in self._lineage.begin():
            self._read_on(shard, TRIM_HORIZON)
        self._listed_at = time.monotonic()
        self._list_due = self._listed_at + LISTING_SECONDS
        for thread in self._threads:
            thread.start()

    def next(self, timeout: float, takes: Callable[[str], bool] = lambda shard: True) -> Page | None:
        """The next page with records, or with which a shard ends; None after `timeout` seconds, or once closed.

        takes: is a page of this shard wanted now? Others wait, and nothing more of their shards is read. It is asked in
        the middle of things, and must neither wait nor change anything.
        """

        def wanted() -> Page | None:
            return next((page for page in self._pages if takes(page.shard)), None)

        with self._changed:
            self._changed.wait_for(lambda: wanted() or self._error or self._stopped, timeout)
            if self._stopped:
                return None
            page = wanted()
            if page is None:
                if self._error is not None:
                    raise self._error
                return None
            self._pages.remove(page)
            self._hand_over(page)
            return page

    def places(self) -> dict[str, str]:
        """How far each shard was read, as of the pages that were taken: what is to be kept, and to be opened with.

        Shard id → a sequence number, SHARD_END, TRIM_HORIZON (begun, nothing read yet), or `since(…)`. Shards that are
        over and followed by others are left out.
        """
        with self._changed:
            return dict(self._lineage.places)

    def parents(self, shard: str) -> tuple[str, ...]:
        """The shards that this one came of."""
        with self._changed:
            return self._lineage.parents(shard)

    def hurry(self) -> None:
        """Ask all shards again as soon as may be."""
        with self._changed:
            for one in self._reading.values():
                if not one.failures:
                    one.due = min(one.due, one.read_at + self._client.reads_apart_seconds)
            self._changed.notify_all()

    def read_until(self) -> float:
        """All that the stream had at this time (`time.monotonic`) was taken; -inf when that is not known."""
        with self._changed:
            if self._ended:
                return float("-inf")
            return min([one.tip for one in self._reading.values()], default=self._listed_at)

    @property
    def over(self) -> bool:
        """Is every shard read to its end, and none there that would go on? So it is with a stream that was disabled."""
        with self._changed:
            return not self._reading and not self._pages and not self._ended

    @property
    def shards(self) -> int:
        """How many shards are being read."""
        with self._changed:
            return len(self._reading)

    @property
    def throttled(self) -> int:
        """How often AWS asked for fewer calls, so far."""
        return self._throttled

    @property
    def behind_ms(self) -> int | None:
        """How old the oldest unread record is at most (Kinesis); None when the service does not say."""
        with self._changed:
            known = [one.behind_ms for one in self._reading.values() if one.behind_ms is not None]
            return max(known, default=None)

    def close(self) -> None:
        """Stop reading. Pages that were not taken are dropped. May be called twice, and by another thread."""
        with self._changed:
            self._stopped = True
            self._pages.clear()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(timeout=30.0)
        if self._wake is not None:
            self._wake.set()

    # -- starting

    def _begin_at_tip(self) -> None:
        """Begin after what is there now. The iterators are taken here, so that nothing between is missed."""
        begun_at = time.time() - CLOCK_SKEW_SECONDS
        for shard in self._lineage.leaves():
            iterator = self._ask(lambda shard=shard: self._client.iterator(shard.id, LATEST))
            self._lineage.begin_at(shard.id, since(begun_at))
            self._read_on(shard.id, since(begun_at)).iterator = iterator

    def _ask(self, call: Any) -> Any:
        """Call AWS before the threads run: throttling is waited out, for a while."""
        for attempt in range(6):
            try:
                return call()
            except Throttled:
                self._throttled += 1
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, _backoff(attempt))
        return call()

    def _read_on(self, shard: str, place: str) -> _Reading:
        self._reading[shard] = reading = _Reading(shard, place, place, time.monotonic())
        return reading

    # -- in the caller's thread, under the lock

    def _hand_over(self, page: Page) -> None:
        reading = self._reading[page.shard]
        reading.place, reading.tip = reading.next_place, reading.next_tip
        if page.ended:
            self._lineage.end(page.shard)
            del self._reading[page.shard]
            self._ended.add(page.shard)
            self._begin_children()
            self._list_due, self._list_wait = time.monotonic(), 1.0
        else:
            self._lineage.places[page.shard] = reading.place
            reading.taken = False
        self._changed.notify_all()

    def _begin_children(self) -> None:
        for shard in self._lineage.begin():
            self._read_on(shard, TRIM_HORIZON)

    # -- in the reading threads

    def _work(self) -> None:
        try:
            while (task := self._task()) is not None:
                if isinstance(task, _Reading):
                    self._read(task)
                else:
                    self._list(task)
        except BaseException as error:  # noqa: BLE001 - whatever stops a thread is raised by next()
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
            self._tell()

    def _task(self) -> _Reading | frozenset[str] | None:
        """What is to be done next: a shard that is due, or the shards (that have ended) whose children are wanted."""
        with self._changed:
            while not self._stopped and self._error is None:
                now = time.monotonic()
                if not self._listing and self._list_due <= now:
                    self._listing = True
                    return frozenset(self._ended)
                waiting = [one for one in self._reading.values() if not one.taken]
                first = min(waiting, key=lambda one: one.due, default=None)
                if first is not None and first.due <= now:
                    first.taken = True
                    return first
                times = [one.due for one in (first,) if one is not None]
                if not self._listing:
                    times.append(self._list_due)
                self._changed.wait(max(0.0, min(times, default=now + 1.0) - now))
            return None

    def _read(self, reading: _Reading) -> None:
        began, asked_at = time.monotonic(), time.time()
        try:
            if reading.iterator is None:
                reading.iterator = self._client.iterator(reading.id, reading.next_place)
            answer = self._client.read(reading.iterator)
        except Throttled:
            self._slow_down(reading)
            return
        except IteratorExpired:
            with self._changed:
                reading.iterator, reading.taken = None, False
            return
        self._take(reading, answer, began, asked_at)

    def _slow_down(self, reading: _Reading) -> None:
        with self._changed:
            self._throttled += 1
            reading.due = time.monotonic() + _backoff(reading.failures)
            reading.failures += 1
            reading.taken = False

    def _take(self, reading: _Reading, answer: Answer, began: float, asked_at: float) -> None:
        ended = answer.next_iterator is None
        given = len(answer.sequence_numbers)
        tip = _tip(answer, began, asked_at)
        if (begun_at := since_microseconds(reading.next_place)) is not None:
            answer = self._client.newer(answer, begun_at)
        numbers = answer.sequence_numbers
        with self._changed:
            reading.failures = 0
            reading.iterator = answer.next_iterator
            reading.behind_ms = answer.behind_ms
            reading.read_at = began
            reading.due = began + self._client.reads_apart_seconds
            if numbers:
                reading.next_place = numbers[-1]
            if given:
                reading.next_tip = max(reading.next_tip, tip)
            if numbers or ended:
                reading.empty_since.clear()
                page = Page(reading.id, answer.records, numbers, ended, asked_at, answer.behind_ms)
                self._pages.append(page)
            else:
                if not given:
                    self._note_empty(reading, answer, began, asked_at)
                reading.taken = False
            self._changed.notify_all()
        if numbers or ended:
            self._tell()

    def _note_empty(self, reading: _Reading, answer: Answer, began: float, asked_at: float) -> None:
        if answer.behind_ms:
            # An answer may be empty in the middle of a shard.
            reading.empty_since.clear()
            return
        reading.due = began + max(IDLE_SECONDS, self._client.reads_apart_seconds)
        reading.empty_since.append(began)
        needed = self._client.empty_reads_at_tip
        if len(reading.empty_since) >= needed:
            reading.tip = reading.next_tip = max(reading.next_tip, reading.empty_since[-needed])
        if len(reading.empty_since) > needed:
            reading.empty_since.popleft()
            if since_microseconds(reading.next_place) is not None:
                # Begun at LATEST, and nothing came: what is kept would else go on naming the first moment.
                told_at = asked_at if answer.told_at is None else answer.told_at
                reading.next_place = since(told_at - CLOCK_SKEW_SECONDS)
                self._lineage.places[reading.id] = reading.next_place

    def _list(self, ended: frozenset[str]) -> None:
        began = time.monotonic()
        try:
            shards, whole = self._listed(ended)
        except Throttled:
            with self._changed:
                self._throttled += 1
                self._listing = False
                self._list_due = time.monotonic() + 1.0 + random.random()  # noqa: S311 - spreads calls
            return
        with self._changed:
            self._listing = False
            self._listed_at = began
            self._ended -= ended
            self._lineage.lists(shards)
            if whole:
                self._lineage.forgets(one.id for one in shards)
                if skipped := self._lineage.skipped():
                    raise Trimmed(_no_longer(self._client, skipped))
            self._begin_children()
            self._list_due = time.monotonic() + self._next_listing()
            self._changed.notify_all()

    def _listed(self, ended: frozenset[str]) -> tuple[list[Shard], bool]:
        """The children of these shards, or all shards; and whether it is all."""
        if ended:
            children = [one for name in ended for one in self._client.children(name)]
            with self._changed:
                known = self._lineage.knows(parent for one in children for parent in one.parents)
            if known:
                return children, False
        # A merged shard whose other parent was never listed must not look like one whose parent was trimmed.
        return self._client.shards(), True

    def _next_listing(self) -> float:
        """Seconds to wait. Children may appear a little after their parent; a stream that was disabled has none."""
        if self._ended:
            return 0.0
        if SHARD_END not in self._lineage.places.values():
            return LISTING_SECONDS
        wait, self._list_wait = self._list_wait, min(LISTING_SECONDS, self._list_wait * 2)
        return wait

    def _tell(self) -> None:
        if self._wake is not None:
            self._wake.set()


def _no_longer(client: StreamClient, shards: list[str]) -> str:
    return (
        f"{client.stream} no longer has the shards {', '.join(shards[:3])}: they were trimmed before they were read to "
        "their ends."
    )


def _tip(answer: Answer, began: float, asked_at: float) -> float:
    """Until when (monotonic) a shard was read by an answer with records; a busy one never gives an empty answer."""
    if answer.behind_ms is not None:
        return began - (answer.behind_ms + 1) / 1000
    if answer.newest_at is not None and answer.told_at is not None:
        return began - (answer.told_at - answer.newest_at) - WHOLE_SECONDS
    if answer.newest_at is not None:
        return began - (asked_at - answer.newest_at) - CLOCK_SKEW_SECONDS
    return float("-inf")


def _backoff(failures: int) -> float:
    """Seconds to wait after so many refusals in a row; spread, so that readers do not come back together."""
    return float(min(LONGEST_BACKOFF_SECONDS, 0.2 * 2**failures) * (0.5 + random.random() / 2))  # noqa: S311
