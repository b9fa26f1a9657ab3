"""Does silver stay quick to read as it is merged into again and again? Maintenance works beside, as in `run`."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figure import Figure, megabytes
from benchmarks.process import run
from benchmarks.server import SCRATCH
from benchmarks.silver_lake import PIPELINE, SilverLake, silver_lake
from benchmarks.sizes import Sizes
from catchment.demo.postgres import EmbeddedPostgres
from catchment.lakehouse.maintenance.keyed_compaction import rewrite_files
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.lakehouse.maintenance.service import MaintenanceService
from catchment.lakehouse.maintenance.table_files import FileLister, TableFiles
from catchment.lakehouse.reading.connection import connect_lake

MERGE_EVERY_SECONDS = 0.5
"""100,000 changes a second is what PostgreSQL decodes on such a machine: no source sends more for minutes."""
_READS = 5
_QUERY = """
    select city, status, count(*), sum(total_amount), avg(quantity), min(unit_price), max(updated_at)
    from silver.orders group by city, status
"""


@dataclass(frozen=True)
class Reading:
    """Of a table at one moment. query: seconds of the aggregate; cold: connecting to the lake included."""

    query: float
    cold: float
    data_files: int
    delete_files: int
    dead_rows: int


@dataclass(frozen=True)
class Measured:
    """Before the merges, after them, and of the same rows compacted; merge: seconds of one, the median."""

    before: Reading
    after: Reading
    compacted: Reading
    merge: float
    slowest_merge: float
    pieces: int


def silver_read(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Merges at the pace of a busy source, in a process of its own."""
    arguments = [sizes.silver_rows, sizes.silver_changes, sizes.read_merges]
    cost = run(
        [sys.executable, "-m", "benchmarks.silver_read", SCRATCH / "silver_read", *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
    )
    found = json.loads(cost.stdout)
    after, compacted = Reading(**found["after"]), Reading(**found["compacted"])
    yield Figure(
        f"aggregate of {sizes.silver_rows:,} rows after {sizes.read_merges} merges, against freshly compacted",
        *(after.query / compacted.query, "×"),
        less_than=2,
        beside={
            "after s": after.query,
            "compacted s": compacted.query,
            "data files": after.data_files,
            "delete files": after.delete_files,
            "dead rows": after.dead_rows,
        },
    )
    yield Figure(
        "– with connecting",
        *(after.cold / compacted.cold, "×"),
        less_than=2,
        beside={"after s": after.cold, "compacted s": compacted.cold},
    )
    yield Figure(
        "– a merge meanwhile, median",
        *(found["merge"], "s"),
        beside={"slowest s": found["slowest_merge"], "pieces of maintenance": found["pieces"]},
    )
    yield Figure("– peak memory", megabytes(cost.peak_bytes), "MB")


def measure(directory: Path, rows: int, changes: int, merges: int) -> Measured:
    """Merge at the pace, with maintenance beside; then read, compact everything, and read again."""
    with silver_lake(directory, rows) as lake:
        maintenance = MaintenanceService(lake.writer, lake.config.maintenance, lake.layer.keyed)
        before = _read(lake)
        maintenance.start()
        try:
            seconds = _merge_all(lake, changes, merges)
        finally:
            # Where it is now is what readers meet; it does not catch up first, and does not disturb them.
            maintenance.stop()
        lake.check()
        after = _read(lake)
        _compact(lake)
        lake.check()
        compacted = _read(lake)
    assert maintenance.status.error is None, maintenance.status.error
    return Measured(before, after, compacted, statistics.median(seconds), max(seconds), maintenance.status.pieces)


def _merge_all(lake: SilverLake, changes: int, merges: int) -> list[float]:
    pace = threading.Event()
    seconds = []
    start = time.monotonic()
    for number in range(merges):
        mixed = lake.changes.next(changes)
        pace.wait(max(0.0, start + number * MERGE_EVERY_SECONDS - time.monotonic()))
        seconds.append(lake.merge(mixed))
    return seconds


def _read(lake: SilverLake) -> Reading:
    """The fastest of several: what disturbs a query only ever makes it slower."""
    query, cold = [], []
    with connect_lake(lake.config, lake.directory, PIPELINE, query=_QUERY) as connection:
        for _ in range(_READS + 1):
            start = time.perf_counter()
            connection.execute(_QUERY).fetchall()
            query.append(time.perf_counter() - start)
    for _ in range(_READS):
        start = time.perf_counter()
        with connect_lake(lake.config, lake.directory, PIPELINE, query=_QUERY) as connection:
            connection.execute(_QUERY).fetchall()
        cold.append(time.perf_counter() - start)
    files = _files(lake)
    return Reading(min(query), min(cold), len(files.data), len(files.deletes), files.dead)


def _compact(lake: SilverLake) -> None:
    """Every file anew, and then what maintenance still finds to do."""
    keyed = lake.silver.main
    target = lake.config.maintenance.target_file_bytes
    assert rewrite_files(lake.writer, keyed, _files(lake).data, target, _go_on) is not None
    maintainer = Maintainer(lake.writer, lake.config.maintenance, lake.layer.keyed)
    while maintainer.step(_go_on):
        pass


def _files(lake: SilverLake) -> TableFiles:
    table = lake.silver.main.lake
    return FileLister().files(table, table.manifests)


def _go_on() -> None:
    return None


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Path(sys.argv[1]), *map(int, sys.argv[2:])))))
