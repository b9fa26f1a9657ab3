"""DDL that changes rows without a change being sent: the table is read again, and the lake equals its source again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catchment import config
from catchment.verify.report import Outcome
from catchment.verify.verification import Verification
from pipelines import workload
from pipelines.lake import catch_up, end, query, run, start, write_pipeline
from pipelines.workload import Workload
from seeds import first_seed
from statements import run_sql
from waiting import wait_for

SILENT = {
    "with_default": ["ALTER TABLE {} ADD level int NOT NULL DEFAULT 3"],
    "with_default_and_rewritten": ["ALTER TABLE {} ADD level int DEFAULT 3", "VACUUM FULL {}"],
    "with_volatile_default": ["ALTER TABLE {} ADD token uuid DEFAULT gen_random_uuid()"],
    "with_serial": ["ALTER TABLE {} ADD number serial"],
    "type_using": ["ALTER TABLE {} ALTER name TYPE text USING upper(name)"],
    "type_changed": ["ALTER TABLE {} ALTER balance TYPE text USING balance::text || ' EUR'"],
    "renamed": ["ALTER TABLE {} RENAME name TO title"],
    "dropped_and_added": ["ALTER TABLE {} DROP name", "ALTER TABLE {} ADD name text"],
    "partitioned": ["ALTER TABLE {} ADD level int NOT NULL DEFAULT 3"],
}
"""DDL by the table it is done to."""
HARMLESS = [
    "ALTER TABLE accounts ADD remark text",
    "VACUUM FULL accounts",
    "ALTER TABLE accounts ALTER name SET DEFAULT 'x'",
    "ALTER TABLE accounts ALTER balance SET STATISTICS 200",
    "ALTER TABLE accounts ALTER name TYPE varchar",
    "ALTER TABLE accounts DROP note",
    "CREATE INDEX ON accounts (name)",
]


def outcome(pipeline: Path, table: str | None = "accounts") -> Outcome:
    return Verification(config.load(pipeline), table=table, deep=True).run().outcome


def read_again(pipeline: Path, table: str = "accounts") -> int:
    """How often the table was read after the first time."""
    (times,) = query(pipeline, f"SELECT count(DISTINCT _version) FROM bronze.{table} WHERE _op = 'r'")[0]
    assert query(pipeline, f"SELECT count(*) FROM bronze.{table} WHERE _op = 't'") == [(0,)]
    return int(times) - 1


def test_rows_that_ddl_changed_while_nobody_looked_are_read_again(database: str, tmp_path: Path) -> None:
    columns = "(id bigint PRIMARY KEY, name text, balance numeric(12,2), note text)"
    for table in SILENT:
        run_sql(
            database, f"CREATE TABLE {table} {columns}{' PARTITION BY RANGE (id)' if table == 'partitioned' else ''}"
        )
    run_sql(
        database,
        "CREATE TABLE low PARTITION OF partitioned FOR VALUES FROM (0) TO (20)",
        "CREATE TABLE high PARTITION OF partitioned FOR VALUES FROM (20) TO (100)",
        *(f"INSERT INTO {table} SELECT g, 'name', g, 'n' FROM generate_series(1, 50) g" for table in SILENT),
    )
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    for table, statements in SILENT.items():
        run_sql(database, *(one.format(table) for one in statements))
        run_sql(database, f"UPDATE {table} SET note = 'later' WHERE id < 10")

    before = Verification(config.load(pipeline), deep=True).run()
    assert {one.table: one.outcome for one in before.tables} == {
        f"public.{table}": Outcome.DIFFERENT for table in SILENT
    }
    catch_up(pipeline)
    assert outcome(pipeline, None) is Outcome.EQUAL
    catch_up(pipeline)
    assert {table: read_again(pipeline, table) for table in SILENT} == dict.fromkeys(SILENT, 1)


def test_a_new_partition_reads_nothing_again(database_18: str, tmp_path: Path) -> None:
    run_sql(
        database_18,
        "CREATE TABLE days (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
        "CREATE TABLE one PARTITION OF days FOR VALUES FROM (0) TO (10)",
        "INSERT INTO days SELECT g, g FROM generate_series(1, 9) g",
    )
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    run_sql(
        database_18,
        "CREATE TABLE two PARTITION OF days FOR VALUES FROM (10) TO (20)",
        "INSERT INTO days SELECT g, g FROM generate_series(10, 19) g",
    )
    catch_up(pipeline)
    assert read_again(pipeline, "days") == 0
    assert outcome(pipeline, "days") is Outcome.EQUAL


def test_ddl_that_changes_no_rows_reads_nothing_again(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 50)
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    for statement in HARMLESS:
        run_sql(database_18, statement, "UPDATE accounts SET balance = balance + 1 WHERE id < 10")
        catch_up(pipeline)
        assert read_again(pipeline) == 0, statement
        assert outcome(pipeline) is Outcome.EQUAL, statement


def test_ddl_beside_a_running_pipeline_and_changes_ends_in_equal_rows(database_18: str, tmp_path: Path) -> None:
    seed = first_seed()
    print(f"CATCHMENT_SEED={seed}")
    workload.set_up(database_18)
    pipeline = write_pipeline(tmp_path, database_18)
    pipeline.write_text(pipeline.read_text().replace("tables:", "new_tables_interval_seconds: 0.5\n  tables:"))
    catch_up(pipeline)
    process = start(pipeline)
    try:
        with Workload(database_18, seed) as writing:
            for number, statement in enumerate(
                (
                    "ALTER TABLE accounts ADD level int DEFAULT 7",
                    "ALTER TABLE accounts ADD token float DEFAULT random()",
                ),
                1,
            ):
                wait_for(lambda: writing.transactions > 50, what="the workload")
                run_sql(database_18, statement)
                wait_for(lambda: read_again(pipeline) >= number, what="reading again")  # noqa: B023
        wait_for(lambda: outcome(pipeline) is Outcome.EQUAL, what="equal rows")
    finally:
        err = end(process)
    assert process.returncode == 0, err
    assert "added with a default" in err
    assert "rewritten" in err


def test_a_table_that_was_partly_read_when_ddl_came_is_read_again(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 3000)
    pipeline = write_pipeline(tmp_path, database_18, chunk_bytes=8192)
    slow = pipeline.read_text()
    pipeline.write_text(slow.replace("tables:", "snapshot_rows_per_second: 1000\n  tables:"))
    process = start(pipeline)
    try:
        wait_for(lambda: (tmp_path / "lake").exists() and some(pipeline), what="the first rows")
    finally:
        process.kill()
        process.communicate()
    pipeline.write_text(slow)
    run_sql(database_18, "ALTER TABLE accounts ADD level int DEFAULT 3")
    catch_up(pipeline)
    catch_up(pipeline)
    assert outcome(pipeline) is Outcome.EQUAL


def some(pipeline: Path) -> bool:
    """Is something of the table in the lake?"""
    return bool(query(pipeline, "SELECT count(*) FROM bronze.accounts")[0][0])


def test_tables_without_silver_are_read_again_too(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 50)
    pipeline = write_pipeline(tmp_path, database_18)
    pipeline.write_text(pipeline.read_text().replace("lakehouse:", "lakehouse:\n  silver: false"))
    catch_up(pipeline)
    run_sql(database_18, "ALTER TABLE accounts ADD level int NOT NULL DEFAULT 3")
    catch_up(pipeline)
    assert outcome(pipeline) is Outcome.EQUAL


KEYS = [
    "ALTER TABLE accounts RENAME id TO number",
    "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey, ALTER name SET NOT NULL, ADD PRIMARY KEY (number, name)",
    "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey, ADD code int GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
]


def test_a_table_that_gets_another_key_is_built_anew(database_18: str, tmp_path: Path) -> None:
    workload.set_up(database_18, 50)
    pipeline = write_pipeline(tmp_path, database_18, flush=60.0)
    pipeline.write_text(pipeline.read_text().replace("lakehouse:", "lakehouse:\n  history: [accounts]"))
    run_sql(database_18, "UPDATE accounts SET name = 'name' WHERE name IS NULL")
    catch_up(pipeline)
    for statement in KEYS:
        run_sql(
            database_18,
            statement,
            "UPDATE accounts SET note = 'later' WHERE name IN ('name 3', 'name 4')",
            "DELETE FROM accounts WHERE name = (SELECT min(name) FROM accounts)",
        )
        catch_up(pipeline)
        assert outcome(pipeline) is Outcome.EQUAL, statement
        versions = query(
            pipeline, "SELECT count(*), count(DISTINCT name) FROM silver.accounts_history WHERE is_current"
        )
        assert versions == query(pipeline, "SELECT count(*), count(DISTINCT name) FROM silver.accounts"), statement


KEY_TYPES = [
    "numeric(12,2)",
    "text USING 'n' || (id * 2)",
    "text USING 'm' || id",
    "uuid USING md5(id)::uuid",
    "bytea USING uuid_send(id)",
    "bigint USING length(note)",
]
"""Each gives every row another key, the last one in a column that held it before."""


@pytest.mark.parametrize("flush", [0.1, 60.0], ids=["many flushes", "one flush"])
def test_a_key_that_gets_another_type_tells_rows_apart_again(database_18: str, tmp_path: Path, flush: float) -> None:
    run_sql(
        database_18,
        "CREATE TABLE accounts (id bigint, kind int, name text, note text, PRIMARY KEY (id, kind))",
        "INSERT INTO accounts SELECT g, g % 2, 'name ' || g, repeat('x', g) FROM generate_series(1, 50) g",
    )
    pipeline = write_pipeline(tmp_path, database_18, flush=flush)
    pipeline.write_text(pipeline.read_text().replace("lakehouse:", "lakehouse:\n  history: [accounts]"))
    catch_up(pipeline)
    for number, kind in enumerate(KEY_TYPES):
        run_sql(
            database_18,
            f"DELETE FROM accounts WHERE name = 'name {8 * number + 1}'",
            f"ALTER TABLE accounts ALTER id TYPE {kind}",
            f"UPDATE accounts SET kind = 2 WHERE name = 'name {8 * number + 2}'",
            f"DELETE FROM accounts WHERE name = 'name {8 * number + 3}'",
        )
        catch_up(pipeline)
        rows = 50 - 2 * (number + 1)
        assert outcome(pipeline) is Outcome.EQUAL, kind
        for view in ("current.accounts", "silver.accounts", "(FROM silver.accounts_history WHERE is_current)"):
            assert query(pipeline, f"SELECT count(*), count(DISTINCT name) FROM {view}") == [(rows, rows)], (kind, view)
    run_sql(database_18, "UPDATE accounts SET note = 'later' WHERE id > 40", "DELETE FROM accounts WHERE id < 20")
    catch_up(pipeline)
    assert outcome(pipeline) is Outcome.EQUAL


NOT_REWRITTEN = {
    "timestamptz": "timestamp '2026-01-01' + g * interval '1 day'",
    "numeric": "g::numeric(12,2)",
    "numeric(50,2)": "g::numeric(12,2)",
}
"""Types that a key gets without a rewrite of its table, in UTC, while the lake has another for it → first values."""


def test_a_key_that_gets_another_type_without_a_rewrite_tells_rows_apart_again(
    database_18: str, tmp_path: Path
) -> None:
    for number, value in enumerate(NOT_REWRITTEN.values()):
        run_sql(
            database_18,
            f"CREATE TABLE t{number} AS SELECT g AS sensor, {value} AS at, 0 AS v FROM generate_series(1, 20) g",
            f"ALTER TABLE t{number} ADD PRIMARY KEY (sensor, at)",
        )
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    for number, kind in enumerate(NOT_REWRITTEN):
        run_sql(
            database_18,
            "SET TimeZone = 'UTC'",
            f"ALTER TABLE t{number} ALTER at TYPE {kind}",
            f"UPDATE t{number} SET v = 1 WHERE sensor < 5",
            f"DELETE FROM t{number} WHERE sensor > 15",
        )
    catch_up(pipeline)
    assert outcome(pipeline, None) is Outcome.EQUAL
    for number, kind in enumerate(NOT_REWRITTEN):
        for layer in ("silver", "current"):
            found = query(pipeline, f"SELECT count(*), count(DISTINCT sensor) FROM {layer}.t{number}")
            assert found == [(15, 15)], (layer, kind)


def test_a_table_that_was_rolled_back_follows_its_key_to_another_type_when_it_is_resumed(
    database_18: str, tmp_path: Path
) -> None:
    run_sql(
        database_18,
        "CREATE TABLE accounts (id bigint PRIMARY KEY, name text, note text)",
        "INSERT INTO accounts SELECT g, 'name ' || g, 'n' FROM generate_series(1, 50) g",
    )
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    silver = "SELECT count(*), count(DISTINCT name), min(note) FROM silver.accounts"
    for kind, rows in (("text USING 'n' || id", 49), ("uuid USING md5(id)::uuid", 48)):
        said = json.loads(run("snapshots", str(pipeline), "silver.accounts", "--json").stdout)
        newest = said["tables"][0]["snapshots"][-1]["id"]
        before = query(pipeline, silver)
        done = run("rollback", str(pipeline), "silver.accounts", "--snapshot", str(newest))
        assert done.returncode == 0, done.stderr
        run_sql(
            database_18,
            f"ALTER TABLE accounts ALTER id TYPE {kind}",
            f"DELETE FROM accounts WHERE name = 'name {rows}'",
            f"UPDATE accounts SET note = 'after {rows}'",
        )
        catch_up(pipeline)
        assert query(pipeline, silver) == before, "it is left alone"
        done = run("resume", str(pipeline), "silver.accounts")
        assert done.returncode == 0, done.stderr
        assert query(pipeline, silver) == [(rows, rows, f"after {rows}")]
        # From before its key had another type, too.
        done = run("rollback", str(pipeline), "silver.accounts", "--snapshot", str(newest))
        assert done.returncode == 0, done.stderr
        done = run("resume", str(pipeline), "silver.accounts")
        assert done.returncode == 0, done.stderr
        run_sql(database_18, "UPDATE accounts SET note = 'last'")
        catch_up(pipeline)
        assert query(pipeline, silver) == [(rows, rows, "last")]
        assert outcome(pipeline) is Outcome.EQUAL


@pytest.mark.parametrize("ddl", ["RENAME id TO number", "ALTER id TYPE text"])
def test_a_quiet_table_whose_key_changed_is_built_anew_by_a_new_snapshot(
    database_18: str, tmp_path: Path, ddl: str
) -> None:
    run_sql(
        database_18,
        "CREATE TABLE accounts (id bigint PRIMARY KEY, name text)",
        "INSERT INTO accounts SELECT g, 'name ' || g FROM generate_series(1, 50) g",
    )
    # All that a new snapshot tells of the table is then in one commit.
    pipeline = write_pipeline(tmp_path, database_18, flush=3)
    catch_up(pipeline)
    run_sql(database_18, f"ALTER TABLE accounts {ddl}")
    done = run("run", str(pipeline), "--until-caught-up", "--resnapshot")
    assert done.returncode == 0, done.stderr
    # Nothing changes in it any more: the snapshot is all that ever tells of its new key.
    catch_up(pipeline)
    assert outcome(pipeline) is Outcome.EQUAL
    assert query(pipeline, "SELECT count(*), count(DISTINCT name) FROM silver.accounts") == [(50, 50)]


OTHER_KEYS = {
    "typed": "ALTER id TYPE text USING 'n' || id",
    "renamed": "RENAME id TO ident",
    "rekeyed": "DROP CONSTRAINT rekeyed_pkey, ADD PRIMARY KEY (name)",
}
"""DDL by the table it is done to."""


@pytest.mark.parametrize("reread", [True, False])
def test_rows_whose_changes_bronze_let_go_stay_when_their_key_is_another(
    database_18: str, tmp_path: Path, reread: bool
) -> None:
    for table in OTHER_KEYS:
        run_sql(
            database_18,
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text NOT NULL, note text)",
            f"INSERT INTO {table} SELECT g, 'name ' || g, 'n' FROM generate_series(1, 50) g",
        )
    pipeline = write_pipeline(tmp_path, database_18)
    text = pipeline.read_text().replace("  tables:", f"  reread_after_ddl: {str(reread).lower()}\n  tables:")
    cut = "lakehouse:\n  maintenance: {enabled: false, bronze_retention_days: 0.00001}"
    pipeline.write_text(text.replace("lakehouse:", cut))
    catch_up(pipeline)
    run_sql(database_18, *(f"UPDATE {table} SET note = 'later'" for table in OTHER_KEYS))
    catch_up(pipeline)

    def is_cut() -> bool:
        done = run("maintain", str(pipeline))
        assert done.returncode == 0, done.stderr
        return all(query(pipeline, f"SELECT count(*) FROM bronze.{table}") == [(0,)] for table in OTHER_KEYS)

    wait_for(is_cut, what="bronze without its old changes")
    for table, ddl in OTHER_KEYS.items():
        run_sql(database_18, f"ALTER TABLE {table} {ddl}", f"UPDATE {table} SET note = 'last' WHERE name = 'name 7'")
    catch_up(pipeline)
    run_sql(database_18, *(f"UPDATE {table} SET note = 'the last' WHERE note = 'last'" for table in OTHER_KEYS))
    catch_up(pipeline)
    for table in OTHER_KEYS:
        assert query(pipeline, f"SELECT count(DISTINCT name) FROM silver.{table}") == [(50,)], table
        assert query(pipeline, f"SELECT name FROM silver.{table} WHERE note = 'the last'") == [("name 7",)], table
    if reread:
        assert outcome(pipeline, None) is Outcome.EQUAL


def test_changes_from_before_a_truncate_that_come_after_it_bring_no_rows_back(database_18: str, tmp_path: Path) -> None:
    tables = {
        "typed": ["ALTER TABLE typed ALTER id TYPE text"],
        "made_anew": [
            "DROP TABLE made_anew",
            "CREATE TABLE made_anew (id bigint PRIMARY KEY, name text)",
            "INSERT INTO made_anew SELECT g + 100, 'name ' || g FROM generate_series(1, 52) g",
        ],
    }
    for table in tables:
        run_sql(
            database_18,
            f"CREATE TABLE {table} (id bigint PRIMARY KEY, name text)",
            f"INSERT INTO {table} SELECT g, 'name ' || g FROM generate_series(1, 50) g",
        )
    pipeline = write_pipeline(tmp_path, database_18)
    catch_up(pipeline)
    for table, statements in tables.items():
        # Nobody has read these when the table is found to be another one.
        run_sql(
            database_18,
            f"UPDATE {table} SET name = 'other' WHERE id = 7",
            f"INSERT INTO {table} VALUES (51, 'name 51'), (52, 'name 52')",
            *statements,
        )
    catch_up(pipeline)
    for table in tables:
        for layer in ("silver", "current"):
            assert query(pipeline, f"SELECT count(*) FROM {layer}.{table}") == [(52,)], (layer, table)
    assert outcome(pipeline, None) is Outcome.EQUAL


@pytest.mark.parametrize("catch_up_bytes", [0, 64 << 20], ids=["pulled", "streamed"])
def test_changes_from_before_a_renamed_key_come_before_it(
    database_18: str, tmp_path: Path, catch_up_bytes: int
) -> None:
    workload.set_up(database_18, 50)
    pipeline = write_pipeline(tmp_path, database_18, catch_up_bytes=catch_up_bytes)
    catch_up(pipeline)
    run_sql(
        database_18,
        "UPDATE accounts SET balance = 0 WHERE id < 10",
        "INSERT INTO accounts SELECT g, 'name ' || g, g FROM generate_series(51, 60) g",
        "ALTER TABLE accounts RENAME id TO number",
        "UPDATE events SET at = now() WHERE account < 5",
    )
    # From here on nothing comes of the table that would say again how it is keyed.
    for _ in range(2):
        catch_up(pipeline)
        assert outcome(pipeline) is Outcome.EQUAL
        for view in ("current.accounts", "silver.accounts"):
            assert query(pipeline, f"SELECT count(*), count(DISTINCT number) FROM {view}") == [(60, 60)], view
