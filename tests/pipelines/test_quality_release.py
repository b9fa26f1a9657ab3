"""Rows let out of quarantine: they are in silver as they are, once, and their next change is judged anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from catchment.config import load
from catchment.errors import ConfigError
from catchment.lakehouse.recovery.tasks import PipelineLake, perform
from pipelines.lake import catch_up, end, query, start, write_pipeline
from waiting import wait_for

RULES = """\
tables:
  orders:
    - {type: range, column: total, min: 0, severity: quarantine}
    - {type: not_null, column: city}
"""
IN_SILVER = "SELECT id, total::DOUBLE, _quality FROM silver.orders WHERE id <= 4 ORDER BY id"
IN_QUARANTINE = "SELECT id FROM silver.orders_quarantine ORDER BY id"


@pytest.fixture
def shop(database_18: str, tmp_path: Path) -> Path:
    """Four orders of which three are in quarantine."""
    path = write_pipeline(tmp_path, database_18)
    (tmp_path / "quality.yaml").write_text(RULES)
    path.write_text(path.read_text().replace("lakehouse:\n", "lakehouse:\n  quality: quality.yaml\n"))
    run(
        path,
        "CREATE TABLE orders (id bigint PRIMARY KEY, city text, total numeric(12,2))",
        "INSERT INTO orders VALUES (1, 'Oslo', -1), (2, NULL, -2), (3, 'Oslo', 3), (4, 'Oslo', -4)",
    )
    catch_up(path)
    assert query(path, IN_QUARANTINE) == [(1,), (2,), (4,)]
    return path


def run(path: Path, *statements: str) -> None:
    dsn = (path.parent / ".env").read_text().strip().partition("=")[2]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def release(path: Path, keys: list[str] | None = None, table: str = "orders") -> dict[str, Any]:
    config = load(path)
    lake = PipelineLake(config.name, config.lakehouse, config.directory)
    return perform(lake, "release", {"table": table, "keys": keys})


def whole(path: Path) -> None:
    """Silver and quarantine together are the replayed rows, none twice."""
    both = "SELECT id, city, total FROM silver.orders UNION ALL SELECT id, city, total FROM silver.orders_quarantine"
    current = "SELECT id, city, total FROM current.orders"
    assert sorted(query(path, both), key=repr) == sorted(query(path, current), key=repr)


def test_released_rows_are_in_silver_and_say_what_they_break(shop: Path) -> None:
    assert release(shop) == {"table": "silver.orders", "released": 3, "not_in_quarantine": []}
    assert query(shop, IN_QUARANTINE) == []
    assert query(shop, IN_SILVER) == [
        (1, -1.0, ["range_total"]),
        (2, -2.0, ["range_total", "not_null_city"]),
        (3, 3.0, None),
        (4, -4.0, ["range_total"]),
    ]
    assert release(shop)["released"] == 0
    whole(shop)


def test_only_the_rows_of_the_given_keys_are_released_and_others_are_named(shop: Path) -> None:
    assert release(shop, ["4", "3", "99"]) == {
        "table": "silver.orders",
        "released": 1,
        "not_in_quarantine": ["3", "99"],
    }
    assert query(shop, IN_QUARANTINE) == [(1,), (2,)]
    whole(shop)


def test_the_next_change_of_a_released_row_is_judged_anew(shop: Path) -> None:
    release(shop)
    run(shop, "UPDATE orders SET city = 'Bergen' WHERE id = 1", "UPDATE orders SET total = 4 WHERE id = 4")
    run(shop, "DELETE FROM orders WHERE id = 2")
    catch_up(shop)
    assert query(shop, IN_QUARANTINE) == [(1,)]
    assert query(shop, IN_SILVER) == [(3, 3.0, None), (4, 4.0, None)]
    whole(shop)


def test_a_row_that_changed_before_the_release_is_released_as_it_is(shop: Path) -> None:
    run(shop, "ALTER TABLE orders ADD COLUMN note text", "UPDATE orders SET note = 'seen', total = -9 WHERE id = 1")
    catch_up(shop)
    assert release(shop)["released"] == 3
    assert query(shop, "SELECT id, note FROM silver.orders ORDER BY id") == [
        (1, "seen"),
        (2, None),
        (3, None),
        (4, None),
    ]
    whole(shop)


def test_keys_of_several_columns_are_given_in_order(shop: Path) -> None:
    run(shop, "CREATE TABLE lines (a int, b text, total int, PRIMARY KEY (a, b))")
    run(shop, "INSERT INTO lines VALUES (1, 'x', -1), (1, 'y,z', -1), (2, 'x', -1)")
    rules = shop.parent / "quality.yaml"
    rules.write_text(RULES + "  lines:\n    - {type: range, column: total, min: 0, severity: quarantine}\n")
    catch_up(shop)
    assert release(shop, ["2,x", json.dumps(["1", "y,z"])], "lines")["released"] == 2
    assert query(shop, "SELECT a, b FROM silver.lines_quarantine") == [(1, "x")]
    with pytest.raises(ConfigError, match="2 columns"):
        release(shop, ["1"], "lines")


def test_a_table_without_quarantine_has_nothing_to_release(shop: Path) -> None:
    run(shop, "CREATE TABLE others (id int PRIMARY KEY)", "INSERT INTO others VALUES (1)")
    catch_up(shop)
    with pytest.raises(ConfigError, match="no quarantine"):
        release(shop, table="others")
    with pytest.raises(ConfigError, match="no table nothing"):
        release(shop, table="nothing")


def test_a_running_pipeline_releases_rows_and_goes_on(shop: Path) -> None:
    process = start(shop)
    try:
        run(shop, "INSERT INTO orders VALUES (5, 'Oslo', -5)")
        wait_for(lambda: len(query(shop, IN_QUARANTINE)) == 4, what="the new row in quarantine")
        assert release(shop, ["5", "1"])["released"] == 2
        run(shop, "INSERT INTO orders VALUES (6, 'Oslo', -6), (7, 'Oslo', 7)")
        wait_for(lambda: query(shop, "SELECT 1 FROM silver.orders WHERE id = 7") == [(1,)], what="capture going on")
        assert query(shop, IN_QUARANTINE) == [(2,), (4,), (6,)]
        whole(shop)
    finally:
        said = end(process)
    assert process.returncode == 0, said
