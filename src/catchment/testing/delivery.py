"""Takes a source's events to one sink as the pipeline does, one event at a time."""

from __future__ import annotations

from catchment.change import ChangeBatch
from catchment.progress import Progress
from catchment.sinks.base import Sink
from catchment.sources.base import Event, Idle, SchemaChange, TransactionEnd
from catchment.testing.scripted import ScriptedSource, ScriptedSystem


class Delivery:
    """A sink, opened, and a scripted source, resumed at what the sink holds.

    Keeps the contract's promises towards the sink: schemas first, nothing at or below its progress,
    cumulative boundaries, acknowledged only what a flush has returned.
    """

    def __init__(self, sink: Sink, system: ScriptedSystem, *, overlap: int = 0, group: int = 1) -> None:
        self.sink = sink
        self.held = sink.open()
        self.boundary = self.held
        self.source = ScriptedSource(system, overlap=overlap, group=group)
        self.source.open(self.held)

    def step(self) -> Event | None:
        """Deliver one event; None when the script is at its end."""
        event = self.source.next(0.0)
        match event:
            case SchemaChange(schema):
                self.sink.schema_change(schema)
            case ChangeBatch():
                fresh = event.after(self.held)
                if fresh is not None:
                    self.sink.write(fresh)
            case TransactionEnd(progress) | Idle(progress):
                self.sink.advance(progress)
                self.boundary = progress
            case None:
                pass
        return event

    def all(self) -> Delivery:
        """Deliver the rest of the script."""
        while self.step() is not None:
            pass
        return self

    def flush(self, *, acknowledge: bool = True) -> Progress | None:
        """Flush, check that what is held did not go back, and acknowledge it."""
        held = self.sink.flush()
        if self.held is not None:
            assert held is not None, "a flush lost the sink's progress"
            assert held.covers(self.held), f"the sink's progress went back from {self.held} to {held}"
        self.held = held
        if acknowledge and held is not None:
            self.source.acknowledge(held)
        return held

    def close(self) -> None:
        self.sink.close()
        self.source.close()
