"""What DuckDB's views show of tables whose rows are deleted by position: exactly what PyIceberg reads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.types import StringType

from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.commit import commit_alone, open_or_create, write_rows
from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.position_delete import write_position_deletes
from catchment.lakehouse.reading import dead_rows, moment
from catchment.lakehouse.reading.connection import connect_lake, open_duckdb, show
from catchment.lakehouse.reading.moment import LakeReader
from catchment.lakehouse.table import Change, LakeTable
from pipelines.rest_catalog import rest_catalog
from readers.spark import Spark
from seeds import first_seed

CONFIG = LakehouseConfig()
ROW = pa.schema([pa.field("id", pa.int64()), pa.field("note", pa.string())])


class Rows:
    """A silver table whose commits are made by hand, and the rows that it should have."""

    def __init__(self, directory: Path, row: pa.Schema = ROW) -> None:
        self.directory = directory
        self.catalog: Catalog = load_catalog(CONFIG.catalog, directory)
        self.table: LakeTable = open_or_create(self.catalog, ("silver", "orders"), row, {}, snapshots_kept=5)
        self.row = row
        self.files: dict[str, list[int]] = {}
        self.dead: dict[str, set[int]] = {}
        self.deletes: dict[str, set[str]] = {}

    def data(self, ids: list[int]) -> DataFile:
        texts = [f"row {one}" for one in ids]
        rows = pa.table({name: ids if name == "id" else texts for name in self.row.names}, self.row)
        return write_rows(self.table, self.table.metadata.schema(), rows.to_reader())[0]

    def commit(self, change: Change) -> None:
        commit_alone(self.catalog, self.table.draft(change))

    def add(self, ids: list[int], gone: dict[str, list[int]] | None = None) -> str:
        """New rows and deletes of old ones, by file and position, in one commit; the new file."""
        file = self.data(ids)
        self.commit(Change([file], deletes=self._deletes(gone or {})))
        self.files[file.file_path] = ids
        return str(file.file_path)

    def _deletes(self, gone: dict[str, list[int]]) -> list[DataFile]:
        if not any(gone.values()):
            return []
        positions = {path: np.array(sorted(set(rows)), np.int64) for path, rows in gone.items() if rows}
        file = write_position_deletes(self.table.storage, self.table.new_data_location(), positions)
        for path, rows in gone.items():
            self.dead.setdefault(path, set()).update(rows)
        self.deletes[file.file_path] = set(positions)
        return [file]

    def rewrite(self, paths: list[str]) -> None:
        """Compaction: some files become one, without their dead rows. Their delete files stay."""
        ids = [one for path in paths for n, one in enumerate(self.files[path]) if n not in self.dead.get(path, set())]
        files = [self.data(ids)] if ids else []
        self.commit(Change(files, removed=set(paths)))
        for path in paths:
            del self.files[path]
        for file in files:
            self.files[file.file_path] = ids

    def consolidate(self) -> None:
        """Every delete file becomes part of one."""
        old, dead = set(self.deletes), {p: sorted(rows) for p, rows in self.dead.items() if p in self.files}
        self.deletes, self.dead = {}, {}
        self.commit(Change(deletes=self._deletes(dead), removed=old))

    @property
    def ids(self) -> list[int]:
        return sorted(
            one for path, ids in self.files.items() for n, one in enumerate(ids) if n not in self.dead.get(path, set())
        )

    def shown(self) -> list[int]:
        with connect_lake(CONFIG, self.directory) as lake:
            return ids(lake)

    def scanned(self) -> list[int]:
        return sorted(self.catalog.load_table(("silver", "orders")).scan().to_arrow().column("id").to_pylist())


def ids(lake: duckdb.DuckDBPyConnection) -> list[int]:
    return [row[0] for row in lake.execute("SELECT id FROM silver.orders ORDER BY id").fetchall()]


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    lake = Rows(tmp_path)
    yield lake
    lake.catalog.close()


def test_rows_deleted_by_position_are_not_shown(rows: Rows) -> None:
    first = rows.add([1, 2, 3])
    second = rows.add([4, 5], {first: [1]})
    rows.add([6], {first: [0], second: [0]})
    assert rows.shown() == [3, 5, 6] == rows.scanned()


def test_a_delete_file_may_name_a_file_of_its_own_commit_but_no_later_one(rows: Rows) -> None:
    file = rows.data([1, 2, 3])
    early = rows._deletes({file.file_path: [0]})
    rows.commit(Change(deletes=early))
    rows.commit(Change([file]))
    rows.files[file.file_path], rows.dead = [1, 2, 3], {}
    assert rows.shown() == [1, 2, 3] == rows.scanned()
    rows.add([4], {file.file_path: [1]})
    assert rows.shown() == [1, 3, 4] == rows.scanned()


def test_a_file_whose_rows_are_all_dead_shows_nothing(rows: Rows) -> None:
    first = rows.add(list(range(20)))
    rows.commit(Change(deletes=rows._deletes({first: list(range(20))})))
    assert rows.shown() == []
    with connect_lake(CONFIG, rows.directory) as lake:
        assert lake.execute("SELECT count(*), max(id) FROM silver.orders").fetchall() == [(0, None)]


def test_a_position_that_the_file_does_not_have_deletes_nothing(rows: Rows) -> None:
    first = rows.add([1, 2, 3])
    rows.commit(Change(deletes=rows._deletes({first: [2, 7_000]})))
    assert rows.shown() == [1, 2]


def test_columns_that_came_later_do_not_move_the_dead_rows(rows: Rows) -> None:
    first = rows.add([1, 2, 3])
    with rows.catalog.load_table(("silver", "orders")).update_schema() as update:
        update.add_column("city", StringType())
    rows.table = LakeTable.load(rows.catalog, ("silver", "orders"))
    rows.row = pa.schema([*ROW, pa.field("city", pa.string())])
    second = rows.add([4, 5], {first: [0]})
    rows.add([6], {second: [1]})
    with connect_lake(CONFIG, rows.directory) as lake:
        shown = lake.execute("SELECT id, city IS NULL FROM silver.orders ORDER BY id").fetchall()
    assert shown == [(2, True), (3, True), (4, False), (6, False)]


def test_a_filter_and_a_limit_see_only_living_rows(rows: Rows) -> None:
    first = rows.add(list(range(1000)))
    rows.add([5000], {first: list(range(0, 1000, 2))})
    with connect_lake(CONFIG, rows.directory) as lake:
        assert lake.execute("SELECT id FROM silver.orders WHERE id IN (4, 5)").fetchall() == [(5,)]
        top = lake.execute("SELECT id, note FROM silver.orders ORDER BY id LIMIT 3").fetchall()
        assert top == [(1, "row 1"), (3, "row 3"), (5, "row 5")]
        assert lake.execute("SELECT count(*) FROM silver.orders").fetchall() == [(501,)]


def test_a_column_with_a_virtual_columns_name_is_refused_rather_than_read_wrongly(tmp_path: Path) -> None:
    rows = Rows(tmp_path, pa.schema([pa.field("id", pa.int64()), pa.field("file_row_number", pa.string())]))
    first = rows.add([1, 2])
    assert rows.shown() == [1, 2]
    rows.add([3], {first: [0]})
    with (
        connect_lake(CONFIG, rows.directory) as lake,
        pytest.raises(duckdb.InvalidInputException, match="a column file_row_number"),
    ):
        lake.execute("SELECT id FROM silver.orders").fetchall()


def test_equality_deletes_are_refused_by_name(rows: Rows) -> None:
    first = rows.add([1, 2])
    made = rows._deletes({first: [0]})[0]
    made._data[0] = DataFileContent.EQUALITY_DELETES
    rows.commit(Change(deletes=[made]))
    with (
        connect_lake(CONFIG, rows.directory) as lake,
        pytest.raises(duckdb.InvalidInputException, match="equality deletes"),
    ):
        lake.execute("SELECT id FROM silver.orders").fetchall()


def test_a_reader_that_lives_long_reads_each_delete_file_once(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = moment._positions

    def counted(io: object, path: str) -> object:
        read.append(path)
        return original(io, path)  # type: ignore[arg-type]

    monkeypatch.setattr(moment, "_positions", counted)
    reader = LakeReader(rows.catalog)
    last = rows.add(list(range(100)))
    for n in range(10):
        last = rows.add(list(range(100 * (n + 1), 100 * (n + 2))), {last: [n, n + 1]})
        reader.tables()
    assert len(read) == len(set(read)) == 10
    reader.tables()
    rows.rewrite([last])
    reader.tables()
    assert len(read) == 10


@pytest.mark.parametrize("pending", [1, 4_000_000])
def test_any_sequence_of_commits_is_read_as_pyiceberg_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pending: int
) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chance = random.Random(seed)
    monkeypatch.setattr(dead_rows, "_PENDING_POSITIONS", pending)
    rows = Rows(tmp_path)
    reader = LakeReader(rows.catalog)
    number = 0
    for _ in range(25):
        step = chance.random()
        if step < 0.7 or not rows.files:
            size = chance.randrange(1, 40)
            gone = {
                path: chance.sample(range(len(held)), chance.randrange(len(held) + 1))
                for path, held in rows.files.items()
                if chance.random() < 0.5
            }
            rows.add(list(range(number, number + size)), gone)
            number += size
        elif step < 0.85:
            rows.rewrite(chance.sample(sorted(rows.files), chance.randrange(1, len(rows.files) + 1)))
        else:
            rows.consolidate()
        if chance.random() < 0.6:
            with open_duckdb(threads=1) as lake:
                show(lake, reader.tables())
                assert ids(lake) == rows.ids
    assert rows.shown() == rows.ids == rows.scanned()


def test_a_table_that_went_back_to_an_older_snapshot_shows_that_snapshots_rows(rows: Rows) -> None:
    reader = LakeReader(rows.catalog)
    snapshots: list[int | None] = []
    with open_duckdb(threads=1) as lake:

        def shown() -> list[int]:
            snapshots.append(LakeTable.load(rows.catalog, ("silver", "orders")).metadata.current_snapshot_id)
            show(lake, reader.tables())
            return ids(lake)

        def back_to(n: int) -> list[int]:
            found = snapshots[n]
            assert found is not None
            with rows.catalog.load_table(("silver", "orders")).manage_snapshots() as manage:
                manage.rollback_to_snapshot(found)
            return shown()

        first = rows.add([1, 2, 3])
        rows.add([4], {first: [0]})
        assert shown() == [2, 3, 4]
        rows.add([5], {first: [1]})
        assert shown() == [3, 4, 5]
        rows.rewrite([first])
        assert shown() == [3, 4, 5]
        # The file comes back, and its delete files had been there all the time.
        assert back_to(1) == [3, 4, 5]
        # Now a delete file goes whose data file stays.
        assert back_to(0) == [2, 3, 4]


def test_what_spark_deleted_is_not_shown(tmp_path: Path, spark: Spark) -> None:
    """Partitioned; one delete file for all data files of a partition."""
    with rest_catalog(tmp_path) as server:
        config = CONFIG.model_copy(
            update={"catalog": CONFIG.catalog.model_copy(update={"type": "rest", "uri": server.uri, "warehouse": None})}
        )
        catalog = load_catalog(config.catalog, tmp_path)
        catalog.create_namespace_if_not_exists("silver")
        spark.attach("deadrows", server.uri)
        spark.sql(
            "CREATE TABLE deadrows.silver.orders (id bigint, city string, note string) USING iceberg "
            "PARTITIONED BY (city) TBLPROPERTIES ('format-version'='2', 'write.delete.mode'='merge-on-read', "
            "'write.update.mode'='merge-on-read', 'write.delete.granularity'='partition')"
        )
        for start in range(0, 300, 100):
            spark.sql(
                "INSERT INTO deadrows.silver.orders "
                "SELECT id, CASE id % 3 WHEN 0 THEN 'Oslo' WHEN 1 THEN 'Bergen' END, 'first' "
                f"FROM range({start}, {start + 100})"
            )
        spark.sql("DELETE FROM deadrows.silver.orders WHERE id % 7 = 0")
        spark.sql("UPDATE deadrows.silver.orders SET note = 'second', city = 'Bergen' WHERE id % 11 = 0")
        wanted = spark.sql("SELECT id, city, note FROM deadrows.silver.orders ORDER BY id").to_pylist()
        with connect_lake(config, tmp_path) as lake:
            found = lake.execute("SELECT id, city, note FROM silver.orders ORDER BY id").to_arrow_table().to_pylist()
        assert found == wanted
        assert any(table.dead for table in LakeReader(catalog).tables(("silver",)))
