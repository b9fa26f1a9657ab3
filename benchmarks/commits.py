"""Does a commit stay fast as a table's snapshots grow in number? The Iceberg sink alone, small batches."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.figure import Figure, megabytes
from benchmarks.process import run
from benchmarks.server import SCRATCH
from benchmarks.sizes import Sizes
from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.demo.postgres import EmbeddedPostgres
from catchment.lakehouse.config import LakehouseConfig
from catchment.progress import Progress
from catchment.schema import Column, TableId, TableSchema
from catchment.sinks.iceberg.config import IcebergSinkConfig

ROWS = 100
TABLES = 3
LANE = "benchmark"


def commits(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """The last 50 of many flushes against the first 50, in a process of its own."""
    directory = SCRATCH / "commits"
    shutil.rmtree(directory, ignore_errors=True)
    cost = run(
        [sys.executable, "-m", "benchmarks.commits", directory, str(sizes.flushes)], cwd=Path(__file__).parent.parent
    )
    seconds = json.loads(cost.stdout)
    first, last = statistics.median(seconds[:50]), statistics.median(seconds[-50:])
    yield Figure(
        f"commit time after {len(seconds):,} flushes, against the first 50",
        *(last / first, "×"),
        less_than=1.5,
        beside={"first 50 ms": 1000 * first, "last 50 ms": 1000 * last, "tables a flush": TABLES},
    )
    yield Figure("– peak memory", megabytes(cost.peak_bytes), "MB")
    shutil.rmtree(directory, ignore_errors=True)


def flush_many(directory: Path, flushes: int) -> list[float]:
    """Seconds of each flush of some rows into each of some tables."""
    directory.mkdir(parents=True)
    sink = IcebergSinkConfig().build(BuildContext("commits", directory, LakehouseConfig(silver=False)))
    schemas = [_schema(number) for number in range(TABLES)]
    sink.open()
    seconds = []
    try:
        for schema in schemas:
            sink.schema_change(schema)
        for number in range(1, flushes + 1):
            for schema in schemas:
                sink.write(_batch(schema, number))
            sink.advance(Progress({LANE: _position(number, 1 << 32)}))
            start = time.perf_counter()
            sink.flush()
            seconds.append(time.perf_counter() - start)
    finally:
        sink.close()
    return seconds


def _schema(number: int) -> TableSchema:
    columns = (Column("id", pa.int64(), "int8", key=True), Column("status", pa.string(), "text"))
    return TableSchema(TableId("public", f"table_{number}"), columns)


def _batch(schema: TableSchema, number: int) -> ChangeBatch:
    """Rows of one transaction."""
    positions = pa.array([_position(number, ordinal) for ordinal in range(1, ROWS + 1)], pa.binary())
    ids = pa.array(np.arange(number * ROWS, (number + 1) * ROWS))
    row = schema.row_type
    after = pa.StructArray.from_arrays([ids, pa.repeat(pa.scalar("PENDING"), ROWS)], fields=list(row))
    given = {
        "_op": pa.repeat(pa.scalar("c"), ROWS),
        "_lane": pa.repeat(pa.scalar(LANE), ROWS),
        "_position": positions,
        "_version": positions,
        "_schema_version": pa.repeat(pa.scalar(1, pa.int32()), ROWS),
        "after": after,
    }
    columns = [given.get(field.name, pa.nulls(ROWS, field.type)) for field in schema.envelope]
    return ChangeBatch(schema, LANE, pa.RecordBatch.from_arrays(columns, schema=schema.envelope))


def _position(number: int, ordinal: int) -> bytes:
    return number.to_bytes(8, "big") + ordinal.to_bytes(8, "big")


if __name__ == "__main__":
    print(json.dumps(flush_many(Path(sys.argv[1]), int(sys.argv[2]))))
