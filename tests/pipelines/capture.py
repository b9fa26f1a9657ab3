"""Reads a PostgreSQL source to the end, for tests that look at what it emits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import SecretStr

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.progress import Progress
from catchment.sources.base import Event, Idle, TransactionEnd
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.source import PostgresSource

CONTEXT = BuildContext("test", Path())
ALWAYS_PULL = 0
NEVER_PULL = 1 << 50


@dataclass
class Capture:
    """An open source and everything it has emitted so far."""

    source: PostgresSource
    events: list[Event] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)

    def until(self, target: Progress, seconds: float = 120.0) -> Capture:
        """Read until a boundary covers the target."""
        deadline = time.monotonic() + seconds
        while not self.progress.covers(target):
            assert time.monotonic() < deadline, f"not reached: {target} from {self.progress}"
            self.step()
        return self

    def to_head(self) -> Capture:
        """Read everything that is at the source now."""
        return self.until(self.source.head())

    def step(self) -> Event | None:
        event = self.source.next(0.1)
        if event is not None:
            self.events.append(event)
        if isinstance(event, TransactionEnd | Idle):
            self.progress = event.progress
        return event

    @property
    def batches(self) -> list[ChangeBatch]:
        return [event for event in self.events if isinstance(event, ChangeBatch)]

    def rows(self, table: str | None = None, ops: str = "rcudt") -> list[dict[str, Any]]:
        """Changes as dictionaries, in the order they came; dates and times as days and microseconds since 1970."""
        return [
            {"table": str(batch.table), **row}
            for batch in self.batches
            if table is None or str(batch.table) == table
            for row in _countable(batch.records).to_pylist(maps_as_pydicts="strict")
            if row["_op"] in ops
        ]


def _countable(records: pa.RecordBatch) -> pa.RecordBatch:
    """Python has no year 12345: dates and times of the row as numbers."""

    def plain(kind: pa.DataType) -> pa.DataType:
        return pa.int64() if pa.types.is_timestamp(kind) else pa.int32() if pa.types.is_date(kind) else kind

    columns = [
        column.cast(pa.struct([pa.field(one.name, plain(one.type)) for one in column.type]))
        if pa.types.is_struct(column.type)
        else column
        for column in records.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=records.schema.names)


@contextmanager
def capturing(
    dsn: str, resume: Progress | None = None, *, resnapshot: bool = False, **options: Any
) -> Iterator[Capture]:
    """An open source on the database, closed afterwards."""
    config = PostgresSourceConfig(type="postgres", dsn=SecretStr(dsn), **options)
    source = PostgresSource(config, CONTEXT, resnapshot=resnapshot)
    try:
        source.open(resume)
        yield Capture(source, progress=resume or Progress())
    finally:
        source.close()
