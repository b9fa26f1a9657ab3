"""What a running pipeline says about itself: one report, made about once a second.

The live screen draws it, `status` reads the last one from `ops.metrics`, metrics exporters rename it.
All names are here and nowhere else. Nothing in a report is a value of a row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

LOGGER = "catchment"
"""The root logger's name. INFO: an operator's action succeeded. WARNING: nothing lost. ERROR: act."""


@dataclass(frozen=True, slots=True)
class TableReport:
    """One table, since this process started.

    changes: emitted by the source. durable_changes: made durable by the slowest sink.
    changes_per_second: emitted, over the last few seconds. last_committed_at: source commit time (epoch
    seconds) of the newest durable change; freshness_ms: from that commit to its durability.
    """

    changes: int = 0
    durable_changes: int = 0
    changes_per_second: float = 0.0
    last_committed_at: float | None = None
    freshness_ms: float | None = None


@dataclass(frozen=True, slots=True)
class SinkReport:
    """One sink. last_flush_at: epoch seconds; flush_seconds: how long it took; progress: durable, as JSON."""

    flushes: int = 0
    last_flush_at: float | None = None
    flush_seconds: float | None = None
    progress: str | None = None


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """How far a table's snapshot is. rows_total is the source's own estimate."""

    rows_done: int
    rows_total: int
    chunks_done: int
    chunks_total: int
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The whole pipeline at one moment. at: epoch seconds. state: starting, running, waiting, stopped, failed.

    lag_bytes: unread at the source. lag_ms: the age that a change reached at most before it was durable, or has now,
    since the last report; 0 when there was none. dead_letters: records set aside since this process started.
    """

    at: float
    state: str
    mode: str = ""
    lag_bytes: int | None = None
    lag_ms: float = 0.0
    notes: tuple[str, ...] = ()
    restarts: int = 0
    dead_letters: int = 0
    last_error: str | None = None
    tables: Mapping[str, TableReport] = field(default_factory=dict)
    sinks: Mapping[str, SinkReport] = field(default_factory=dict)
    snapshots: Mapping[str, SnapshotReport] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of `to_json`."""
        data: dict[str, Any] = json.loads(text)
        data["notes"] = tuple(data["notes"])
        data["tables"] = {name: TableReport(**value) for name, value in data["tables"].items()}
        data["sinks"] = {name: SinkReport(**value) for name, value in data["sinks"].items()}
        data["snapshots"] = {name: SnapshotReport(**value) for name, value in data["snapshots"].items()}
        return cls(**data)


class Reporter(Protocol):
    """Takes reports. Called by the pipeline's own thread; must be quick and must not raise."""

    def report(self, report: Report) -> None:
        """Take one report."""
        ...
