"""Everything Catchment raises, grouped by what the caller does about it.

::

    CatchmentError
    ├── Fatal               stop; somebody has to change something
    │   ├── ConfigError     the pipeline file, an option, a missing variable
    │   ├── SourceRefused   the source is not set up for capture (privileges, wal_level, types)
    │   ├── PositionLost    the source no longer has what comes after our position
    │   ├── LeaseHeld       another process runs this pipeline
    │   ├── LeaseLost       another process took this pipeline over while we ran
    │   └── SinkRefused     the target cannot take what it must take
    ├── Retriable           close everything, wait, open again at what is durable
    │   ├── SourceUnavailable
    │   ├── SinkUnavailable
    │   └── Reopen          nothing failed: what was opened has changed underneath, open it again at once
    └── Poison              one record cannot be handled; it goes to dead letters, the rest goes on

A message says what happened, where (table, column, position) and what to do next. It never holds a
value of a row.
"""

from __future__ import annotations


class CatchmentError(Exception):
    """The root: everything that Catchment raises on purpose."""


class Fatal(CatchmentError):
    """Trying again will not help."""


class ConfigError(Fatal):
    """The configuration is wrong; nothing was started."""


class SourceRefused(Fatal):
    """The source is reachable but not set up for capture."""


class PositionLost(Fatal):
    """The source cannot continue at our position: changes in between would be missed."""


class LeaseHeld(Fatal):
    """Another live process holds this pipeline."""


class LeaseLost(Fatal):
    """Another process took the pipeline over; this one must not write again."""


class SinkRefused(Fatal):
    """The target cannot take what it must take."""


class Retriable(CatchmentError):
    """The same work may succeed later, from what is durable now."""


class SourceUnavailable(Retriable):
    """The source cannot be reached, or hung up."""


class SinkUnavailable(Retriable):
    """The target cannot be reached, is full, or lost a race that may be run again."""


class Reopen(Retriable):
    """Nothing failed: a command changed what is open. Everything is opened again, without a pause."""


class Poison(CatchmentError):
    """One record cannot be decoded or taken. `position` finds it again at the source."""

    def __init__(self, message: str, *, table: str, lane: str, position: bytes) -> None:
        super().__init__(message)
        self.table = table
        self.lane = lane
        self.position = position
