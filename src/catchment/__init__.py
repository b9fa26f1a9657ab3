"""Catchment: every change of an operational database, exactly once, in an open lakehouse.

Importing this package loads nothing heavy; `connect` brings DuckDB and PyIceberg in when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from duckdb import DuckDBPyConnection

__version__ = "0.1.0"
__all__ = ["__version__", "connect"]


def connect(pipeline: str | PathLike[str]) -> DuckDBPyConnection:
    """A DuckDB connection whose `bronze`, `current`, `gold` and `ops` views show the lake as it is now.

    `pipeline` is the path of a pipeline.yaml. The views are fixed to the snapshots of this moment;
    call again for newer ones. The lake itself cannot be written through it.

    Raises `catchment.errors.ConfigError` when the file cannot be read.
    """
    from catchment.lakehouse.connection import connect as connect_lake

    return connect_lake(pipeline)
