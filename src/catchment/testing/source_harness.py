"""What the suite of sources needs of an outside system: two tables, ways to write, and the rows it has."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar

from catchment.schema import TableId
from catchment.sources.base import Source

ITEMS = "items"
"""id (int64, key), name (text), amount (decimal 12,2), note (text, may be large)."""
NOTES = "notes"
"""id (int64, key), body (text)."""
COLUMNS: Mapping[str, tuple[str, ...]] = {ITEMS: ("id", "name", "amount", "note"), NOTES: ("id", "body")}


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row, all columns given."""

    table: str
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Update:
    """The row with this id gets these values; columns that are not named are not touched."""

    table: str
    id: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """The row with this id goes."""

    table: str
    id: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """All rows go."""

    table: str


RowChange = Insert | Update | Delete | Truncate


class Feature(Enum):
    """What not every system has."""

    SNAPSHOT = "rows that were there before the first open are read"
    TRANSACTIONS = "several changes, of several tables, belong together"
    TRUNCATE = "a table can be emptied at once"
    KEY_UPDATES = "a row's key can change"
    ROLLBACK = "a transaction can be taken back"
    ADD_COLUMN = "a table can get a further column"
    IDLE = "the system moves on without rows for us"
    CUT = "the harness can cut the source's connection"


class SourceHarness(ABC):
    """A system with the tables ITEMS and NOTES, both empty, and a way to open sources on it."""

    lacks: ClassVar[Mapping[Feature, str]] = {}
    """Features that the system does not have, each with the reason; their tests are skipped with it."""
    largest_batch: int = 100_000
    """No batch has more rows than this. A large transaction has three times as many."""
    patience_seconds: float = 60.0
    """How long an event may take at most."""
    slack_seconds: float = 2.0
    """How much longer than its timeout a call of `next` may take at its best, on a busy machine."""

    @abstractmethod
    def source(self) -> Source:
        """A new source over both tables (with the snapshot, if there are snapshots), not yet opened.

        Only one is open at a time. The first open, with None, is what sets capture up.
        """

    @abstractmethod
    def table(self, name: str) -> TableId:
        """What the source calls ITEMS or NOTES."""

    @abstractmethod
    def commit(self, *changes: RowChange) -> None:
        """Make these changes, as one transaction. Returns when it is committed."""

    @abstractmethod
    def rows(self, table: str) -> Sequence[Mapping[str, Any]]:
        """The table's current rows as the system itself gives them, in the order of their ids.

        Values as in the batches: int, str, None; a decimal may be a Decimal or its text.
        """

    def insert_many(self, table: str, first_id: int, count: int) -> None:
        """Insert so many rows, as one transaction. Override it where the system has a quicker way."""
        self.commit(*(Insert(table, example(table, first_id + i)) for i in range(count)))

    def roll_back(self, *changes: RowChange) -> None:
        """Make these changes and take them back (Feature.ROLLBACK)."""
        raise NotImplementedError

    def add_column(self, table: str, column: str) -> None:
        """Add a text column that may be NULL (Feature.ADD_COLUMN)."""
        raise NotImplementedError

    def pass_by(self) -> None:
        """Let the system move on with nothing that concerns these tables (Feature.IDLE)."""
        raise NotImplementedError

    def cut(self) -> None:
        """Make the open source fail with a Retriable at one of its next calls (Feature.CUT)."""
        raise NotImplementedError


def example(table: str, number: int, text: str = "x") -> dict[str, Any]:
    """A row for the table."""
    if table == NOTES:
        return {"id": number, "body": f"{text}-{number}"}
    return {"id": number, "name": f"{text}-{number}", "amount": Decimal(number).scaleb(-2), "note": None}


def large_text(seed: int) -> str:
    """20 kB that do not compress: PostgreSQL stores them out of line."""
    return random.Random(seed).randbytes(10_000).hex()
