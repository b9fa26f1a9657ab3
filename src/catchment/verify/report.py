"""What a verification found: counts, positions, and keys. Never a value of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

KEYS_SHOWN = 100
"""How many keys of each kind are named; all are counted."""


class Outcome(StrEnum):
    """equal, different; skipped: it cannot be compared, ever; unsettled: it could not be compared now."""

    EQUAL = "equal"
    DIFFERENT = "different"
    SKIPPED = "skipped"
    UNSETTLED = "unsettled"


@dataclass(frozen=True, slots=True)
class Keys:
    """How many keys, and the first of them: column → text, as they are in the lake (redacted ones are hashes)."""

    count: int = 0
    named: Sequence[Mapping[str, str | None]] = ()


@dataclass(frozen=True, slots=True)
class TableResult:
    """One table's comparison.

    position: the source's, as people write it there. layer and snapshot: which table of the lake, at which snapshot
    of it. chunks: how many there are at the source; compared: whose values were compared. missing: at the source
    only; extra: in the lake only (or there twice); different: in both, with other values. columns: of the
    different keys that are named, how many differ in this column. rows_per_second: of the source.
    """

    table: str
    outcome: Outcome
    reason: str | None = None
    position: str | None = None
    layer: str | None = None
    snapshot: int | None = None
    source_rows: int = 0
    lake_rows: int = 0
    quarantined_rows: int = 0
    chunks: int = 0
    compared: int = 0
    missing: Keys = Keys()
    extra: Keys = Keys()
    different: Keys = Keys()
    columns: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    seconds: float = 0.0
    rows_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A whole verification. deep: every value of every row was compared."""

    pipeline: str
    deep: bool
    tables: Sequence[TableResult]

    @property
    def outcome(self) -> Outcome:
        """different when a table is; else unsettled when one is; else equal, if any table could be compared."""
        found = {one.outcome for one in self.tables}
        for outcome in (Outcome.DIFFERENT, Outcome.UNSETTLED, Outcome.EQUAL):
            if outcome in found:
                return outcome
        return Outcome.SKIPPED

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pipeline": self.pipeline,
            "outcome": self.outcome,
            "deep": self.deep,
            "tables": [asdict(one) for one in self.tables],
        }
