"""Where a hash rule covers a column, its values are nowhere: bronze, catalog, reports, logs, half-written files."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg

from catchment import config
from pipelines.lake import query, write_pipeline

SECRET_MAIL = "very.private.person@example.org"


def test_a_hashed_value_is_in_no_file_and_no_log(database: str, tmp_path: Path, caplog: object, capfd: object) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE TABLE people (id int PRIMARY KEY, email text, born timestamptz)")
        connection.execute("INSERT INTO people VALUES (1, %s, 'infinity')", (SECRET_MAIL,))
        pipeline = write_pipeline(tmp_path, database)
        # Not compressed, so that looking into the files finds what is there.
        text = pipeline.read_text().replace("flush_rows: 100000", "flush_rows: 100000, compression: none") + (
            "  - {type: files, path: out, format: ndjson, flush_interval_seconds: 0.1}\n"
            "transforms:\n"
            "  - {type: hash, columns: [public.people.email, '*.born'], secret: pepper}\n"
        )
        pipeline.write_text(text)
        config.load(pipeline).build().run(threading.Event(), until_caught_up=True)
        connection.execute("INSERT INTO people VALUES (2, %s, NULL)", (SECRET_MAIL,))
        connection.execute("UPDATE people SET id = 3 WHERE id = 1")
        connection.execute("ALTER TABLE people REPLICA IDENTITY FULL")
        connection.execute("DELETE FROM people WHERE id = 3")
        config.load(pipeline).build().run(threading.Event(), until_caught_up=True)
    columns = "_op, before.email, after.email, after.id, _unrepresentable"
    rows = query(pipeline, f"SELECT {columns} FROM bronze.people ORDER BY _version, _position")
    assert [row[0] for row in rows] == ["r", "c", "u", "d"]
    hashes = {row[2] for row in rows if row[2]} | {row[1] for row in rows if row[1]}
    assert len(hashes) == 1, "the same value has the same hash, in snapshot, stream, before and after"
    assert len(hashes.pop()) >= 32
    for path in tmp_path.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert SECRET_MAIL.encode() not in held, path
            assert b"infinity" not in held, path
    assert SECRET_MAIL not in caplog.text  # type: ignore[attr-defined]
    output = capfd.readouterr()  # type: ignore[attr-defined]
    assert SECRET_MAIL not in output.out + output.err
