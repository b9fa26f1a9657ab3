"""One table's changes, in order, as Arrow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.progress import Progress
from catchment.schema import TableId, TableSchema

__all__ = ["ChangeBatch", "Operation", "TableId"]


class Operation(StrEnum):
    """What happened to a row, in Debezium's letters."""

    READ = "r"
    INSERT = "c"
    UPDATE = "u"
    DELETE = "d"
    TRUNCATE = "t"


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """Changes of one table, one schema version and one lane, in the lane's order.

    records: an Arrow record batch whose first columns are `schema.envelope`; columns of the source's
    own may follow. Rows are never Python objects.
    chunk: set when these rows belong to a snapshot chunk: its name in `Progress.chunks`. snapshot: the chunk's key
    there, where it is not simply the table's name.
    """

    schema: TableSchema
    lane: str
    records: pa.RecordBatch
    chunk: str | None = None
    snapshot: str | None = None

    def __len__(self) -> int:
        return int(self.records.num_rows)

    @property
    def table(self) -> TableId:
        return self.schema.table

    def after(self, progress: Progress | None) -> ChangeBatch | None:
        """The changes that `progress` has not handled yet; None when it has handled all of them.

        This is how a replay is skipped: by position for streamed changes, by name for chunks.
        """
        if progress is None:
            return self
        if self.chunk is not None:
            key = self.snapshot or str(self.table)
            return None if progress.covers(Progress({}, {key: frozenset({self.chunk})})) else self
        reached = progress.positions.get(self.lane)
        if reached is None or not len(self):
            return self
        positions = self.records.column("_position")
        if positions[0].as_py() > reached:
            return self
        if positions[-1].as_py() <= reached:
            return None
        new = pc.greater(positions, pa.scalar(reached, positions.type))
        return ChangeBatch(self.schema, self.lane, self.records.filter(new))

    def count(self, operation: Operation) -> int:
        """How many changes are of this operation."""
        return int(np.count_nonzero(pc.equal(self.records.column("_op"), operation.value)))
