"""The sink on a catalog that moves one table at a time: markers make up for the missing transaction."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.change import ChangeBatch
from catchment.errors import LeaseLost, SinkUnavailable
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.committers import SequentialCommitter
from catchment.progress import Progress
from catchment.sinks.base import Sink
from pipelines import iceberg_writer as writer
from pipelines.rest_catalog import RestCatalogServer, rest_catalog

TRANSACTIONS = 12


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestCatalogServer]:
    with rest_catalog(tmp_path / "rest") as one:
        yield one


def run(directory: Path, server: RestCatalogServer, failpoint: str = "") -> int:
    command = [sys.executable, writer.__file__, str(directory), str(TRANSACTIONS), server.uri]
    environment = {**os.environ, "CATCHMENT_FAILPOINT": failpoint}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def test_kills_between_the_tables_of_a_flush_leave_each_change_once(tmp_path: Path, server: RestCatalogServer) -> None:
    # Four steps a flush: three tables, then the progress. Each kill is before another one of them.
    for times in (2, 3, 4, 1):
        assert run(tmp_path, server, f"before_commit:{times}") == -signal.SIGKILL
    assert run(tmp_path, server) == 0
    for name in ("odd", "even", "both"):
        assert writer.rows(tmp_path, name, server.uri) == writer.expected(name, TRANSACTIONS), name


def test_a_kill_between_two_tables_shows_the_first_and_the_marker_skips_it(
    tmp_path: Path, server: RestCatalogServer
) -> None:
    assert run(tmp_path, server, "before_commit:2") == -signal.SIGKILL
    there = [name for name in ("odd", "even", "both") if writer.rows(tmp_path, name, server.uri)]
    assert len(there) == 1
    sink = writer.open_sink(tmp_path, server.uri)
    assert sink.open() is None
    for schema in (writer.ODD, writer.EVEN, writer.BOTH):
        sink.schema_change(schema)
    for n in range(writer.FLUSH_EVERY):
        writer.write_transaction(sink, n)
    held = sink.flush()
    sink.close()
    assert held == writer.boundary(writer.FLUSH_EVERY - 1)
    for name in ("odd", "even", "both"):
        assert writer.rows(tmp_path, name, server.uri) == writer.expected(name, writer.FLUSH_EVERY), name


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_lost_answer_of_the_catalog_leaves_each_change_once(
    tmp_path: Path, server: RestCatalogServer, lost: int
) -> None:
    sink = writer.open_sink(tmp_path, server.uri)
    sink.open()
    writer.write_transaction(sink, 0)
    sink.flush()
    writer.write_transaction(sink, 1)
    writer.write_transaction(sink, 2)
    server.commits.clear()
    server.lose_answers = 1
    with pytest.raises(SinkUnavailable):
        sink.flush()
    sink.close()
    for _ in range(lost - 1):
        server.lose_answers = 1
        again = writer.open_sink(tmp_path, server.uri)
        with pytest.raises(SinkUnavailable):
            again.open()
        again.close()
    last = writer.open_sink(tmp_path, server.uri)
    assert writer.next_transaction(last.open()) == 1
    writer.write_transaction(last, 1)
    writer.write_transaction(last, 2)
    last.flush()
    last.close()
    for name in ("odd", "even", "both"):
        assert writer.rows(tmp_path, name, server.uri) == writer.expected(name, 3), name


def test_a_new_holder_fences_the_old_one_out_of_every_table(tmp_path: Path, server: RestCatalogServer) -> None:
    """Two machines do not share a lock file: here each has a directory of its own."""
    old = writer.open_sink(tmp_path / "one", server.uri)
    old.open()
    writer.write_transaction(old, 0)
    old.flush()
    writer.write_transaction(old, 1)
    new = writer.open_sink(tmp_path / "two", server.uri)
    assert writer.next_transaction(new.open()) == 1
    with pytest.raises(LeaseLost, match="took pipeline writer over"):
        old.flush()
    old.close()
    writer.write_transaction(new, 1)
    new.flush()
    new.close()
    for name in ("odd", "even", "both"):
        assert writer.rows(tmp_path, name, server.uri) == writer.expected(name, 2), name


def test_a_commit_by_somebody_else_is_no_lost_lease(tmp_path: Path, server: RestCatalogServer) -> None:
    sink = writer.open_sink(tmp_path, server.uri)
    sink.open()
    writer.write_transaction(sink, 0)
    sink.flush()
    catalog = load_catalog(writer.lakehouse(server.uri).catalog, tmp_path)
    theirs = catalog.load_table(("bronze", "both"))
    theirs.append(theirs.scan().to_arrow().slice(0, 0))
    writer.write_transaction(sink, 1)
    with pytest.raises(SinkUnavailable, match="another writer"):
        sink.flush()
    sink.close()
    again = writer.open_sink(tmp_path, server.uri)
    assert writer.next_transaction(again.open()) == 1
    writer.write_transaction(again, 1)
    again.flush()
    again.close()
    assert writer.rows(tmp_path, "both", server.uri) == writer.expected("both", 2)


def test_progress_without_rows_moves_only_the_progress_table(tmp_path: Path, server: RestCatalogServer) -> None:
    sink = writer.open_sink(tmp_path, server.uri)
    sink.open()
    writer.write_transaction(sink, 0)
    sink.flush()
    server.commits.clear()
    sink.advance(writer.boundary(5))
    assert sink.flush() == writer.boundary(5)
    sink.close()
    assert server.commits == ["ops.progress"]
    again = writer.open_sink(tmp_path, server.uri)
    assert again.open() == writer.boundary(5)
    again.close()


def test_a_chunk_is_not_landed_twice_after_two_crashes_between_table_and_progress(
    tmp_path: Path, server: RestCatalogServer
) -> None:
    """The marker names the chunks that a replay brings, also those that the last replay skipped already."""
    key = f"{writer.BOTH.table}@16438/1A"

    def land(sink: Sink, *transactions: int) -> None:
        sink.schema_change(writer.BOTH)
        batch = writer.changes(writer.BOTH, 0, 1)
        sink.write(ChangeBatch(batch.schema, "slot/chunk", batch.records, "chunk", key))
        done = {key: frozenset({"chunk"})}
        sink.advance(Progress({writer.LANE: writer.position(1)}, done))
        for n in transactions:
            sink.write(writer.changes(writer.BOTH, n, 1))
            sink.advance(Progress(writer.boundary(n).positions, done))

    for transactions in ((), (3,), (3, 5)):
        sink = writer.open_sink(tmp_path, server.uri)
        assert sink.open() is None, "the progress was never committed"
        land(sink, *transactions)
        # The table is committed, the progress is not: as after a crash between the two.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SequentialCommitter, "_commit_progress", _fail)
            with pytest.raises(SinkUnavailable):
                sink.flush()
        sink.close()
    assert [row[0] for row in writer.rows(tmp_path, "both", server.uri)] == [0, 3, 5]


def _fail(*_: object) -> None:
    raise SinkUnavailable("The answer was lost.")
