"""Does a merge into silver take longer when the table is larger? The same changes into a small and a large one."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure, megabytes
from benchmarks.process import run
from benchmarks.server import SCRATCH
from benchmarks.silver_lake import silver_lake
from benchmarks.sizes import Sizes
from catchment.demo.postgres import EmbeddedPostgres


def silver_growth(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Both tables in one process, merged into in turns, so that both meet the same neighbours."""
    arguments = [sizes.silver_small, sizes.silver_large, sizes.silver_changes, sizes.silver_merges]
    cost = run(
        [sys.executable, "-m", "benchmarks.silver_growth", SCRATCH / "silver_growth", *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
    )
    small, large = (statistics.median(seconds) for seconds in json.loads(cost.stdout))
    yield Figure(
        f"{sizes.silver_changes:,} changes into {sizes.silver_large:,} rows, against {sizes.silver_small:,}",
        *(large / small, "×"),
        less_than=2,
        beside={"small s": small, "large s": large, "merges": sizes.silver_merges},
    )
    yield Figure("– peak memory", megabytes(cost.peak_bytes), "MB")


def measure(directory: Path, small: int, large: int, changes: int, merges: int) -> tuple[list[float], list[float]]:
    """Seconds of each merge into either table."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with silver_lake(directory / "small", small) as one, silver_lake(directory / "large", large) as other:
        # The first merge opens what later ones find open.
        for number in range(merges + 1):
            for lake, taken in zip((one, other), seconds, strict=True):
                took = lake.merge(lake.changes.next(changes))
                if number:
                    taken.append(took)
        one.check()
        other.check()
    return seconds


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
