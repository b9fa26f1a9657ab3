"""The readings of a table that there have been: each anew after changes were missed (see `capture.py`)."""

from __future__ import annotations

from catchment.progress import Progress
from catchment.sources.dynamodb.table import DynamoDbTable


class Generations:
    """Which readings of a table there have been, out of what is held. Pure."""

    def __init__(self, table: DynamoDbTable, held: Progress) -> None:
        self._table = table
        self._held = held

    @property
    def newest(self) -> int:
        """The number of the last one; 0 when the table was never read."""
        chunks = [key.rpartition("@") for key in self._held.chunks]
        lanes = [lane.partition("/")[0].rpartition("@") for lane in self._held.positions]
        named = [number for table, _, number in chunks if table == str(self._table.id)]
        named += [number for table, _, number in lanes if table == self._table.name]
        return max((int(number) for number in named if number.isdecimal()), default=0)

    @property
    def label(self) -> str | None:
        """The stream that the last one reads."""
        prefix = f"{self._table.name}@{self.newest}/"
        labels = {
            lane.removeprefix(prefix).partition("/")[0] for lane in self._held.positions if lane.startswith(prefix)
        }
        return max(labels, default=None)
