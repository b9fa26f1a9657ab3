"""The plainest sink that keeps the contract; its target is memory. For tests of what stands before a sink."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from catchment.change import ChangeBatch
from catchment.errors import LeaseHeld
from catchment.progress import Progress
from catchment.schema import TableId, TableSchema


@dataclass
class MemoryTarget:
    """What is held: progress, and batches in the order they came. Outlives its sinks, as a lake does."""

    progress: Progress | None = None
    batches: list[ChangeBatch] = field(default_factory=list)
    holder: object = None
    flushes: int = 0

    def read(self, schema: TableSchema) -> pa.Table:
        """The table's changes in the envelope of `schema`; columns younger than a row are NULL in it."""
        parts = [widened(batch, schema) for batch in self.batches if batch.table == schema.table]
        return pa.Table.from_batches(parts, schema=schema.envelope)


def widened(batch: ChangeBatch, schema: TableSchema) -> pa.RecordBatch:
    """The batch's rows with the columns of a younger schema."""
    columns = []
    for one in schema.envelope:
        column = batch.records.column(one.name)
        if one.name in ("before", "after"):
            mine = {c.name: child for c, child in zip(batch.schema.columns, column.flatten(), strict=True)}
            children = [mine.get(c.name, pa.nulls(len(batch), c.type)) for c in schema.columns]
            column = pa.StructArray.from_arrays(children, fields=list(one.type), mask=column.is_null())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema.envelope)


class MemorySink:
    """Keeps the contract, and nothing else.

    >>> target = MemoryTarget()
    >>> plan = SinkPlan(lambda: MemorySink(target))
    """

    def __init__(self, target: MemoryTarget) -> None:
        self.target = target
        self.schemas: dict[TableId, TableSchema] = {}
        self.open_batches: list[ChangeBatch] = []
        """After the last boundary."""
        self.bounded: list[ChangeBatch] = []
        """Before it."""
        self.boundary: Progress | None = None

    def open(self) -> Progress | None:
        if self.target.holder is not None:
            raise LeaseHeld("Another sink writes to this memory. Close it first.")
        self.target.holder = self
        return self.target.progress

    def schema_change(self, schema: TableSchema) -> None:
        self.schemas[schema.table] = schema

    def write(self, batch: ChangeBatch) -> None:
        assert self.schemas.get(batch.table) == batch.schema, f"rows of {batch.table} came before their schema"
        self.open_batches.append(batch)

    def advance(self, progress: Progress) -> None:
        self.boundary = progress
        self.bounded += self.open_batches
        self.open_batches = []

    def flush(self) -> Progress | None:
        held, boundary = self.target.progress, self.boundary
        if boundary is not None and (held is None or not held.covers(boundary)):
            self.target.batches += self.bounded
            self.target.progress = boundary if held is None else held.join(boundary)
            self.target.flushes += 1
        self.bounded = []
        return self.target.progress

    def close(self) -> None:
        if self.target.holder is self:
            self.target.holder = None
