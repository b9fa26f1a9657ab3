"""The DuckDB connection to a lake: what its views show, and what it does not let anyone do."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.types import LongType, StringType

from catchment.errors import ConfigError
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.reading.connection import connect_lake, refuse_writes
from catchment.telemetry import Report
from pipelines import iceberg_writer as writer
from pipelines.bronze_lake import ORDER, BronzeLake, rows
from pipelines.rest_catalog import rest_catalog


@pytest.fixture
def lake(tmp_path: Path) -> BronzeLake:
    lake = BronzeLake(tmp_path)
    lake.create("orders")
    return lake


def order(number: int, city: str = "Oslo", amount: str = "1.50") -> dict[str, object]:
    return {"id": number, "city": city, "amount": Decimal(amount)}


def test_bronze_shows_every_change_and_current_the_rows(lake: BronzeLake) -> None:
    lake.append("orders", order(1), order(2))
    lake.append("orders", order(1, "Bergen"), op="u")
    lake.append("orders", order(2), op="d")
    connection = lake.connect()
    assert rows(connection, "SELECT count(*) AS n FROM bronze.orders") == [{"n": 4}]
    assert rows(connection, "SELECT id, city, amount FROM current.orders") == [order(1, "Bergen")]


def test_a_connection_stays_at_its_moment(lake: BronzeLake) -> None:
    lake.append("orders", order(1))
    before = lake.connect()
    lake.append("orders", order(2))
    count = "SELECT count(*) AS n FROM current.orders"
    assert rows(before, count) == [{"n": 1}]
    assert rows(lake.connect(), count) == [{"n": 2}]


def test_a_table_without_rows_shows_its_columns(lake: BronzeLake) -> None:
    connection = lake.connect()
    assert rows(connection, "SELECT * FROM bronze.orders") == []
    assert rows(connection, "SELECT id, city, amount, _version FROM current.orders") == []
    result = connection.execute("SELECT amount FROM current.orders").to_arrow_table()
    assert result.schema.field("amount").type == pa.decimal128(12, 2)


def add_columns(lake: BronzeLake) -> None:
    with lake.catalog.load_table("bronze.orders").update_schema() as update:
        for side in ("before", "after"):
            update.add_column((side, "note"), StringType())


WIDER = pa.struct([*ORDER, pa.field("note", pa.string())])


def test_columns_that_came_later_are_null_in_older_files(lake: BronzeLake) -> None:
    lake.append("orders", order(1), order(2))
    add_columns(lake)
    lake.append("orders", {**order(2), "note": "new"}, op="u", row=WIDER)
    lake.append("orders", {**order(3), "note": None}, row=WIDER)
    connection = lake.connect()
    shown = rows(connection, "SELECT id, city, note FROM current.orders ORDER BY id")
    assert [(row["id"], row["city"], row["note"]) for row in shown] == [
        (1, "Oslo", None),
        (2, "Oslo", "new"),
        (3, "Oslo", None),
    ]
    assert rows(connection, "SELECT after.note FROM bronze.orders WHERE after.note IS NOT NULL") == [{"note": "new"}]


def test_a_column_that_no_file_has_yet_is_null_everywhere(lake: BronzeLake) -> None:
    lake.append("orders", order(1))
    add_columns(lake)
    assert rows(lake.connect(), "SELECT id, note FROM current.orders") == [{"id": 1, "note": None}]


def test_columns_that_no_single_file_has_together_all_show(lake: BronzeLake) -> None:
    add_columns(lake)
    lake.append("orders", {**order(1), "note": "first"}, row=WIDER)
    with lake.catalog.load_table("bronze.orders").update_schema() as update:
        for side in ("before", "after"):
            update.add_column((side, "weight"), LongType())
    without_note = pa.struct([*ORDER, pa.field("weight", pa.int64())])
    lake.append("orders", {**order(2), "weight": 7}, row=without_note)
    lake.append("orders", {**order(3), "weight": None}, row=without_note)
    shown = rows(lake.connect(), "SELECT id, note, weight FROM current.orders ORDER BY id")
    assert shown == [
        {"id": 1, "note": "first", "weight": None},
        {"id": 2, "note": None, "weight": 7},
        {"id": 3, "note": None, "weight": None},
    ]


def test_a_widened_column_reads_old_and_new_files(tmp_path: Path) -> None:
    lake = BronzeLake(tmp_path)
    narrow = pa.struct([("id", pa.int32())])
    lake.create("things", narrow)
    lake.append("things", {"id": 1}, row=narrow)
    with lake.catalog.load_table("bronze.things").update_schema() as update:
        for side in ("before", "after"):
            update.update_column((side, "id"), LongType())
    lake.append("things", {"id": 2**40}, row=pa.struct([("id", pa.int64())]))
    assert rows(lake.connect(), "SELECT id FROM current.things ORDER BY id") == [{"id": 1}, {"id": 2**40}]


def test_a_table_without_a_key_has_no_current_rows_and_says_so(lake: BronzeLake) -> None:
    lake.create("log", key=())
    lake.append("log", order(1))
    connection = lake.connect()
    assert rows(connection, "SELECT count(*) AS n FROM bronze.log") == [{"n": 1}]
    with pytest.raises(duckdb.Error, match=r"bronze\.log has no key"):
        connection.execute("SELECT * FROM current.log")


def test_a_renamed_column_is_refused_rather_than_shown_as_null(lake: BronzeLake) -> None:
    lake.append("orders", order(1))
    with lake.catalog.load_table("bronze.orders").update_schema() as update:
        update.rename_column(("after", "city"), "town")
    with pytest.raises(duckdb.Error, match=r"after\.city was renamed to after\.town"):
        lake.connect().execute("SELECT * FROM bronze.orders")


def test_tables_that_differ_only_in_case_are_refused_rather_than_mixed_up(lake: BronzeLake) -> None:
    lake.create("Orders")
    with pytest.raises(duckdb.Error, match="but for the case"):
        lake.connect().execute("SELECT * FROM bronze.orders")


def test_a_column_named_like_the_envelopes_keeps_its_place(tmp_path: Path) -> None:
    row = pa.struct([("id", pa.int64()), ("_version", pa.string())])
    lake = BronzeLake(tmp_path)
    lake.create("things", row)
    lake.append("things", {"id": 1, "_version": "mine"}, row=row)
    assert rows(lake.connect(), "SELECT id, _version FROM current.things") == [{"id": 1, "_version": "mine"}]


def test_what_the_sink_wrote_shows_alike_through_any_catalog(tmp_path: Path) -> None:
    with rest_catalog(tmp_path / "rest") as server:
        for uri, directory in ((None, tmp_path / "sql"), (server.uri, tmp_path / "remote")):
            directory.mkdir()
            sink = writer.open_sink(directory, uri)
            sink.open()
            for schema in (writer.ODD, writer.EVEN, writer.BOTH):
                sink.schema_change(schema)
            for n in range(4):
                writer.write_transaction(sink, n)
            sink.flush()
            sink.close()
            connection = connect_lake(writer.lakehouse(uri), directory)
            for name in ("odd", "even", "both"):
                (shown,) = rows(connection, f"SELECT count(*) AS n FROM bronze.{name}")
                assert shown["n"] == len(writer.expected(name, 4)) > 0


def test_ops_shows_one_pipelines_rows(lake: BronzeLake) -> None:
    store = OpsStore.open(lake.config, lake.directory)
    for pipeline in ("mine", "other"):
        store.record_report(pipeline, Report(at=1.0, state="running"))
    store.close()
    assert rows(lake.connect("mine"), "FROM ops.metrics SELECT pipeline, state: report->>'state'") == [
        {"pipeline": "mine", "state": "running"}
    ]
    assert rows(lake.connect(), "SELECT count(*) AS n FROM ops.metrics") == [{"n": 2}]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{directory}/new.parquet'",
        "COPY (SELECT 1 AS a) TO '{file}' (FORMAT parquet)",
        "SELECT * FROM read_csv('{directory}/secret.csv')",
        "ATTACH '{directory}/other.db'",
        "SET enable_external_access = true",
        "INSERT INTO bronze.orders SELECT * FROM bronze.orders",
    ],
)
def test_nothing_but_the_lakes_files_can_be_reached_and_none_written(lake: BronzeLake, sql: str) -> None:
    lake.append("orders", order(1))
    (lake.directory / "secret.csv").write_text("a\n1\n")
    file = next((lake.directory / "lake" / "warehouse").rglob("*.parquet"))
    content = file.read_bytes()
    connection = lake.connect()
    with pytest.raises(duckdb.Error):
        connection.execute(sql.format(directory=lake.directory, file=file))
    assert file.read_bytes() == content
    assert rows(connection, "SELECT count(*) AS n FROM bronze.orders") == [{"n": 1}]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "FROM bronze.orders",
        "WITH a AS (SELECT 1) FROM a",
        "DESCRIBE x",
        "SHOW ALL TABLES",
        "EXPLAIN SELECT copy FROM x",
    ],
)
def test_reading_statements_are_let_through(sql: str) -> None:
    refuse_writes(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO 'x'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x'",
        "CREATE TABLE x (a int)",
        "SELECT 1; DROP VIEW x",
        "SELEC 1",
        "",
        "-- nothing but a comment",
    ],
)
def test_writing_statements_are_refused(sql: str) -> None:
    with pytest.raises(ConfigError):
        refuse_writes(sql)


def test_a_refused_table_gives_its_reason_whatever_is_asked(lake: BronzeLake) -> None:
    lake.create("keyless", key=())
    lake.append("keyless", order(1))
    connection = lake.connect()
    for question in ("count(*)", "*", "max(_version)"):
        with pytest.raises(duckdb.InvalidInputException, match="has no key"):
            connection.execute(f"SELECT {question} FROM current.keyless").fetchall()
