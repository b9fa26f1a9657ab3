"""Failures of a sink, as data: each happens once, whichever instance meets it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from catchment.change import ChangeBatch
from catchment.errors import CatchmentError, SinkUnavailable
from catchment.progress import Progress
from catchment.schema import TableSchema
from catchment.sinks.base import Sink


@dataclass
class Fault:
    """Happens at the `at`-th such call, counted over all instances that share the fault."""

    at: int = 1
    error: CatchmentError = field(default_factory=lambda: SinkUnavailable("The scripted target failed."))
    happened: bool = False

    def due(self) -> bool:
        """Count one call; True when it is the one."""
        self.at -= 1
        if self.at == 0:
            self.happened = True
        return self.at == 0


class FailBeforeWrite(Fault):
    """The batch was not taken."""


class FailAfterWrite(Fault):
    """The batch was taken; the caller does not learn it."""


class FailBeforeFlush(Fault):
    """Nothing was flushed."""


class FailAfterFlush(Fault):
    """The flush happened; its answer is lost."""


@dataclass
class HoldFlush(Fault):
    """A flush stands still until `released` is set; `reached` is set when it stands."""

    released: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)


class FaultySink:
    """A sink, with faults around it.

    >>> faults = [FailAfterFlush(at=2)]
    >>> plan = SinkPlan(lambda: FaultySink(make_sink(), faults))
    """

    def __init__(self, sink: Sink, faults: list[Fault]) -> None:
        self._sink = sink
        self._faults = faults

    def open(self) -> Progress | None:
        return self._sink.open()

    def schema_change(self, schema: TableSchema) -> None:
        self._sink.schema_change(schema)

    def write(self, batch: ChangeBatch) -> None:
        self._raise(FailBeforeWrite)
        self._sink.write(batch)
        self._raise(FailAfterWrite)

    def advance(self, progress: Progress) -> None:
        self._sink.advance(progress)

    def flush(self) -> Progress | None:
        self._hold()
        self._raise(FailBeforeFlush)
        held = self._sink.flush()
        self._raise(FailAfterFlush)
        return held

    def close(self) -> None:
        self._sink.close()

    def _raise(self, kind: type[Fault]) -> None:
        for fault in self._faults:
            if type(fault) is kind and fault.due():
                raise fault.error

    def _hold(self) -> None:
        for fault in self._faults:
            if isinstance(fault, HoldFlush) and fault.due():
                fault.reached.set()
                fault.released.wait()
