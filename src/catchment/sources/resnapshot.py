"""Beginning anew, once: a source that re-reads every table although the sinks hold something already."""

from __future__ import annotations

from collections.abc import Callable

from catchment.progress import Progress
from catchment.sources.base import Event, Source, SourceStatus


class Resnapshots:
    """Makes the sources of one run: each begins anew until something of the new beginning is durable.

    A failure before that begins anew again; a reconnection after that goes on where the sinks are. anew,
    onward: make a source that begins anew, and one that goes on.
    """

    def __init__(self, anew: Callable[[], Source], onward: Callable[[], Source]) -> None:
        self._anew = anew
        self._onward = onward
        self._found: list[Progress | None] = []

    def __call__(self) -> Source:
        return _Resnapshot(self)

    def source(self, resume: Progress | None) -> Source:
        """The source to open at `resume`."""
        if not self._found:
            self._found.append(resume)
        return self._anew() if resume == self._found[0] else self._onward()


class _Resnapshot:
    """A source that decides when it is opened."""

    def __init__(self, sources: Resnapshots) -> None:
        self._sources = sources
        self._source: Source | None = None

    def _opened(self) -> Source:
        if self._source is None:
            raise RuntimeError("open() comes first")
        return self._source

    def open(self, resume: Progress | None) -> None:
        self._source = self._sources.source(resume)
        self._source.open(resume)

    def next(self, timeout: float) -> Event | None:
        return self._opened().next(timeout)

    def acknowledge(self, progress: Progress) -> None:
        self._opened().acknowledge(progress)

    def head(self) -> Progress:
        return self._opened().head()

    def status(self) -> SourceStatus:
        return self._opened().status()

    def close(self) -> None:
        if self._source is not None:
            self._source.close()
