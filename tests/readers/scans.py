"""DuckDB with its Iceberg extension, and Polars, as others have them; the fixture is `scans`."""

from __future__ import annotations

import pyarrow as pa

from readers.environment import Readers
from readers.process import ReaderProcess


class Scans:
    """One process with both. Locations are those of metadata files."""

    def __init__(self, readers: Readers) -> None:
        self._process = ReaderProcess(readers.python, "scan_program")

    def duckdb(self, statement: str) -> pa.Table:
        """The rows of a statement in DuckDB, with httpfs, avro and iceberg loaded. Raises `ReaderError`."""
        return self._process.ask(sql=statement)

    def attach(self, name: str, uri: str) -> None:
        """Open an Iceberg REST catalog by name in DuckDB: its tables are `name.namespace.table`."""
        self.duckdb(f"ATTACH '' AS {name} (TYPE iceberg, ENDPOINT '{uri}', AUTHORIZATION_TYPE 'none')")

    def iceberg_scan(self, location: str) -> pa.Table:
        """All rows of a table, by DuckDB's `iceberg_scan`."""
        return self.duckdb(f"FROM iceberg_scan('{location}')")

    def polars(self, location: str) -> pa.Table:
        """All rows of a table, by Polars' `scan_iceberg`."""
        return self._process.ask(polars=location)

    def polars_by_name(self, table: str, uri: str) -> pa.Table:
        """All rows of a table `namespace.table`, by Polars through an Iceberg REST catalog."""
        return self._process.ask(polars=table, catalog=uri)

    def close(self) -> None:
        """End it."""
        self._process.close()
