"""Maintenance of tables with one row a key, while merges go on: what is dead stays dead, what lives is there once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catchment.lakehouse.config import MaintenanceConfig
from catchment.lakehouse.data_file import ParquetSettings
from catchment.lakehouse.maintenance import keyed_compaction, plan
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.lakehouse.maintenance.table_files import FileLister
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.silver.key_index import NOWHERE
from catchment.lakehouse.silver.keyed_table import KeyedTable
from catchment.lakehouse.writer import LakeWriter
from pipelines import iceberg_writer as writer
from seeds import first_seed

NAME = ("silver", "rows")
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("value", pa.string()),
        pa.field("_version", pa.binary()),
        pa.field("_unrepresentable", pa.map_(pa.string(), pa.string())),
        pa.field("_quality", pa.list_(pa.string())),
    ]
)
PROPERTIES = {"catchment.table": "public.rows", "catchment.key": '["id"]', "catchment.kind": "silver"}
CONFIG = MaintenanceConfig(target_file_bytes=64 * 1024, dead_row_percent=20)


class KeyedLake:
    """A keyed table, merged into and maintained, and what it must hold."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.expected: dict[int, str] = {}
        self.version = 0
        self.open()

    def open(self) -> None:
        self.writer = LakeWriter.open(writer.lakehouse(), writer.PIPELINE, self.directory, snapshots_kept=20)
        lake = self.writer.table(NAME, SCHEMA, {**PROPERTIES, "catchment.pipeline": writer.PIPELINE})
        self.keyed = KeyedTable(lake, ("id",), self.directory, ParquetSettings(), 1 << 28)
        self.maintainer = Maintainer(self.writer, CONFIG, lambda table: self.keyed if table is lake else None)

    def close(self) -> None:
        self.keyed.close()
        self.writer.close()

    def merge(self, rows: Mapping[int, str], deleted: Sequence[int] = ()) -> None:
        """Upsert these rows and delete those keys, in one commit."""
        with self.writer.lock:
            self.change(rows, deleted)
            self.commit()

    def change(self, rows: Mapping[int, str], deleted: Sequence[int] = ()) -> None:
        """The same, not committed yet."""
        self.version += 1
        batch = self._batch(rows)
        for ids in (list(rows), list(deleted)):
            places = self.keyed.find(self.keyed.keys_of(self._batch(dict.fromkeys(ids, ""))))
            self.keyed.kill(places[places != NOWHERE])
        self.keyed.append(batch, self.keyed.keys_of(batch))
        self.expected.update(rows)
        for one in deleted:
            self.expected.pop(one, None)

    def commit(self) -> None:
        self.keyed.advance()
        self.writer.commit([self.keyed.draft({}, {})])
        self.keyed.settle()

    def _batch(self, rows: Mapping[int, str]) -> pa.RecordBatch:
        schema = self.keyed._file_schema
        count = len(rows)
        columns = [
            pa.array(list(rows), pa.int64()),
            pa.array(list(rows.values()), pa.string()),
            pa.array([self.version.to_bytes(8, "big")] * count, pa.binary()),
            pa.array([[("value", "infinity")] if i % 2 else None for i in range(count)], schema.field(3).type),
            pa.array([["rule"] if i % 3 else None for i in range(count)], schema.field(4).type),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def maintain(self) -> list[Work]:
        done = []
        while (work := self.maintainer.step(lambda: None)) is not None:
            done.append(work)
        return done

    def check(self) -> None:
        """Plain PyIceberg sees what must be there, and so does the index."""
        rows = self.writer.catalog.load_table(NAME).scan().to_arrow()
        found = list(zip(rows["id"].to_pylist(), rows["value"].to_pylist(), strict=True))
        assert sorted(found) == sorted(self.expected.items())
        ids = dict.fromkeys(self.expected, "")
        places = self.keyed.find(self.keyed.keys_of(self._batch(ids)))
        assert (places != NOWHERE).all()
        taken = self.keyed.take(places, ["id", "value"])
        assert dict(zip(taken["id"].to_pylist(), taken["value"].to_pylist(), strict=True)) == self.expected
        assert self.keyed.rows == len(self.expected)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyedLake]:
    # As large a table as a test has time for: dead rows are noticed early, parts are small.
    monkeypatch.setattr(plan, "NOTICED_DEAD_ROWS", 50)
    monkeypatch.setattr(plan, "FAN_IN_SMALLEST", plan.FAN_IN)
    monkeypatch.setattr(plan, "SMALLEST_TARGET_BYTES", 16 * 1024)
    one = KeyedLake(tmp_path)
    yield one
    one.close()


def texts(ids: Sequence[int] | range, version: str) -> dict[int, str]:
    return {one: f"{one} {version}" for one in ids}


def test_dead_rows_leave_and_the_others_stay(lake: KeyedLake) -> None:
    lake.merge(texts(range(2_000), "first"))
    for n in range(12):
        lake.merge(texts(range(n * 50, n * 50 + 100), f"change {n}"), deleted=range(1_900 - n, 1_910 - n))
    done = lake.maintain()
    assert sum(one.dead_rows for one in done if one.kind is Kind.COMPACTION) > 500
    lake.check()
    files = FileLister().files(lake.keyed.lake, lake.keyed.lake.manifests)
    assert files.dead * 100 <= CONFIG.dead_row_percent * files.rows
    assert len(files.data) < plan.FAN_IN
    assert len(files.deletes) < plan.FAN_IN
    lake.close()
    lake.open()
    lake.check()


