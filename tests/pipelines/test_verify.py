"""`catchment verify`: names exactly what differs, and raises no false alarm while changes go on."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from catchment import config
from catchment.errors import SourceUnavailable
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.lease import holder
from catchment.progress import ALL_CHUNKS, Progress
from catchment.sources.postgres import verification as source
from catchment.sources.postgres.verification import PostgresVerification
from catchment.sources.verification import SourcePoint
from catchment.verify import verification
from catchment.verify.lake import Lake, LakeMoment
from catchment.verify.report import Outcome, TableResult, Verdict
from catchment.verify.verification import Verification
from pipelines import workload
from pipelines.lake import COMMAND, catch_up, end, run, start, write_pipeline
from pipelines.workload import Workload
from seeds import first_seed
from statements import run_sql
from waiting import wait_for


def verify(pipeline: Path, table: str | None = None, *, deep: bool = True) -> Verdict:
    """A verification in this process."""
    return Verification(config.load(pipeline), table=table, deep=deep).run()


def only(verdict: Verdict) -> TableResult:
    (one,) = verdict.tables
    return one


def told(one: TableResult) -> tuple[object, ...]:
    """What there is to know of a table that is not equal."""
    return one.table, one.outcome, one.reason, one.missing, one.extra, one.different, one.columns


def test_a_lake_that_was_filled_is_equal_and_the_slot_is_gone(database: str, tmp_path: Path) -> None:
    workload.set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)

    verdict = verify(pipeline)

    assert [(one.table, one.outcome) for one in verdict.tables] == [
        ("public.accounts", Outcome.EQUAL),
        ("public.events", Outcome.EQUAL),
    ]
    assert [one.source_rows for one in verdict.tables] == [200, 200]
    assert [one.lake_rows for one in verdict.tables] == [200, 200]
    # The slot goes with its session, which the server ends in its own time.
    wait_for(lambda: slots(database) == 0, what="the end of the temporary slot")


def test_what_the_lake_does_not_have_yet_is_read_beside_the_slot(database: str, tmp_path: Path) -> None:
    workload.set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    seed = first_seed()
    print(f"CATCHMENT_SEED={seed}")
    behind = Workload(database, seed)
    with psycopg.connect(database) as connection:
        for _ in range(60):
            behind.transact(connection)
    run_sql(database, "ALTER TABLE accounts ADD added text", "UPDATE accounts SET added = 'new' WHERE id % 5 = 0")

    verdict = verify(pipeline)

    assert verdict.outcome is Outcome.EQUAL, list(map(told, verdict.tables))


def equal_in_the_end(pipeline: Path, *, deep: bool) -> bool:
    """Whether all is equal; a table may be unsettled for now, as when a TRUNCATE waited for it at every attempt."""
    verdict = verify(pipeline, deep=deep)
    assert verdict.outcome is not Outcome.DIFFERENT, list(map(told, verdict.tables))
    return verdict.outcome is Outcome.EQUAL


@pytest.mark.parametrize("rounds", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_there_is_no_false_alarm_while_changes_go_on(database: str, tmp_path: Path, rounds: int) -> None:
    seed = first_seed()
    print(f"CATCHMENT_SEED={seed}")
    workload.set_up(database)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    process = start(pipeline)
    try:
        with Workload(database, seed) as writing:
            for number in range(rounds):
                before = writing.transactions
                wait_for(lambda: writing.transactions > before + 20, what="the workload")  # noqa: B023
                wait_for(lambda: equal_in_the_end(pipeline, deep=number % 2 == 0), what="a verdict")  # noqa: B023
    finally:
        err = end(process)
    assert process.returncode == 0, err


def rewrite(pipeline: Path, table: str, change: Any) -> None:
    """Replace a table of the lake by what `change` makes of its rows, behind everybody's back."""
    loaded = config.load(pipeline)
    damaged = load_catalog(loaded.lakehouse.catalog, loaded.directory).load_table(table)
    damaged.overwrite(change(damaged.scan().to_arrow()))


def damage(rows: pa.Table) -> pa.Table:
    """Without account 7, with another name for 9, and with an account 100001."""
    ids = rows["id"]
    index = rows.schema.get_field_index("name")
    changed = rows.set_column(index, "name", pc.if_else(pc.equal(ids, 9), "another", rows["name"]))
    added = changed.filter(pc.equal(ids, 10))
    added = added.set_column(rows.schema.get_field_index("id"), "id", pa.array([100001], pa.int64()))
    return pa.concat_tables([changed.filter(pc.not_equal(ids, 7)), added])


