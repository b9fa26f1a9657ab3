"""Catching up with a backlog, against `pg_recvlogical` to /dev/null on a copy of the slot."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import orders
from benchmarks.baselines import pg_recvlogical
from benchmarks.figure import Figure, megabytes
from benchmarks.sizes import Sizes
from benchmarks.subject import ALWAYS_CATCH_UP, ALWAYS_LIVE
from benchmarks.waiting import compare, waiting
from catchment.demo.postgres import EmbeddedPostgres


def _pipelines(name: str, sizes: Sizes) -> dict[str, dict[str, object]]:
    return {f"{name}_{number}": {"catch_up_bytes": ALWAYS_CATCH_UP} for number in range(sizes.repeat)}


def large(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Large transactions: two thirds inserts, one third updates."""

    def write(base: orders.Connects) -> orders.Backlog:
        with base.connect() as connection:
            return orders.large_transactions(connection, sizes.large_changes, sizes.large_transaction)

    with waiting(server, "catch_up", _pipelines("catch_up", sizes), write) as work:
        compared = compare(work, pg_recvlogical)
    yield Figure(
        "catch-up, large transactions, against pg_recvlogical",
        *(compared.ratio, "×"),
        at_least=1.5,
        beside=compared.beside("pg_recvlogical"),
    )
    yield Figure("– its peak memory", megabytes(compared.peak_bytes), "MB", less_than=600)


def one_row(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Transactions of one row."""

    def write(base: orders.Connects) -> orders.Backlog:
        return orders.one_row_transactions(base.connect, sizes.one_row_transactions)

    with waiting(server, "one_row", _pipelines("one_row", sizes), write) as work:
        compared = compare(work, pg_recvlogical)
    yield Figure(
        "catch-up, one-row transactions, against pg_recvlogical",
        *(compared.ratio, "×"),
        at_least=2,
        beside=compared.beside("pg_recvlogical"),
    )
    yield Figure("– its peak memory", megabytes(compared.peak_bytes), "MB", less_than=600)


def one_transaction(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """One transaction with millions of rows: what counts is memory."""

    def write(base: orders.Connects) -> orders.Backlog:
        with base.connect() as connection:
            return orders.one_transaction(connection, sizes.one_transaction)

    for name, catch_up_bytes in (("catch-up", ALWAYS_CATCH_UP), ("live", ALWAYS_LIVE)):
        pipelines = {f"one_transaction_{name.replace('-', '_')}": {"catch_up_bytes": catch_up_bytes}}
        with waiting(server, "one_transaction", pipelines, write) as work:
            cost = work.subjects[0].run_until_caught_up()
            startup = work.subjects[0].run_until_caught_up().seconds
            work.subjects[0].must_hold(work.backlog.changes + 1)
        yield Figure(
            f"one transaction of {work.backlog.changes:,} rows, {name}: peak memory",
            *(megabytes(cost.peak_bytes), "MB"),
            less_than=800,
            beside={"changes/s": work.backlog.changes / (cost.seconds - startup)},
        )
