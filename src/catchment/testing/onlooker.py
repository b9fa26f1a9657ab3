"""A reader beside a flush: what does somebody else see of two tables in the middle of it?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """How many rows were seen, one after another: of the first table, of the second, and of the first again."""

    first: int
    second: int
    first_again: int


class Onlooker:
    """Counts the rows of two tables on a thread of its own, while this one writes to both.

    >>> onlooker = Onlooker(count_notes, count_items)
    >>> for _ in range(10):
    ...     onlooker.look_during(sink.flush)
    """

    def __init__(self, first: Callable[[], int], second: Callable[[], int]) -> None:
        self._first = first
        self._second = second

    def look_during(self, flush: Callable[[], object], times: int = 2) -> None:
        """Flush so many times, with looks beside it. Each flush adds as many rows to one table as to the other.

        times: few, because a sink need not keep for long what a reader has begun to read.
        Fails when a look saw one table ahead of the other; raises what a count or a flush raises.
        """
        over = threading.Event()
        with ThreadPoolExecutor(1, "onlooker") as thread:
            looks = thread.submit(self._look_until, over)
            try:
                for _ in range(times):
                    flush()
            finally:
                over.set()
        for look in looks.result():
            # The second was counted between two counts of the first, so "at once" means that it lies between them.
            assert look.first <= look.second <= look.first_again, f"a flush shows a table before another: {look}"

    def _look_until(self, over: threading.Event) -> list[Look]:
        looks = []
        while not over.is_set():
            looks.append(Look(self._first(), self._second(), self._first()))
        return looks