@pytest.mark.parametrize("deep", [True, False], ids=["deep", "sampled"])
def test_a_damaged_lake_is_told_by_exactly_the_damaged_keys(database_18: str, tmp_path: Path, deep: bool) -> None:
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    rewrite(pipeline, "silver.accounts", damage)

    found = only(verify(pipeline, "accounts", deep=deep))

    assert found.outcome is Outcome.DIFFERENT
    assert (found.missing.count, list(found.missing.named)) == (1, [{"id": "7"}])
    assert (found.extra.count, list(found.extra.named)) == (1, [{"id": "100001"}])
    assert (found.different.count, list(found.different.named)) == (1, [{"id": "9"}])
    assert found.columns == {"name": 1}
    assert "another" not in repr(found)


def test_a_key_that_is_there_twice_is_extra(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    rewrite(
        pipeline,
        "silver.accounts",
        lambda rows: pa.concat_tables([rows, rows.filter(pc.equal(rows["id"], 9))]),
    )
    found = only(verify(pipeline, "accounts"))
    assert (found.outcome, found.lake_rows, found.source_rows) == (Outcome.DIFFERENT, 21, 20)
    assert (found.extra.count, list(found.extra.named)) == (1, [{"id": "9"}])


def test_without_silver_what_bronze_amounts_to_is_compared(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    pipeline.write_text(pipeline.read_text().replace("lakehouse:", "lakehouse:\n  silver: false"))
    catch_up(pipeline)
    run_sql(database_18, "UPDATE accounts SET balance = 0 WHERE id = 3", "UPDATE accounts SET id = 30 WHERE id = 4")
    found = only(verify(pipeline, "accounts"))
    assert (found.outcome, found.layer) == (Outcome.EQUAL, "current")

    rewrite(
        pipeline, "bronze.accounts", lambda rows: rows.filter(pc.not_equal(pc.struct_field(rows["after"], "id"), 7))
    )
    found = only(verify(pipeline, "accounts"))
    assert list(found.missing.named) == [{"id": "7"}]
    assert (found.extra.count, found.different.count) == (0, 0)


ODD = (
    "CREATE TABLE odd (day date, amount numeric(6,2), name text, code char(4), at timestamptz, ratio float8,"
    " small real, raw bytea, anything numeric, PRIMARY KEY (day, amount, name, code))",
    "INSERT INTO odd VALUES ('infinity', 'NaN', '', 'a', 'infinity', 'NaN', 'NaN', '\\x00ff', 'NaN')",
    "INSERT INTO odd VALUES ('-infinity', -0.01, 'x''y', 'a', '-infinity', '-0', '-0', '', -1.50)",
    "INSERT INTO odd VALUES ('0044-03-15 BC', 9999.99, 'ä', 'a', '2024-02-29 12:00:00.000001+00', 0, 0, NULL, NULL)",
    "INSERT INTO odd VALUES ('2024-01-01', 0, 'NULL', 'a', '294276-12-31 23:59:59+00', 1e-300, 1e-30, '\\x41', 1e30)",
)


def test_values_that_no_type_holds_and_keys_of_every_kind_are_equal(database: str, tmp_path: Path) -> None:
    run_sql(database, *ODD)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    assert only(verify(pipeline)).outcome is Outcome.EQUAL

    run_sql(database, *(one.replace("'a'", "'b'") for one in ODD[1:]), "UPDATE odd SET at = '-infinity'")
    catch_up(pipeline)
    found = only(verify(pipeline))
    assert found.outcome is Outcome.EQUAL, found
    assert found.lake_rows == 8

    run_sql(database, "UPDATE odd SET ratio = 0 WHERE ratio = 0")
    found = only(verify(pipeline))
    assert found.outcome is Outcome.EQUAL, found


def test_a_redacted_key_is_named_by_its_hash(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    secret = "0123456789abcdef"
    rule = f'transforms:\n  - {{type: hash, columns: ["*.accounts.id", "*.name"], secret: "{secret}"}}\n'
    pipeline.write_text(pipeline.read_text() + rule)
    catch_up(pipeline)
    assert verify(pipeline).outcome is Outcome.EQUAL

    hashed = [hmac.new(secret.encode(), key, hashlib.sha256).hexdigest() for key in (b"7", b"9")]
    rewrite(pipeline, "silver.accounts", lambda rows: rows.filter(pc.not_equal(rows["id"], hashed[0])))
    found = only(verify(pipeline, "accounts"))
    assert list(found.missing.named) == [{"id": hashed[0]}]
    assert (found.extra.count, found.different.count) == (0, 0)


def test_rows_from_before_a_column_with_a_default_are_found_and_explained(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    pipeline.write_text(pipeline.read_text().replace("tables:", "reread_after_ddl: false\n  tables:"))
    catch_up(pipeline)
    run_sql(
        database_18,
        "ALTER TABLE accounts ADD level int NOT NULL DEFAULT 3, ADD remark text",
        "UPDATE accounts SET balance = 0 WHERE id <= 5",
    )
    catch_up(pipeline)

    found = only(verify(pipeline, "accounts"))

    assert found.different.count == 15
    assert found.columns == {"level": 15}
    assert "level was added with a default" in found.notes[0]


def test_what_is_kept_as_text_is_a_key_and_a_value_like_others(database: str, tmp_path: Path) -> None:
    run_sql(
        database,
        "CREATE TYPE place AS (street text, number int)",
        "CREATE TABLE visits (place place, days int4range, tags text[], cost money, PRIMARY KEY (place, days))",
        "ALTER TABLE visits ALTER tags SET STORAGE EXTERNAL",
        """INSERT INTO visits SELECT ROW('Main "Street"', g)::place, int4range(g, g + 2),
           array_fill('long,'::text, ARRAY[900]), g::money FROM generate_series(1, 20) g""",
    )
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    run_sql(
        database,
        "UPDATE visits SET cost = cost * 2 WHERE (place).number < 5",
        "UPDATE visits SET tags = NULL WHERE (place).number = 6",
        "UPDATE visits SET place.number = 100 WHERE (place).number = 7",
        "UPDATE visits SET days = '[3,9)' WHERE (place).number = 8",
        "DELETE FROM visits WHERE (place).number = 9",
    )
    catch_up(pipeline)
    found = only(verify(pipeline))
    assert (found.outcome, found.lake_rows) == (Outcome.EQUAL, 19), told(found)


def test_a_column_that_changed_its_type_raises_no_alarm(database: str, tmp_path: Path) -> None:
    workload.set_up(database, 20)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    run_sql(
        database,
        "ALTER TABLE accounts ALTER balance TYPE text",
        "UPDATE accounts SET balance = 'none' WHERE id <= 5",
        "UPDATE accounts SET balance = NULL WHERE id = 6",
    )
    assert only(verify(pipeline, "accounts")).outcome is Outcome.EQUAL
    catch_up(pipeline)
    assert only(verify(pipeline, "accounts")).outcome is Outcome.EQUAL


def test_what_cannot_be_compared_says_why(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    run_sql(
        database_18,
        "CREATE TABLE keyless (a int)",
        "CREATE TABLE whole (a int)",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "INSERT INTO whole VALUES (1)",
    )
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    run_sql(database_18, "CREATE TABLE later (a int PRIMARY KEY)")

    verdict = verify(pipeline)

    assert verdict.outcome is Outcome.UNSETTLED
    found = {one.table: (one.outcome, one.reason or "") for one in verdict.tables}
    assert found["public.accounts"] == (Outcome.EQUAL, "")
    assert found["public.keyless"][0] is Outcome.SKIPPED
    assert "replica identity" in found["public.keyless"][1]
    assert found["public.whole"][0] is Outcome.SKIPPED
    assert "no primary key" in found["public.whole"][1]
    assert found["public.later"][0] is Outcome.UNSETTLED
    assert "not finished" in found["public.later"][1]


def test_a_truncate_that_the_lake_has_not_seen_yet_is_reckoned_with(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    run_sql(database_18, "TRUNCATE events", "INSERT INTO events VALUES (1, 1, now(), 'after')")
    found = only(verify(pipeline, "public.events"))
    assert (found.outcome, found.source_rows, found.lake_rows) == (Outcome.EQUAL, 1, 1)


def test_a_lake_that_is_far_behind_says_so(database_18: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    run_sql(database_18, "UPDATE accounts SET balance = 0")
    monkeypatch.setattr(verification, "PULLED_BYTES", 1000)
    found = only(verify(pipeline, "accounts"))
    assert found.outcome is Outcome.UNSETTLED
    assert "--until-caught-up" in str(found.reason)


def test_an_open_transaction_is_not_waited_for_without_end(
    database_18: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    monkeypatch.setattr(source, "SLOT_SECONDS", 0.5)
    monkeypatch.setattr(verification, "ATTEMPTS", 1)
    with psycopg.connect(database_18) as connection:
        connection.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
        found = only(verify(pipeline, "accounts"))
    assert found.outcome is Outcome.UNSETTLED
    assert "transaction" in str(found.reason)


def test_verify_gives_way_to_who_waits_for_a_table(
    database_18: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    loaded = config.load(pipeline)
    held = Lake(loaded).held()
    with (
        closing(PostgresVerification(loaded.source, loaded.context)) as of_source,  # type: ignore[arg-type]
        looked_at(of_source, held, 600.0) as point,
    ):
        rows = sum(len(batch) for _, batch in point.rows("public.accounts", [0]))
        assert rows > 0
        altering = threading.Thread(target=run_sql, args=(database_18, "ALTER TABLE accounts ADD more int"))
        altering.start()
        altering.join(timeout=120)
        assert not altering.is_alive()
        with pytest.raises(SourceUnavailable, match="waits to alter"):
            point.chunks("public.accounts")


@contextmanager
def looked_at(of_source: PostgresVerification, held: Progress, seconds: float) -> Iterator[SourcePoint]:
    """The accounts at a point."""
    of_source.tables(held)
    with of_source.point(["public.accounts"], held, seconds) as point:
        yield point


def test_a_point_is_not_held_for_longer_than_allowed(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    loaded = config.load(pipeline)
    held = Lake(loaded).held()
    with (
        closing(PostgresVerification(loaded.source, loaded.context)) as of_source,  # type: ignore[arg-type]
        looked_at(of_source, held, 0.1) as point,
    ):
        wait_for(lambda: sessions(database_18) <= 1, what="the point's end")
        with pytest.raises(SourceUnavailable, match="--timeout"):
            list(point.rows("public.accounts", [0]))


def sessions(dsn: str) -> int:
    """Sessions of verify that are inside a transaction, or at a slot."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%verify%'"
            " AND datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_verify_that_is_ended_leaves_nothing_at_the_source(
    database_18: str, tmp_path: Path, number: signal.Signals
) -> None:
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    wait_for(lambda: slots(database_18) == 0, what="the end of capture's own")
    with psycopg.connect(database_18) as connection:
        # The slot waits for this transaction: verify is caught in the middle.
        connection.execute("UPDATE accounts SET balance = 0 WHERE id = 1")
        process = subprocess.Popen([*COMMAND, "verify", str(pipeline)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            wait_for(lambda: slots(database_18) == 1, what="the temporary slot")
            process.send_signal(number)
            _, err = process.communicate(timeout=120)
        finally:
            process.kill()
            process.communicate()
    assert process.returncode == (130 if number is signal.SIGINT else -number), err
    wait_for(lambda: slots(database_18) == 0, what="the end of the temporary slot")
    wait_for(lambda: sessions(database_18) == 0, what="the end of its sessions")


def slots(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_replication_slots WHERE temporary AND database = current_database()"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_the_command_tells_by_its_exit_code_and_names_no_value(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    early = run("verify", str(pipeline))
    assert early.returncode == 2
    assert "catchment run" in early.stderr
    catch_up(pipeline)
    equal = run("verify", str(pipeline), "--json")
    assert equal.returncode == 0, equal.stderr
    assert json.loads(equal.stdout)["outcome"] == "equal"

    rewrite(pipeline, "silver.accounts", damage)
    different = run("verify", str(pipeline), "accounts", "--deep")
    assert different.returncode == 1, different.stderr
    assert "missing in the lake: (id=7)" in different.stdout
    assert "different: (id=9)" in different.stdout
    assert "columns that differ: name" in different.stdout
    assert "another" not in different.stdout + different.stderr

    unknown = run("verify", str(pipeline), "account")
    assert unknown.returncode == 2
    assert "public.accounts" in unknown.stderr


QUARANTINE = """
tables:
  accounts:
    - {type: range, column: balance, min: 0, severity: quarantine}
"""


def test_rows_in_quarantine_count_as_the_lakes(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    pipeline.write_text(pipeline.read_text().replace("lakehouse:", "lakehouse:\n  quality: quality.yaml"))
    (tmp_path / "quality.yaml").write_text(QUARANTINE)
    run_sql(database_18, "UPDATE accounts SET balance = -1 WHERE id IN (3, 4)")
    catch_up(pipeline)
    found = only(verify(pipeline, "accounts"))
    assert (found.outcome, found.lake_rows, found.quarantined_rows) == (Outcome.EQUAL, 20, 2)

    run_sql(
        database_18, "UPDATE accounts SET balance = 1 WHERE id = 3", "UPDATE accounts SET balance = -2 WHERE id = 5"
    )
    found = only(verify(pipeline, "accounts"))
    assert (found.outcome, found.lake_rows) == (Outcome.EQUAL, 20)

    rewrite(pipeline, "silver.accounts_quarantine", lambda rows: rows.filter(pc.not_equal(rows["id"], 4)))
    found = only(verify(pipeline, "accounts"))
    assert list(found.missing.named) == [{"id": "4"}]


def test_a_table_that_is_pinned_is_left_out(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    loaded = config.load(pipeline)
    silver = load_catalog(loaded.lakehouse.catalog, loaded.directory).load_table("silver.accounts")
    with silver.transaction() as change:
        change.set_properties({"catchment.pinned": "1"})
    found = only(verify(pipeline, "accounts"))
    assert found.outcome is Outcome.SKIPPED
    assert "catchment resume" in str(found.reason)


def test_names_that_are_ours_or_odd_are_compared_like_others(database_18: str, tmp_path: Path) -> None:
    columns = "value text, after text, quarantined int, _quarantined text, c0 int, touched_0 int, chunk int, kind text"
    run_sql(
        database_18,
        f'CREATE TABLE "Odd [name]*" ("Key" int PRIMARY KEY, {columns})',
        """INSERT INTO "Odd [name]*" SELECT g, 'v', 'a', 1, 'q', g, g, 1, 'k' FROM generate_series(1, 9) g""",
        "CREATE TABLE ours (_version int PRIMARY KEY, _unrepresentable text, key int)",
        "INSERT INTO ours SELECT g, 'u', g FROM generate_series(1, 9) g",
        'CREATE TABLE cases (a int PRIMARY KEY, "A" int)',
        "INSERT INTO cases VALUES (1, 2)",
        "CREATE SCHEMA sales",
        "CREATE TABLE sales.orders (a int PRIMARY KEY)",
        "INSERT INTO sales.orders VALUES (1)",
    )
    pipeline = write_pipeline(tmp_path, database_18)
    pipeline.write_text(pipeline.read_text().replace("[public.*]", "[public.*, sales.*]"))
    catch_up(pipeline)
    run_sql(
        database_18,
        """UPDATE "Odd [name]*" SET value = 'new' WHERE "Key" < 4""",
        "UPDATE ours SET key = 0 WHERE _version < 4",
    )
    verdict = verify(pipeline)
    found = {one.table: (one.outcome, one.reason) for one in verdict.tables}
    assert found.pop("public.cases")[0] is Outcome.SKIPPED
    assert {outcome for outcome, _ in found.values()} == {Outcome.EQUAL}, list(map(told, verdict.tables))
    assert only(verify(pipeline, "sales_orders")).table == "sales.orders"


@contextmanager
def writing_elsewhere(dsn: str) -> Iterator[None]:
    """Changes of another table: without any, how far the lake has come is only kept every ten seconds."""
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            while not stop.wait(0.05):
                connection.execute("UPDATE events SET at = now() WHERE account = 1")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_table_that_is_read_again_beside_verify_raises_no_alarm(
    database_18: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload.set_up(database_18, 20)
    pipeline = write_pipeline(tmp_path, database_18)
    pipeline.write_text(pipeline.read_text().replace("tables:", "new_tables_interval_seconds: 0.2\n  tables:"))
    catch_up(pipeline)
    moment = Lake.moment
    moments: list[LakeMoment] = []

    def overtaken(lake: Lake) -> LakeMoment:
        found = moment(lake)
        if not moments:
            # Between what the lake was and the point at the source the table is read again, from beginning to end.
            run_sql(database_18, "ALTER TABLE accounts ADD level int DEFAULT 3")
            wait_for(lambda: reading(lake) != reading(lake, found.held), what="the second reading")
        moments.append(found)
        return found

    def reading(lake: Lake, held: Progress | None = None) -> set[str]:
        chunks = (held or lake.held()).chunks
        return {key for key, names in chunks.items() if "accounts@" in key and names == ALL_CHUNKS}

    monkeypatch.setattr(Lake, "moment", overtaken)
    process = start(pipeline)
    try:
        wait_for(lambda: holder("test", tmp_path) is not None, what="the pipeline")
        with writing_elsewhere(database_18):
            verdict = verify(pipeline, "accounts")
    finally:
        end(process)
    assert len(moments) > 2
    assert verdict.outcome is Outcome.EQUAL, list(map(told, verdict.tables))
