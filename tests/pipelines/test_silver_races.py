"""Silver where something comes between: a flush in a transaction, a snapshot beside it, half a commit, a restart."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catchment.change import ChangeBatch
from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.committers import SequentialCommitter
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig
from catchment.lakehouse.maintenance.keyed_compaction import rewrite_files
from catchment.lakehouse.maintenance.plan import FileState
from catchment.lakehouse.properties import BRONZE_SINCE
from catchment.lakehouse.silver import table as silver_module
from catchment.lakehouse.table import Draft
from catchment.progress import ALL_CHUNKS, Progress
from catchment.schema import Column, TableSchema
from pipelines.overtaking import LANE, SIMPLE, SNAPSHOT, Overtaking, write
from pipelines.rest_catalog import rest_catalog
from pipelines.test_silver import RULES, compact, open_sink, rows
from seeds import first_seed


def item(number: int, note: str = "x", amount: int = 5) -> dict[str, Any]:
    return {"id": number, "amount": amount, "note": note, "born": 0, "_text": None}


class Capture:
    """A sink that is handed changes one by one; boundaries and flushes are where a test says."""

    def __init__(self, directory: Path, lakehouse: LakehouseConfig | None = None) -> None:
        self.directory = directory
        self.lakehouse = lakehouse or LakehouseConfig()
        self.source = Overtaking(1, SIMPLE, chunks=0, keys=0)
        self.positions: dict[str, bytes] = {}
        self.chunks: dict[str, frozenset[str]] = {}
        self.sink, _ = open_sink(directory, self.lakehouse)

    def change(self, op: str, number: int, note: str = "x", *, amount: int = 5, keep: tuple[str, ...] = ()) -> int:
        """Its version."""
        row = item(number, note, amount)
        self.source._emit(op, row if op == "d" else None, None if op == "d" else row, keep)
        return self.source.lsn

    def send(self, *, boundary: bool = True) -> None:
        records, self.source.stream = self.source.stream, []
        self.sink.write(ChangeBatch(SIMPLE, LANE, self.source._batch(records)))
        position = records[-1]["_position"]
        assert isinstance(position, bytes)
        self.positions[LANE] = position
        if boundary:
            self.advance()

    def advance(self) -> None:
        self.sink.advance(Progress(dict(self.positions), dict(self.chunks)))

    def commit(self) -> None:
        self.send()
        self.sink.flush()

    def chunk(self, number: int, version: int, *found: dict[str, Any], last: bool = False) -> None:
        """A chunk of a snapshot that was taken at a version."""
        name = f"chunk {number}"
        records = [self.source._record("r", version, None, row, [], None, name) for row in found]
        self.chunks[SNAPSHOT] = ALL_CHUNKS if last else self.chunks.get(SNAPSHOT, frozenset()) | {name}
        batch = ChangeBatch(SIMPLE, name, self.source._batch(records), chunk=name, snapshot=SNAPSHOT)
        self.sink.write(batch)
        self.advance()

    def reopen(self, lakehouse: LakehouseConfig | None = None) -> None:
        self.sink.close()
        self.lakehouse = lakehouse or self.lakehouse
        self.sink, _ = open_sink(self.directory, self.lakehouse)

    def notes(self, table: str = "items") -> dict[int, str | None]:
        catalog = load_catalog(self.lakehouse.catalog, self.directory)
        try:
            found = [(row["id"], row["note"]) for row in rows(catalog, SIMPLE, table)]
        finally:
            if hasattr(catalog, "close"):
                catalog.close()
        assert len(found) == len(dict(found)), "a key is there twice"
        return dict(found)


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    made = Capture(tmp_path)
    yield made
    made.sink.close()


def test_a_row_deleted_by_a_transaction_that_a_flush_came_into_stays_deleted(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture.change("c", 1)
    then = capture.change("c", 2)
    capture.commit()
    monkeypatch.setattr(silver_module, "SEGMENT_ROWS", 1)
    capture.change("c", 3)
    capture.send()
    capture.change("d", 1)
    capture.send(boundary=False)
    capture.sink.flush()
    capture.advance()
    capture.chunk(0, then, item(1), item(2), last=True)
    capture.sink.flush()
    assert capture.notes() == {2: "x", 3: "x"}


def test_a_row_deleted_twice_stays_deleted_when_only_the_first_time_is_committed(capture: Capture) -> None:
    for op in "cdc":
        capture.change(op, 1)
    then = capture.change("c", 2)
    capture.commit()
    capture.change("d", 1)
    capture.send()
    capture.chunk(0, then, item(1), item(2), last=True)
    capture.sink.flush()
    assert capture.notes() == {2: "x"}


def test_silver_switched_on_while_a_snapshot_goes_on_gets_the_values_that_are_still_to_come(tmp_path: Path) -> None:
    capture = Capture(tmp_path, LakehouseConfig(silver=False))
    then = capture.source.lsn = 1
    capture.chunk(0, then, item(2, "two"))
    capture.change("u", 1, "one", keep=("note",))
    capture.commit()
    capture.reopen(LakehouseConfig())
    capture.chunk(1, then, item(1, "one"), last=True)
    capture.sink.flush()
    capture.sink.close()
    assert capture.notes() == {1: "one", 2: "two"}


def test_the_last_chunk_mends_the_table_at_once_after_a_restart_too(capture: Capture) -> None:
    then = capture.source.lsn = 1
    capture.chunk(0, then, item(2, "two"))
    capture.change("u", 1, "one", keep=("note",))
    capture.commit()
    capture.reopen()
    capture.chunk(1, then, item(1, "one"), last=True)
    capture.sink.flush()
    assert capture.notes() == {1: "one", 2: "two"}


def test_an_index_whose_files_are_empty_is_made_anew(capture: Capture) -> None:
    """A power cut may leave files that were not fsynced with their names only."""
    capture.change("c", 1)
    capture.commit()
    capture.sink.close()
    keys = capture.directory / ".catchment" / "keys"
    saved = [*keys.rglob("*.npy"), keys / "seed"]
    assert len(saved) > 1
    for file in saved:
        file.write_bytes(b"")
    capture.reopen()
    capture.change("u", 1, "y")
    capture.change("c", 2)
    capture.commit()
    assert len((keys / "seed").read_bytes()) == 16
    assert capture.notes() == {1: "y", 2: "x"}


def test_a_rewrite_that_began_before_the_table_got_another_key_is_given_up(capture: Capture) -> None:
    for number in range(4):
        capture.change("c", number)
        capture.commit()
    writer, layer = capture.sink._writer, capture.sink._layer
    assert writer is not None and layer is not None
    old = layer.opened()[0].main
    files = [FileState(one.path, one.bytes, one.rows) for one in old.files()]
    assert rewrite_files(writer, old, files, 1 << 30, lambda: _with_key(capture, ("id", "note"))) is None
    assert capture.notes() == dict.fromkeys(range(4), "x")


def test_history_that_is_switched_on_while_the_table_is_empty_has_what_was_before(capture: Capture) -> None:
    capture.change("c", 1, "one")
    capture.change("d", 1)
    capture.commit()
    capture.reopen(LakehouseConfig(history=["items"]))
    capture.change("c", 2, "two")
    capture.commit()
    catalog = load_catalog(capture.lakehouse.catalog, capture.directory)
    versions = catalog.load_table(("silver", "items_versions")).scan().to_arrow().to_pylist()
    catalog.close()
    assert sorted((row["id"], row["_op"]) for row in versions) == [(1, "c"), (1, "d"), (2, "c")]


def _with_key(capture: Capture, key: tuple[str, ...]) -> None:
    assert capture.sink._layer is not None
    capture.sink._layer.table("items", key)


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_half_a_commit_loses_no_value_that_was_in_quarantine(
    tmp_path: Path, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where tables are committed one by one, a row may have left quarantine, and not have come to silver."""
    (tmp_path / "quality.yaml").write_text(RULES)
    with rest_catalog(tmp_path / "rest") as server:
        where = CatalogConfig(type="rest", uri=server.uri)
        capture = Capture(tmp_path, LakehouseConfig(catalog=where, quality=tmp_path / "quality.yaml"))
        capture.source.lsn = 1
        if cut:
            capture.chunk(0, 1, item(8, "eight"), last=True)
            capture.sink.flush()
        capture.change("c", 1, "one", amount=0)
        capture.change("c", 2, "two")
        capture.commit()
        commit = SequentialCommitter._commit_table

        def half(self: SequentialCommitter, draft: Draft) -> None:
            if draft.table.name == "silver.items":
                raise SinkUnavailable("half a commit")
            commit(self, draft)

        with monkeypatch.context() as patch:
            patch.setattr(SequentialCommitter, "_commit_table", half)
            capture.change("u", 1, "one", amount=5, keep=("note",))
            with pytest.raises(SinkUnavailable):
                capture.commit()
        capture.sink.close()
        if cut:
            _cut(capture)
        capture.reopen()
        capture.change("c", 3, "three")
        capture.commit()
        capture.sink.close()
        found = capture.notes()
        if cut:  # Nobody has the value any more; nothing else may be lost for it.
            assert found.keys() == {1, 2, 3, 8}
        else:
            assert found == {1: "one", 2: "two", 3: "three"}
        assert capture.notes("items_quarantine") == {}


