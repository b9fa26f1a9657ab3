"""A sink that lands nothing and counts everything: what a dry run writes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from catchment.change import ChangeBatch, Operation
from catchment.progress import Progress
from catchment.schema import TableSchema


@dataclass
class Counts:
    """What came: changes by table and operation, and each table's newest schema. Outlives reopening."""

    changes: dict[str, Counter[str]] = field(default_factory=dict)
    schemas: dict[str, TableSchema] = field(default_factory=dict)
    unrepresentable: Counter[str] = field(default_factory=Counter)


class CountingSink:
    """Accepts everything and keeps nothing. held: the progress to begin at."""

    def __init__(self, counts: Counts, held: Progress | None) -> None:
        self._counts = counts
        self._held = held
        self._boundary: Progress | None = None

    def open(self) -> Progress | None:
        return self._held

    def schema_change(self, schema: TableSchema) -> None:
        self._counts.schemas[str(schema.table)] = schema

    def write(self, batch: ChangeBatch) -> None:
        table = str(batch.table)
        by_operation = self._counts.changes.setdefault(table, Counter())
        for operation in Operation:
            by_operation[operation.name.lower()] += batch.count(operation)
        self._counts.unrepresentable[table] += len(batch) - batch.records.column("_unrepresentable").null_count

    def advance(self, progress: Progress) -> None:
        self._boundary = progress

    def flush(self) -> Progress | None:
        if self._boundary is not None:
            self._held = self._boundary if self._held is None else self._held.join(self._boundary)
        return self._held

    def close(self) -> None:
        """Nothing to let go of."""
