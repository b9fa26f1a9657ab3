"""Runs in dlt's environment: DSN SLOT CHANGES DIRECTORY → JSON. See dlt_pg_replication.py for what it is."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dlt  # type: ignore[import-not-found]
import psycopg2  # type: ignore[import-untyped]
from dlt.common.data_types.type_helpers import coerce_value  # type: ignore[import-not-found]
from psycopg2.extras import (  # type: ignore[import-untyped]
    LogicalReplicationConnection,
    StopReplication,
)
from pypgoutput.decoders import Begin, Insert, Relation, Update  # type: ignore[import-not-found]

BATCH = 1_000
TYPES = {20: "bigint", 23: "bigint", 25: "text", 1184: "timestamp", 1700: "decimal"}
OPTIONS = {"proto_version": "1", "publication_names": "orders"}


class Consumer:
    """Collects rows until a transaction ends with enough of them, or all are there."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.seen = 0
        self.relations: dict[int, Any] = {}
        self.rows: list[Any] = []
        self.last_commit = 0

    def __call__(self, message: Any) -> None:
        """One replication message."""
        letter = message.payload[:1]
        if letter == b"B":
            Begin(message.payload)
        elif letter == b"R":
            relation = Relation(message.payload)
            self.relations[relation.relation_id] = relation
        elif letter in (b"I", b"U"):
            change = Insert(message.payload) if letter == b"I" else Update(message.payload)
            self._add(change, message.data_start)
        elif letter == b"C":
            self.last_commit = message.data_start
            if len(self.rows) >= BATCH or self.seen >= self.expected:
                raise StopReplication

    def _add(self, change: Any, lsn: int) -> None:
        relation = self.relations[change.relation_id]
        row = {
            column.name: coerce_value(TYPES[column.type_id], "text", data.col_data)
            for column, data in zip(relation.columns, change.new_tuple.column_data, strict=True)
        }
        row["lsn"] = lsn
        self.rows.append(row)
        self.seen += 1


def hints(relation: Any) -> Any:
    """What dlt must know of the table, sent before a batch's rows."""
    keys = [column.name for column in relation.columns if column.part_of_pkey]
    known = {column.name: {"data_type": TYPES[column.type_id]} for column in relation.columns}
    return dlt.mark.make_hints(
        table_name=relation.relation_name,
        primary_key=keys,
        write_disposition="merge",
        columns={**known, "lsn": {"data_type": "bigint", "dedup_sort": "desc"}},
    )


def changes(dsn: str, slot: str, expected: int) -> Iterator[Any]:
    """All waiting changes, a new replication connection for every batch as the source makes it."""
    consumer = Consumer(expected)
    while consumer.seen < expected:
        consumer.rows = []
        connection = psycopg2.connect(dsn, connection_factory=LogicalReplicationConnection)
        cursor = connection.cursor()
        cursor.start_replication(slot_name=slot, start_lsn=consumer.last_commit, decode=False, options=OPTIONS)
        try:
            cursor.consume_stream(consumer)
        except StopReplication:
            connection.close()
        for relation in consumer.relations.values():
            yield dlt.mark.with_hints([], hints(relation), create_table_variant=True)
            yield dlt.mark.with_table_name(consumer.rows, relation.relation_name)


def main() -> None:
    """One pipeline run over everything that waits."""
    dsn, slot, expected, directory = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    shutil.rmtree(directory / "pipelines", ignore_errors=True)
    (directory / "peer.duckdb").unlink(missing_ok=True)
    start = time.perf_counter()
    pipeline = dlt.pipeline(
        "peer",
        destination=dlt.destinations.duckdb(str(directory / "peer.duckdb")),
        dataset_name="shop",
        pipelines_dir=str(directory / "pipelines"),
    )
    made = time.perf_counter()
    resource = dlt.resource(changes, name="orders_changes", write_disposition="merge")
    pipeline.run(resource(dsn, slot, expected))
    counts = pipeline.last_trace.last_normalize_info.row_counts
    said = {
        "changes": counts["orders"],
        "seconds": time.perf_counter() - made,
        "startup_seconds": made - start,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
