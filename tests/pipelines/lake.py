"""A pipeline.yaml, `catchment` processes on it, and comparisons of lake and source."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import catchment
from catchment import config
from catchment.verify.report import Outcome
from catchment.verify.verification import Verification

PIPELINE = """\
name: {name}
source:
  type: postgres
  dsn: ${{TEST_DSN}}
  tables: [public.*]
  catch_up_bytes: {catch_up_bytes}
  snapshot_chunk_bytes: {chunk_bytes}
lakehouse:
  catalog: {{type: sql, uri: "sqlite:///lake/catalog.db", warehouse: "lake/warehouse"}}
sinks:
  - {{type: iceberg, flush_interval_seconds: {flush}, flush_rows: 100000}}
"""
COMMAND = [sys.executable, "-c", "from catchment.cli import main; main()"]


def write_pipeline(
    directory: Path,
    dsn: str,
    *,
    name: str = "test",
    flush: float = 0.1,
    catch_up_bytes: int = 64 << 20,
    chunk_bytes: int = 65536,
) -> Path:
    """A pipeline.yaml with its .env in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "pipeline.yaml"
    path.write_text(PIPELINE.format(name=name, flush=flush, catch_up_bytes=catch_up_bytes, chunk_bytes=chunk_bytes))
    (directory / ".env").write_text(f"TEST_DSN={dsn}\n")
    return path


def start(pipeline: Path, *arguments: str, failpoint: str = "") -> subprocess.Popen[str]:
    """`catchment run` in the background."""
    environment = {**os.environ, "CATCHMENT_FAILPOINT": failpoint}
    return subprocess.Popen(
        [*COMMAND, "run", str(pipeline), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], seconds: float = 120) -> str:
    """Ask it to end; what it said on stderr. Nothing of it stays, also where it does not end."""
    process.terminate()
    try:
        return process.communicate(timeout=seconds)[1]
    finally:
        process.kill()
        process.communicate()


def kill_at(pipeline: Path, failpoint: str, seconds: float = 200) -> None:
    """`catchment run` until the failpoint kills it."""
    process = start(pipeline, failpoint=failpoint)
    try:
        _, said = process.communicate(timeout=seconds)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL, f"{failpoint} was not reached: {said}"


@contextmanager
def capturing_beside(pipeline: Path) -> Iterator[None]:
    """The pipeline runs in a thread, to a clean end whatever happens meanwhile."""
    stop = threading.Event()
    running = threading.Thread(target=lambda: config.load(pipeline).build().run(stop))
    running.start()
    try:
        yield
    finally:
        stop.set()
        running.join()


def run(*arguments: str, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    """A `catchment` command to its end."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=timeout, check=False)


def catch_up(pipeline: Path) -> None:
    """Everything that is in the source now is in the lake."""
    config.load(pipeline).build().run(threading.Event(), until_caught_up=True)


def query(pipeline: Path, statement: str) -> list[tuple[Any, ...]]:
    """What a fresh connection to the lake says."""
    with catchment.connect(pipeline) as connection:
        return connection.execute(statement).fetchall()


def source_rows(dsn: str, table: str, key: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """The source's rows as text, by key."""
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        columns = _columns(connection, table)
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in columns),
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, key)),
        )
        return connection.execute(query).fetchall()


def lake_rows(
    pipeline: Path, table: str, columns: list[str], key: tuple[str, ...], layer: str = "current"
) -> list[tuple[Any, ...]]:
    """The rows of `current.<table>`, or of another layer's, as PostgreSQL would write them."""
    with catchment.connect(pipeline) as connection:
        kinds = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {layer}.{table}").fetchall()}
        listed = ", ".join(_as_text(name, kinds[name]) for name in columns)
        ordered = ", ".join(f'"{name}"' for name in key)
        return connection.execute(f"SELECT {listed} FROM {layer}.{table} ORDER BY {ordered}").fetchall()


def _as_text(name: str, kind: str) -> str:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return (
            f"""regexp_replace(strftime(timezone('UTC', "{name}"), '%Y-%m-%d %H:%M:%S.%f'), '\\.?0+$', '') || '+00'"""
        )
    return f'"{name}"::varchar'


def _columns(connection: psycopg.Connection[tuple[Any, ...]], table: str) -> list[str]:
    rows = connection.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " ORDER BY attnum",
        (table,),
    ).fetchall()
    return [row[0] for row in rows]


def expect_equal(pipeline: Path, dsn: str, table: str, key: tuple[str, ...]) -> None:
    """`current.<table>` and `silver.<table>` are the source's table, row for row."""
    with psycopg.connect(dsn) as connection:
        columns = _columns(connection, table)
    expected = source_rows(dsn, table, key)
    for layer in ("current", "silver"):
        actual = lake_rows(pipeline, table, columns, key, layer)
        missing, ghosts = set(expected) - set(actual), set(actual) - set(expected)
        assert not missing and not ghosts, (
            f"{layer}.{table}: missing {sorted(missing)[:3]}, too many {sorted(ghosts)[:3]}"
        )
        assert len(expected) == len(actual), f"{layer}.{table} has rows twice"


def expect_verified(pipeline: Path) -> None:
    """`catchment verify --deep` says that the lake, silver with its quarantine, is what its source is."""
    verdict = Verification(config.load(pipeline), deep=True).run()
    assert verdict.outcome is Outcome.EQUAL, [
        (one.table, one.outcome, one.reason, one.missing, one.extra, one.different) for one in verdict.tables
    ]


def expect_once(pipeline: Path, tables: list[str]) -> int:
    """No change is in bronze twice; how many streamed changes there are."""
    streamed = 0
    for table in tables:
        rows, places, read = query(
            pipeline,
            f"SELECT count(*), count(DISTINCT (_lane, _position)), count(*) FILTER (_op = 'r') FROM bronze.{table}",
        )[0]
        assert rows == places, f"{table}: {rows - places} changes are in bronze twice"
        streamed += rows - read
    return streamed
