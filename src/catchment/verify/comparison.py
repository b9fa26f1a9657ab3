"""Two sets of digests, one of the source and one of the lake: first by bucket, then by key where a bucket differs.

Each row is 20 bytes here, in a DuckDB of its own with a memory limit that spills to disk. Buckets are of the key's
digest: equal counts and sums make a bucket equal, so that nothing is joined where nothing differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catchment.lakehouse.reading.connection import open_duckdb
from catchment.verify.digest import RowDigest
from catchment.verify.point_rows import RowsAtPoint
from catchment.verify.report import KEYS_SHOWN, Keys

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.change import ChangeBatch

THREADS = 2
MEMORY = "768MB"
BUCKET_BITS = 12

_MISSING, _EXTRA, _DIFFERENT = "missing", "extra", "different"

_IN_SAMPLE = "key IN (SELECT key FROM source_rows WHERE value IS NOT NULL)"

_BUCKETS = f"""
CREATE OR REPLACE TEMP TABLE buckets AS
WITH source AS (
  SELECT key >> {64 - BUCKET_BITS} AS bucket, count(*) AS rows, sum(key::HUGEINT) AS keys,
    count(value) AS compared, sum(value::HUGEINT) AS vals
  FROM source_rows GROUP BY bucket
), lake AS (
  SELECT key >> {64 - BUCKET_BITS} AS bucket, count(*) AS rows, sum(key::HUGEINT) AS keys,
    count(*) FILTER (compared) AS compared, sum(value::HUGEINT) FILTER (compared) AS vals
  FROM (SELECT key, value, {{compared}} AS compared FROM lake_rows)
  GROUP BY bucket
)
SELECT coalesce(source.bucket, lake.bucket) AS bucket FROM source FULL JOIN lake ON source.bucket = lake.bucket
WHERE (source.rows, source.keys, source.compared, source.vals)
  IS DISTINCT FROM (lake.rows, lake.keys, lake.compared, lake.vals)
