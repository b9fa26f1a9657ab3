"""A lake may be in a directory of any name; where it may not, one sentence says so, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catchment.errors import ConfigError
from catchment.lakehouse.catalog import catalog_properties, load_catalog, local_path
from catchment.lakehouse.commit import commit_alone, open_or_create, write_rows
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.position_delete import write_position_deletes
from catchment.lakehouse.rest.endpoint import RestEndpoint
from catchment.lakehouse.rest.published import PublishedLake
from catchment.lakehouse.rest.server import RestServer
from catchment.lakehouse.table import Change
from readers.comparison import READERS, Shelf, expect_equal
from readers.scans import Scans
from readers.spark import Spark

CONFIG = LakehouseConfig()
ROWS = pa.table({"id": [1, 2, 3]})


@pytest.mark.parametrize("name", ["two words", "50%41 sure", "100%", "snø+is", "a&b=c;d"])
def test_readers_find_rows_and_deletes_in_a_directory_of_any_name(
    tmp_path: Path, name: str, spark: Spark, scans: Scans
) -> None:
    directory = tmp_path / name
    directory.mkdir()
    catalog = load_catalog(CONFIG.catalog, directory)
    table = open_or_create(catalog, ("silver", "t"), ROWS.schema, {})
    (file,) = write_rows(table, table.metadata.schema(), ROWS.to_reader())
    gone = {file.file_path: np.array([1], np.int64)}
    deletes = write_position_deletes(table.storage, table.new_data_location(), gone)
    commit_alone(catalog, table.draft(Change([file], deletes=[deletes])))
    lake = PublishedLake.open(CONFIG, directory)
    with RestServer(RestEndpoint(lake)) as server:
        shelf = Shelf(CONFIG, directory, catalog, server.uri)
        for reader in READERS:
            assert expect_equal(shelf, "silver.t", reader, spark, scans) == 2, reader
    lake.close()
    catalog.close()
    assert [path.name for path in tmp_path.iterdir()] == [name], "everything is where it was asked to be"


@pytest.mark.parametrize("name", ["a#b", "a?b"])
def test_a_directory_that_no_location_can_name_is_refused(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    with pytest.raises(ConfigError, match="Choose another directory"):
        load_catalog(CONFIG.catalog, directory)
    assert list(directory.iterdir()) == [] and [path.name for path in tmp_path.iterdir()] == [name]


def test_a_location_is_the_path_as_it_stands() -> None:
    warehouse = catalog_properties(CONFIG.catalog, Path("/data/50%41"))["warehouse"]
    assert local_path(warehouse) == Path("/data/50%41/lake/warehouse")
    assert local_path("s3://bucket/lake") is None
