"""The gadgets' demo, as a person or a program runs it: shapes equal to DynamoDB, asked from outside, ended, killed."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from catchment.aws.local.counters import Counters
from catchment.demo.gadgets_demo import MADE, GadgetsDemo, write_pipeline
from catchment.demo.gadgets_outcome import CHANGES_BY_UPI, UNITS_TODAY, Order, compare_orders
from catchment.demo.gadgets_screen import GadgetsScreen
from catchment.demo.gadgets_views import GadgetsMoment, Sighting, line
from catchment.demo.ministack import MiniStack
from catchment.errors import ConfigError
from conftest import CACHE
from e2e.test_shop_demo import command, demos, finish, processes_of, wait_for_line
from waiting import wait_for

QUERIES = {"changes_by_upi": CHANGES_BY_UPI, "units_today": UNITS_TODAY}


@pytest.fixture
def start(ministack: MiniStack, open_directory: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the demo in `open_directory`/demo; `ministack` has installed the stand-in."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    directory = str(open_directory / "demo")
    with demos("gadgets", "--dir", directory, "--rate", "40", env={**environ, "XDG_CACHE_HOME": str(CACHE)}) as run:
        yield run


def test_both_shapes_end_with_the_orders_of_the_table(
    start: Callable[..., subprocess.Popen[str]], open_directory: Path
) -> None:
    day = datetime.now(UTC).date()
    told = finish(start("--shape", "both", "--seconds", "4"))
    assert told["equal"] is True
    assert told["shapes_equal"] is True
    # A machine that stands still for more than a second misses some: the first nine of this seed have all kinds.
    assert told["writes"] == sum(told["kinds"].values()) > 20
    assert set(told["kinds"]) == {"insert", "modify", "remove"}
    expected = told["kinds"]["insert"] - told["kinds"]["remove"]
    for name in ("serverless", "direct"):
        shape = told["shapes"][name]
        assert shape["changes"] == told["writes"], name
        assert shape["orders"] == {
            "table_orders": expected,
            "orders": expected,
            "missing": 0,
            "unexpected": 0,
            "different": 0,
        }
        assert shape["latency_ms"]["p50"] <= shape["latency_ms"]["p99"]
    serverless = told["shapes"]["serverless"]
    assert serverless["stages"]["pipe"]["put"] == serverless["stages"]["firehose"]["put"] == told["writes"]
    assert serverless["stages"]["firehose"]["objects"] > 0
    journey = {stage["stage"]: stage["found"] for stage in serverless["journey"]["stages"]}
    assert len(journey) >= 4
    assert all(len(found) == 1 for stage, found in journey.items() if stage != "errors"), journey
    assert {name: answer["sql"] for name, answer in serverless["queries"].items()} == QUERIES
    units = {
        shape: {
            row["product_name"]: row["total_units"] for row in told["shapes"][shape]["queries"]["units_today"]["rows"]
        }
        for shape in told["shapes"]
    }
    if datetime.now(UTC).date() == day:  # else one was asked yesterday, or for a day without orders
        assert units["serverless"] == units["direct"] != {}
    assert not processes_of(open_directory / "demo")


def test_it_can_be_asked_from_outside_and_ends_in_order_when_asked(
    start: Callable[..., subprocess.Popen[str]], open_directory: Path
) -> None:
    running = start("--seconds", "600")
    wait_for_line(running, lambda text: re.search(r" [1-9]\d* seen by a query", text) is not None)
    exports = dict(
        text.removeprefix("export ").split("=", 1)
        for text in (open_directory / "demo" / "aws.env").read_text().splitlines()
    )

    def asked() -> list[dict[str, Any]]:
        done = subprocess.run(
            command("query", "--database", "gadgets_sales_db", UNITS_TODAY, "--json"),
            env={**os.environ, **exports, "XDG_CACHE_HOME": str(open_directory / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
        return found

    # Just after midnight, today has none yet.
    assert set(wait_for(asked, "orders of today")[0]) == {"product_name", "total_units"}
    running.send_signal(signal.SIGINT)
    told = finish(running)
    assert told["equal"] is True
    assert told["seconds"] < 600
    assert not processes_of(open_directory / "demo")


@pytest.mark.parametrize("phase", ["Starting AWS", "Starting capture"])
def test_it_can_be_ended_before_the_first_order(
    start: Callable[..., subprocess.Popen[str]], open_directory: Path, phase: str
) -> None:
    running = start("--shape", "both", "--seconds", "600")
    wait_for_line(running, lambda text: text.startswith(phase))
    running.send_signal(signal.SIGTERM)
    told = finish(running)
    if told["writes"]:  # this process was held up: the signal came late, and this is an end like any other
        assert told["equal"] is True
    else:
        assert told["shapes"] == {}
    assert not processes_of(open_directory / "demo")


def test_nothing_outlives_a_demo_that_is_killed(
    start: Callable[..., subprocess.Popen[str]], open_directory: Path
) -> None:
    running = start("--seconds", "600")
    wait_for_line(running, lambda text: text.startswith("Selling"))
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) >= 3
    running.kill()
    running.communicate()
    wait_for(lambda: not any(lives(one) for one in children), "the end of its children")
    wait_for(lambda: not processes_of(open_directory / "demo"), "the end of all others")


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_directory_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    with ExitStack() as stack, pytest.raises(ConfigError, match="not empty and not this demo's"):
        GadgetsDemo(tmp_path, rate=10, seconds=1, seed=1)._claim(stack)
    assert (tmp_path / "lake").exists()


def test_a_second_run_in_a_directory_is_refused_and_deletes_nothing_of_the_first(
    start: Callable[..., subprocess.Popen[str]], open_directory: Path
) -> None:
    running = start("--seconds", "600")
    wait_for_line(running, lambda text: text.startswith("Selling"))
    second = start("--seconds", "1")
    _, told = second.communicate(timeout=200)
    assert second.returncode == 3
    assert "Another demo runs in" in told and "--dir" in told
    running.send_signal(signal.SIGINT)
    assert finish(running)["equal"] is True


def test_a_run_begins_anew_and_leaves_what_a_person_changed(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    demo = GadgetsDemo(directory, rate=10, seconds=1, seed=1)
    with ExitStack() as stack:
        demo._claim(stack)
        demo._clear()
    write_pipeline(directory).write_text("name: mine")
    for name in MADE:
        (directory / name).mkdir()
    demo._clear()
    assert write_pipeline(directory).read_text() == "name: mine"
    assert not [name for name in MADE if (directory / name).exists()]
    assert (directory / "gold" / "gadget_sales.sql").exists()


def order(key: str, quantity: int = 1) -> Order:
    at = datetime(2026, 11, 21, 9, 30)
    return (key, "Laptop", quantity, Decimal("10.99"), "UPI", at, "placed", at.date())


@pytest.mark.parametrize(
    ("there", "missing", "unexpected", "different"),
    [
        ([order("1000"), order("1001")], 0, 0, 0),
        ([order("1000")], 1, 0, 0),
        ([order("1000"), order("1001", quantity=2)], 0, 0, 1),
        ([order("1000"), order("1001"), order("1001")], 0, 1, 0),
        ([order("1000"), order("1001"), order("9999")], 0, 1, 0),
        ([order("1000"), order("9999")], 1, 1, 0),
    ],
)
def test_every_difference_is_counted(there: list[Order], missing: int, unexpected: int, different: int) -> None:
    table = {key: order(key) for key in ("1000", "1001")}
    found = compare_orders(table, there)
    assert (found.missing, found.unexpected, found.different) == (missing, unexpected, different)
    assert found.equal is (missing == unexpected == different == 0)


def moment(**changed: Any) -> GadgetsMoment:
    counters = Counters()
    counters.add(read=1_234, put=1_200, failed=3, objects=7, bytes=45_600)
    upi = [{"orderid": "7421", "product_name": "Laptop", "price": 429.99, "event_id": "hidden"}]
    answers = {
        "units_today": {"rows": [{"product_name": "Laptop", "total_units": 4_321}]},
        "changes_by_upi": {"rows": 99, "newest": upi},
    }
    shown = GadgetsMoment(
        phase="Selling gadgets",
        seconds=4,
        kinds={"insert": 1_000, "modify": 300},
        pipe=counters.snapshot(),
        firehose=counters.snapshot(),
        sightings={"serverless": Sighting(1_190, 640.0, answers)},
    )
    return replace(shown, **changed)


def test_the_screen_shows_every_stage_and_the_answers(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=130, height=50)
    console.print(GadgetsScreen(tmp_path, console).draw(moment()))
    text = stream.getvalue()
    for shown in (
        "1,300",
        "1,234",
        "1,200",
        "7 objects",
        "45.6 kB",
        "3 under errors/",
        "1,190",
        "640 ms",
        "4,321",
        "7421",
    ):
        assert shown in text
    assert "hidden" not in text
    assert f"{tmp_path}/aws.env" in text


def test_without_a_terminal_a_moment_is_a_line() -> None:
    assert line(moment(seconds=0)) == "Selling gadgets …"
    assert line(moment()) == (
        "Selling gadgets: 4 s, 1,300 written, 1,200 in Kinesis, 1,200 in 7 objects, 1,190 seen by a query after 640 ms"
    )


def test_the_wheel_ships_pipeline_and_models() -> None:
    from importlib.resources import files

    shipped = {entry.name for entry in (files("catchment.demo") / "gadgets" / "gold").iterdir()}
    assert {"gadget_sales.sql", "sales_data_table.sql", "sales_anomalies.sql", "inventory.sql"} <= shipped
    assert (files("catchment.demo") / "gadgets" / "pipeline.yaml").is_file()