def _cut(capture: Capture) -> None:
    """Let bronze's oldest changes go, as retention does."""
    catalog = load_catalog(capture.lakehouse.catalog, capture.directory)
    table = catalog.load_table(("bronze", "items"))
    with table.transaction() as transaction:
        transaction.delete("_op = 'r'")
        transaction.set_properties({BRONZE_SINCE: "2026-01-01T00:00:00+00:00"})


@pytest.mark.parametrize("segment", [1, 7])
def test_silver_is_the_table_wherever_flushes_come_into_transactions(
    tmp_path: Path, segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silver_module, "SEGMENT_ROWS", segment)
    first = first_seed()
    for seed in range(first, first + int(os.environ.get("CATCHMENT_ROUNDS", "3"))):
        print(f"replay with CATCHMENT_SEED={seed}")
        directory = tmp_path / str(seed)
        directory.mkdir()
        source = Overtaking(seed, chunks=seed % 4)
        _in_transactions(source, directory)
        catalog = load_catalog(LakehouseConfig().catalog, directory)
        try:
            assert rows(catalog, source.schema) == source.expected(), f"seed {seed}"
        finally:
            catalog.close()


def _in_transactions(source: Overtaking, directory: Path) -> None:
    """Transactions of several batches; flushes and compaction also inside of them."""
    chance = source.chance
    sink, progress = open_sink(directory)
    try:
        for action in range(25):
            if action == 24:
                source.finish()
            for _ in range(chance.randint(1, 20)):
                source.act()
            open_until: Progress | None = None
            for batch, reached in source.deliver(progress):
                if open_until is not None and batch is not None and batch.chunk is not None:
                    sink.advance(open_until)  # A chunk comes between transactions.
                if batch is not None:
                    sink.write(batch)
                open_until, progress = reached, reached
                if chance.random() < 0.4:
                    sink.flush()
                if chance.random() < 0.2:
                    compact(sink, chance)
                if (batch is not None and batch.chunk is not None) or chance.random() < 0.4:
                    sink.advance(reached)
                    open_until = None
                if action < 24 and open_until is None and chance.random() < 0.3:
                    break
            if open_until is not None:
                sink.advance(open_until)
            if chance.random() < 0.2:
                sink.flush()
                sink.close()
                sink, progress = open_sink(directory)
        sink.flush()
    finally:
        sink.close()


def test_a_table_with_a_column_that_silver_needs_has_bronze_only(tmp_path: Path) -> None:
    columns = (*SIMPLE.columns[:2], Column("_VERSION", pa.string(), "text"), *SIMPLE.columns[3:])
    source = Overtaking(1, TableSchema(SIMPLE.table, columns), chunks=0)
    sink, progress = open_sink(tmp_path)
    for batch, reached in source.deliver(progress):
        write(sink, batch, reached)
    sink.flush()
    sink.close()
    catalog = load_catalog(LakehouseConfig().catalog, tmp_path)
    assert catalog.table_exists(("bronze", "items"))
    assert not catalog.table_exists(("silver", "items"))
    catalog.close()
