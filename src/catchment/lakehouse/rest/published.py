"""What a lake shows to others: namespaces, tables, and their metadata files as they are on disk."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catchment.errors import ConfigError, SinkUnavailable
from catchment.lakehouse.catalog import catalog_errors, catalog_properties, is_sql, load_catalog, local_path
from catchment.lakehouse.rest.protocol import Namespace

if TYPE_CHECKING:
    from pyiceberg.catalog.sql import SqlCatalog

    from catchment.lakehouse.config import LakehouseConfig

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Metadata:
    """A table's metadata: where it is, the file's bytes, and what they say."""

    location: str
    content: bytes
    document: dict[str, Any]


class OutsideWarehouseError(Exception):
    """The catalog points to a file that is not in the warehouse; its message says which table."""


class PublishedLake:
    """A SQL catalog and its local warehouse, for reading. Each answer is of this moment; any thread may ask."""

    def __init__(self, catalog: SqlCatalog, warehouse: Path) -> None:
        self._catalog = catalog
        self._warehouse = warehouse.resolve()

    @classmethod
    def open(cls, lakehouse: LakehouseConfig, directory: Path) -> PublishedLake:
        """The lake that `lakehouse` describes. Raises ConfigError where others need no help to read it."""
        from pyiceberg.catalog.sql import SqlCatalog

        if not is_sql(lakehouse.catalog):
            raise ConfigError(
                f"A catalog of type `{lakehouse.catalog.type}` is open to other readers already: give them its address "
                "instead. Only a catalog in a database (type: sql) is served here."
            )
        warehouse = local_path(catalog_properties(lakehouse.catalog, directory).get("warehouse"))
        if warehouse is None:
            raise ConfigError(
                "`lakehouse.catalog.warehouse` is not a directory of this machine: only a local lake is served. "
                "Use a catalog that its readers can reach, such as Glue's."
            )
        catalog = load_catalog(lakehouse.catalog, directory)
        assert isinstance(catalog, SqlCatalog)  # noqa: S101 - tells the type checker
        return cls(catalog, warehouse)

    def close(self) -> None:
        """Let go of the catalog's connections."""
        self._catalog.close()

    def namespaces(self, parent: Namespace = ()) -> list[str] | None:
        """The names of the namespaces directly below `parent`; None when there is no such namespace."""
        with catalog_errors("The catalog cannot be read"):
            if parent and not self._exists(parent):
                return None
            return sorted(one[-1] for one in self._catalog.list_namespaces(parent))

    def properties(self, namespace: Namespace) -> dict[str, str] | None:
        """The properties of a namespace; None when there is no such namespace."""
        with catalog_errors("The catalog cannot be read"):
            return dict(self._catalog.load_namespace_properties(namespace)) if self._exists(namespace) else None

    def tables(self, namespace: Namespace) -> list[str] | None:
        """The names of a namespace's tables; None when there is no such namespace."""
        with catalog_errors("The catalog cannot be read"):
            if not self._exists(namespace):
                return None
            return sorted(one[-1] for one in self._catalog.list_tables(namespace))

    def location(self, namespace: Namespace, table: str) -> str | None:
        """Where the current metadata of a table is; None when there is no such table."""
        from pyiceberg.catalog.sql import IcebergTables
        from sqlalchemy import select

        query = select(IcebergTables.metadata_location).where(
            IcebergTables.catalog_name == self._catalog.name,
            IcebergTables.table_namespace == ".".join(namespace),
            IcebergTables.table_name == table,
        )
        with catalog_errors("The catalog cannot be read"), self._catalog.engine.connect() as connection:
            found: str | None = connection.execute(query).scalar()
        return found

    def metadata(self, namespace: Namespace, table: str) -> Metadata | None:
        """A table's metadata; None when there is no such table.

        Raises OutsideWarehouseError, and `SinkUnavailable` when the file is not there.
        """
        name = ".".join((*namespace, table))
        for attempt in range(_ATTEMPTS):
            location = self.location(namespace, table)
            if location is None:
                return None
            try:
                content = self._inside(location, name).read_bytes()
            except FileNotFoundError:
                # Old metadata files are deleted: the writer may have gone on since the catalog was asked.
                time.sleep(0.02 * attempt)
                continue
            found = json.loads(content)
            # Other tools keep views in the same table of the database.
            return Metadata(location, content, found) if "table-uuid" in found else None
        raise SinkUnavailable(f"The metadata file of table {name} does not exist: was the warehouse moved or damaged?")

    def example(self) -> str | None:
        """A table to show how it is done, `namespace.table`, as refined as there is; None in an empty lake."""
        for layer in ("gold", "silver", "bronze"):
            if names := self.tables((layer,)):
                return f"{layer}.{names[0]}"
        return None

    def _exists(self, namespace: Namespace) -> bool:
        return all(namespace) and self._catalog.namespace_exists(namespace)

    def _inside(self, location: str, name: str) -> Path:
        path = local_path(location)
        if path is None or not (real := path.resolve()).is_relative_to(self._warehouse):
            raise OutsideWarehouseError(
                f"The metadata of table {name} is not in the warehouse, and is not served. Open it where it was made."
            )
        return real
