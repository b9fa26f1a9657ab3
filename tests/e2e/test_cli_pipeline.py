"""The life of a pipeline by commands alone, against a real server."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import psycopg
import pytest

import catchment
from catchment.cli.results import write
from catchment.config import load
from catchment.lakehouse.ops import OpsStore
from e2e.cli import PIPELINE, Done, command, run_command, write_pipeline
from statements import run_sql
from waiting import wait_for

SHOP = (
    "CREATE TABLE orders (order_id bigint PRIMARY KEY, email text, total numeric(12,2), made timestamptz)",
    "INSERT INTO orders SELECT n, n || '@example.com', n * 1.5, '2024-05-01 12:00+00' FROM generate_series(1, 500) n",
)


def rows(path: Path, sql: str) -> list[dict[str, object]]:
    """What a query prints as JSON, without the process around it."""
    text = StringIO()
    with catchment.connect(path) as lake, redirect_stdout(text):
        write(lake.execute(sql).to_arrow_reader(), "json", None, limit=1)
    return list(json.loads(text.getvalue()))


def last_state(path: Path) -> str | None:
    """What the pipeline last reported."""
    config = load(path)
    store = OpsStore.existing(config.lakehouse, config.directory)
    if store is None:
        return None
    report = store.latest_report(config.name)
    store.close()
    return report.state if report is not None else None


def slots(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        ).fetchone()
        assert row is not None
        return int(row[0])


def slots_left(dsn: str, count: int) -> None:
    """Temporary slots go with their sessions, which the server ends in its own time; none is read from any more."""
    active = "SELECT count(*) FROM pg_replication_slots WHERE active AND database = current_database()"
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_for(lambda: connection.execute(active).fetchone() == (0,), "slots that nobody reads")
    wait_for(lambda: slots(dsn) == count, f"{count} slots")


def captured(path: Path) -> Done:
    done = run_command("run", path, "--until-caught-up")
    assert done.code == 0, done.err
    return done


def test_a_pipeline_is_checked_run_asked_and_removed(database: str, tmp_path: Path) -> None:
    run_sql(database, *SHOP)
    path = write_pipeline(tmp_path, database, PIPELINE.replace("shop", "life"))
    checked = run_command("validate", path, "--json")
    assert checked.code == 0, checked.out
    assert checked.json["ok"] is True
    slots_left(database, 0)

    captured(path)
    assert rows(path, "SELECT count(*) AS n, sum(total) AS total FROM current.orders") == [
        {"n": 500, "total": "187875.00"}
    ]
    assert rows(path, "SELECT made, total FROM current.orders WHERE order_id = 3") == [
        {"made": "2024-05-01T12:00:00.000000Z", "total": "4.50"}
    ]
    run_sql(database, "UPDATE orders SET total = 0 WHERE order_id <= 10", "DELETE FROM orders WHERE order_id = 500")
    captured(path)
    assert rows(path, "SELECT count(*) AS n, min(total) AS least FROM current.orders") == [{"n": 499, "least": "0.00"}]

    slots_left(database, 1)
    status = run_command("status", path, "--json").json
    assert status["state"] == "stopped"
    assert status["running"] is False
    assert status["tables"]["public.orders"]["rows"] == 511
    assert status["sinks"]["iceberg"]["positions"]
    assert status["source"]["state"] == "waiting"
    assert status["source"]["lag_bytes"] is not None
    assert "public.orders" in run_command("status", path).out

    unasked = run_command("remove", path)
    assert unasked.code == 2
    assert "drop the replication slot catchment_life" in unasked.err
    slots_left(database, 1)
    removed = run_command("remove", path, "--yes", "--json")
    assert removed.code == 0
    assert removed.json["done"][0] == "dropped the replication slot catchment_life"
    slots_left(database, 0)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
    assert run_command("remove", path, "--yes").code == 0
    # What was captured is still there, and going on silently is refused.
    assert rows(path, "SELECT count(*) AS n FROM current.orders") == [{"n": 499}]
    lost = run_command("run", path, "--until-caught-up")
    assert lost.code == 1
    assert "--resnapshot" in lost.err
    assert "Traceback" not in lost.err


def test_a_resnapshot_brings_the_lake_back_to_the_source(database_18: str, tmp_path: Path) -> None:
    run_sql(database_18, *SHOP)
    path = write_pipeline(tmp_path, database_18, PIPELINE.replace("shop", "again\nenvironment: prod"))
    captured(path)
    slots_left(database_18, 1)
    assert run_command("remove", path, "--yes").code == 0
    run_sql(database_18, "DELETE FROM orders WHERE order_id <= 100", "UPDATE orders SET total = 1")
    done = run_command("run", path, "--resnapshot", "--until-caught-up")
    assert done.code == 0, done.err
    assert all(line.startswith("[prod] ") for line in done.err.splitlines())
    assert rows(path, "SELECT count(*) AS n, sum(total) AS total FROM current.orders") == [
        {"n": 400, "total": "400.00"}
    ]


def test_a_dry_run_counts_and_leaves_nothing_anywhere(database_18: str, tmp_path: Path) -> None:
    run_sql(database_18, *SHOP)
    path = write_pipeline(tmp_path, database_18, PIPELINE.replace("shop", "dry"))
    first = run_command("run", path, "--dry-run", "--json")
    assert first.code == 0, first.err
    orders = first.json["tables"]["public.orders"]
    assert orders["changes"]["read"] == 500
    assert orders["columns"]["total"]["type"] == "decimal128(12, 2)"
    slots_left(database_18, 0)
    with psycopg.connect(database_18) as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
    assert not (tmp_path / "lake").exists()

    captured(path)
    run_sql(database_18, "DELETE FROM orders WHERE order_id <= 7")
    for _ in range(2):
        counted = run_command("run", path, "--dry-run", "--json").json
        assert counted["tables"]["public.orders"]["changes"]["delete"] == 7
    assert rows(path, "SELECT count(*) AS n FROM current.orders") == [{"n": 500}]
    captured(path)
    assert rows(path, "SELECT count(*) AS n FROM current.orders") == [{"n": 493}]


def test_redacted_columns_are_hashes_in_the_lake(database_18: str, tmp_path: Path) -> None:
    run_sql(database_18, *SHOP)
    rule = 'transforms:\n  - {type: hash, columns: ["*.email"], secret: "0123456789abcdef"}\nlakehouse:'
    path = write_pipeline(tmp_path, database_18, PIPELINE.replace("lakehouse:", rule).replace("shop", "redacted"))
    captured(path)
    run_sql(database_18, "UPDATE orders SET email = 'new@example.com' WHERE order_id = 1")
    captured(path)
    found = rows(path, "SELECT email FROM current.orders WHERE order_id IN (1, 2) ORDER BY order_id")
    emails = ("new@example.com", "2@example.com")
    assert [row["email"] for row in found] == [
        hmac.new(b"0123456789abcdef", email.encode(), hashlib.sha256).hexdigest() for email in emails
    ]
    for file in (tmp_path / "lake").rglob("*"):
        if file.is_file():
            assert b"@example.com" not in file.read_bytes(), file


def test_a_pattern_of_redaction_that_matches_nothing_fails_validation(database_18: str, tmp_path: Path) -> None:
    run_sql(database_18, *SHOP)
    rule = 'transforms:\n  - {type: hash, columns: ["*.emial"], secret: "0123456789abcdef"}\nlakehouse:'
    path = write_pipeline(tmp_path, database_18, PIPELINE.replace("lakehouse:", rule).replace("shop", "leak"))
    done = run_command("validate", path)
    assert done.code == 1
    assert "*.emial" in done.out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_cleanly_and_a_second_process_is_refused(
    database_18: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run_sql(database_18, *SHOP)
    path = write_pipeline(tmp_path, database_18, PIPELINE.replace("shop", f"signal{number}"))
    process = subprocess.Popen(command("run", path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: last_state(path) == "running", "it runs")
        run_sql(database_18, "INSERT INTO orders VALUES (1000, 'x', 1)")
        wait_for(
            lambda: rows(path, "SELECT count(*) AS n FROM current.orders WHERE order_id = 1000") == [{"n": 1}],
            "the new row is in the lake",
        )
        status = run_command("status", path, "--json").json
        assert (status["process"], status["running"]) == (process.pid, True)
        assert status["source"]["state"] == "active"
        second = run_command("run", path)
        assert second.code == 3
        assert str(process.pid) in second.err
        assert last_state(path) == "running"
        assert run_command("remove", path, "--yes").code == 3
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "stopped" in err


def test_one_table_can_be_taken_out(database_18: str, tmp_path: Path) -> None:
    run_sql(database_18, *SHOP, "CREATE TABLE other (id int PRIMARY KEY)")
    path = write_pipeline(tmp_path, database_18, PIPELINE.replace("shop", "one"))
    captured(path)
    done = run_command("remove", path, "--table", "public.other", "--yes")
    assert done.code == 0
    assert "took public.other out of the publication catchment_one" in done.err
    assert "source.exclude" in done.err
    with psycopg.connect(database_18) as connection:
        left = connection.execute("SELECT tablename FROM pg_publication_tables WHERE pubname = 'catchment_one'")
        assert left.fetchall() == [("orders",)]
    slots_left(database_18, 1)
    assert run_command("remove", path, "--table", "other", "--yes").code == 2


def test_a_role_without_privileges_gets_sentences_and_not_a_traceback(database_18: str, tmp_path: Path) -> None:
    from psycopg.conninfo import make_conninfo

    name = f"cli_{os.getpid()}"
    run_sql(database_18, *SHOP, f"CREATE ROLE {name} LOGIN")
    try:
        path = write_pipeline(tmp_path, make_conninfo(database_18, user=name), PIPELINE.replace("shop", "poor"))
        checked = run_command("validate", path)
        assert checked.code == 1
        assert f'ALTER ROLE "{name}" REPLICATION;' in checked.out
        refused = run_command("run", path, "--until-caught-up")
        assert refused.code == 1
        assert "Traceback" not in refused.err
        assert "catchment validate" in refused.err
    finally:
        run_sql(database_18, f"DROP ROLE {name}")
