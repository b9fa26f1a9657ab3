"""The demo, as a person or a program runs it: captured, compared, ended, resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import duckdb
import psutil
import psycopg
import pytest
from rich.console import Console

from catchment.demo.child import Child
from catchment.demo.outcome import compare, freshness
from catchment.demo.screen import Screen
from catchment.demo.shop import ShopSize, open_shop
from catchment.demo.shop_demo import demo_server
from catchment.demo.views import Lines, Moment, line, size
from catchment.errors import Fatal
from catchment.telemetry import Report, SnapshotReport, TableReport
from waiting import wait_for

TABLES = {"dim_users", "dim_products", "fact_sales"}
MODELS = {
    *("city_performance", "order_status", "product_analytics", "sales_anomalies"),
    *("sales_kpis", "sales_trends", "user_analytics"),
}


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("catchment")), *arguments]


@contextmanager
def demos(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts this demo, with more arguments; all that were started are ended with the block. env: all of it."""
    started: list[subprocess.Popen[str]] = []

    def run(*more: str) -> subprocess.Popen[str]:
        one = subprocess.Popen(
            command("demo", *arguments, "--json", *more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            text=True,
            start_new_session=True,
        )
        started.append(one)
        return one

    try:
        yield run
    finally:
        for one in started:
            one.kill()
            one.communicate()


@pytest.fixture
def start(open_directory: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the demo in `open_directory`/demo."""
    with demos("shop", "--dir", str(open_directory / "demo"), "--rate", "200") as run:
        yield run


def finish(running: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = running.communicate(timeout=200)
    assert running.returncode == 0, err
    document: dict[str, Any] = json.loads(out)
    return document


def wait_for_line(running: subprocess.Popen[str], wanted: Callable[[str], bool]) -> None:
    assert running.stderr is not None
    said = []
    for text in running.stderr:
        said.append(text)
        if wanted(text):
            return
    raise AssertionError("".join(said))


def is_live(text: str) -> bool:
    return "(live)" in text


def processes_of(directory: Path) -> list[psutil.Process]:
    """Every living process that has the directory in its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and str(directory) in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_captures_the_shop_and_says_so_in_one_document_then_resumes(
    start: Callable[..., subprocess.Popen[str]], open_directory: Path
) -> None:
    directory = open_directory / "demo"
    first = finish(start("--seconds", "4"))
    assert first["directory"] == str(directory)
    assert first["seconds"] >= 4
    assert first["operations"] > 100
    assert set(first["tables"]) == TABLES
    assert set(first["gold"]) == MODELS
    assert all(table["equal"] for table in first["tables"].values()), first["tables"]
    assert first["freshness_ms"]["p50"] <= first["freshness_ms"]["p99"]
    statuses = {row["status"]: row["orders"] for row in first["gold"]["order_status"]}
    assert sum(statuses.values()) == first["tables"]["fact_sales"]["source_rows"]
    cities = first["gold"]["city_performance"]
    assert sum(city["orders"] for city in cities) == sum(statuses.values()) - statuses["CANCELLED"]
    assert not processes_of(directory), "PostgreSQL and all else end with the demo"

    with demo_server(directory) as server:
        written = (directory / ".env").read_text().strip()
        assert written == f"SHOP_DSN={server.dsn_of('shop')}"
        for name, table in first["tables"].items():
            with psycopg.connect(server.dsn_of("shop")) as connection:
                row = connection.execute(f"SELECT count(*) FROM {name}".encode()).fetchone()
            assert row == (table["source_rows"],)

    running = start("--seconds", "600")
    wait_for_line(running, is_live)
    running.send_signal(signal.SIGINT)
    second = finish(running)
    assert all(table["equal"] for table in second["tables"].values()), second["tables"]
    assert second["seconds"] < 600
    # Resumed, not read again: what came is what was done. Only users who leave take several rows along.
    grown = sum(second["tables"][name]["bronze_rows"] - first["tables"][name]["bronze_rows"] for name in TABLES)
    # They are one operation in several hundred, with some twenty orders each: far from a second snapshot's rows.
    assert second["operations"] <= grown < 2 * second["operations"] + 500
    assert not processes_of(directory)


def test_it_speaks_to_people_wherever_it_writes_unless_json_is_asked_for(open_directory: Path) -> None:
    arguments = ("--dir", str(open_directory / "demo"), "--seconds", "1", "--rate", "50")
    done = subprocess.run(command("demo", "shop", *arguments), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "operations in" in done.stdout.splitlines()[0]
    assert done.stdout.count("equal, row for row") == len(TABLES)
    assert "{" not in done.stdout


def test_a_demo_that_was_killed_leaves_nothing_running_and_loses_nothing(
    start: Callable[..., subprocess.Popen[str]], open_directory: Path
) -> None:
    directory = open_directory / "demo"
    running = start("--seconds", "600")
    wait_for_line(running, is_live)
    running.kill()
    running.communicate(timeout=120)
    wait_for(lambda: not processes_of(directory), "the end of all that it started")
    after = finish(start("--seconds", "1"))
    assert all(table["equal"] for table in after["tables"].values()), after["tables"]


def test_a_directory_with_somebody_elses_pipeline_is_left_alone(open_directory: Path) -> None:
    (open_directory / "pipeline.yaml").write_text("name: mine\n")
    done = subprocess.run(
        command("demo", "shop", "--dir", str(open_directory), "--json"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert "not the demo's" in done.stderr
    assert "Traceback" not in done.stderr
    assert (open_directory / "pipeline.yaml").read_text() == "name: mine\n"


def test_the_server_command_runs_it_at_the_same_address_detached_and_stops_it(open_directory: Path) -> None:
    def run(*more: str) -> str:
        done = subprocess.run(
            command("demo", "server", str(open_directory), *more),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout.strip()

    dsn = run("--detach")
    try:
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert run("--detach") == dsn
    finally:
        run("--stop")
    server = demo_server(open_directory)
    assert not server.running
    foreground = subprocess.Popen(
        command("demo", "server", str(open_directory)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert foreground.stdout is not None
    try:
        assert foreground.stdout.readline().strip() == dsn
        assert server.running
        foreground.send_signal(signal.SIGINT)
        _, err = foreground.communicate(timeout=120)
    finally:
        foreground.kill()
        foreground.communicate()
    assert foreground.returncode == 0, err
    assert not server.running


@pytest.fixture
def lake() -> Iterator[duckdb.DuckDBPyConnection]:
    """A lake of plain DuckDB tables, in the place of the views."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA bronze; CREATE SCHEMA silver")
        yield connection


def copy_into(lake: duckdb.DuckDBPyConnection, dsn: str, table: str) -> None:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(f"SELECT * FROM {table}".encode()).fetchall()
    lake.execute(
        "CREATE TABLE silver.dim_products (product_id BIGINT, name VARCHAR, category VARCHAR, price DECIMAL(12,2),"
        " created_at TIMESTAMPTZ, updated_at TIMESTAMPTZ, _unrepresentable MAP(VARCHAR, VARCHAR))"
    )
    lake.executemany("INSERT INTO silver.dim_products VALUES (?, ?, ?, ?, ?, ?, NULL)", rows)
    lake.execute("CREATE TABLE bronze.dim_products AS SELECT * FROM silver.dim_products")


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        ("SELECT 1", True),
        ("UPDATE silver.dim_products SET price = price + 0.01 WHERE product_id = 3", False),
        (
            "UPDATE silver.dim_products SET updated_at = updated_at + INTERVAL 1 MICROSECOND WHERE product_id = 3",
            False,
        ),
        ("UPDATE silver.dim_products SET category = NULL WHERE product_id = 3", False),
        ("DELETE FROM silver.dim_products WHERE product_id = 3", False),
        ("INSERT INTO silver.dim_products SELECT * FROM silver.dim_products WHERE product_id = 3", False),
        (
            "UPDATE silver.dim_products SET product_id = 4, name = (SELECT name FROM silver.dim_products p"
            " WHERE p.product_id = 4) WHERE product_id = 3",
            False,
        ),
    ],
)
def test_comparing_sees_any_difference_of_a_value_or_a_row(
    database_18: str, lake: duckdb.DuckDBPyConnection, change: str, equal: bool
) -> None:
    open_shop(database_18, size=ShopSize(users=1, products=20, orders=0))
    copy_into(lake, database_18, "dim_products")
    lake.execute(change)
    outcome = compare(lake, database_18, "dim_products")
    assert outcome.equal is equal
    assert outcome.source_rows == outcome.bronze_rows == 20


def test_quarantined_rows_count_as_kept_and_are_told_apart(database_18: str, lake: duckdb.DuckDBPyConnection) -> None:
    open_shop(database_18, size=ShopSize(users=1, products=20, orders=0))
    copy_into(lake, database_18, "dim_products")
    lake.execute("CREATE TABLE silver.dim_products_quarantine AS FROM silver.dim_products WHERE product_id > 17")
    assert not compare(lake, database_18, "dim_products").equal, "some rows are in both"
    lake.execute("DELETE FROM silver.dim_products WHERE product_id > 17")
    outcome = compare(lake, database_18, "dim_products")
    assert (outcome.equal, outcome.silver_rows, outcome.quarantined_rows) == (True, 17, 3)


def test_freshness_is_from_each_commit_to_the_first_query_that_shows_it(lake: duckdb.DuckDBPyConnection) -> None:
    lake.execute(
        "CREATE TABLE bronze.t AS SELECT op AS _op, make_timestamptz(us) AS _committed_at FROM (VALUES"
        " ('r', 0), ('c', 500000), ('c', 1000000), ('u', 1500000), ('d', 2500000), ('c', 9000000)) AS t(op, us)"
    )
    sightings = [(1.2, 1.0), (3.0, 2.5)]
    # since 1.0: seen at 1.2 (after 200 ms), 3.0 (after 1,500 ms), 3.0 (after 500 ms); the last was never seen.
    assert asdict(freshness(lake, ["t"], sightings, since=1.0)) == {"p50": 500.0, "p99": 1480.0}
    assert asdict(freshness(lake, ["t"], [], since=1.0)) == {"p50": None, "p99": None}
    assert asdict(freshness(lake, ["t"], sightings, since=float("inf"))) == {"p50": None, "p99": None}


def test_a_child_that_fails_is_told_of_in_its_own_words() -> None:
    child = Child(
        "catchment.demo.traffic_process", "postgresql://nobody@127.0.0.1:1/no", "10", "0", "1", hear=lambda _: None
    )
    with pytest.raises(Fatal, match="PostgreSQL does not answer"):
        child.stop()


def test_a_child_ends_when_it_is_told_to(database_18: str) -> None:
    open_shop(database_18, size=ShopSize(users=5, products=5, orders=5))
    heard: list[dict[str, Any]] = []
    first = threading.Event()

    def hear(message: dict[str, Any]) -> None:
        heard.append(message)
        first.set()

    child = Child("catchment.demo.traffic_process", database_18, "100", "0", "1", hear=hear)
    try:
        assert first.wait(120)
        assert not child.ended
    finally:
        child.stop()
    assert child.ended
    assert heard[-1]["operations"] >= heard[0]["operations"] > 0


REPORT = Report(
    at=1_000.0,
    state="running",
    mode="live",
    lag_bytes=12_345,
    lag_ms=150.0,
    notes=("A long-running transaction holds the slot.",),
    tables={
        "public.fact_sales": TableReport(
            changes=1_200, durable_changes=1_000, changes_per_second=321.0, last_committed_at=999.0, freshness_ms=90.0
        ),
        "public.dim_users": TableReport(changes=7, durable_changes=7),
    },
    snapshots={"public.fact_sales": SnapshotReport(500, 2_000, 1, 4, seconds_left=3.0)},
)


def drawn(screen: Screen, moment: Moment) -> str:
    console = Console(record=True, width=120, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    with console.file:
        console.print(screen.draw(moment))
        return console.export_text(styles=True)


def test_the_screen_shows_tables_lag_snapshots_gold_and_notes(tmp_path: Path) -> None:
    gold = {"city_performance": [{"city": "Haleview", "orders": 41, "revenue": 1234.5}]}
    moment = Moment("Capturing", dsn="postgresql://somewhere", seconds=5, operations=90, report=REPORT, gold=gold)
    screen = Screen(tmp_path)
    text = drawn(screen, moment)
    for shown in ("fact_sales", "1,000", "321", "12.3 kB", "150", "00:16:39", "500 of about 2,000 rows", "Haleview"):
        assert shown in text
    assert "A long-running transaction" in text
    assert "postgresql://somewhere" in text
    line_of_users = next(one for one in text.splitlines() if "dim_users" in one)
    assert "0 B" in line_of_users, "nothing of this table waits"


def test_a_gold_cell_that_changed_lights_up(tmp_path: Path) -> None:
    before = {"city_performance": [{"city": "Haleview", "orders": 41}, {"city": "Brianton", "orders": 12}]}
    after = {"city_performance": [{"city": "Haleview", "orders": 42}, {"city": "Brianton", "orders": 12}]}
    screen = Screen(tmp_path)
    lit = "\x1b[1;32m"
    assert lit not in drawn(screen, Moment("Capturing", gold=before))
    text = drawn(screen, Moment("Capturing", gold=after))
    assert re.search(re.escape(lit) + " *42", text)
    assert text.count(lit) == 1


def test_without_a_terminal_each_phase_is_a_line(tmp_path: Path) -> None:
    with (tmp_path / "lines").open("w") as stream:
        view = Lines(stream, line)
        for moment in (Moment("Starting PostgreSQL"), Moment("Starting PostgreSQL"), Moment("Opening the shop")):
            view.show(moment)
        view.show(replace(Moment("Capturing", seconds=4), report=REPORT))
    said = (tmp_path / "lines").read_text().splitlines()
    assert said[:2] == ["Starting PostgreSQL …", "Opening the shop …"]
    assert said[2] == line(Moment("Capturing", seconds=4, report=REPORT))
    assert "1,007 rows in the lake" in said[2]


def test_sizes_are_written_for_people() -> None:
    assert [size(count) for count in (None, 0, 999, 1_000, 12_345_678)] == ["?", "0 B", "999 B", "1.0 kB", "12.3 MB"]


def test_the_wheel_ships_the_gold_models() -> None:
    from importlib.resources import files

    shipped = {entry.name for entry in (files("catchment.demo") / "gold").iterdir()}
    assert {f"{model}.sql" for model in MODELS} <= shipped


def test_importing_the_commands_loads_nothing_heavy() -> None:
    script = (
        "import sys, catchment.cli.demo, catchment.cli.generate;"
        "print([name for name in ('numpy', 'pyarrow', 'duckdb', 'pyiceberg', 'psycopg', 'faker', 'sqlalchemy')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
