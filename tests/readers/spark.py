"""Spark 4.1 with Iceberg 1.11 for tests, started when it is first asked; the fixture is `spark`."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from readers.environment import NoReadersError, Readers
from readers.process import ReaderProcess


class Spark:
    """One local Spark with a heap of 1 GB, in UTC. It starts with the first request (some seconds)."""

    def __init__(self, readers: Readers) -> None:
        """Raises `NoReadersError` without Java."""
        if readers.java is None:
            raise NoReadersError("java is not on the PATH: Spark needs Java 17")
        self._readers = readers
        self._running: ReaderProcess | None = None
        self._views = 0

    def sql(self, statement: str) -> pa.Table:
        """The rows of a statement in Spark's SQL. Raises `ReaderError` with Spark's words."""
        return self._process.ask(sql=statement)

    def attach(self, name: str, uri: str) -> None:
        """Open an Iceberg REST catalog by name: its tables are `name.namespace.table`."""
        catalog = f"spark.sql.catalog.{name}"
        settings = {
            catalog: "org.apache.iceberg.spark.SparkCatalog",
            f"{catalog}.type": "rest",
            f"{catalog}.uri": uri,
            # Each statement sees the tables as they are then.
            f"{catalog}.cache-enabled": "false",
        }
        self.set(settings)

    def set(self, settings: Mapping[str, str]) -> None:
        """Change settings of the session. A catalog's are read once, when its name is first used."""
        self._process.ask(settings=dict(settings))

    def view(self, name: str, rows: pa.Table) -> None:
        """Make or replace a temporary view of these rows."""
        self._views += 1
        path = self._process.directory / f"view-{self._views}.parquet"
        pq.write_table(rows, path)
        self._process.ask(views={name: str(path)})

    def close(self) -> None:
        """End it, if it ever ran."""
        if self._running is not None:
            self._running.close()
            self._running = None

    @property
    def _process(self) -> ReaderProcess:
        if self._running is None:
            self._running = ReaderProcess(self._readers.python, "spark_program", str(self._readers.runtime))
        return self._running
