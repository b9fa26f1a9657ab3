"""The same backlog by the replication stream, against a loop that reads it and throws it away."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import orders
from benchmarks.baselines import read_and_discard
from benchmarks.figure import Figure, megabytes
from benchmarks.sizes import Sizes
from benchmarks.subject import ALWAYS_LIVE
from benchmarks.waiting import compare, waiting
from catchment.demo.postgres import EmbeddedPostgres


def live(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Large transactions by the stream."""

    def write(base: orders.Connects) -> orders.Backlog:
        with base.connect() as connection:
            return orders.large_transactions(connection, sizes.large_changes, sizes.large_transaction)

    pipelines = {f"live_{number}": {"catch_up_bytes": ALWAYS_LIVE} for number in range(sizes.repeat)}
    with waiting(server, "live", pipelines, write) as work:
        compared = compare(work, read_and_discard)
    yield Figure(
        "live, large transactions, against reading and discarding",
        *(compared.ratio, "×"),
        at_least=0.9,
        beside=compared.beside("libpq loop"),
    )
    yield Figure("– its peak memory", megabytes(compared.peak_bytes), "MB", less_than=600)