"""

_DIFFERENCES = f"""
CREATE OR REPLACE TEMP TABLE differences AS
WITH source AS (SELECT * FROM source_rows WHERE key >> {64 - BUCKET_BITS} IN (SELECT bucket FROM buckets)),
lake AS (
  SELECT key, count(*) AS copies, min(value) AS lowest, max(value) AS highest
  FROM lake_rows WHERE key >> {64 - BUCKET_BITS} IN (SELECT bucket FROM buckets) GROUP BY key
)
SELECT '{_MISSING}' AS kind, key, chunk FROM source ANTI JOIN lake USING (key)
UNION ALL SELECT '{_EXTRA}', key, NULL FROM lake ANTI JOIN source USING (key)
UNION ALL SELECT '{_EXTRA}', key, NULL FROM lake WHERE copies > 1 AND key IN (SELECT key FROM source)
UNION ALL SELECT '{_DIFFERENT}', source.key, chunk FROM source JOIN lake USING (key)
WHERE value IS NOT NULL AND (value <> lowest OR value <> highest)
"""

_NAMED = f"""
CREATE OR REPLACE TEMP TABLE named AS
SELECT * FROM differences QUALIFY row_number() OVER (PARTITION BY kind ORDER BY chunk, key) <= {KEYS_SHOWN}
"""


@dataclass(frozen=True, slots=True)
class Differences:
    """How many keys differ, and where at the source those are that will be named."""

    missing: int
    extra: int
    different: int
    chunks: Sequence[int]

    @property
    def none(self) -> bool:
        """Is there no difference?"""
        return not (self.missing or self.extra or self.different)


class Comparison:
    """The digests of one table's rows. Use: `lake`, `source` for each batch, `differences`, and then the keys."""

    def __init__(self, connection: DuckDBPyConnection, digest: RowDigest) -> None:
        self._connection = connection
        self._digest = digest
        connection.execute("CREATE OR REPLACE TEMP TABLE source_rows (key UBIGINT, value UBIGINT, chunk INTEGER)")
        connection.execute("CREATE OR REPLACE TEMP TABLE lake_rows (key UBIGINT, value UBIGINT, quarantined BOOLEAN)")

    def lake(self, rows: RowsAtPoint) -> None:
        """Digest the lake's rows."""
        self._connection.execute(
            f"INSERT INTO lake_rows SELECT {self._digest.lake_key()}, {self._digest.lake_value()}, {rows.quarantined} "
            f"FROM ({rows.relation})"
        )

    def source(self, chunk: int, batch: ChangeBatch, *, key_only: bool) -> None:
        """Digest some rows of the source; key_only: of rows that are their key alone."""
        if key_only:
            key, value = self._digest.source_key(range(len(self._digest.key))), "NULL"
        else:
            key, value = self._digest.source_key(), self._digest.source_value()
        self._over(batch, f"INSERT INTO source_rows SELECT {key}, {value}, {chunk:d} FROM verify_rows")

    def counts(self) -> tuple[int, int, int]:
        """Rows at the source, in the lake, and of those in quarantine."""
        source = self._one("SELECT count(*) FROM source_rows")[0]
        lake, quarantined = self._one("SELECT count(*), count(*) FILTER (quarantined) FROM lake_rows")
        return source, lake, quarantined

    def differences(self) -> Differences:
        """What differs. Equal tables are told by their buckets alone."""
        whole = self._one("SELECT count(*) = count(value) FROM source_rows")[0]
        self._connection.execute(_BUCKETS.format(compared="true" if whole else _IN_SAMPLE))
        self._connection.execute(_DIFFERENCES)
        self._connection.execute(_NAMED)
        counts = dict(self._connection.execute("SELECT kind, count(*) FROM differences GROUP BY kind").fetchall())
        chunks = self._connection.execute(
            "SELECT DISTINCT chunk FROM named WHERE chunk IS NOT NULL ORDER BY chunk"
        ).fetchall()
        return Differences(
            counts.get(_MISSING, 0), counts.get(_EXTRA, 0), counts.get(_DIFFERENT, 0), [row[0] for row in chunks]
        )

    def named_in_lake(self, rows: RowsAtPoint) -> None:
        """Look the keys up in the lake."""
        digest = self._digest
        columns, texts = digest.by_column(digest.lake_columns()), digest.lake_key_texts()
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE lake_named ({self._shape()})")
        self._connection.execute(
            f"INSERT INTO lake_named {_looked_up(digest.lake_key(), texts, columns, f'({rows.relation})')}"
        )

    def named_at_source(self, batches: Iterable[ChangeBatch]) -> None:
        """Look the keys up in whole rows of the source."""
        digest = self._digest
        columns, texts = digest.by_column(digest.source_columns()), digest.source_key_texts()
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE source_named ({self._shape()})")
        for batch in batches:
            found = _looked_up(digest.source_key(), texts, columns, "verify_rows")
            self._over(batch, f"INSERT INTO source_named {found}")

    def keys(self) -> dict[str, list[dict[str, str | None]]]:
        """The named keys of each kind, as text."""
        names = [column.name for _, column in self._digest.key]
        found: dict[str, list[dict[str, str | None]]] = {}
        for kind, table in ((_MISSING, "source_named"), (_EXTRA, "lake_named"), (_DIFFERENT, "lake_named")):
            listed = ", ".join(f"any_value(k{i})" for i in range(len(names)))
            rows = self._connection.execute(
                f"SELECT {listed} FROM {table} JOIN named USING (key) WHERE kind = '{kind}' GROUP BY key ORDER BY ALL"
            ).fetchall()
            found[kind] = [dict(zip(names, row, strict=True)) for row in rows]
        return found

    def columns(self) -> dict[str, tuple[int, int]]:
        """In how many of the named different keys a column differs, and in how many of these the lake has NULL."""
        found = {}
        for i, column in enumerate(self._digest.columns):
            differing, empty = self._one(
                f"SELECT count(*), count(*) FILTER (lake.n{i}) FROM lake_named AS lake "
                "JOIN source_named AS source USING (key) JOIN named USING (key) "
                f"WHERE kind = '{_DIFFERENT}' AND (lake.v{i}, lake.n{i}) IS DISTINCT FROM (source.v{i}, source.n{i})"
            )
            if differing:
                found[column.name] = (differing, empty)
        return found

    def _shape(self) -> str:
        """The columns of named rows: their key, its texts, a digest of each column and whether it is NULL."""
        texts = ", ".join(f"k{i} VARCHAR" for i in range(len(self._digest.key)))
        values = ", ".join(f"v{i} UBIGINT, n{i} BOOLEAN" for i in range(len(self._digest.columns)))
        return f"key UBIGINT, {texts}, {values}"

    def _over(self, batch: ChangeBatch, statement: str) -> None:
        row, texts = batch.records.column("after"), batch.records.column("_unrepresentable")
        columns = [*row.flatten(), texts]
        names = [*(f"c{i}" for i in range(len(columns) - 1)), "_unrepresentable"]
        self._connection.register("verify_rows", pa.Table.from_arrays(columns, names=names))
        try:
            self._connection.execute(statement)
        finally:
            self._connection.unregister("verify_rows")

    def _one(self, statement: str) -> tuple[Any, ...]:
        rows: list[tuple[Any, ...]] = self._connection.execute(statement).fetchall()
        return rows[0]


def open_comparisons() -> DuckDBPyConnection:
    """The DuckDB that comparisons are made in: bounded, and on disk where that is not enough."""
    return open_duckdb(THREADS, MEMORY)


def named(count: int, keys: Sequence[dict[str, str | None]]) -> Keys:
    """For the report."""
    return Keys(count, tuple(keys))


def _looked_up(key: str, texts: Sequence[str], columns: Sequence[str], relation: str) -> str:
    return f"SELECT {key}, {', '.join((*texts, *columns))} FROM {relation} WHERE {key} IN (SELECT key FROM named)"
