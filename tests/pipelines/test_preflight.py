"""Preflight against real servers: what is missing is found, and its remedy mends it."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from catchment.demo.postgres import NOT_DURABLE, EmbeddedPostgres
from catchment.errors import SourceRefused, SourceUnavailable
from catchment.finding import Finding
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.preflight import check, columns
from catchment.sources.postgres.publication import find_tables
from statements import run_sql

ORDERS = "CREATE TABLE orders (order_id bigint PRIMARY KEY, total numeric(12,2), at timestamptz, note text)"


def config(dsn: str, **settings: object) -> PostgresSourceConfig:
    return PostgresSourceConfig.model_validate({"type": "postgres", "dsn": SecretStr(dsn), **settings})


def errors(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings if finding.severity == "error"}


def about(findings: list[Finding], subject: str) -> Finding:
    (found,) = [finding for finding in findings if finding.subject == subject]
    return found


@pytest.fixture
def role(database: str) -> Iterator[tuple[str, str]]:
    """A role that may only connect: its name, and a DSN with it."""
    name = f"capture {uuid.uuid4().hex[:8]}"
    run_sql(database, f'CREATE ROLE "{name}" LOGIN')
    try:
        yield name, make_conninfo(database, user=name)
    finally:
        run_sql(
            database,
            f'REASSIGN OWNED BY "{name}" TO postgres',
            f'DROP OWNED BY "{name}"',
            f'DROP ROLE "{name}"',
        )


def test_a_server_that_is_ready_has_no_errors(database: str) -> None:
    run_sql(database, ORDERS)
    findings = check(config(database), "shop")
    assert errors(findings) == {}
    assert about(findings, "table public.orders").message == "Key: order_id."
    assert "will be created" in about(findings, "slot catchment_shop").message
    assert "Opened" in about(findings, "replication connection").message


def test_checking_changes_nothing(database: str) -> None:
    run_sql(database, ORDERS)
    check(config(database), "shop")
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
        slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        assert connection.execute(slots).fetchone() == (0,)


def test_the_remedies_of_a_role_without_privileges_mend_everything(database: str, role: tuple[str, str]) -> None:
    name, dsn = role
    run_sql(
        database,
        "CREATE SCHEMA sales",
        "CREATE TABLE sales.orders (id int PRIMARY KEY)",
        "CREATE TABLE sales.lines (id int PRIMARY KEY)",
        "ALTER TABLE sales.lines ENABLE ROW LEVEL SECURITY",
    )
    wanted = config(dsn, tables=["sales.*"])
    findings = check(wanted, "shop")
    found = errors(findings)
    assert "may not replicate" in found["role"].message
    assert {"role", "publication catchment_shop", "table sales.orders", "table sales.lines"} <= set(found)
    messages = " ".join(finding.message for finding in findings)
    for word in ("may not use its schema", "may not read it", "may not create it", "does not own sales.lines"):
        assert word in messages
    # What cannot be asked yet shows only after the first remedies: two rounds must be enough.
    for _ in range(2):
        remedies = [finding.remedy for finding in errors_of(check(wanted, "shop")) if finding.remedy]
        run_sql(database, *remedies)
    assert errors(check(wanted, "shop")) == {}
    assert name in found["role"].message


def errors_of(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


def test_row_security_that_hides_rows_from_the_snapshot_is_an_error(database: str, role: tuple[str, str]) -> None:
    name, dsn = role
    run_sql(database, ORDERS, "ALTER TABLE orders ENABLE ROW LEVEL SECURITY", f'GRANT SELECT ON orders TO "{name}"')
    said = [finding for finding in check(config(dsn), "shop") if "Row security" in finding.message]
    assert [finding.severity for finding in said] == ["error"]
    run_sql(database, said[0].remedy or "")
    assert not [finding for finding in check(config(dsn), "shop") if "Row security" in finding.message]


TABLES = (
    "CREATE TABLE keyed (id int PRIMARY KEY, v int)",
    "CREATE TABLE keyless (id int, v int)",
    "CREATE TABLE whole (id int, v int); ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE nothing (id int PRIMARY KEY, v int); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
    "CREATE TABLE later (id int PRIMARY KEY DEFERRABLE, v int)",
    "CREATE TABLE indexed (id int NOT NULL UNIQUE, v int);"
    " ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_id_key",
    "CREATE TABLE gone (id int NOT NULL UNIQUE, v int); ALTER TABLE gone REPLICA IDENTITY USING INDEX gone_id_key;"
    " ALTER TABLE gone DROP CONSTRAINT gone_id_key",
    "CREATE TABLE parted (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);"
    " CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (9)",
    "CREATE TABLE leafless (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);"
    " CREATE TABLE leafless_1 PARTITION OF leafless FOR VALUES FROM (0) TO (9);"
    " ALTER TABLE leafless_1 REPLICA IDENTITY NOTHING",
    "CREATE TABLE rootless (id int, v int) PARTITION BY RANGE (id);"
    " CREATE TABLE rootless_1 PARTITION OF rootless FOR VALUES FROM (0) TO (9);"
    " ALTER TABLE rootless REPLICA IDENTITY FULL",
    "CREATE TABLE made (v int, id int GENERATED ALWAYS AS (v + 1) STORED PRIMARY KEY)",
    "CREATE TABLE made_whole (id int PRIMARY KEY, v int, w int GENERATED ALWAYS AS (v + 1) STORED);"
    " ALTER TABLE made_whole REPLICA IDENTITY FULL",
    "CREATE TABLE made_beside (id int PRIMARY KEY, v int, w int GENERATED ALWAYS AS (v + 1) STORED)",
)


def test_a_table_counts_as_identified_exactly_when_the_server_lets_its_updates_pass(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in TABLES:
            connection.execute(statement)
        tables = find_tables(connection, ["public.*"], [])
        passed = {}
        for table in tables:
            column = "v" if table.id.name == "made" else "id, v"
            connection.execute(f"INSERT INTO {table.id} ({column}) VALUES ({'1' if column == 'v' else '1, 1'})")
            options = "WITH (publish_via_partition_root = true)"
            connection.execute(f"CREATE PUBLICATION probe FOR TABLE {table.id} {options}")
            try:
                connection.execute(f"UPDATE {table.id} SET v = 2")
                passed[str(table.id)] = True
            except psycopg.Error:
                passed[str(table.id)] = False
            connection.execute("DROP PUBLICATION probe")
    assert {str(table.id): table.identified for table in tables} == passed
    assert passed["public.keyed"]
    assert not passed["public.later"]


def test_tables_without_identity_are_warned_of_or_refused(database: str) -> None:
    run_sql(database, "CREATE TABLE keyless (id int)", "CREATE TABLE whole (id int)")
    run_sql(database, "ALTER TABLE whole REPLICA IDENTITY FULL")
    findings = check(config(database), "shop")
    assert errors(findings) == {}
    assert about(findings, "table public.keyless").severity == "warning"
    assert "REPLICA IDENTITY FULL" in (about(findings, "table public.keyless").remedy or "")
    assert "no primary key" in about(findings, "table public.whole").message
    refused = check(config(database, without_identity="refuse"), "shop")
    assert list(errors(refused)) == ["table public.keyless"]


def test_no_type_is_refused(database: str) -> None:
    run_sql(
        database,
        "CREATE TYPE mood AS ENUM ('good')",
        "CREATE DOMAIN short AS varchar(3)",
        "CREATE DOMAIN tags AS text[]",
        "CREATE TABLE odd (id int PRIMARY KEY, a text[], b int4range, c money, d tags, e mood, f short, g jsonb)",
    )
    assert about(check(config(database), "shop"), "table public.odd").severity == "ok"


def test_patterns_that_select_nothing_are_named(database: str) -> None:
    run_sql(database, ORDERS, "CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY)")
    findings = check(config(database, tables=["public.*", "pubic.orders"]), "shop")
    assert "pubic.orders" in about(findings, "tables").message
    assert about(findings, "tables").severity == "warning"
    assert "unlogged" in about(findings, "table public.scratch").message
    nothing = check(config(database, tables=["public.order"]), "shop")
    assert about(nothing, "tables").severity == "error"


def test_the_columns_are_those_that_changes_will_have(database: str) -> None:
    run_sql(database, ORDERS, "CREATE TABLE made (id int PRIMARY KEY, w int GENERATED ALWAYS AS (id + 1) STORED)")
    assert columns(config(database), "shop") == {
        "public.made": ["id"],
        "public.orders": ["order_id", "total", "at", "note"],
    }
    assert "w." in about(check(config(database), "shop"), "table public.made").message


def test_a_foreign_slot_of_the_same_name_is_an_error(database: str) -> None:
    slot = f"foreign_{uuid.uuid4().hex[:8]}"
    run_sql(database, ORDERS, f"SELECT pg_create_physical_replication_slot('{slot}')")
    try:
        findings = check(config(database, slot=slot), "shop")
        assert "somebody else's" in about(findings, f"slot {slot}").message
        run_sql(database, about(findings, f"slot {slot}").remedy or "")
        assert errors(check(config(database, slot=slot), "shop")) == {}
    finally:
        run_sql(
            database, f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
        )


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("CREATE PUBLICATION catchment_shop FOR ALL TABLES", "FOR ALL TABLES"),
        ("CREATE PUBLICATION catchment_shop WITH (publish = 'insert')", "every kind"),
        ("CREATE PUBLICATION catchment_shop", "partitions"),
    ],
)
def test_a_publication_that_does_not_fit_is_mended_by_its_remedy(database: str, statement: str, word: str) -> None:
    run_sql(database, ORDERS, statement)
    if word == "every kind":
        run_sql(database, "ALTER PUBLICATION catchment_shop SET (publish_via_partition_root = true)")
    finding = errors(check(config(database), "shop"))["publication catchment_shop"]
    assert word in finding.message
    run_sql(database, finding.remedy or "")
    assert errors(check(config(database), "shop")) == {}


def test_wal_level_slots_and_senders_of_the_server_are_checked() -> None:
    directory = Path(tempfile.mkdtemp(prefix="catchment-preflight-"))
    directory.chmod(0o755)
    settings = {**NOT_DURABLE, "wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1"}
    server = EmbeddedPostgres(directory / "server", settings={**settings, "max_slot_wal_keep_size": "64MB"})
    try:
        server.start()
        run_sql(server.dsn, ORDERS, "SELECT pg_create_physical_replication_slot('other')")
        findings = check(config(server.dsn), "shop")
        assert "`replica`" in about(findings, "wal_level").message
        assert (about(findings, "wal_level").remedy or "").startswith("ALTER SYSTEM SET wal_level = 'logical'")
        assert about(findings, "replication slots").severity == "error"
        assert about(findings, "WAL senders").severity == "warning"
        assert "64 MB" in about(findings, "room for WAL").message
        assert not [finding for finding in findings if finding.subject == "replication connection"]
    finally:
        server.stop("immediate")
        shutil.rmtree(directory)


def test_no_answer_and_no_such_database_are_told_apart(database: str) -> None:
    with pytest.raises(SourceUnavailable):
        check(config(make_conninfo(database, port=1, connect_timeout=2)), "shop")
    name = conninfo_to_dict(database)["dbname"]
    with pytest.raises(SourceRefused):
        check(config(make_conninfo(database, dbname=f"{name}_not")), "shop")
