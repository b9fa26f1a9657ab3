"""What came of a demo: is the lake equal to the source, and how fresh was it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catchment.demo.shop import connect
from catchment.errors import Fatal
from catchment.lakehouse.sql import identifier

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from duckdb import DuckDBPyConnection
    from numpy.typing import NDArray

PLAIN_TYPES = frozenset({"boolean", "smallint", "integer", "bigint", "text", "timestamp with time zone", "date"})
"""What ADBC reads as exactly the value it is. All else is read as text and cast by DuckDB."""


@dataclass(frozen=True, slots=True)
class TableOutcome:
    """One table: rows in PostgreSQL, changes in bronze, rows in silver and in its quarantine.

    equal: are silver and quarantine together the rows of PostgreSQL?
    """

    source_rows: int
    bronze_rows: int
    silver_rows: int
    quarantined_rows: int
    equal: bool


@dataclass(frozen=True, slots=True)
class Freshness:
    """From commit in PostgreSQL to seen by a query in another process; None when nothing was measured."""

    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The demo's last word. seconds: of traffic. operations: done by it."""

    directory: str
    seconds: float
    operations: int
    tables: dict[str, TableOutcome]
    freshness_ms: Freshness
    gold: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def compare(lake: DuckDBPyConnection, dsn: str, name: str) -> TableOutcome:
    """Compare a table of schema `public` with `silver.<name>` and its quarantine, row for row, all columns' values.

    Rows that both have are taken away in pairs, from both sides; equal means that none is left.
    """
    source = read_source(dsn, name)
    types = dict(lake.execute(f"SELECT column_name, column_type FROM (DESCRIBE silver.{identifier(name)})").fetchall())
    missing = [column for column in source.column_names if column not in types]
    if missing:
        raise Fatal(f"silver.{name} lacks the column {missing[0]} of the source's table.")
    plain = ", ".join(identifier(column) for column in source.column_names)
    typed = ", ".join(f"CAST({identifier(column)} AS {types[column]})" for column in source.column_names)
    quarantine = (
        f"SELECT {plain} FROM silver.{identifier(f'{name}_quarantine')}" if _has_quarantine(lake, name) else None
    )
    ours = f"SELECT {plain} FROM silver.{identifier(name)}" + (f" UNION ALL {quarantine}" if quarantine else "")
    lake.register("source_rows", source)
    try:
        bronze_rows, silver_rows, kept_rows, only_source = _numbers(
            lake,
            f"""SELECT (SELECT count(*) FROM bronze.{identifier(name)}),
            (SELECT count(*) FROM silver.{identifier(name)}),
            (SELECT count(*) FROM ({ours})),
            (SELECT count(*) FROM (SELECT {typed} FROM source_rows EXCEPT ALL ({ours})))""",
        )
    finally:
        lake.unregister("source_rows")
    # With as many rows on both sides, nothing left on one side means nothing left on the other.
    equal = kept_rows == source.num_rows and only_source == 0
    return TableOutcome(source.num_rows, bronze_rows, silver_rows, kept_rows - silver_rows, equal)


def _has_quarantine(lake: DuckDBPyConnection, name: str) -> bool:
    query = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'silver' AND table_name = ?"
    (found,) = _numbers(lake, query, f"{name}_quarantine")
    return found > 0


def freshness(
    lake: DuckDBPyConnection, names: Sequence[str], sightings: Sequence[tuple[float, float]], since: float
) -> Freshness:
    """Percentiles over every change committed after `since`: from its commit until a query could see it.

    sightings: (when a query of another process was answered, the newest commit time in its answer), epoch
    seconds, in order. A change was seen by the first query whose answer was not older than its commit.
    """
    import numpy as np

    if not sightings or since == float("inf"):
        return Freshness()
    commits = np.concatenate(
        [
            lake.execute(
                f"SELECT epoch_us(_committed_at) AS at FROM bronze.{identifier(name)}"
                " WHERE _op IN ('c', 'u', 'd') AND epoch_us(_committed_at) >= ?",
                [int(since * 1e6)],
            ).fetchnumpy()["at"]
            for name in names
        ]
    ).astype(np.float64)
    return seen_after(commits / 1e6, sightings)


def seen_after(moments: NDArray[np.float64], sightings: Sequence[tuple[float, float]]) -> Freshness:
    """Percentiles of how long after its moment each change was seen: by the first sighting that is as new as it.

    moments: epoch seconds. sightings: as `freshness` has them.
    """
    import numpy as np

    if not len(moments) or not sightings:
        return Freshness()
    seen_at = np.array([at for at, _ in sightings])
    newest = np.maximum.accumulate(np.array([moment for _, moment in sightings]))
    first = np.searchsorted(newest, moments, side="left")
    seen = first < len(newest)
    if not seen.any():
        return Freshness()
    p50, p99 = np.percentile((seen_at[first[seen]] - moments[seen]) * 1e3, [50, 99])
    return Freshness(round(float(p50), 1), round(float(p99), 1))


def read_source(dsn: str, name: str) -> pa.Table:
    """The source's rows as Arrow, types that Arrow may read differently as PostgreSQL's own text."""
    from adbc_driver_postgresql import dbapi

    with connect(dsn) as connection:
        columns = connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name = %s ORDER BY ordinal_position",
            (name,),
        ).fetchall()
    chosen = ", ".join(
        identifier(column) if kind in PLAIN_TYPES else f"{identifier(column)}::text AS {identifier(column)}"
        for column, kind in columns
    )
    with dbapi.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT {chosen} FROM public.{identifier(name)}")
        return cursor.fetch_arrow_table()


def _numbers(lake: DuckDBPyConnection, query: str, *parameters: str) -> list[int]:
    row = lake.execute(query, parameters).fetchone()
    return [int(number) for number in row or ()]
