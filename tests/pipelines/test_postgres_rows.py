"""What happens to rows and transactions, as the PostgreSQL source tells it."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from catchment.progress import Progress
from pipelines.capture import ALWAYS_PULL, NEVER_PULL, Capture, capturing
from waiting import wait_for

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def sql(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=[NEVER_PULL, ALWAYS_PULL], ids=["live", "catch-up"])
def reading(request: pytest.FixtureRequest) -> int:
    """Both ways to read the WAL must tell the same."""
    value: int = request.param
    return value


def changes(database: str, sql: Connection, reading: int, *statements: str) -> Capture:
    """What the source says of these statements, each its own transaction unless it holds several."""
    with capturing(database, catch_up_bytes=NEVER_PULL) as capture:
        capture.to_head()
        resume = capture.progress
    for statement in statements:
        sql.execute(statement)
    with capturing(database, resume, catch_up_bytes=reading) as capture:
        return capture.to_head()


def test_an_unchanged_toast_value_is_named_and_not_null(database: str, sql: Connection, reading: int) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, big text, small text, nothing text)")
    sql.execute("ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    sql.execute("INSERT INTO t VALUES (1, repeat('x', 10000), 'a', NULL), (2, 'short', 'b', NULL)")
    capture = changes(database, sql, reading, "UPDATE t SET small = 'c'")
    one, two = capture.rows("public.t")
    assert one["after"] == {"id": 1, "big": None, "small": "c", "nothing": None}
    assert one["_unchanged"] == ["big"]
    assert two["after"]["big"] == "short"
    assert two["_unchanged"] is None


def test_under_replica_identity_full_an_unchanged_toast_value_is_filled(
    database: str, sql: Connection, reading: int
) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, big text, small text)")
    sql.execute("ALTER TABLE t ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL")
    sql.execute("INSERT INTO t VALUES (1, repeat('x', 10000), 'a'), (2, 'short', 'b'), (3, NULL, 'c')")
    capture = changes(database, sql, reading, "UPDATE t SET small = small || '!'", "DELETE FROM t WHERE id = 1")
    assert capture.batches[0].schema.key == ("id",)
    updates = capture.rows("public.t", "u")
    assert [row["after"]["big"] for row in updates] == ["x" * 10000, "short", None]
    assert [row["before"]["small"] for row in updates] == ["a", "b", "c"]
    assert all(row["_unchanged"] is None for row in updates)
    (deleted,) = capture.rows("public.t", "d")
    assert deleted["before"] == {"id": 1, "big": "x" * 10000, "small": "a!"}
    assert deleted["after"] is None


def test_a_key_update_carries_the_old_key(database: str, sql: Connection, reading: int) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    sql.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    moves = ((-1, 1), (1, 2), (2, -1))
    swap = f"BEGIN; {'; '.join(f'UPDATE t SET id = {to} WHERE id = {one}' for to, one in moves)}; COMMIT"
    capture = changes(database, sql, reading, "UPDATE t SET v = 'c' WHERE id = 1", swap)
    rows = capture.rows("public.t")
    assert [(row["before"] or {}).get("id") for row in rows] == [None, 1, 2, -1]
    assert [row["after"]["id"] for row in rows] == [1, -1, 1, 2]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL", "USING INDEX t_other"])
def test_a_delete_carries_what_the_replica_identity_holds(
    database: str, sql: Connection, reading: int, identity: str
) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, other text NOT NULL, v text)")
    sql.execute("CREATE UNIQUE INDEX t_other ON t (other)")
    sql.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}")
    sql.execute("INSERT INTO t VALUES (1, 'one', 'a')")
    capture = changes(database, sql, reading, "DELETE FROM t")
    (row,) = capture.rows("public.t", "d")
    expected = {"DEFAULT": {"id": 1, "other": None, "v": None}, "FULL": {"id": 1, "other": "one", "v": "a"}}
    assert row["before"] == expected.get(identity, {"id": None, "other": "one", "v": None})
    assert capture.batches[0].schema.key == (("other",) if "INDEX" in identity else ("id",))


def test_truncate_comes_in_order_for_every_table_it_empties(database: str, sql: Connection, reading: int) -> None:
    sql.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY REFERENCES a)")
    capture = changes(
        database,
        sql,
        reading,
        "BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);"
        " TRUNCATE a CASCADE; INSERT INTO a VALUES (2); COMMIT",
    )
    assert [row["_op"] for row in capture.rows("public.a")] == ["c", "t", "c"]
    assert [row["_op"] for row in capture.rows("public.b")] == ["c", "t"]
    positions = [row["_position"] for row in capture.rows()]
    assert len(set(positions)) == 5
    ordinals = sorted(int.from_bytes(position[8:], "big") for position in positions)
    assert ordinals == [1, 2, 3, 4, 5]


def test_ordinals_count_over_all_tables_without_what_was_rolled_back(
    database: str, sql: Connection, reading: int
) -> None:
    sql.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    capture = changes(
        database,
        sql,
        reading,
        "BEGIN; INSERT INTO a VALUES (1); SAVEPOINT s; INSERT INTO b VALUES (1); ROLLBACK TO s;"
        " INSERT INTO b VALUES (2); INSERT INTO a VALUES (3); COMMIT",
    )
    numbers = {
        (row["table"], row["after"]["id"]): int.from_bytes(row["_position"][8:], "big") for row in capture.rows()
    }
    assert numbers == {("public.a", 1): 1, ("public.b", 2): 2, ("public.a", 3): 3}
    assert len({row["_transaction"] for row in capture.rows()}) == 1
    assert len({row["_committed_at"] for row in capture.rows()}) == 1


def test_a_table_without_replica_identity_never_breaks_the_application(
    database: str, sql: Connection, reading: int
) -> None:
    sql.execute("CREATE TABLE logbook (line text); INSERT INTO logbook VALUES ('before')")
    capture = changes(
        database,
        sql,
        reading,
        "INSERT INTO logbook VALUES ('after')",
        "UPDATE logbook SET line = 'changed'",
        "DELETE FROM logbook",
        "TRUNCATE logbook",
    )
    assert [row["_op"] for row in capture.rows("public.logbook")] == ["c", "t"]
    assert capture.batches[0].schema.key == ()


def test_composite_and_quoted_names_survive(database: str, sql: Connection, reading: int) -> None:
    sql.execute(
        'CREATE SCHEMA "Odd ""Schema";'
        'CREATE TABLE "Odd ""Schema"."Ta,ble" ("a b" int, "C" text, PRIMARY KEY ("a b", "C"))'
    )
    sql.execute('INSERT INTO "Odd ""Schema"."Ta,ble" VALUES (1, \'x\')')
    with capturing(database, tables=['Odd "Schema.*']) as capture:
        capture.to_head()
        sql.execute('INSERT INTO "Odd ""Schema"."Ta,ble" VALUES (2, \'y\')')
        capture.to_head()
    assert [row["after"] for row in capture.rows()] == [{"a b": 1, "C": "x"}, {"a b": 2, "C": "y"}]


def test_generated_columns_are_left_out_of_snapshot_and_stream(database: str, sql: Connection) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, double int GENERATED ALWAYS AS (id * 2) STORED, v text)")
    sql.execute("INSERT INTO t (id, v) VALUES (1, 'a')")
    with capturing(database) as capture:
        capture.to_head()
        sql.execute("INSERT INTO t (id, v) VALUES (2, 'b')")
        capture.to_head()
    assert [row["after"] for row in capture.rows()] == [{"id": 1, "v": "a"}, {"id": 2, "v": "b"}]


def test_a_partitioned_table_is_one_table(database: str, sql: Connection) -> None:
    sql.execute("CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    sql.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    sql.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)")
    sql.execute("INSERT INTO p VALUES (1, 'a'), (11, 'b')")
    with capturing(database) as capture:
        capture.to_head()
        sql.execute("INSERT INTO p VALUES (2, 'c')")
        sql.execute("UPDATE p SET id = 12 WHERE id = 2")  # moves to the other partition
        capture.to_head()
    assert {row["table"] for row in capture.rows()} == {"public.p"}
    assert sorted(row["after"]["id"] for row in capture.rows(ops="r")) == [1, 11]
    assert [row["_op"] for row in capture.rows(ops="cud")] == ["c", "d", "c"]


def test_a_change_of_the_schema_comes_before_the_rows_that_have_it(
    database: str, sql: Connection, reading: int
) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    capture = changes(
        database,
        sql,
        reading,
        "BEGIN; INSERT INTO t VALUES (1, 'a'); ALTER TABLE t ADD w int DEFAULT 7;"
        " INSERT INTO t VALUES (2, 'b'); COMMIT",
        "ALTER TABLE t DROP v",
        "INSERT INTO t VALUES (3, 9)",
    )
    # The column with a default makes the table be read anew, too.
    streamed = capture.rows(ops="cud")
    assert [row["after"] for row in streamed] == [
        {"id": 1, "v": "a"},
        {"id": 2, "v": "b", "w": 7},
        {"id": 3, "w": 9},
    ]
    assert len({row["_schema_version"] for row in streamed}) == 3
    assert len({row["_position"] for row in streamed}) == 3


def test_an_idle_database_moves_the_slot_on(database: str, sql: Connection) -> None:
    """Writes that are not ours make WAL, which the server may only drop when we have said so."""
    sql.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE ignored (id int)")
    with capturing(database, exclude=["public.ignored"]) as capture:
        capture.to_head()
        before = capture.progress
        sql.execute("INSERT INTO ignored SELECT generate_series(1, 1000)")
        capture.to_head()
        assert not before.covers(capture.progress)
        assert capture.rows() == []
        capture.source.acknowledge(capture.progress)
        lane = next(iter(capture.progress.positions))
        expected = int.from_bytes(capture.progress.positions[lane][:8], "big")
        confirmed = "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = %s"

        def moved_on() -> bool:
            capture.step()
            return sql.execute(confirmed, ("catchment_test",)).fetchall() == [(expected,)]

        wait_for(moved_on, what="the slot where it was acknowledged")


def test_catch_up_and_stream_tell_the_same_of_interleaved_writers(database: str, sql: Connection) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with capturing(database) as capture:
        resume = capture.to_head().progress
    _interleave(database)
    told: dict[int, list[tuple[object, ...]]] = {}
    for reading in (NEVER_PULL, ALWAYS_PULL):
        with capturing(database, resume, catch_up_bytes=reading) as capture:
            rows = capture.to_head().rows()
        told[reading] = [(row["_position"], row["_op"], row["_transaction"], str(row["after"])) for row in rows]
    assert told[NEVER_PULL] == told[ALWAYS_PULL]
    assert len(told[NEVER_PULL]) > 500
    assert sorted(told[NEVER_PULL]) == told[NEVER_PULL]


def _interleave(database: str) -> None:
    """Three writers with open transactions, aborts and one that stays open long."""
    import random

    chance = random.Random(7)
    writers = [psycopg.connect(database) for _ in range(3)]
    long = psycopg.connect(database)
    long.execute("INSERT INTO t VALUES (999999, 'long')")
    for number in range(1500):
        which = chance.randrange(3)
        writer = writers[which]
        writer.execute(
            "INSERT INTO t VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
            (chance.randint(1, 500) * 3 + which, f"v{number}"),
        )
        if chance.random() < 0.3:
            writer.commit()
        if chance.random() < 0.02:
            writer.rollback()
        if number == 1000:
            long.commit()
    for writer in (*writers, long):
        writer.commit()
        writer.close()


def test_reading_can_resume_at_every_boundary(database: str, sql: Connection, reading: int) -> None:
    sql.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    with capturing(database) as capture:
        start = capture.to_head().progress
    for number in range(6):
        sql.execute(f"BEGIN; INSERT INTO t VALUES ({number}, 'a'); UPDATE t SET v = 'b' WHERE id = {number}; COMMIT")
    with capturing(database, start) as capture:
        whole = capture.to_head().rows()
    for place in range(len(whole) // 2):
        end = whole[2 * place + 1]["_position"]
        with capturing(database, _after(sql, start, end), catch_up_bytes=reading) as capture:
            rest = capture.to_head().rows()
        assert [row["_position"] for row in rest] == [row["_position"] for row in whole[2 * place + 2 :]]


def _after(sql: Connection, start: Progress, position: bytes) -> Progress:
    """A boundary just after the transaction of this position (its commit record is longer than one byte)."""
    lane = next(iter(start.positions))
    lsn = int.from_bytes(position[:8], "big") + 1
    return start.join(Progress({lane: lsn.to_bytes(8, "big") + bytes(8)}))