def test_delete_files_become_few_and_name_the_same_rows(lake: KeyedLake) -> None:
    lake.merge(texts(range(2_000), "first"))
    for n in range(3 * plan.FAN_IN):
        lake.merge({}, deleted=[n, 1_000 + n])
    done = lake.maintain()
    assert {one.kind for one in done} == {Kind.DELETE_FILES}
    files = FileLister().files(lake.keyed.lake, lake.keyed.lake.manifests)
    assert len(files.deletes) < plan.FAN_IN
    assert files.dead == 6 * plan.FAN_IN
    lake.check()


def test_new_files_are_sorted_by_key(lake: KeyedLake) -> None:
    ids = list(range(2_000))
    random.Random(1).shuffle(ids)
    for start in range(0, 2_000, 200):
        lake.merge(texts(ids[start : start + 200], "first"))
    assert lake.maintain()
    catalog_table = lake.writer.catalog.load_table(NAME)
    for task in catalog_table.scan().plan_files():
        rows = catalog_table.io.new_input(task.file.file_path)
        found = pq.read_table(rows.location.removeprefix("file://"))["id"].to_pylist()
        if len(found) > 200:
            assert found == sorted(found)
    lake.check()


def interrupted_rewrite(lake: KeyedLake, monkeypatch: pytest.MonkeyPatch, merge: object) -> None:
    """Compact everything, with a merge after the rows were copied and before the new files are committed."""
    original = keyed_compaction._exchange

    def exchange(*arguments: object) -> bool:
        monkeypatch.setattr(keyed_compaction, "_exchange", original)
        merge()  # type: ignore[operator]
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keyed_compaction, "_exchange", exchange)
    files = FileLister().files(lake.keyed.lake, lake.keyed.lake.manifests)
    work = keyed_compaction.rewrite_files(lake.writer, lake.keyed, files.data, 1 << 20, lambda: None)
    assert work is not None


def test_rows_that_die_while_their_files_are_rewritten_stay_dead(
    lake: KeyedLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race: without a second look at the dead rows, what the merge deleted would come back."""
    lake.merge(texts(range(300), "first"))
    lake.merge(texts(range(200, 400), "second"))

    def merge() -> None:
        lake.merge(texts(range(100, 150), "late"), deleted=range(50, 80))

    interrupted_rewrite(lake, monkeypatch, merge)
    lake.check()
    lake.merge(texts(range(120, 130), "later"), deleted=[0])
    lake.check()
    lake.maintain()
    lake.check()
    lake.close()
    lake.open()
    lake.check()


def test_a_change_that_is_not_committed_yet_does_not_show_early_and_is_not_lost(
    lake: KeyedLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.merge(texts(range(300), "first"))
    before = dict(lake.expected)
    # One change before the rewrite begins and one while it runs; neither is committed until later.
    lake.change(texts(range(10), "early"), deleted=[20])
    interrupted_rewrite(lake, monkeypatch, lambda: lake.change(texts(range(5, 15), "late"), deleted=[30]))
    rows = lake.writer.catalog.load_table(NAME).scan().to_arrow()
    assert dict(zip(rows["id"].to_pylist(), rows["value"].to_pylist(), strict=True)) == before
    lake.commit()
    lake.check()


def test_a_table_that_is_emptied_meanwhile_stays_empty(lake: KeyedLake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.merge(texts(range(300), "first"))
    original = keyed_compaction._exchange

    def exchange(*arguments: object) -> bool:
        lake.keyed.truncate()
        lake.expected.clear()
        lake.change(texts(range(3), "anew"))
        lake.commit()
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keyed_compaction, "_exchange", exchange)
    files = FileLister().files(lake.keyed.lake, lake.keyed.lake.manifests)
    assert keyed_compaction.rewrite_files(lake.writer, lake.keyed, files.data, 1 << 20, lambda: None) is None
    lake.check()
    data = lake.directory / "lake/warehouse/silver/rows/data"
    named = {entry.data_file.file_path.removeprefix("file://") for entry in lake.keyed.lake.manifests.live()}
    kept = {file.location for file in files.data} | {file.location for file in files.deletes}
    assert {str(path) for path in data.iterdir()} == named | {path.removeprefix("file://") for path in kept}


def test_merges_and_maintenance_in_any_order_leave_each_row_once(lake: KeyedLake) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    draw = random.Random(seed)
    for n in range(40):
        changed = draw.sample(range(600), draw.randrange(1, 120))
        deleted = draw.sample(range(600), draw.randrange(0, 40))
        lake.merge(texts([one for one in changed if one not in deleted], f"v{n}"), deleted)
        for _ in range(draw.randrange(3)):
            lake.maintainer.step(lambda: None)
        if draw.random() < 0.1:
            lake.close()
            lake.open()
        if n % 8 == 0:
            lake.check()
    lake.maintain()
    lake.check()


def test_what_is_due_comes_to_an_end(lake: KeyedLake) -> None:
    """Large parts with many dead rows each: merging their delete files must leave fewer of them."""
    for part in range(12):
        lake.merge({one: f"{one} " + "x" * 60 for one in range(part * 1_500, part * 1_500 + 1_500)})
    for n in range(10):
        lake.merge({}, deleted=range(n, 18_000, 100))
    assert len(lake.maintain()) < 30
    lake.check()
