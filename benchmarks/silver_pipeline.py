"""The whole pipeline with silver: mixed changes from PostgreSQL's WAL into bronze and silver, committed together."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import orders
from benchmarks.baselines import pg_recvlogical
from benchmarks.figure import Figure, megabytes
from benchmarks.sizes import Sizes
from benchmarks.subject import ALWAYS_CATCH_UP
from benchmarks.waiting import compare, waiting
from catchment.demo.postgres import EmbeddedPostgres


def silver_pipeline(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Catching up with mixed changes of a full table, against `pg_recvlogical` to /dev/null."""

    def write(base: orders.Connects) -> orders.Backlog:
        with base.connect() as connection:
            return orders.mixed_transactions(connection, sizes.mixed_rows, sizes.mixed_changes, sizes.mixed_transaction)

    pipelines = {f"silver_{number}": {"catch_up_bytes": ALWAYS_CATCH_UP} for number in range(sizes.repeat)}
    with waiting(server, "silver", pipelines, write, filled=sizes.mixed_rows, silver=True) as work:
        compared = compare(work, pg_recvlogical)
    yield Figure(
        f"mixed changes of {sizes.mixed_rows:,} rows into bronze and silver, against pg_recvlogical",
        *(compared.ratio, "×"),
        at_least=0.8,
        beside=compared.beside("pg_recvlogical"),
    )
    yield Figure("– its peak memory", megabytes(compared.peak_bytes), "MB")
