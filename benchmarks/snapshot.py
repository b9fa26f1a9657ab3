"""The snapshot of a table into committed Iceberg, against `psql` with binary COPY to a file."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import orders
from benchmarks.baselines import binary_copy
from benchmarks.figure import Figure, megabytes
from benchmarks.process import Cost
from benchmarks.server import SCRATCH, database
from benchmarks.sizes import Sizes
from benchmarks.subject import subject
from catchment.demo.postgres import EmbeddedPostgres


def snapshot(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """A first run on a full table."""
    with database(server, "snapshot") as base:
        with base.connect() as connection:
            rows = orders.one_transaction(connection, sizes.snapshot_rows).rows
            # Hint bits are set by the first reader: nobody shall pay for the others.
            connection.execute("vacuum analyze orders")
        binary_copy(base, "orders", SCRATCH / "copy.bin")
        costs: list[Cost] = []
        theirs: list[float] = []
        startups: list[float] = []
        for number in range(sizes.repeat):
            theirs.append(binary_copy(base, "orders", SCRATCH / "copy.bin"))
            one = subject(base, f"snapshot_{number}")
            costs.append(one.run_until_caught_up())
            one.must_hold(rows)
            startups.append(one.run_until_caught_up().seconds)
    startup, their = min(startups), min(theirs)
    ours = min(cost.seconds for cost in costs) - startup
    yield Figure(
        f"snapshot of {sizes.snapshot_rows:,} rows, against binary COPY",
        *(their / ours, "×"),
        at_least=0.4,
        beside={"Catchment rows/s": rows / ours, "psql rows/s": rows / their, "start-up s": startup},
    )
    yield Figure("– its peak memory", megabytes(max(cost.peak_bytes for cost in costs)), "MB")
