"""What the server keeps for a pipeline, as `status` tells it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

from catchment.demo.postgres import NOT_DURABLE, EmbeddedPostgres
from catchment.sources.postgres import retention
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.retention import ask_retention


def config(dsn: str, slot: str) -> PostgresSourceConfig:
    return PostgresSourceConfig.model_validate({"type": "postgres", "dsn": dsn, "slot": slot})


def make_slot(connection: psycopg.Connection[tuple[object, ...]], slot: str) -> None:
    connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))


def test_a_slot_that_does_not_exist_is_said_to_be_missing(database: str) -> None:
    found = ask_retention(config(database, "not_there"), "shop", seconds=0)
    assert found.state == "missing"
    assert "not_there" in found.notes[0]


def test_lag_kept_wal_and_a_missing_limit_are_told(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        make_slot(connection, "kept_slot")
        before = ask_retention(config(database, "kept_slot"), "shop", seconds=0)
        connection.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 3000000))")
        after = ask_retention(config(database, "kept_slot"), "shop", seconds=0)
    assert after.state == "waiting"
    assert after.lag_bytes is not None
    assert before.lag_bytes is not None
    assert after.lag_bytes - before.lag_bytes >= 3_000_000
    assert after.kept_bytes is not None
    assert after.kept_bytes >= after.lag_bytes
    assert after.left_bytes is None
    assert after.seconds_left is None
    assert any("no limit" in note for note in after.notes)


def test_the_transaction_that_holds_the_wal_is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LONG_SECONDS", 0.0)
    with psycopg.connect(database, autocommit=True) as connection, psycopg.connect(database) as other:
        make_slot(connection, "held_slot")
        other.execute("CREATE TABLE held (i int)")
        found = ask_retention(config(database, "held_slot"), "shop", seconds=0)
        assert any(f"process {other.info.backend_pid}" in note for note in found.notes)


def test_a_prepared_transaction_that_holds_the_wal_is_named_as_it_is_written(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LONG_SECONDS", 0.0)
    with psycopg.connect(database, autocommit=True) as connection:
        make_slot(connection, "prepared_slot")
        connection.execute("BEGIN; CREATE TABLE prepared (i int); PREPARE TRANSACTION 'Nightly Import'")
        found = ask_retention(config(database, "prepared_slot"), "shop", seconds=0)
        connection.execute("ROLLBACK PREPARED 'Nightly Import'")
    assert any(note.startswith("The prepared transaction 'Nightly Import' has been open") for note in found.notes)


def test_the_time_until_the_slot_is_lost_follows_from_the_rate_and_then_it_is_lost() -> None:
    directory = Path(tempfile.mkdtemp(prefix="catchment-retention-"))
    directory.chmod(0o755)
    settings = {**NOT_DURABLE, "max_slot_wal_keep_size": "64MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    server = EmbeddedPostgres(directory / "server", settings=settings)
    emit = "SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, %s)"
    try:
        server.start()
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            make_slot(connection, "limited")
            wanted = config(server.dsn, "limited")
            idle = ask_retention(wanted, "shop", seconds=0.01)
            assert idle.left_bytes is not None
            assert 0 < idle.left_bytes <= 128 << 20
            connection.execute(emit, (200,))
            connection.execute("CHECKPOINT")
            lost = ask_retention(wanted, "shop", seconds=0)
            assert lost.state == "lost"
            assert "--resnapshot" in lost.notes[0]
    finally:
        server.stop("immediate")
        shutil.rmtree(directory)
