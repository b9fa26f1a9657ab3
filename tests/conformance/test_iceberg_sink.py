"""The Iceberg sink keeps the contract of sinks, on the embedded catalog."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan

from catchment.component import BuildContext
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import LakehouseConfig
from catchment.schema import TableSchema
from catchment.sinks.base import Sink
from catchment.sinks.iceberg.bronze_table import bronze_name
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.testing.sinks import SinkConformance, SinkHarness


class IcebergHarness(SinkHarness):
    """A lake in a directory; read by plain PyIceberg."""

    def __init__(self, directory: Path) -> None:
        self._context = BuildContext("conformance", directory, LakehouseConfig())

    def sink(self) -> Sink:
        return IcebergSinkConfig(snapshots_kept=3, row_group_rows=7).build(self._context)

    def read(self, schema: TableSchema) -> pa.Table:
        catalog = load_catalog(LakehouseConfig().catalog, self._context.directory)
        try:
            table = catalog.load_table(bronze_name(schema.table))
        except NoSuchTableError:
            return schema.envelope.empty_table()
        finally:
            catalog.close()
        snapshot = table.current_snapshot()
        if snapshot is None:
            return schema.envelope.empty_table()
        entries = [entry for one in snapshot.manifests(table.io) for entry in one.fetch_manifest_entry(table.io)]
        age = {entry.data_file.file_path: entry.sequence_number or 0 for entry in entries}
        tasks = sorted(table.scan().plan_files(), key=lambda task: age[task.file.file_path])
        rows = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue()).to_table(tasks)
        assert rows.num_rows == table.scan().to_arrow().num_rows
        assert snapshot.summary is not None
        assert snapshot.summary["total-records"] == str(rows.num_rows)
        return rows.select(schema.envelope.names).cast(schema.envelope)


class TestIcebergSink(SinkConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> SinkHarness:
        return IcebergHarness(tmp_path)
