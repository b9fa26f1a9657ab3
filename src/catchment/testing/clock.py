"""A clock that a test turns."""

from __future__ import annotations


class FakeClock:
    """Stands still until it is turned; `sleep` turns it and returns at once.

    >>> clock = FakeClock()
    >>> before = clock.monotonic()
    >>> clock.sleep(30)
    >>> clock.monotonic() - before
    30.0
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._elapsed = 0.0
        self.slept: list[float] = []
        """Every wait that was asked for."""

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.turn(seconds)

    def turn(self, seconds: float) -> None:
        """Let so many seconds pass."""
        if seconds < 0:
            raise ValueError("A clock is only turned forwards; use set_back for the wall clock alone.")
        self._now += seconds
        self._elapsed += seconds

    def set_back(self, seconds: float) -> None:
        """Set the wall clock back, as an administrator may; monotonic time stays."""
        self._now -= seconds
