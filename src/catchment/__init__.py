"""Catchment: every change of an operational database, exactly once, in an open lakehouse.

Importing this package loads nothing heavy; `connect` brings DuckDB and PyIceberg in when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from os import PathLike

    from duckdb import DuckDBPyConnection

__version__ = "0.1.0"
__all__ = ["__version__", "connect"]


def connect(
    pipeline: str | PathLike[str], *, as_of: datetime | str | None = None, snapshot: int | None = None
) -> DuckDBPyConnection:
    """A DuckDB connection whose `bronze`, `current`, `silver`, `gold` and `ops` views show the lake as it is now.

    `pipeline` is the path of a pipeline.yaml. The views are fixed to the snapshots of this moment;
    call again for newer ones. The lake itself cannot be written through it.

    as_of: show it as of a moment of the source's clock instead (UTC without a time zone; a text is ISO 8601); the table
    `ops.as_of` then says where each view's rows come from. snapshot: show the table that has this Iceberg
    snapshot as it was then.

    Raises `catchment.errors.ConfigError` when the file cannot be read, and for a snapshot that no table has.
    """
    from catchment.lakehouse.reading.connection import connect as connect_lake

    return connect_lake(pipeline, as_of=as_of, snapshot=snapshot)
