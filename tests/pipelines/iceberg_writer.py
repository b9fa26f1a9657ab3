"""A process that writes numbered transactions to an Iceberg lake, and can be killed at any moment.

    python iceberg_writer.py DIRECTORY TRANSACTIONS [REST_URI]

Transaction n inserts row n into `public.odd` or `public.even`, and into `public.both`; every tenth is larger
than a row group. It resumes after what the lake holds, so that any number of kills must leave each row once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig, MaintenanceConfig
from catchment.progress import Progress
from catchment.schema import Column, TableId, TableSchema
from catchment.sinks.base import Sink
from catchment.sinks.iceberg.config import IcebergSinkConfig

PIPELINE = "writer"
LANE = "slot"
ROW_GROUP_ROWS = 8
FLUSH_EVERY = 3
NO_MAINTENANCE = MaintenanceConfig(enabled=False, snapshot_hours=0)
"""Commits are counted in these tests; maintenance makes some of its own."""


def table(name: str) -> TableSchema:
    columns = (Column("id", pa.int64(), "bigint", key=True), Column("part", pa.int32(), "integer"))
    return TableSchema(TableId("public", name), columns)


ODD, EVEN, BOTH = table("odd"), table("even"), table("both")


def lakehouse(rest_uri: str | None = None) -> LakehouseConfig:
    if rest_uri is None:
        return LakehouseConfig(maintenance=NO_MAINTENANCE)
    return LakehouseConfig(catalog=CatalogConfig(type="rest", uri=rest_uri), maintenance=NO_MAINTENANCE)


def open_sink(directory: Path, rest_uri: str | None = None, **options: object) -> Sink:
    config = IcebergSinkConfig.model_validate({"row_group_rows": ROW_GROUP_ROWS, **options})
    return config.build(BuildContext(PIPELINE, directory, lakehouse(rest_uri)))


def position(n: int, ordinal: int = 0) -> bytes:
    return n.to_bytes(8, "big") + ordinal.to_bytes(8, "big")


def boundary(n: int) -> Progress:
    """After transaction n."""
    return Progress({LANE: position(n + 1)})


def next_transaction(held: Progress | None) -> int:
    return int.from_bytes(held.positions[LANE][:8], "big") if held is not None else 0


def size(n: int) -> int:
    return 3 * ROW_GROUP_ROWS if n % 10 == 9 else 1


def changes(schema: TableSchema, n: int, first: int) -> ChangeBatch:
    """Transaction n's inserts into a table; ordinals from `first`."""
    rows = size(n)
    after = pa.array([{"id": n, "part": part} for part in range(rows)], schema.row_type)
    values = {
        "_op": ["c"] * rows,
        "_lane": [LANE] * rows,
        "_position": [position(n, first + part) for part in range(rows)],
        "_version": [position(n, first + part) for part in range(rows)],
        "_transaction": [str(n)] * rows,
        "_committed_at": [1_700_000_000_000_000 + n] * rows,
        "_schema_version": [schema.version] * rows,
        "_unchanged": [None] * rows,
        "_unrepresentable": [None] * rows,
        "before": [None] * rows,
    }
    arrays = [pa.array(values[f.name], f.type) if f.name in values else after for f in schema.envelope]
    return ChangeBatch(schema, LANE, pa.RecordBatch.from_arrays(arrays, schema=schema.envelope))


def write_transaction(sink: Sink, n: int) -> None:
    sink.write(changes(ODD if n % 2 else EVEN, n, 1))
    sink.write(changes(BOTH, n, 1 + size(n)))
    sink.advance(boundary(n))


def expected(name: str, transactions: int) -> list[tuple[int, int]]:
    """(id, part) of every row that the table must hold after so many transactions."""
    remainders = {"odd": (1,), "even": (0,), "both": (0, 1)}[name]
    return [(n, part) for n in range(transactions) if n % 2 in remainders for part in range(size(n))]


def rows(directory: Path, name: str, rest_uri: str | None = None) -> list[tuple[int, int]]:
    """(id, part) of every row of the bronze table, sorted; read by plain PyIceberg."""
    catalog = load_catalog(lakehouse(rest_uri).catalog, directory)
    try:
        found = catalog.load_table(("bronze", name)).scan(selected_fields=("after",)).to_arrow()
    finally:
        catalog.close()
    return sorted((row["after"]["id"], row["after"]["part"]) for row in found.to_pylist())


def main(directory: Path, transactions: int, rest_uri: str | None) -> None:
    sink = open_sink(directory, rest_uri)
    try:
        start = next_transaction(sink.open())
        for schema in (ODD, EVEN, BOTH):
            sink.schema_change(schema)
        for n in range(start, transactions):
            write_transaction(sink, n)
            if n % FLUSH_EVERY == FLUSH_EVERY - 1:
                sink.flush()
        sink.flush()
    finally:
        sink.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
