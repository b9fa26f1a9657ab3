"""What a merge into silver costs: seconds, bytes, and beside it PyIceberg's own merge, in the same run."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figure import Figure, megabytes
from benchmarks.process import run
from benchmarks.pyiceberg_merge import pyiceberg_merge
from benchmarks.server import SCRATCH
from benchmarks.silver_lake import silver_lake
from benchmarks.sizes import Sizes
from benchmarks.written_bytes import bytes_by_kind
from catchment.demo.postgres import EmbeddedPostgres


@dataclass(frozen=True)
class Measured:
    """Of one lake. rows_bytes: what the rows of each merge are as one file; written: bytes by kind of file, a merge."""

    seconds: list[float]
    rows_bytes: float
    written: dict[str, float]
    pyiceberg_seconds: float
    pyiceberg_bytes: int


def silver_merge(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Mixed changes into a large table, in a process of its own."""
    arguments = [sizes.silver_rows, sizes.silver_changes, sizes.silver_merges]
    cost = run(
        [sys.executable, "-m", "benchmarks.silver_merge", SCRATCH / "silver_merge", *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
    )
    found = Measured(**json.loads(cost.stdout))
    seconds, written = statistics.median(found.seconds), sum(found.written.values())
    yield Figure(
        f"{sizes.silver_changes:,} mixed changes into {sizes.silver_rows:,} rows of silver, median",
        *(seconds, "s"),
        less_than=0.25,
        beside={"fastest s": min(found.seconds), "slowest s": max(found.seconds), "merges": len(found.seconds)},
    )
    yield Figure(
        "– against PyIceberg's upsert and delete",
        *(found.pyiceberg_seconds / seconds, "×"),
        at_least=40,
        beside={"PyIceberg s": found.pyiceberg_seconds, "PyIceberg MB": megabytes(found.pyiceberg_bytes)},
    )
    yield Figure(
        "– bytes written, against the rows alone",
        *(written / found.rows_bytes, "×"),
        less_than=1.5,
        beside={
            "rows MB": megabytes(found.rows_bytes),
            **{f"{kind} MB": megabytes(size) for kind, size in found.written.items()},
        },
    )
    yield Figure("– peak memory, PyIceberg's part too", megabytes(cost.peak_bytes), "MB")


def measure(directory: Path, rows: int, changes: int, merges: int) -> Measured:
    """Several merges into one lake; PyIceberg does the first of them, too, into a table of its own."""
    seconds: list[float] = []
    rows_bytes, written = [], []
    with silver_lake(directory / "catchment", rows) as lake:
        first = lake.changes.next(changes)
        # The first one opens what later ones find open.
        lake.merge(first)
        lake.check()
        theirs = pyiceberg_merge(directory / "pyiceberg", lake.changes, first, rows)
        for _ in range(merges):
            mixed = lake.changes.next(changes)
            rows_bytes.append(lake.bytes_of(mixed.rows))
            with bytes_by_kind(lake.location) as found:
                seconds.append(lake.merge(mixed))
            written.append(found)
        lake.check()
    return Measured(
        seconds=seconds,
        rows_bytes=statistics.mean(rows_bytes),
        written={kind: statistics.mean(one[kind] for one in written) for kind in written[0]},
        pyiceberg_seconds=theirs.seconds,
        pyiceberg_bytes=theirs.written_bytes,
    )


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Path(sys.argv[1]), *map(int, sys.argv[2:])))))
