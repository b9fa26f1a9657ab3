"""A sink that is added to a pipeline that has run gets everything; the others miss nothing for it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import psycopg

from catchment import config
from catchment.sinks.files.reader import complete_ranges
from pipelines.lake import catch_up, expect_equal, expect_once, query, write_pipeline
from pipelines.workload import TABLES, set_up
from waiting import wait_for

FILES = "  - {type: files, path: out, format: ndjson, flush_interval_seconds: 0.1}\n"


def test_a_sink_added_later_gets_every_table_and_the_others_miss_nothing(database: str, tmp_path: Path) -> None:
    set_up(database, rows=20)
    pipeline = write_pipeline(tmp_path, database)
    catch_up(pipeline)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM accounts WHERE id = 1")
        connection.execute("UPDATE accounts SET id = 1000 WHERE id = 2")
        connection.execute("INSERT INTO accounts VALUES (3000, 'short-lived', 1, NULL)")
        connection.execute("DELETE FROM accounts WHERE id = 3000")
        with pipeline.open("a") as file:
            file.write(FILES)
        catch_up(pipeline)
        connection.execute("INSERT INTO accounts VALUES (2000, 'after', 1, NULL)")
        catch_up(pipeline)
    expect_once(pipeline, list(TABLES))
    for table, key in TABLES.items():
        expect_equal(pipeline, database, table, key)
    short_lived = "FROM bronze.accounts WHERE after.id = 3000 OR before.id = 3000"
    assert query(pipeline, f"SELECT _op {short_lived} ORDER BY _position") == [("c",), ("d",)]
    assert query(pipeline, "SELECT count(*) FROM bronze.accounts WHERE _op IN ('r', 't')") == [(20,)]
    read = {row["after"]["id"] for row in _in_files(tmp_path / "out", "public.accounts") if row["op"] == "r"}
    assert read == {*range(3, 21), 1000}


def test_a_snapshot_alone_ends_by_itself(database: str, tmp_path: Path) -> None:
    set_up(database, rows=20)
    pipeline = write_pipeline(tmp_path, database)
    pipeline.write_text(pipeline.read_text().replace("tables: [public.*]", "tables: [public.*]\n  snapshot: only"))
    report = config.load(pipeline).build().run(threading.Event())
    assert report.state == "stopped"
    assert query(pipeline, "SELECT count(*) FROM bronze.accounts") == [(20,)]
    with psycopg.connect(database, autocommit=True) as connection:
        left = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
        # A temporary one goes with its session, which the server ends in its own time.
        wait_for(lambda: connection.execute(left).fetchall() == [(0,)], what="the end of every slot")


def _in_files(directory: Path, table: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for one in complete_ranges(directory)
        for data in one.objects
        if data.table == table
        for line in (directory / data.path).read_text().splitlines()
    ]
