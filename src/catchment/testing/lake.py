"""Is silver what replaying bronze gives? For tests of pipelines: `expect_silver_equals_current(path)`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment import config
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.properties import key_of
from catchment.lakehouse.reading.connection import open_duckdb, show
from catchment.lakehouse.reading.moment import LakeReader, TableSnapshot
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.config import LakehouseConfig

SHOWN = 20
"""So many differing rows of a table are told."""


@dataclass(frozen=True)
class Difference:
    """A row that is in one of the two only; a row that differs is in both lists, once each. where: who has it."""

    where: str
    key: Mapping[str, Any]
    version: str | None

    def __str__(self) -> str:
        return f"{self.where} only: {dict(self.key)} of version {self.version}"


def expect_silver_equals_current(pipeline: str | os.PathLike[str], *tables: str) -> None:
    """Assert that every silver table with its quarantine has the rows of `current`, in all columns but `_quality`.

    tables: by their bronze names; none given: all that are in silver, and there must be one. At one moment of the
    lake, also while a pipeline runs.
    """
    path = Path(pipeline)
    loaded = config.load(path)
    differences = silver_differences(loaded.lakehouse, path.resolve().parent)
    missing = [one for one in tables if one not in differences]
    assert differences, "no table is in silver"
    assert not missing, f"not in silver: {', '.join(missing)}"
    wanted = tables or tuple(differences)
    told = [f"{name}: {one}" for name in wanted for one in differences[name]]
    assert not told, "silver is not what bronze amounts to\n" + "\n".join(told)


def silver_differences(lakehouse: LakehouseConfig, directory: Path) -> dict[str, list[Difference]]:
    """For each table in silver the first rows in which it, with its quarantine, differs from `current`."""
    catalog = load_catalog(lakehouse.catalog, directory)
    try:
        found = {(table.layer, table.name): table for table in LakeReader(catalog).tables(("bronze", "silver"))}
    finally:
        catalog.close()
    with open_duckdb() as lake:
        show(lake, found.values())
        return {
            name: _differences(lake, found["bronze", name], with_quarantine=("silver", f"{name}_quarantine") in found)
            for layer, name in found
            if layer == "silver" and ("bronze", name) in found
        }


def _differences(lake: DuckDBPyConnection, bronze: TableSnapshot, *, with_quarantine: bool) -> list[Difference]:
    name = identifier(bronze.name)
    key = key_of(bronze.properties)
    columns = ", ".join(identifier(row[0]) for row in lake.execute(f"DESCRIBE current.{name}").fetchall())
    apart = f"UNION ALL BY NAME FROM silver.{identifier(f'{bronze.name}_quarantine')}" if with_quarantine else ""
    # A column that only bronze has so far is NULL in silver.
    silver = f"SELECT {columns} FROM (FROM silver.{name} {apart} UNION ALL BY NAME (FROM current.{name} LIMIT 0))"
    current = f"SELECT {columns} FROM current.{name}"
    told = ", ".join(f"{literal(one)}: CAST({identifier(one)} AS VARCHAR)" for one in key)
    rows = lake.execute(f"""
        SELECT side, {{{told}}} AS row_key, hex(_version) AS row_version FROM (
            SELECT 'current' AS side, * FROM ({current} EXCEPT ALL {silver})
            UNION ALL SELECT 'silver' AS side, * FROM ({silver} EXCEPT ALL {current})
        ) ORDER BY ALL LIMIT {SHOWN}""").fetchall()
    return [Difference(*row) for row in rows]
