"""Commits stay what they are: no file, no list and no metadata grows with the number of flushes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table
from pyiceberg.table.update import update_table_metadata

from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.commit import commit_alone
from catchment.lakehouse.manifests import FAN_OUT
from catchment.lakehouse.snapshots_kept import HOUR_MS
from catchment.lakehouse.table import METADATA_FILES_KEPT, Change, LakeTable
from pipelines import iceberg_writer as writer

FLUSHES = 300
SNAPSHOTS_KEPT = 5


def both(catalog: Catalog) -> Table:
    return catalog.load_table(("bronze", "both"))


def flush_each(directory: Path, first: int, last: int) -> None:
    """Write these transactions, one flush each."""
    sink = writer.open_sink(directory, snapshots_kept=SNAPSHOTS_KEPT)
    assert writer.next_transaction(sink.open()) == first
    for n in range(first, last):
        sink.write(writer.changes(writer.BOTH, n, 1))
        sink.advance(writer.boundary(n))
        sink.flush()
    sink.close()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake after many flushes, the writer restarted twice on the way."""
    directory = tmp_path_factory.mktemp("growth")
    for first, last in ((0, 120), (120, 200), (200, FLUSHES)):
        flush_each(directory, first, last)
    return directory


def test_files_and_metadata_are_bounded_after_many_flushes(lake: Path) -> None:
    catalog = load_catalog(writer.lakehouse().catalog, lake)
    table = both(catalog)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    assert snapshot.sequence_number == FLUSHES
    assert len(table.metadata.snapshots) == SNAPSHOTS_KEPT
    assert len(table.metadata.snapshot_log) == SNAPSHOTS_KEPT
    assert len(table.metadata.metadata_log) == METADATA_FILES_KEPT

    manifests = snapshot.manifests(table.io)
    assert len(manifests) < 3 * FAN_OUT
    entries = [entry for one in manifests for entry in one.fetch_manifest_entry(table.io)]
    assert len(entries) == FLUSHES == int(snapshot.summary["total-data-files"] or 0)
    # Merging keeps when each file came: readers of changes between snapshots go by it.
    assert sorted(entry.sequence_number or 0 for entry in entries) == list(range(1, FLUSHES + 1))

    in_use = {snapshot.manifest_list for snapshot in table.metadata.snapshots}
    in_use |= {m.manifest_path for s in table.metadata.snapshots for m in s.manifests(table.io)}
    in_use |= {log.metadata_file for log in table.metadata.metadata_log} | {table.metadata_location}
    there = {f"file://{path}" for path in (lake / "lake/warehouse/bronze/both/metadata").iterdir()}
    assert there == in_use
    assert writer.rows(lake, "both") == writer.expected("both", FLUSHES)
    catalog.close()


def test_every_kept_snapshot_can_be_read_as_it_was(lake: Path) -> None:
    catalog = load_catalog(writer.lakehouse().catalog, lake)
    table = both(catalog)
    for snapshot in table.metadata.snapshots:
        rows = table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows
        assert snapshot.sequence_number is not None
        assert rows == len(writer.expected("both", snapshot.sequence_number))
    catalog.close()


def test_a_snapshot_with_a_tag_is_kept_with_its_files(tmp_path: Path) -> None:
    flush_each(tmp_path, 0, 10)
    catalog = load_catalog(writer.lakehouse().catalog, tmp_path)
    table = both(catalog)
    tagged = table.metadata.snapshots[0]
    table.manage_snapshots().create_tag(tagged.snapshot_id, "audit").commit()
    flush_each(tmp_path, 10, 3 * FAN_OUT)
    assert tagged.sequence_number is not None
    rows = both(catalog).scan(snapshot_id=tagged.snapshot_id).to_arrow().num_rows
    assert rows == len(writer.expected("both", tagged.sequence_number))
    catalog.close()


def test_metadata_is_what_pyiceberg_makes_of_the_same_updates(tmp_path: Path) -> None:
    """Our path copies less; on the same updates it must end at the same metadata."""
    sink = writer.open_sink(tmp_path, snapshots_kept=3)
    sink.open()
    catalog = load_catalog(writer.lakehouse().catalog, tmp_path)
    for n in range(8):
        writer.write_transaction(sink, n)
        sink.flush()
        table = LakeTable.load(catalog, ("bronze", "both"), snapshots_kept=random.Random(n).randrange(1, 4))
        before = table.metadata
        draft = table.draft(Change(properties={"a": "b"}, summary={"c": "d"}))
        theirs = update_table_metadata(before, draft.updates, metadata_location=table.metadata_location)
        assert draft.metadata.model_dump() == theirs.model_dump()
        for requirement in draft.requirements:
            requirement.validate(before)
    sink.close()
    catalog.close()


def test_an_expiry_is_what_pyiceberg_makes_of_the_same_update(tmp_path: Path) -> None:
    flush_each(tmp_path, 0, 4)
    catalog = load_catalog(writer.lakehouse().catalog, tmp_path)
    table = LakeTable.load(catalog, ("bronze", "both"), snapshot_hours=1.0)
    last = table.metadata.snapshots[-1]
    assert table.draft_expiry(last.timestamp_ms) is None
    draft = table.draft_expiry(last.timestamp_ms + 2 * HOUR_MS)
    assert draft is not None
    theirs = update_table_metadata(table.metadata, draft.updates, metadata_location=table.metadata_location)
    ours = draft.metadata
    assert [one.snapshot_id for one in ours.snapshots] == [last.snapshot_id]
    assert ours.model_dump(exclude={"last_updated_ms"}) == theirs.model_dump(exclude={"last_updated_ms"})
    commit_alone(catalog, draft)
    assert writer.rows(tmp_path, "both") == writer.expected("both", 4)
    names = {one.manifest_list for one in both(catalog).metadata.snapshots}
    assert {f"file://{path}" for path in (tmp_path / "lake/warehouse/bronze/both/metadata").glob("snap-*")} == names
    catalog.close()


def test_a_commit_by_somebody_else_is_seen_and_survived(tmp_path: Path) -> None:
    sink = writer.open_sink(tmp_path)
    sink.open()
    writer.write_transaction(sink, 0)
    sink.flush()
    catalog = load_catalog(writer.lakehouse().catalog, tmp_path)
    with both(catalog).transaction() as theirs:
        theirs.set_properties({"their": "property"})
    writer.write_transaction(sink, 1)
    with pytest.raises(SinkUnavailable, match="another writer"):
        sink.flush()
    sink.close()
    assert len(list((tmp_path / "lake/warehouse/bronze/both/data").iterdir())) == 1
    assert writer.rows(tmp_path, "both") == [(0, 0)]

    again = writer.open_sink(tmp_path)
    assert writer.next_transaction(again.open()) == 1
    writer.write_transaction(again, 1)
    again.flush()
    again.close()
    assert writer.rows(tmp_path, "both") == [(0, 0), (1, 0)]
    assert both(catalog).properties["their"] == "property"
    catalog.close()


def test_closing_leaves_no_file_of_what_was_not_committed(tmp_path: Path) -> None:
    sink = writer.open_sink(tmp_path)
    sink.open()
    for n in range(25):
        writer.write_transaction(sink, n)
    sink.write(writer.changes(writer.BOTH, 29, 1))
    sink.close()
    assert list((tmp_path / "lake/warehouse").rglob("*.parquet")) == []
    catalog = load_catalog(writer.lakehouse().catalog, tmp_path)
    with pytest.raises(NoSuchTableError):
        catalog.load_table(("bronze", "never"))
    assert both(catalog).current_snapshot() is None
    catalog.close()
