"""The files sink: ranges of changes as objects in a store, each change exactly once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from catchment import failpoint
from catchment.change import ChangeBatch, Operation
from catchment.formats.flat_rows import FlatRows
from catchment.progress import Progress
from catchment.schema import TableSchema
from catchment.sinks.files.naming import Group, Naming, RangeNames
from catchment.sinks.files.objects import Encoder, NdjsonObjects, ParquetObjects, plan
from catchment.sinks.files.ranges import RangeLog
from catchment.sinks.files.staging import Piece, Staging, first_of
from catchment.sinks.files.store import Store

MOST_WAITS = 60
"""So many flushes wait for a source to come to the end of a begun range again: a lane may never come back."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What an open sink has. again: rows of the range that has to be cut again; following: those beyond it."""

    log: RangeLog
    encoder: Encoder
    again: Staging
    following: Staging


class FilesSink:
    """Cuts what it is given into ranges at boundaries, and writes each under names said beforehand.

    After a crash in the middle of a range the same range is cut again: rows at or below its end are kept
    apart from those beyond it, and until a boundary covers its end `flush` returns what was held before. When
    the source has taken another road and cannot get to that end, the range is abandoned.

    date_column: write flat rows, with this column's date as `order_date`; None: whole changes.
    """

    def __init__(
        self,
        store: Store,
        *,
        pipeline: str,
        format: Literal["ndjson", "parquet"] = "ndjson",
        compression: str = "none",
        file_rows: int = 1_000_000,
        buffer_bytes: int = 64 * 1024 * 1024,
        naming: Naming | None = None,
        date_column: str | None = None,
    ) -> None:
        self._store = store
        self._naming = naming or RangeNames()
        self._date_column = date_column
        self._pipeline = pipeline
        self._format = format
        self._compression = compression
        self._file_rows = file_rows
        self._buffer_bytes = buffer_bytes
        self._run: _Run | None = None
        self._boundary: Progress | None = None
        self._waits = 0

    def open(self) -> Progress | None:
        self._store.hold()
        log = RangeLog.open(self._store, self._pipeline)
        again, following = (Staging(self._store.scratch, self._buffer_bytes) for _ in range(2))
        self._run = _Run(log, self._new_encoder(), again, following)
        return log.progress

    def schema_change(self, schema: TableSchema) -> None:
        """Nothing to do: every object has a schema of its own."""

    def write(self, batch: ChangeBatch) -> None:
        run = self._opened()
        begun = run.log.begun
        beyond = batch if begun is None else batch.after(begun.end)
        within = len(batch) - (0 if beyond is None else len(beyond))
        # Positions only grow within a batch, so that what is beyond is its tail.
        if within:
            self._stage(run.again, batch.schema, batch.records.slice(0, within))
        if within < len(batch):
            self._stage(run.following, batch.schema, batch.records.slice(within))

    def advance(self, progress: Progress) -> None:
        self._boundary = progress
        run = self._opened()
        run.again.advance()
        run.following.advance()

    def flush(self) -> Progress | None:
        run = self._opened()
        log = run.log
        if self._boundary is None:
            return log.progress
        if log.begun is not None:
            if self._boundary.covers(log.begun.end):
                self._cut(run, run.again, log.begun.end)
            elif self._may_still_get_to(log.begun.end):
                return log.progress
            else:
                log.abandon(log.begun)
                run.again.put_before(run.following)
        end = self._boundary if log.progress is None else log.progress.join(self._boundary)
        if run.following.bounded():
            self._cut(run, run.following, end)
        elif log.progress is None or not log.progress.covers(end):
            log.move_on(end)
        return log.progress

    def close(self) -> None:
        if self._run is not None:
            self._run.encoder.close()
            self._run = None
        self._store.release()

    def _stage(self, staging: Staging, schema: TableSchema, records: pa.RecordBatch) -> None:
        if self._date_column is not None:
            # A truncation is no row: only whole changes tell of it.
            records = records.filter(pc.not_equal(records.column("_op"), Operation.TRUNCATE.value))
        if not records.num_rows:
            return
        for group, rows in self._naming.split(schema.table, records):
            staging.write(schema, group, rows)

    def _new_encoder(self) -> Encoder:
        objects = NdjsonObjects if self._format == "ndjson" else ParquetObjects
        return objects(self._compression, None if self._date_column is None else FlatRows(self._date_column))

    def _may_still_get_to(self, end: Progress) -> bool:
        """Is the source on its way to the end of the range that was begun, some lanes perhaps ahead?"""
        boundary = self._boundary or Progress()
        self._waits += 1
        if self._waits > MOST_WAITS:
            return False
        if end.covers(boundary):
            return True
        same_lanes = boundary.positions.keys() <= end.positions.keys()
        same_chunks = Progress({}, end.chunks, end.facts).covers(Progress({}, boundary.chunks, boundary.facts))
        return same_lanes and same_chunks and not boundary.covers(Progress(end.positions))

    def _opened(self) -> _Run:
        if self._run is None:
            raise RuntimeError("The files sink is used before open() or after close().")
        return self._run

    def _cut(self, run: _Run, staging: Staging, end: Progress) -> None:
        """Write what is staged before the last boundary as the range up to `end`."""
        groups, begun = staging.bounded(), run.log.begun
        moment = begun.moment if begun else _moment(groups)
        objects = plan(groups, run.log.next_number(), self._naming, moment, run.encoder.ending, self._file_rows)
        intent = run.log.begin(end, [one.path for one in objects], moment)
        for one in objects:
            with self._store.create(one.path) as file:
                run.encoder.write(one, file)
            failpoint.reach("data_file_written")
        failpoint.reach("before_commit")
        run.log.finish(intent, [one.done() for one in objects])
        failpoint.reach("after_commit")
        staging.drop_bounded()


def _moment(groups: Mapping[Group, list[Piece]]) -> int:
    """When the oldest change of a range was committed, in µs; now, where no change says."""
    first = first_of(chain.from_iterable(groups.values()))
    return time.time_ns() // 1000 if first is None else first
