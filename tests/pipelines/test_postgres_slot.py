"""The source keeps its place, and says so when the server has lost it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from catchment.change import ChangeBatch
from catchment.component import BuildContext
from catchment.errors import Fatal, PositionLost, SourceRefused
from catchment.progress import ALL_CHUNKS
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.source import PostgresSource
from pipelines.capture import NEVER_PULL, Capture, capturing
from waiting import wait_for

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def sql(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        yield connection


def test_a_missing_slot_is_told_and_not_silently_made_anew(database: str, sql: Connection) -> None:
    with capturing(database) as capture:
        resume = capture.to_head().progress
    _unused(sql)
    sql.execute("SELECT pg_drop_replication_slot('catchment_test')")
    sql.execute("INSERT INTO t VALUES (1, 'missed')")
    with pytest.raises(PositionLost, match=r"catchment_test is gone.*--resnapshot"), capturing(database, resume):
        pass


def test_a_slot_that_was_read_by_someone_else_is_told(database: str, sql: Connection) -> None:
    with capturing(database) as capture:
        resume = capture.to_head().progress
    _unused(sql)
    sql.execute("INSERT INTO t VALUES (1, 'taken')")
    sql.execute("SELECT pg_replication_slot_advance('catchment_test', pg_current_wal_lsn())")
    with pytest.raises(PositionLost, match="beyond what the lake holds"), capturing(database, resume):
        pass


def test_progress_of_another_server_is_told(database: str, sql: Connection) -> None:
    with capturing(database) as capture:
        progress = capture.to_head().progress
    other = type(progress)({lane.replace("@", "@9"): at for lane, at in progress.positions.items()})
    with pytest.raises(PositionLost, match="another server"), capturing(database, other):
        pass


def test_a_resnapshot_begins_with_a_truncation_below_its_rows(database: str, sql: Connection) -> None:
    sql.execute("INSERT INTO t VALUES (1, 'a')")
    with capturing(database) as capture:
        resume = capture.to_head().progress
    _unused(sql)
    sql.execute("SELECT pg_drop_replication_slot('catchment_test')")
    sql.execute("DELETE FROM t; INSERT INTO t VALUES (2, 'b')")
    with capturing(database, resume, resnapshot=True) as capture:
        rows = capture.to_head().rows()
        fresh = [batch.after(resume) for batch in capture.batches]
    assert [row["_op"] for row in rows] == ["t", "r"]
    assert rows[0]["_version"] < rows[1]["_version"]
    assert all(batch is not None for batch in fresh), "the old progress must not hide the new snapshot"


def test_a_table_that_appears_is_read_and_followed(database: str, sql: Connection) -> None:
    with capturing(database, new_tables_interval_seconds=0.2) as capture:
        capture.to_head()
        sql.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late SELECT generate_series(1, 10)")
        _step_until(capture, lambda: len(capture.rows("public.late")) >= 10)
        sql.execute("INSERT INTO late VALUES (11)")
        _step_until(capture, lambda: len(capture.rows("public.late")) >= 11)
    versions = {row["after"]["id"]: row["_version"] for row in capture.rows("public.late")}
    assert sorted(versions) == list(range(1, 12))
    assert versions[11] > versions[1]


def test_a_table_dropped_and_created_again_starts_anew(database: str, sql: Connection) -> None:
    sql.execute("INSERT INTO t VALUES (1, 'old')")
    with capturing(database, new_tables_interval_seconds=0.2) as capture:
        capture.to_head()
        sql.execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, w text); INSERT INTO t VALUES (2, 'new')")
        _step_until(capture, lambda: any(row["_op"] == "r" and row["after"].get("w") for row in capture.rows()))
    rows = capture.rows()
    (emptied,) = [row for row in rows if row["_op"] == "t"]
    last = [row for row in rows if row["_op"] == "r"][-1]
    assert rows[0]["_version"] < emptied["_version"] < last["_version"]


def test_a_table_that_cannot_be_captured_is_refused_before_anything_is_set_up(database: str, sql: Connection) -> None:
    sql.execute("CREATE TABLE a ()")
    with pytest.raises(SourceRefused, match=r"public\.a has no columns"), capturing(database):
        pass
    ours = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    assert sql.execute(ours).fetchall() == [(0,)]
    assert sql.execute("SELECT count(*) FROM pg_publication").fetchall() == [(0,)]


def test_no_table_that_matches_is_an_error(database: str, sql: Connection) -> None:
    with pytest.raises(Fatal, match="No table matches"), capturing(database, tables=["nowhere.*"]):
        pass


def test_tables_without_identity_can_be_refused(database: str, sql: Connection) -> None:
    sql.execute("CREATE TABLE logbook (line text)")
    with pytest.raises(Fatal, match=r"public\.logbook"), capturing(database, without_identity="refuse"):
        pass


def test_a_dry_run_leaves_nothing_at_the_server(database: str, sql: Connection) -> None:
    sql.execute("INSERT INTO t VALUES (1, 'a')")
    with _dry(database) as capture:
        assert [row["_op"] for row in capture.to_head().rows()] == ["r"]
    lasting = "SELECT count(*) FROM pg_replication_slots WHERE NOT temporary AND database = current_database()"
    assert sql.execute(lasting).fetchall() == [(0,)]
    assert sql.execute("SELECT count(*) FROM pg_publication").fetchall() == [(0,)]


def test_a_dry_run_beside_a_slot_consumes_nothing(database: str, sql: Connection) -> None:
    with capturing(database) as capture:
        resume = capture.to_head().progress
    _unused(sql)
    sql.execute("INSERT INTO t VALUES (1, 'a')")
    before = sql.execute("SELECT confirmed_flush_lsn FROM pg_replication_slots").fetchall()
    with _dry(database) as dry:
        dry.source.close()
    config = PostgresSourceConfig(type="postgres", dsn=database)  # type: ignore[arg-type]
    source = PostgresSource(config, BuildContext("test", Path()), ephemeral=True)
    try:
        source.open(resume)
        capture = Capture(source, progress=resume).to_head()
        capture.source.acknowledge(capture.progress)
    finally:
        source.close()
    assert [row["after"]["id"] for row in capture.rows()] == [1]
    _unused(sql)
    assert sql.execute("SELECT confirmed_flush_lsn FROM pg_replication_slots").fetchall() == before


def test_catch_up_hands_over_to_the_stream_without_a_gap(database: str, sql: Connection) -> None:
    with capturing(database) as capture:
        resume = capture.to_head().progress
    for number in range(50):
        sql.execute("INSERT INTO t VALUES (%s, 'behind')", (number,))
    with capturing(database, resume, catch_up_bytes=1) as capture:
        for number in range(50, 100):
            sql.execute("INSERT INTO t VALUES (%s, 'ahead')", (number,))
            capture.step()
        _step_until(capture, lambda: capture.source.status().mode == "live" and capture.source.status().lag_bytes == 0)
        sql.execute("INSERT INTO t VALUES (100, 'live')")
        capture.to_head()
    assert [row["after"]["id"] for row in capture.rows()] == list(range(101))


def test_the_stream_hands_over_to_catch_up_without_a_gap(database: str, sql: Connection) -> None:
    with capturing(database, catch_up_bytes=NEVER_PULL) as capture:
        capture.to_head()
        modes = set()
        for number in range(200):
            sql.execute("INSERT INTO t VALUES (%s, 'x')", (number,))
            if number in (50, 100):
                capture.source._wal.fall_behind()  # type: ignore[union-attr]
            capture.step()
            modes.add(capture.source.status().mode)
        capture.to_head()
    assert [row["after"]["id"] for row in capture.rows()] == list(range(200))


def test_without_a_free_slot_the_stream_is_read_instead(database: str, sql: Connection) -> None:
    with capturing(database) as capture:
        resume = capture.to_head().progress
    sql.execute("INSERT INTO t VALUES (1, 'a')")
    (most,) = sql.execute("SELECT current_setting('max_replication_slots')::int").fetchall()[0]
    (used,) = sql.execute("SELECT count(*) FROM pg_replication_slots").fetchall()[0]
    for number in range(int(str(most)) - int(str(used))):
        sql.execute("SELECT pg_create_physical_replication_slot(%s, false, true)", (f"fill_{number}",))
    with capturing(database, resume, catch_up_bytes=0) as capture:
        capture.to_head()
        status = capture.source.status()
    assert [row["after"]["id"] for row in capture.rows()] == [1]
    assert status.mode == "live"
    assert "no free replication slot" in status.notes[0]


def test_a_snapshot_resumes_at_its_chunks(database: str, sql: Connection) -> None:
    sql.execute("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 5000) g")
    with capturing(database, snapshot_chunk_bytes=65536, snapshot_workers=1) as capture:
        while not capture.rows(ops="r"):
            capture.step()
        capture.step()
        held = capture.progress
    finished = {batch.chunk for batch in capture.batches}
    assert finished
    first = {row["after"]["id"] for row in capture.rows(ops="r")}
    assert 0 < len(first) < 5000
    sql.execute("UPDATE t SET v = 'changed' WHERE id % 100 = 0")
    sql.execute("DELETE FROM t WHERE id % 100 = 1")
    with capturing(database, held, snapshot_chunk_bytes=65536) as capture:
        capture.to_head()
        chunks = {batch.chunk for batch in capture.batches if batch.chunk and "moved" not in batch.chunk}
    assert not finished & chunks
    kept = [batch for batch in capture.batches if batch.after(held) is not None]
    assert len(kept) == len(capture.batches)
    second = {row["after"]["id"] for row in capture.rows(ops="r")}
    (present,) = sql.execute("SELECT array_agg(id) FROM t").fetchall()[0]
    assert set(present) <= first | second  # type: ignore[call-overload]
    assert all(chunks == ALL_CHUNKS for name, chunks in capture.progress.chunks.items() if "@" in name)


def test_a_row_that_moved_between_two_snapshots_keeps_its_toast_value(database: str, sql: Connection) -> None:
    """It moves into pages that were read before; the stream does not carry its value."""
    sql.execute("ALTER TABLE t ALTER v SET STORAGE EXTERNAL, ADD w int; ALTER TABLE t SET (autovacuum_enabled = off)")
    sql.execute("INSERT INTO t SELECT g, NULL, 0 FROM generate_series(1, 1000) g")
    sql.execute("INSERT INTO t VALUES (9999, repeat('x', 10000), 0)")
    sql.execute("INSERT INTO t SELECT g, NULL, 0 FROM generate_series(1001, 2000) g")
    sql.execute("DELETE FROM t WHERE id < 100")
    sql.execute("VACUUM t")
    with capturing(database, snapshot_chunk_bytes=8192, snapshot_workers=1) as capture:
        while not capture.progress.chunks:
            capture.step()
        held = capture.progress
    # Its own page is full and page 0 has room: the update goes there.
    sql.execute("UPDATE t SET w = 1 WHERE id = 9999")
    (page,) = sql.execute("SELECT (ctid::text::point)[0]::int FROM t WHERE id = 9999").fetchall()[0]
    assert page == 0
    with capturing(database, held, snapshot_chunk_bytes=8192) as capture:
        capture.to_head()
    rows = [row for row in capture.rows() if row["after"] and row["after"]["id"] == 9999]
    assert {row["_op"] for row in rows} == {"r", "u"}
    assert [row["after"]["v"] for row in rows if row["_op"] == "r"] == ["x" * 10000]
    assert [row["_unchanged"] for row in rows if row["_op"] == "u"] == [["v"]]


def test_creating_the_slot_says_what_it_waits_for(
    database: str, sql: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with psycopg.connect(database) as open_transaction:
        open_transaction.execute("INSERT INTO t VALUES (1, 'open')")
        config = PostgresSourceConfig(type="postgres", dsn=database)  # type: ignore[arg-type]
        source = PostgresSource(config, BuildContext("test", Path()))
        opening = threading.Thread(target=source.open, args=(None,))
        opening.start()
        try:
            wait_for(lambda: "waits for 1 open transactions" in caplog.text, what="a line that says so")
        finally:
            open_transaction.commit()
            opening.join(120)
    try:
        assert [row["after"]["v"] for row in Capture(source).to_head().rows()] == ["open"]
    finally:
        source.close()


def _dry(database: str):  # type: ignore[no-untyped-def]
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Iterator[Capture]:
        config = PostgresSourceConfig(type="postgres", dsn=database)  # type: ignore[arg-type]
        source = PostgresSource(config, BuildContext("test", Path()), ephemeral=True)
        try:
            source.open(None)
            yield Capture(source)
        finally:
            source.close()

    return opened()


def _unused(sql: Connection) -> None:
    """Wait until nobody reads from the slot."""
    used = "SELECT 1 FROM pg_replication_slots WHERE active OR temporary"
    wait_for(lambda: not sql.execute(used).fetchall(), what="a slot that nobody reads")


def _step_until(capture: Capture, done) -> None:  # type: ignore[no-untyped-def]
    def stepped() -> bool:
        capture.step()
        return bool(done())

    wait_for(stepped)


@pytest.mark.parametrize("durable", [True, False], ids=["runs on", "ends before it is durable"])
def test_a_table_that_was_excluded_for_a_while_is_read_anew(database: str, sql: Connection, durable: bool) -> None:
    sql.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO t VALUES (1, 'first'), (2, 'gone later')")
    with capturing(database) as capture:
        resume = capture.to_head().progress
    with capturing(database, resume, exclude=["public.t"]) as capture:
        sql.execute("INSERT INTO t VALUES (3, 'unseen'); DELETE FROM t WHERE id = 2")
        resume = capture.to_head().progress
        assert capture.rows("public.t") == []
    if not durable:
        # Included again, but the process ends before anything of it is durable: the next one must still know.
        with capturing(database, resume):
            pass
    with capturing(database, resume) as capture:
        _step_until(capture, lambda: _acknowledging(capture) and capture.progress.covers(capture.source.head()))
        sql.execute("INSERT INTO t VALUES (4, 'followed')")
        capture.to_head()
    rows = capture.rows("public.t")
    assert [row["_op"] for row in rows] == ["t", "r", "r", "c"]
    assert sorted(row["after"]["id"] for row in rows[1:]) == [1, 3, 4]
    assert rows[0]["_version"] < rows[1]["_version"] < rows[3]["_version"]


def test_a_table_that_gets_a_key_is_read_anew_with_its_updates(database: str, sql: Connection) -> None:
    sql.execute("CREATE TABLE logbook (id int NOT NULL, line text); INSERT INTO logbook VALUES (1, 'a')")
    with capturing(database) as capture:
        capture.to_head()
        sql.execute("UPDATE logbook SET line = 'unseen'")
        resume = capture.to_head().progress
        assert [row["_op"] for row in capture.rows("public.logbook")] == ["r"]
    sql.execute("ALTER TABLE logbook ADD PRIMARY KEY (id)")
    with capturing(database, resume, new_tables_interval_seconds=0.2) as capture:
        _step_until(capture, lambda: _acknowledging(capture) and len(capture.rows("public.logbook")) >= 2)
        sql.execute("UPDATE logbook SET line = 'seen'")
        capture.to_head()
    rows = capture.rows("public.logbook")
    assert [(row["_op"], (row["after"] or {}).get("line")) for row in rows] == [
        ("t", None),
        ("r", "unseen"),
        ("u", "seen"),
    ]


def _acknowledging(capture: Capture) -> bool:
    capture.source.acknowledge(capture.progress)
    return True


def test_a_new_table_that_cannot_be_captured_does_not_stop_the_others(
    database: str, sql: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with capturing(database, new_tables_interval_seconds=0.2, without_identity="refuse") as capture:
        capture.to_head()
        sql.execute("CREATE TABLE odd (id int); CREATE TABLE fine (id int PRIMARY KEY)")
        sql.execute("INSERT INTO fine VALUES (1); INSERT INTO t VALUES (1, 'a'); INSERT INTO odd VALUES (1)")
        _step_until(capture, lambda: bool(capture.rows("public.fine") and capture.rows("public.t")))
        _step_until(capture, lambda: "public.odd" in caplog.text)
        sql.execute("INSERT INTO t VALUES (2, 'b')")
        capture.to_head()
    assert capture.rows("public.odd") == []
    assert caplog.text.count("public.odd") == 1 + caplog.text.count("TABLE public.odd")
    assert [row["after"]["id"] for row in capture.rows("public.t")] == [1, 2]


def test_a_worker_that_is_held_up_is_waited_for_before_a_table_is_done(
    database: str, sql: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chunk reaches the inbox after all others: the table may not be called done before it."""
    from catchment.sources.postgres.inbox import Chunk, Inbox

    sql.execute("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 2000) g")
    (pages,) = sql.execute("SELECT pg_relation_size('t') / 8192").fetchall()[0]
    others, held = threading.Event(), threading.Lock()
    put, seen = Inbox.put_chunk, []

    def put_late(self: Inbox, chunk: Chunk) -> bool:
        if chunk.name and held.acquire(blocking=False):
            assert others.wait(120)
            return put(self, chunk)
        done = put(self, chunk)
        seen.append(chunk)
        if sum(bool(one.name) for one in seen) == int(str(pages)) - 1:
            others.set()
        return done

    monkeypatch.setattr(Inbox, "put_chunk", put_late)
    with capturing(database, snapshot_chunk_bytes=8192) as capture:
        resume = None
        fresh = []
        for_all = capture.source.head()
        while not capture.progress.covers(for_all):
            event = capture.step()
            if isinstance(event, ChangeBatch):
                fresh.append(event.after(resume))
            resume = capture.progress
    kept = sum(len(batch) for batch in fresh if batch is not None)
    assert kept == 2000, "rows that came after their table was called done are dropped by every sink"


def test_a_database_whose_bytes_have_no_meaning_is_refused(database: str, sql: Connection) -> None:
    from psycopg.conninfo import make_conninfo

    name = f"{sql.info.dbname}_ascii"
    sql.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        dsn = make_conninfo(database, dbname=name)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        with pytest.raises(SourceRefused, match="SQL_ASCII"), capturing(dsn):
            pass
    finally:
        sql.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_snapshot_can_be_slowed_down_for_a_busy_server(database: str, sql: Connection) -> None:
    sql.execute("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 3000) g")
    started = time.monotonic()
    with capturing(database, snapshot_chunk_bytes=8192, snapshot_rows_per_second=2000) as capture:
        capture.to_head()
        (snapshot,) = capture.source.status().snapshots.values()
    # The last chunk of each worker is not waited for: some 40 rows each.
    assert time.monotonic() - started > (3000 - 200) / 2000
    assert snapshot.rows_done == 3000
    assert snapshot.chunks_done == snapshot.chunks_total > 50
