"""Rows of tables that are not captured yet: one reading transaction, no slot, no publication."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.errors import SourceRefused
from catchment.schema import TableId
from catchment.sources.postgres import publication
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import connect, conninfo, translated
from catchment.sources.postgres.inbox import Chunk, Inbox
from catchment.sources.postgres.publication import SourceTable
from catchment.sources.postgres.relations import Relations
from catchment.sources.postgres.replication import ExportedSnapshot
from catchment.sources.postgres.slot import Connection
from catchment.sources.postgres.snapshot import Snapshotter, TableSnapshot, plan_table
from catchment.sources.sample import Sample

MOST_CHUNK_BYTES = 1 << 20
CHUNK_BYTES_PER_ROW = 16
"""The fewer rows are wanted, the smaller the chunks: so that a sample comes from many places."""
WAIT_SECONDS = 0.5


def sample_tables(
    config: PostgresSourceConfig, context: BuildContext, wanted: Callable[[TableId], bool], rows: int | None
) -> Iterator[Sample]:
    """See `catchment.sources.sample.Sampled`."""
    info = conninfo(config.dsn.get_secret_value(), f"catchment {context.pipeline} sample")
    with closing(connect(info)) as session:
        tables = publication.find_tables(session, config.tables, config.exclude)
        snapshot = _snapshot(session)
        for table in tables:
            if wanted(table.id):
                yield _sample(session, config, info, snapshot, table, rows)


def _snapshot(session: Connection) -> ExportedSnapshot:
    with translated("taking a snapshot"):
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = session.execute("SELECT pg_export_snapshot()").fetchone()
    # No position is promised: these rows go nowhere.
    return ExportedSnapshot(0, str(row[0]) if row is not None else "")


def _sample(
    session: Connection,
    config: PostgresSourceConfig,
    info: str,
    snapshot: ExportedSnapshot,
    table: SourceTable,
    rows: int | None,
) -> Sample:
    relations = Relations(session)
    try:
        relation = relations.resolve(relations.describe(table))
        chunk = MOST_CHUNK_BYTES if rows is None else min(MOST_CHUNK_BYTES, rows * CHUNK_BYTES_PER_ROW)
        plan = plan_table(session, table, relation, str(table.id), frozenset(), chunk, 0)
    except SourceRefused as refused:
        return Sample(table.id, table.rows_estimate, obstacle=str(refused))
    everything = len(plan.ranges)
    plan = _spread(plan, rows)
    sample = Sample(table.id, table.rows_estimate)

    def batches() -> Iterator[ChangeBatch]:
        left = math.inf if rows is None else rows
        for batch in _read(config, info, snapshot, plan):
            if len(batch) > left:
                yield ChangeBatch(batch.schema, batch.lane, batch.records.slice(0, int(left)), batch.chunk)
                return
            left -= len(batch)
            yield batch
        sample.whole = len(plan.ranges) == everything

    sample.batches = batches()
    return sample


def _spread(plan: TableSnapshot, rows: int | None) -> TableSnapshot:
    """As many of the ranges as hold about so many rows, from all over the table."""
    ranges, estimate = plan.ranges, plan.rows_total
    if rows is not None and estimate > rows:
        # A little more than it should take: estimates are estimates, and what is too much is cut off.
        count = min(len(ranges), math.ceil(1.2 * len(ranges) * rows / estimate))
        ranges = [ranges[number * len(ranges) // count] for number in range(count)]
    return TableSnapshot(plan.table, plan.key, plan.relation, ranges, False, len(ranges), estimate)


def _read(
    config: PostgresSourceConfig, info: str, snapshot: ExportedSnapshot, plan: TableSnapshot
) -> Iterator[ChangeBatch]:
    inbox = Inbox()
    reader = Snapshotter(
        info, "sample", snapshot, [plan], inbox, workers=1, rows_per_second=config.snapshot_rows_per_second
    )
    try:
        reader.start()
        while True:
            item = inbox.get(WAIT_SECONDS, chunks_too=True)
            if isinstance(item, Chunk):
                if item.table_done:
                    break
                yield from item.batches
    finally:
        reader.stop()
