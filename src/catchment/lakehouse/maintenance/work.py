"""What maintenance has done, or would do, in words and figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """A kind of work."""

    COMPACTION = "compaction"
    DELETE_FILES = "delete files"
    EXPIRY = "expiry"
    ORPHANS = "orphans"
    RETENTION = "retention"


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work on one table.

    files_before, bytes_before: what leaves the table, or the disk; files_after, bytes_after: what takes its place.
    dead_rows: taken out. done_at: epoch seconds.
    """

    table: str
    kind: Kind
    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    rows: int = 0
    dead_rows: int = 0
    seconds: float = 0.0
    done_at: float = field(default_factory=time.time)

    def __str__(self) -> str:
        """One line for the log."""
        size = f"{self.bytes_before / 1e6:,.1f} MB"
        if self.kind is Kind.COMPACTION:
            dead = f", {self.dead_rows:,} dead ones left out" if self.dead_rows else ""
            done = f"{self.files_before:,} files of {self.rows:,} rows are now {self.files_after:,}{dead}"
        elif self.kind is Kind.DELETE_FILES:
            done = f"{self.files_before:,} delete files are now {self.files_after:,}"
        elif self.kind is Kind.EXPIRY:
            done = f"{self.files_before:,} files ({size}) that no kept snapshot needs were deleted"
        elif self.kind is Kind.ORPHANS:
            done = f"{self.files_before:,} files ({size}) that no snapshot ever named were deleted"
        else:
            done = f"{self.files_before:,} files ({size}) of {self.rows:,} changes were older than bronze is kept"
        return f"{self.table}: {done}, in {self.seconds:.2f} s."

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "kind": str(self.kind), "seconds": round(self.seconds, 3)}

    def to_row(self) -> dict[str, Any]:
        """For `ops.maintenance`."""
        row = asdict(self)
        return {**row, "kind": str(self.kind), "row_count": row.pop("rows")}


def summed_up(done: Sequence[Work]) -> str:
    """Several pieces of work in one line for the log."""
    tables = len({one.table for one in done})
    seconds = sum(one.seconds for one in done)
    parts = []
    for kind, words in _SUMMED_UP.items():
        mine = [one for one in done if one.kind is kind]
        if mine:
            figures = {name: sum(getattr(one, name) for one in mine) for name in ("files_before", "files_after")}
            parts.append(words.format(**figures, dead_rows=sum(one.dead_rows for one in mine)))
    return f"{tables} tables, {seconds:.1f} s: {'; '.join(parts)}."


_SUMMED_UP = {
    Kind.COMPACTION: "{files_before:,} files made into {files_after:,}, {dead_rows:,} dead rows left out",
    Kind.DELETE_FILES: "{files_before:,} delete files made into {files_after:,}",
    Kind.EXPIRY: "{files_before:,} files of expired snapshots deleted",
    Kind.ORPHANS: "{files_before:,} orphans deleted",
    Kind.RETENTION: "{files_before:,} files left bronze by their age",
}
