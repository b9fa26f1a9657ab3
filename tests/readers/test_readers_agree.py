"""Every reader sees the same rows in every table: bronze, silver, quarantine and gold; merged, and compacted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from pyiceberg.table import Table

from catchment import config
from catchment.demo.postgres import EmbeddedPostgres
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.rest.endpoint import RestEndpoint
from catchment.lakehouse.rest.published import PublishedLake
from catchment.lakehouse.rest.server import RestServer
from catchment.testing.lake import expect_silver_equals_current
from pipelines.lake import catch_up, run, write_pipeline
from readers.comparison import READERS, Shelf, expect_equal, plain, rows
from readers.scans import Scans
from readers.spark import Spark
from waiting import wait_for

DATABASE = "readers_agree"
TABLES = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE kinds (
    id int PRIMARY KEY, small smallint, big bigint, price numeric(12, 2), free numeric, ratio double precision,
    part real, flag boolean, note text, raw bytea, day date, at timestamp, moment timestamptz, clock time,
    who uuid, doc jsonb, feeling mood
);
CREATE TABLE lines ("order" uuid, line int, city text, amount numeric(10, 2), PRIMARY KEY ("order", line));
CREATE TABLE log (line text);
"""
KINDS = """
INSERT INTO kinds SELECT i, i, i::bigint << 40, i / 4.0, i / 3.0, i / 7.0, i / 8.0, i % 2 = 0, 'nøte ' || i,
    decode(md5(i::text), 'hex'), date '2024-02-28' + i, timestamp '1999-12-31 23:59:59.999999' + i * interval '1 day',
    timestamptz '2024-03-31 00:30:00+01' + i * interval '1 hour', time '23:59:59.123456', md5(i::text)::uuid,
    jsonb_build_object('n', i, 'deep', jsonb_build_array(i, null)), 'glad'
    FROM generate_series(1, 40) i;
INSERT INTO kinds (id) SELECT i FROM generate_series(101, 104) i;
INSERT INTO kinds (id, ratio, part, day, at, moment, free, note, raw) VALUES
    (201, 'NaN', 'NaN', 'infinity', '-infinity', 'infinity', 'NaN', '', ''),
    (202, '-Infinity', 'Infinity', '0001-01-01', '0001-01-01', '0001-01-01 00:00+00', 1e30, E'line\nbreak', NULL);
"""
GOLD = """-- key: city
SELECT city, sum(amount) AS amount, count(*) AS lines, avg(amount) AS mean, max(line) = 1 AS single,
    min(_committed_at) AS first_at
FROM silver.lines GROUP BY city ORDER BY city
"""
ADDED = """INSERT INTO lines SELECT md5((%(n)s * 100 + i)::text)::uuid, 1,
    (ARRAY['Oslo', 'Bergen', NULL])[1 + i %% 3], i * 1.25 FROM generate_series(1, 20) i"""
OTHER_COLUMNS = """
ALTER TABLE lines ADD extra text;
ALTER TABLE kinds DROP part;
ALTER TABLE kinds ALTER small TYPE bigint;
UPDATE lines SET extra = 'new' WHERE line = 1;
"""
ROUNDS = 36
"""Commits: more small files than maintenance leaves alone."""
QUALITY = """
tables:
  lines:
    - {type: range, column: amount, min: 2, max: 22, severity: quarantine}
    - {type: not_null, columns: [city]}
"""
LAKEHOUSE = """lakehouse:
  gold: gold
  quality: quality.yaml
  history: [lines, kinds.price]
  maintenance: {enabled: false}
"""
KEPT = {
    *("bronze.kinds", "bronze.lines", "bronze.log", "gold.cities"),
    *("silver.kinds", "silver.lines", "silver.lines_quarantine", "silver.kinds_versions", "silver.lines_versions"),
}
MERGED, COMPACTED = "merged", "compacted"


def change(connection: psycopg.Connection[tuple[object, ...]], number: int) -> None:
    """A commit of every kind of change: new rows, changed ones, gone ones, keys that move."""
    with connection.transaction():
        connection.execute(ADDED, {"n": number})
        connection.execute("UPDATE lines SET amount = amount + 1 WHERE amount < %s", (number,))
        connection.execute("DELETE FROM lines WHERE amount > 24")
        connection.execute("UPDATE lines SET line = line + 1 WHERE city = 'Bergen' AND amount < 5")
        connection.execute("UPDATE kinds SET price = price + 1, note = note || '!' WHERE id %% 7 = %s", (number % 7,))
        connection.execute("DELETE FROM kinds WHERE id = %s", (number,))
        connection.execute("INSERT INTO log VALUES (%s)", (f"round {number}",))
        if number == ROUNDS // 2:
            connection.execute(OTHER_COLUMNS)


