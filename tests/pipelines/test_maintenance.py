"""Maintenance of append-only tables: the same rows in fewer files, and no file that nobody needs."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.manifest import DataFile, ManifestContent

from catchment.lakehouse.commit import commit_alone, open_or_create, replace, write_rows
from catchment.lakehouse.config import MaintenanceConfig
from catchment.lakehouse.maintenance import plan, rewriting
from catchment.lakehouse.maintenance.commits import exchange
from catchment.lakehouse.maintenance.expiry import LeavingFiles
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.recovery.tasks import Stopped
from catchment.lakehouse.silver.bronze_changes import bronze_changes
from catchment.lakehouse.table import Change, LakeTable
from catchment.lakehouse.writer import LakeWriter
from catchment.sinks.base import Sink
from pipelines import iceberg_writer as writer
from waiting import wait_for

FLUSHES = 18
CONFIG = MaintenanceConfig(target_file_bytes=512 * 1024)
BOTH = ("bronze", "both")


@pytest.fixture(autouse=True)
def few_files_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have no time for many flushes."""
    monkeypatch.setattr(plan, "FAN_IN_SMALLEST", plan.FAN_IN)


def flush_each(directory: Path, first: int, last: int, *, snapshots_kept: int = 100) -> None:
    """Write these transactions, one flush each."""
    sink = writer.open_sink(directory, snapshots_kept=snapshots_kept)
    assert writer.next_transaction(sink.open()) == first
    for n in range(first, last):
        write(sink, n)
    sink.close()


def write(sink: Sink, n: int) -> None:
    """Transaction n, of one table, and its flush."""
    sink.write(writer.changes(writer.BOTH, n, 1))
    sink.advance(writer.boundary(n))
    sink.flush()


@contextmanager
def lake(directory: Path, *, snapshots_kept: int = 100) -> Iterator[LakeWriter]:
    """The open writer of the lake."""
    opened = LakeWriter.open(writer.lakehouse(), writer.PIPELINE, directory, snapshots_kept=snapshots_kept)
    try:
        yield opened
    finally:
        opened.close()


def maintain(
    opened: LakeWriter, config: MaintenanceConfig = CONFIG, check: Callable[[], None] = lambda: None
) -> list[Work]:
    """All that is due, to the end."""
    one = Maintainer(opened, config, lambda _: None)
    done = []
    while (work := one.step(check)) is not None:
        done.append(work)
    return done


def both(opened: LakeWriter) -> LakeTable:
    found = opened.existing(BOTH)
    assert found is not None
    return found


def data_files(opened: LakeWriter) -> list[str]:
    return [entry.data_file.file_path for entry in both(opened).manifests.data()]


def on_disk(directory: Path, table: str = "both") -> set[str]:
    return {f"file://{path}" for path in (directory / f"lake/warehouse/bronze/{table}/data").iterdir()}


def test_many_small_files_become_few_with_the_same_rows(tmp_path: Path) -> None:
    flush_each(tmp_path, 0, FLUSHES)
    with lake(tmp_path) as opened:
        before = list(bronze_changes(both(opened), None))
        progress, marker = opened.progress, both(opened).metadata.properties["catchment.progress"]
        done = maintain(opened)
        assert {one.kind for one in done} == {Kind.COMPACTION}
        assert len(data_files(opened)) < plan.FAN_IN
        assert pa.Table.from_batches(bronze_changes(both(opened), None)).equals(pa.Table.from_batches(before))
        # A table says of its progress what it said before, and so does every snapshot.
        assert opened.progress == progress
        assert both(opened).metadata.properties["catchment.progress"] == marker
        snapshot = both(opened).metadata.current_snapshot()
        assert snapshot is not None
        assert snapshot.summary is not None
        assert snapshot.summary.operation.value == "replace"
        assert snapshot.summary["catchment.progress"]
    assert writer.rows(tmp_path, "both") == writer.expected("both", FLUSHES)


