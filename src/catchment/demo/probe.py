"""What a reader in another process sees of the lake: `python -m catchment.demo.probe PIPELINE`.

As soon as the catalog shows new snapshots in bronze it opens the lake as anybody would, with `catchment.connect`, and
asks for the newest commit time in bronze; when that answer is there, everything committed up to then has
been *seen by a query*. Freshness is taken from these sightings, see `freshness`.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.demo.child import run_child, tell
from catchment.errors import CatchmentError
from catchment.lakehouse.sql import identifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from duckdb import DuckDBPyConnection

LOOK_SECONDS = 0.02
REST = 1.0
"""After each query, rest so many times as long as it took: seeing must not slow down what is seen."""
GOLD_ROWS = 12


def main(arguments: list[str]) -> int:
    """Watch until told to stop, then look once more."""
    (pipeline,) = arguments
    return run_child(lambda stop: watch(Path(pipeline), stop))


def watch(pipeline: Path, stop: threading.Event) -> None:
    """Tell of every change of the lake, until `stop`."""
    seen: dict[str, str] = {}
    while True:
        ending = stop.wait(LOOK_SECONDS)
        there = snapshots(pipeline.parent / "lake" / "catalog.db")
        began = time.monotonic()
        if _only(there, "bronze") != _only(seen, "bronze"):
            try:
                _look(pipeline, gold_changed=_only(there, "gold") != _only(seen, "gold"))
            except CatchmentError:
                pass  # the lake is being made, or locked for the moment; the next look will tell
            else:
                seen = there
        if ending:
            return
        stop.wait(REST * (time.monotonic() - began))


def snapshots(catalog: Path) -> dict[str, str]:
    """Every table's current metadata, as any reader of the catalog would find it now."""
    if not catalog.exists():
        return {}
    try:
        connection = sqlite3.connect(f"file:{catalog}?mode=ro", uri=True, timeout=1.0)
        try:
            rows = connection.execute(
                "SELECT table_namespace || '.' || table_name, metadata_location FROM iceberg_tables"
            )
            return dict(rows.fetchall())
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return {}


def _only(tables: dict[str, str], namespace: str) -> dict[str, str]:
    return {name: at for name, at in tables.items() if name.startswith(f"{namespace}.")}


def _look(pipeline: Path, *, gold_changed: bool) -> None:
    import catchment

    with catchment.connect(pipeline) as lake:
        newest = newest_commit(lake)
        seen_at = time.time()
        gold = gold_rows(lake, limit=GOLD_ROWS) if gold_changed else None
    tell(seen_at=seen_at, newest=newest, gold=gold)


def newest_commit(lake: DuckDBPyConnection) -> float | None:
    """The newest commit time among all streamed changes in bronze, in epoch seconds."""
    newest = None
    for table in tables(lake, "bronze"):
        row = lake.execute(
            f"SELECT epoch_us(max(_committed_at)) FROM bronze.{identifier(table)} WHERE _op IN ('c', 'u', 'd')"
        ).fetchone()
        if row is not None and row[0] is not None:
            newest = max(newest or 0.0, row[0] / 1e6)
    return newest


def gold_rows(lake: DuckDBPyConnection, *, limit: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every gold table's rows, in its own order, as JSON can hold them."""
    end = f" LIMIT {limit}" if limit is not None else ""
    result = {}
    for table in tables(lake, "gold"):
        relation = lake.execute(f"SELECT * FROM gold.{identifier(table)}{end}")
        names = [column[0] for column in relation.description or ()]
        result[table] = [json_row(names, row) for row in relation.fetchall()]
    return result


def tables(lake: DuckDBPyConnection, schema: str) -> list[str]:
    """The names in a schema of the lake."""
    rows = lake.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = ? ORDER BY 1", [schema]
    ).fetchall()
    return [name for (name,) in rows]


def json_row(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    """A row as JSON can hold it, no digit lost."""
    return {name: _plain(value) for name, value in zip(names, values, strict=True)}


def _plain(value: Any) -> Any:
    """A number where JSON's numbers hold it exactly, text where they do not."""
    if isinstance(value, Decimal):
        if value == value.to_integral_value() and abs(value) < 2**53:
            return int(value) if value.as_tuple().exponent == 0 else float(value)
        return float(value) if Decimal(repr(float(value))) == value else str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
