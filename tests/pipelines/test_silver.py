"""Silver is what the source's table is, whatever overtook what, and whenever a process began anew."""

from __future__ import annotations

import datetime
import os
import random
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.catalog import Catalog

from catchment.lakehouse import silver as silver_module
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import LakehouseConfig
from catchment.progress import Progress
from catchment.schema import TableSchema
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from pipelines.overtaking import SCHEMA, SIMPLE, Overtaking, write


def open_sink(directory: Path, lakehouse: LakehouseConfig | None = None) -> tuple[IcebergSink, Progress]:
    sink = IcebergSink(IcebergSinkConfig(), lakehouse or LakehouseConfig(), "test", directory)
    return sink, sink.open() or Progress()


def rows(catalog: Catalog, schema: TableSchema, table: str = "items") -> list[dict[str, Any]]:
    names = [column.name for column in schema.columns]
    found = catalog.load_table(("silver", table)).scan().to_arrow().to_pylist()
    for row in found:
        born = row["born"]
        row["born"] = (born - datetime.date(1970, 1, 1)).days if born is not None else None
        row["_unrepresentable"] = dict(row["_unrepresentable"]) if row["_unrepresentable"] else None
    kept = [{name: row[name] for name in (*names, "_unrepresentable")} for row in found]
    return sorted(kept, key=lambda row: str([row[name] for name in schema.key]))


def run(source: Overtaking, directory: Path, actions: int) -> None:
    """Changes and deliveries, mixed; flushes now and then; the process begins anew now and then."""
    sink, progress = open_sink(directory)
    try:
        for _ in range(actions):
            for _ in range(source.chance.randint(1, 20)):
                source.act()
            for batch, reached in source.deliver(progress):
                write(sink, batch, reached)
                progress = reached
                if source.chance.random() < 0.3:
                    break
            if source.chance.random() < 0.4:
                sink.flush()
            if source.chance.random() < 0.1:
                sink.flush()
                sink.close()
                sink, progress = open_sink(directory)
        source.finish()
        for batch, reached in source.deliver(progress):
            write(sink, batch, reached)
            progress = reached
        sink.flush()
    finally:
        sink.close()


@pytest.mark.parametrize("full", [False, True], ids=["default", "full"])
@pytest.mark.parametrize("schema", [SCHEMA, SIMPLE], ids=["composite", "integer"])
@pytest.mark.parametrize("segment", [1, 7, 65536])
def test_silver_is_the_table_however_snapshot_and_stream_overtake_each_other(
    tmp_path: Path, schema: TableSchema, segment: int, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silver_module, "SEGMENT_ROWS", segment)
    first = int(os.environ.get("CATCHMENT_SEED", random.randrange(10**6)))
    for seed in range(first, first + int(os.environ.get("CATCHMENT_ROUNDS", "4"))):
        print(f"replay with CATCHMENT_SEED={seed}")
        directory = tmp_path / str(seed)
        directory.mkdir()
        source = Overtaking(seed, schema, full=full, chunks=seed % 4)
        run(source, directory, actions=12)
        catalog = load_catalog(LakehouseConfig().catalog, directory)
        try:
            assert rows(catalog, schema) == source.expected(), f"seed {seed}"
        finally:
            catalog.close()
