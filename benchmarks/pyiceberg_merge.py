"""The same merge by PyIceberg alone: `upsert`, then `delete`."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.expressions import In, Reference

from benchmarks.order_changes import MixedChanges, OrderChanges

_APPEND_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class PyIcebergMerge:
    """What one merge cost. written_bytes: all files that it added."""

    seconds: float
    written_bytes: int


def pyiceberg_merge(directory: Path, changes: OrderChanges, mixed: MixedChanges, rows: int) -> PyIcebergMerge:
    """Merge into a table of PyIceberg's with the same `rows`, and check it.

    changes: how things are after these changes, the first ones. The table has silver's columns but for the two nested
    ones, which PyIceberg would compare value by value.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    catalog = SqlCatalog("pyiceberg", uri=f"sqlite:///{directory / 'catalog.db'}", warehouse=f"file://{directory}")
    try:
        catalog.create_namespace("silver")
        table = catalog.create_table("silver.orders", mixed.rows.schema)
        for first in range(0, rows, _APPEND_ROWS):
            table.append(pa.Table.from_batches([changes.beginning(first, min(_APPEND_ROWS, rows - first))]))
        before = _bytes(directory)
        start = time.perf_counter()
        table.upsert(mixed.rows, join_cols=["order_id"])
        table.delete(In(term=Reference("order_id"), values=set(mixed.deleted.tolist())))
        seconds = time.perf_counter() - start
        written = _bytes(directory) - before
        changes.check(table.scan().to_arrow())
        return PyIcebergMerge(seconds, written)
    finally:
        catalog.close()
        shutil.rmtree(directory, ignore_errors=True)


def _bytes(directory: Path) -> int:
    # PyIceberg deletes nothing here: what is more afterwards was written.
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file() and file.suffix != ".db")