def test_a_table_that_nothing_is_due_in_is_left_alone(tmp_path: Path) -> None:
    flush_each(tmp_path, 0, FLUSHES)
    with lake(tmp_path) as opened:
        assert maintain(opened)
        location = both(opened).metadata_location
        assert maintain(opened) == []
        assert both(opened).metadata_location == location


def test_a_new_file_is_as_old_as_what_it_is_made_of(tmp_path: Path) -> None:
    """Changes are replayed by the age of their files: those of a compaction must not come after later ones."""
    flush_each(tmp_path, 0, 20)
    sink = writer.open_sink(tmp_path)
    sink.open()
    opened = sink._writer  # type: ignore[attr-defined]
    flushed = False

    def flush_meanwhile() -> None:
        nonlocal flushed
        if not flushed:
            flushed = True
            write(sink, 20)

    works = maintain(opened, check=flush_meanwhile)
    assert works
    assert flushed
    versions = pa.chunked_array([one.column("_version") for one in bronze_changes(both(opened), None)]).to_pylist()
    assert versions == sorted(versions)
    sink.close()
    assert writer.rows(tmp_path, "both") == writer.expected("both", 21)


def test_bounds_stay_narrow(tmp_path: Path) -> None:
    flush_each(tmp_path, 0, FLUSHES)
    with lake(tmp_path) as opened:
        maintain(opened)
        table = both(opened)
        field = table.metadata.schema().find_field("_position").field_id
        bounds = sorted(
            (entry.data_file.lower_bounds[field], entry.data_file.upper_bounds[field])
            for entry in table.manifests.data()
        )
        assert all(lower <= upper for lower, upper in bounds)
        assert all(bounds[i][1] < bounds[i + 1][0] for i in range(len(bounds) - 1))


def test_what_a_killed_process_left_goes_once_it_is_old(tmp_path: Path) -> None:
    flush_each(tmp_path, 0, 4)
    folder = tmp_path / "lake/warehouse/bronze/both"
    lost = [folder / "data/lost.parquet", folder / "metadata/lost-m0.avro", folder / "metadata/00001-x.metadata.json"]
    foreign = [folder / "data/notes.txt"]
    for path in (*lost, *foreign):
        path.write_bytes(b"lost")
    live = on_disk(tmp_path)
    with lake(tmp_path) as opened:
        assert maintain(opened) == []
        make_old(folder)
        done = maintain(opened)
    assert [(one.kind, one.table, one.files_before) for one in done] == [(Kind.ORPHANS, "bronze.both", 3)]
    assert not any(path.exists() for path in lost)
    assert foreign[0].exists()
    assert on_disk(tmp_path) == live - {f"file://{lost[0]}"}
    assert writer.rows(tmp_path, "both") == writer.expected("both", 4)


def test_a_file_that_is_not_committed_yet_is_no_orphan_however_old_it_is(tmp_path: Path) -> None:
    sink = writer.open_sink(tmp_path)
    sink.open()
    for n in range(20):
        # A transaction that has not ended, and has spilled.
        sink.write(writer.changes(writer.BOTH, n, 1))
    folder = tmp_path / "lake/warehouse/bronze/both"
    wait_for(lambda: any(folder.glob("data/*")), what="a file")
    make_old(folder)
    assert maintain(sink._writer) == []  # type: ignore[attr-defined]
    sink.advance(writer.boundary(19))
    sink.flush()
    sink.close()
    assert writer.rows(tmp_path, "both") == writer.expected("both", 20)


def test_files_that_were_given_up_are_forgotten_with_their_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewriting, "ROW_GROUP_ROWS", 1)
    flush_each(tmp_path, 0, FLUSHES)
    with lake(tmp_path) as opened:
        table, there = both(opened), on_disk(tmp_path)

        calls = itertools.count()

        def check() -> None:
            if next(calls) == 5:
                assert on_disk(tmp_path) > there
                raise Stopped

        with pytest.raises(Stopped):
            maintain(opened, check=check)
        assert on_disk(tmp_path) == there
        # An exchange that comes too late: one of its files has left.
        new = write_rows(table, table.metadata.schema(), table.table.scan().to_arrow_batch_reader())
        assert not exchange(opened, table, ["nowhere.parquet"], Kind.COMPACTION, files=new)
        assert on_disk(tmp_path) == there
        assert table.uncommitted == set()


