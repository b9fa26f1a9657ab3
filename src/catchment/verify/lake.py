"""The lake's side of a comparison: a table's rows at the source's point.

The lake as it was just before the point was taken is brought up to it by the few changes between: they come out of
bronze, where a running pipeline lands them, or are read beside the slot when none runs. The replay of those
changes is that of `current`, the oracle: what is compared is what the lake shows, not how it got there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
from pyiceberg.types import StructType

from catchment.errors import ConfigError, SinkUnavailable
from catchment.lakehouse import bronze
from catchment.lakehouse.catalog import catalog_errors, load_catalog
from catchment.lakehouse.current import KEY_PROPERTY
from catchment.lakehouse.file_schema import Arrangement
from catchment.lakehouse.moment import LakeReader, TableSnapshot
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.replay import Replay
from catchment.lakehouse.table_schema import Places, fit
from catchment.progress import Progress
from catchment.verify.digest import may_be_text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.change import ChangeBatch
    from catchment.config import PipelineConfig
    from catchment.schema import TableSchema

LAYERS = ("bronze", "silver")


@dataclass(frozen=True, slots=True)
class LakeMoment:
    """What the lake holds, and its tables by the source's names, read after that."""

    held: Progress
    tables: dict[str, LakeTable]


@dataclass(frozen=True, slots=True)
class LakeTable:
    """A source table's tables in the lake."""

    bronze: TableSnapshot

    @property
    def layer(self) -> str:
        """Which of them is compared."""
        return "current"

    @property
    def snapshot(self) -> int | None:
        """Its snapshot."""
        return self.bronze.snapshot


@dataclass(frozen=True, slots=True)
class RowsAtPoint:
    """A relation of the rows at the point. row: its columns; places: which of the source's columns fills which.

    quarantined: a condition that is true for rows from quarantine.
    """

    relation: str
    row: StructType
    places: Places
    quarantined: str = "false"


class Lake:
    """Moments of one pipeline's lake. One thread."""

    def __init__(self, config: PipelineConfig) -> None:
        store = OpsStore.existing(config.lakehouse, config.directory)
        if store is None:
            raise ConfigError(f"There is no lake of pipeline {config.name} yet. Run it first: catchment run.")
        self._store = store
        self._pipeline = config.name
        self._sinks = [sink.name for sink in config.sink_configs if sink.type == "iceberg"]
        if not self._sinks:
            raise ConfigError(f"Pipeline {config.name} has no sink of type iceberg: there is no lake to verify.")
        self._catalog = load_catalog(config.lakehouse.catalog, config.directory)
        self._reader = LakeReader(self._catalog)

    def held(self) -> Progress:
        """What the lake holds now."""
        held = self._store.progress(self._pipeline).get(self._sinks[0])
        if held is None:
            raise SinkUnavailable(f"The lake of pipeline {self._pipeline} holds nothing yet. Run it first.")
        return held

    def reported_at(self) -> float | None:
        """When a process last said that it runs the pipeline; None when none does, or none ever did."""
        report = self._store.latest_report(self._pipeline)
        return report.at if report is not None and report.state == "running" else None

    def moment(self) -> LakeMoment:
        """The lake now."""
        held = self.held()
        with catalog_errors("The lake cannot be read"):
            found = self._reader.tables(LAYERS)
        tables = {
            table.properties["catchment.table"]: LakeTable(table)
            for table in found
            if table.layer == "bronze" and table.properties.get("catchment.pipeline") == self._pipeline
        }
        return LakeMoment(held, tables)

    def close(self) -> None:
        """Let go of the catalog and the operations data."""
        self._store.close()


@contextmanager
def rows_at(
    connection: DuckDBPyConnection,
    table: LakeTable,
    schema: TableSchema,
    version: bytes,
    pulled: Iterable[ChangeBatch],
) -> Iterator[RowsAtPoint]:
    """The table's rows after every change whose version is at or below `version`; valid within.

    schema: the source's, transformed. pulled: changes that the lake does not have yet.
    """
    snapshot, places = _with_room(table.bronze, schema)
    for batch in pulled:
        snapshot, _ = _with_room(snapshot, batch.schema)
    # Once more: a batch may have widened what the schema had fitted.
    snapshot, places = _with_room(snapshot, schema)
    changes = _changes(connection, snapshot, version, pulled)
    row = _row(snapshot)
    key = tuple(json.loads(snapshot.properties.get(KEY_PROPERTY, "[]")))
    types = {field.name: field.field_type for field in row.fields}
    uncertain = [name for name in key if may_be_text(types[name])]
    connection.execute(f"CREATE OR REPLACE TEMP VIEW verify_changes AS {changes}")
    try:
        yield RowsAtPoint(Replay("verify_changes", key, tuple(types), as_text=uncertain).sql(), row, places)
    finally:
        connection.execute("DROP VIEW verify_changes")
        connection.execute("DROP TABLE IF EXISTS verify_pulled")


def _changes(
    connection: DuckDBPyConnection, snapshot: TableSnapshot, version: bytes, pulled: Iterable[ChangeBatch]
) -> str:
    bound = f"unhex('{version.hex()}')"
    relation = f"SELECT * FROM ({bronze.relation(snapshot)}) WHERE _version <= {bound}"
    begun = False
    for batch in pulled:
        connection.register("verify_batch", pa.table(_arranged(batch, snapshot)))
        make = "INSERT INTO verify_pulled" if begun else "CREATE TEMP TABLE verify_pulled AS"
        connection.execute(f"{make} SELECT * FROM verify_batch")
        connection.unregister("verify_batch")
        begun = True
    return f"{relation} UNION ALL BY NAME SELECT * FROM verify_pulled" if begun else relation


def _arranged(batch: ChangeBatch, snapshot: TableSnapshot) -> pa.Table:
    fitted = fit(snapshot.schema, batch.records.schema, **_numbers(snapshot, batch.schema.version))
    records = Arrangement(batch.records.schema, fitted.schema, fitted.places).apply(batch.records)
    return pa.Table.from_batches([records])


def _with_room(snapshot: TableSnapshot, schema: TableSchema) -> tuple[TableSnapshot, Places]:
    """The table with the columns it will have once it takes rows of this schema, and where they go."""
    fitted = fit(snapshot.schema, schema.envelope, **_numbers(snapshot, schema.version))
    places = fitted.places["after"].fields
    if not fitted.changed:
        return snapshot, places
    return replace(snapshot, schema=fitted.schema, schemas=(*snapshot.schemas, fitted.schema)), places


def _numbers(snapshot: TableSnapshot, version: int) -> dict[str, int]:
    return {
        "last_column_id": max(schema.highest_field_id for schema in snapshot.schemas),
        "schema_id": max(schema.schema_id for schema in snapshot.schemas) + 1,
        "version": version,
    }


def _row(snapshot: TableSnapshot) -> StructType:
    after = snapshot.schema.find_field("after").field_type
    assert isinstance(after, StructType)  # noqa: S101 - bronze is made so
    return after
