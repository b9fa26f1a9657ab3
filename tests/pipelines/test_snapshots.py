"""`catchment snapshots`: the kept states of a table, as its metadata has them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catchment.errors import ConfigError
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.recovery.snapshot_listing import by_time, find, kept_snapshots
from pipelines import iceberg_writer as writer
from pipelines.lake import run

PIPELINE = """\
name: writer
source: {type: postgres, dsn: postgresql://127.0.0.1/nowhere}
sinks: [{type: iceberg}]
"""


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Three flushes of two transactions."""
    sink = writer.open_sink(tmp_path)
    sink.open()
    for n in range(6):
        writer.write_transaction(sink, n)
        if n % 2:
            sink.flush()
    sink.close()
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    return tmp_path


def test_each_kept_snapshot_says_what_it_holds_and_how_far_it_goes(lake: Path) -> None:
    done = run("snapshots", str(lake / "pipeline.yaml"), "bronze.both", "--json")
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["tables"]
    assert (table["table"], table["source"], table["pinned"]) == ("bronze.both", "public.both", False)
    assert [(one["rows"], one["added_rows"], one["files"]) for one in table["snapshots"]] == [
        (2, 2, 1),
        (4, 2, 2),
        (6, 2, 3),
    ]
    assert [one["positions"] for one in table["snapshots"]] == [
        {writer.LANE: writer.position(n + 1).hex()} for n in (1, 3, 5)
    ]
    assert [one["current"] for one in table["snapshots"]] == [False, False, True]


def test_people_see_tables_first_and_then_one_table(lake: Path) -> None:
    overview = run("snapshots", str(lake / "pipeline.yaml")).stdout
    assert {"bronze.odd", "bronze.even", "bronze.both"} <= set(overview.split())
    one = run("snapshots", str(lake / "pipeline.yaml"), "both").stdout
    assert "bronze.both: 3 snapshots are kept." in one
    assert writer.position(4).hex() in one


def test_a_table_that_is_not_there_is_told_with_those_that_are(lake: Path) -> None:
    done = run("snapshots", str(lake / "pipeline.yaml"), "silver.bth")
    assert done.returncode == 2
    assert "There is no table silver.bth in the lake. Its tables: bronze.both, bronze.even, bronze.odd" in done.stderr


def test_a_table_is_found_by_each_of_its_names() -> None:
    of = {"catchment.table": "app.orders"}
    tables = {("bronze", "app_orders"): of, ("silver", "app_orders"): of, ("gold", "orders"): {}}
    assert find(tables, "silver.app_orders") == [("silver", "app_orders")]
    assert find(tables, "app.orders") == [("bronze", "app_orders"), ("silver", "app_orders")]
    assert find(tables, "orders") == [("gold", "orders")]


def test_a_time_means_the_last_commit_before_it(lake: Path) -> None:
    catalog = load_catalog(writer.lakehouse().catalog, lake)
    snapshots = catalog.load_table(("bronze", "both")).metadata.snapshots
    second = datetime.fromtimestamp(snapshots[1].timestamp_ms / 1000, UTC)
    assert by_time(snapshots, second, "bronze.both").snapshot_id == snapshots[1].snapshot_id
    with pytest.raises(ConfigError, match=r"No snapshot of bronze.both from 2001-01-01T00:00:00.000Z"):
        by_time(snapshots, datetime(2001, 1, 1, tzinfo=UTC), "bronze.both")
    assert kept_snapshots(catalog, "both")[0].snapshots[1].at == second
