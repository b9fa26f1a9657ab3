"""How large each benchmark is: as the targets ask, or quickly, to see that everything works."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows, seconds and repetitions. repeat: of each comparison; the fastest counts."""

    large_changes: int = 3_000_000
    large_transaction: int = 150_000
    one_row_transactions: int = 500_000
    one_transaction: int = 5_000_000
    snapshot_rows: int = 5_000_000
    freshness_seconds: int = 60
    freshness_rate: int = 1_000
    idle_seconds: int = 30
    flushes: int = 2_000
    starts: int = 7
    silver_rows: int = 5_000_000
    silver_small: int = 1_000_000
    silver_large: int = 20_000_000
    silver_changes: int = 50_000
    silver_merges: int = 9
    read_merges: int = 500
    mixed_rows: int = 1_000_000
    mixed_changes: int = 1_500_000
    mixed_transaction: int = 1_000
    repeat: int = 3

    def with_repeat(self, repeat: int | None) -> Sizes:
        """The same, with other repetitions if any are given."""
        return self if repeat is None else replace(self, repeat=repeat)


FULL = Sizes()

QUICK = Sizes(
    large_changes=300_000,
    one_row_transactions=50_000,
    one_transaction=500_000,
    snapshot_rows=500_000,
    freshness_seconds=10,
    idle_seconds=5,
    flushes=200,
    starts=3,
    silver_rows=500_000,
    silver_small=100_000,
    silver_large=2_000_000,
    silver_merges=3,
    read_merges=20,
    mixed_rows=100_000,
    mixed_changes=150_000,
    repeat=1,
)
