"""The contract of a transform: a column operation on a batch, before anything is written or logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from catchment.change import ChangeBatch
from catchment.schema import TableSchema


class Transform(Protocol):
    """A pure function of a batch. It keeps order, positions and the number of schema versions."""

    def schema(self, schema: TableSchema) -> TableSchema:
        """What the schema of a table becomes."""
        ...

    def apply(self, batch: ChangeBatch) -> ChangeBatch | None:
        """What the batch becomes, with `schema(batch.schema)`; None drops all of it."""
        ...


class Chain:
    """Several transforms, one after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self._transforms = tuple(transforms)

    def schema(self, schema: TableSchema) -> TableSchema:
        for transform in self._transforms:
            schema = transform.schema(schema)
        return schema

    def apply(self, batch: ChangeBatch) -> ChangeBatch | None:
        for transform in self._transforms:
            result = transform.apply(batch)
            if result is None:
                return None
            batch = result
        return batch