def test_a_file_that_came_back_stays_as_long_as_a_snapshot_has_it(tmp_path: Path) -> None:
    """As after a rollback, where the snapshot that took it away again was never looked at."""
    with lake(tmp_path) as opened:
        rows = pa.table({"city": ["a", "b"]})
        table = open_or_create(opened.catalog, ("gold", "cities"), rows.schema, {}, snapshots_kept=2)

        def files() -> list[DataFile]:
            return write_rows(table, table.metadata.schema(), rows.to_reader())

        def commit(change: Change) -> None:
            commit_alone(opened.catalog, table.draft(change))

        leaving = LeavingFiles()
        first = files()
        commit(Change(first))
        commit(Change(files(), removed=[first[0].file_path]))
        leaving.look(table.metadata, table.table.io)
        commit(Change(first, replace=True))
        leaving.look(table.metadata, table.table.io)
        back = table.metadata.current_snapshot_id
        assert back is not None
        opened.catalog.load_table(("gold", "cities")).manage_snapshots().create_tag(back, "audit").commit()
        table = LakeTable.load(opened.catalog, ("gold", "cities"), snapshots_kept=1)
        for _ in range(3):
            commit(Change(files(), replace=True))
        assert {one.snapshot_id for one in table.metadata.snapshots} == {back, table.metadata.current_snapshot_id}
        leaving.look(table.metadata, table.table.io)
        assert first[0].file_path not in leaving.due(table.metadata, table.table.io)


def test_an_orphan_of_a_gold_table_goes_too(tmp_path: Path) -> None:
    with lake(tmp_path) as opened:
        rows = pa.table({"city": ["a", "b"]})
        table = open_or_create(opened.catalog, ("gold", "cities"), rows.schema, {}, owns_data=True)
        replace(opened.catalog, table, rows)
        folder = tmp_path / "lake/warehouse/gold/cities"
        (folder / "data/lost.parquet").write_bytes(b"lost")
        make_old(folder)
        assert [(one.kind, one.table, one.files_before) for one in maintain(opened)] == [
            (Kind.ORPHANS, "gold.cities", 1)
        ]
        assert opened.catalog.load_table(("gold", "cities")).scan().to_arrow().num_rows == 2


def make_old(folder: Path) -> None:
    """As if every file had been written two days ago."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 2 * 86_400,) * 2)


def test_every_kept_snapshot_can_be_read_while_files_go(tmp_path: Path) -> None:
    flush_each(tmp_path, 0, 10, snapshots_kept=6)
    sink = writer.open_sink(tmp_path, snapshots_kept=6)
    sink.open()
    opened: LakeWriter = sink._writer  # type: ignore[attr-defined]
    one = Maintainer(opened, CONFIG, lambda _: None)
    deleted = 0
    for n in range(10, 36):
        write(sink, n)
        while (work := one.step(lambda: None)) is not None:
            deleted += work.files_before if work.kind is Kind.EXPIRY else 0
        table = opened.catalog.load_table(BOTH)
        for snapshot in table.metadata.snapshots if n % 5 == 0 else ():
            rows = table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows
            assert rows == int(snapshot.summary["total-records"]), snapshot  # type: ignore[index, arg-type]
    assert deleted > 16
    named = {
        entry.data_file.file_path
        for snapshot in table.metadata.snapshots
        for manifest in snapshot.manifests(table.io)
        if manifest.content == ManifestContent.DATA
        for entry in manifest.fetch_manifest_entry(table.io)
    }
    assert on_disk(tmp_path) == named
    sink.close()
    assert writer.rows(tmp_path, "both") == writer.expected("both", 36)
