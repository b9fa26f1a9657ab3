"""A lake whose bronze tables are written with plain PyIceberg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from duckdb import DuckDBPyConnection
from pyiceberg.catalog import Catalog

from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.reading.connection import connect_lake
from catchment.schema import envelope

ORDER = pa.struct([("id", pa.int64()), ("city", pa.string()), ("amount", pa.decimal128(12, 2))])


class BronzeLake:
    """A lake in a directory, to be filled with changes and looked at."""

    def __init__(self, directory: Path, gold: Path | None = None) -> None:
        self.directory = directory
        self.config = LakehouseConfig(gold=gold)
        self.catalog: Catalog = load_catalog(self.config.catalog, directory)
        self.catalog.create_namespace_if_not_exists("bronze")
        self._version = 0

    def create(self, table: str, row: pa.StructType = ORDER, key: tuple[str, ...] = ("id",)) -> None:
        """Make a bronze table."""
        properties = {"catchment.table": f"public.{table}", "catchment.key": json.dumps(key)}
        self.catalog.create_table(f"bronze.{table}", envelope(row), properties=properties)

    def append(self, table: str, *rows: dict[str, Any], op: str = "c", row: pa.StructType = ORDER) -> None:
        """Commit a change for each row."""
        events = []
        for values in rows:
            self._version += 1
            place = self._version.to_bytes(8, "big")
            events.append(
                {
                    "_op": op,
                    "_lane": "slot",
                    "_position": place,
                    "_version": place,
                    "_schema_version": 1,
                    "before": values if op == "d" else None,
                    "after": values if op in "cru" else None,
                }
            )
        self.catalog.load_table(f"bronze.{table}").append(pa.Table.from_pylist(events, schema=envelope(row)))

    def connect(self, pipeline: str | None = None) -> DuckDBPyConnection:
        """What a person gets."""
        return connect_lake(self.config, self.directory, pipeline)


def rows(connection: DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """The result of a query as dictionaries."""
    result: list[dict[str, Any]] = connection.execute(sql).to_arrow_table().to_pylist()
    return result