def capture_rounds(pipeline: Path, connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Each round of changes in a commit of its own."""
    loaded = config.load(pipeline)
    lake, stop = PublishedLake.open(loaded.lakehouse, loaded.directory), threading.Event()
    running = threading.Thread(target=loaded.build().run, args=(stop,))
    running.start()
    try:
        for number in range(ROUNDS):
            before = lake.location(("bronze",), "log")
            change(connection, number)
            wait_for(lambda before=before: lake.location(("bronze",), "log") != before)  # type: ignore[misc]
    finally:
        stop.set()
        running.join()
        lake.close()


@pytest.fixture(scope="module")
def pipeline(
    postgres_18: EmbeddedPostgres, drop_database: Callable[[str, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A pipeline whose lake has every kind of value, and a commit for each round of changes."""
    directory = tmp_path_factory.mktemp("agree")
    with psycopg.connect(postgres_18.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {DATABASE}")
    try:
        dsn = postgres_18.dsn_of(DATABASE)
        path = write_pipeline(directory, dsn)
        (directory / "gold").mkdir()
        (directory / "gold" / "cities.sql").write_text(GOLD)
        (directory / "quality.yaml").write_text(QUALITY)
        path.write_text(path.read_text().replace("lakehouse:\n", LAKEHOUSE))
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLES)
            connection.execute(KINDS)
            catch_up(path)
            capture_rounds(path, connection)
        catch_up(path)
        yield path
    finally:
        drop_database(postgres_18.dsn, DATABASE)


@pytest.fixture(scope="module", params=[MERGED, COMPACTED])
def shelf(pipeline: Path, request: pytest.FixtureRequest) -> Iterator[Shelf]:
    """The lake after many commits with maintenance off; then after `catchment maintain`."""
    loaded = config.load(pipeline)
    lake = PublishedLake.open(loaded.lakehouse, loaded.directory)
    catalog = load_catalog(loaded.lakehouse.catalog, loaded.directory)
    with RestServer(RestEndpoint(lake)) as server:
        shelf = Shelf(loaded.lakehouse, loaded.directory, catalog, server.uri)
        if request.param == COMPACTED:
            compact(shelf, pipeline)
        yield shelf
    lake.close()
    catalog.close()


def compact(shelf: Shelf, pipeline: Path) -> None:
    """Maintenance leaves fewer files, no delete files of silver, and every row as it was."""
    tables = {name: shelf.catalog.load_table(name) for name in shelf.tables()}
    before = {name: files(table) for name, table in tables.items()}
    held = {name: table.scan().to_arrow() for name, table in tables.items()}
    assert before["silver.lines"][1] > ROUNDS / 2, "silver is merged with delete files"
    done = run("maintain", str(pipeline))
    assert done.returncode == 0, done.stderr
    after = {name: files(shelf.catalog.load_table(name)) for name in tables}
    assert after["silver.lines"] < before["silver.lines"] and after["bronze.lines"] < before["bronze.lines"]
    for name, expected in held.items():
        types = plain(expected.schema)
        assert rows(shelf.catalog.load_table(name).scan().to_arrow(), types) == rows(expected, types), name


def files(table: Table) -> tuple[int, int]:
    """How many data files and delete files there are."""
    snapshot = table.current_snapshot()
    assert snapshot is not None and snapshot.summary is not None
    return int(snapshot.summary["total-data-files"] or 0), int(snapshot.summary["total-delete-files"] or 0)


def test_what_they_agree_on_is_what_bronze_amounts_to(shelf: Shelf) -> None:
    expect_silver_equals_current(shelf.directory / "pipeline.yaml", "kinds", "lines")
    extra = shelf.catalog.load_table("silver.lines").scan().to_arrow().column("extra")
    assert 0 < extra.null_count < len(extra), "the column that came later has values, and rows from before it none"


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_sees_the_same_rows(shelf: Shelf, reader: str, spark: Spark, scans: Scans) -> None:
    tables = shelf.tables()
    assert set(tables) >= KEPT
    for table in tables:
        assert expect_equal(shelf, table, reader, spark, scans) > 0, table
