"""Gold models run over a lake: what lands, when it commits, and that failures stay where they are."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from threading import Event

import psycopg
import pyarrow as pa
import pytest

import catchment
from catchment.config import load
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.gold.landing import GoldLayer
from catchment.lakehouse.gold.model import load_models
from catchment.lakehouse.gold.refresher import GoldRefresher
from catchment.lakehouse.gold.table import SNAPSHOTS_KEPT
from pipelines.bronze_lake import BronzeLake, rows
from pipelines.lake import catch_up, write_pipeline
from waiting import wait_for

BY_CITY = (
    "-- key: city\nSELECT city, sum(amount) AS amount, count(*) AS n FROM current.orders GROUP BY city ORDER BY city"
)


@pytest.fixture
def lake(tmp_path: Path) -> BronzeLake:
    (tmp_path / "gold").mkdir()
    lake = BronzeLake(tmp_path, gold=Path("gold"))
    lake.create("orders")
    lake.append("orders", order(1, "Oslo", "2.50"), order(2, "Oslo", "1.00"), order(3, "Bergen", "4.00"))
    return lake


def order(number: int, city: str, amount: str = "1.00") -> dict[str, object]:
    return {"id": number, "city": city, "amount": Decimal(amount)}


def model(lake: BronzeLake, **files: str) -> GoldLayer:
    for name, sql in files.items():
        (lake.directory / "gold" / f"{name}.sql").write_text(sql)
    return GoldLayer(load_models(lake.directory / "gold"), lake.catalog)


def snapshots(lake: BronzeLake, name: str) -> int:
    """How many commits there have been."""
    current = lake.catalog.load_table(f"gold.{name}").current_snapshot()
    return (current.sequence_number or 0) if current else 0


def files(lake: BronzeLake, name: str) -> list[str]:
    return sorted(path.name for path in (lake.directory / "lake" / "warehouse" / "gold" / name).rglob("*.*"))


def test_a_model_lands_as_an_iceberg_table_that_any_reader_reads(lake: BronzeLake) -> None:
    model(lake, by_city=BY_CITY).refresh()
    expected = [
        {"city": "Bergen", "amount": Decimal("4.00"), "n": 1},
        {"city": "Oslo", "amount": Decimal("3.50"), "n": 2},
    ]
    assert lake.catalog.load_table("gold.by_city").scan().to_arrow().to_pylist() == expected
    assert rows(lake.connect(), "FROM gold.by_city") == expected


def test_a_model_may_read_another(lake: BronzeLake) -> None:
    layer = model(lake, by_city=BY_CITY, best="SELECT city FROM gold.by_city ORDER BY amount DESC LIMIT 1")
    layer.refresh()
    lake.append("orders", order(4, "Oslo", "9.00"))
    layer.refresh()
    assert rows(lake.connect(), "FROM gold.best") == [{"city": "Oslo"}]


def test_equal_rows_make_no_commit_also_after_a_restart(lake: BronzeLake) -> None:
    layer = model(lake, by_city=BY_CITY)
    layer.refresh()
    lake.append("orders", order(1, "Oslo", "2.50"), op="u")
    assert layer.stale()
    layer.refresh()
    model(lake).refresh()
    assert snapshots(lake, "by_city") == 1
    lake.append("orders", order(1, "Oslo", "5.00"), op="u")
    layer.refresh()
    assert snapshots(lake, "by_city") == 2


def test_without_a_new_snapshot_nothing_is_stale(lake: BronzeLake) -> None:
    layer = model(lake, by_city=BY_CITY)
    assert layer.stale()
    layer.refresh()
    assert not layer.stale()


def test_models_run_only_when_their_own_tables_changed(lake: BronzeLake) -> None:
    lake.create("others")
    layer = model(lake, by_city=BY_CITY, other="SELECT count(*) AS n FROM current.others")
    first = layer.refresh()
    lake.append("others", order(1, "Oslo"))
    second = layer.refresh()
    assert second["other"].refreshed_at != first["other"].refreshed_at
    assert second["by_city"].refreshed_at == first["by_city"].refreshed_at


def test_models_over_silver_follow_silver_and_not_bronze(lake: BronzeLake) -> None:
    rows_of_silver = pa.table({"id": [1, 2], "city": ["Oslo", "Bergen"]})
    lake.catalog.create_namespace("silver")
    table = lake.catalog.create_table("silver.orders", rows_of_silver.schema)
    table.append(rows_of_silver)
    layer = model(lake, counted="SELECT count(*) AS n FROM silver.orders")
    assert layer.refresh()["counted"].rows == 1
    lake.append("orders", order(9, "Bodø"))
    assert not layer.stale(), "nothing reads bronze"
    table.append(rows_of_silver)
    assert layer.stale()
    layer.refresh()
    assert rows(lake.connect(), "FROM gold.counted") == [{"n": 4}]


def test_a_model_over_history_follows_its_versions(database_18: str, tmp_path: Path) -> None:
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold" / "kept.sql").write_text(
        "-- key: status\nSELECT status, count(*) AS times FROM silver.orders_history GROUP BY status ORDER BY status"
    )
    path = write_pipeline(tmp_path, database_18)
    path.write_text(path.read_text().replace("lakehouse:\n", "lakehouse:\n  gold: gold\n  history: [orders.status]\n"))
    with psycopg.connect(database_18, autocommit=True) as shop:
        shop.execute("CREATE TABLE orders (id int PRIMARY KEY, status text, note text)")
        shop.execute("INSERT INTO orders VALUES (1, 'NEW', ''), (2, 'NEW', '')")
        catch_up(path)
        shop.execute("UPDATE orders SET status = 'PAID' WHERE id = 1")
        shop.execute("UPDATE orders SET note = 'again' WHERE id = 2")
        catch_up(path)
    config = load(path)
    layer = GoldLayer(load_models(tmp_path / "gold"), load_catalog(config.lakehouse.catalog, tmp_path))
    assert layer.refresh()["kept"].error is None
    with catchment.connect(path) as connection:
        assert rows(connection, "FROM gold.kept") == [{"status": "NEW", "times": 2}, {"status": "PAID", "times": 1}]


def test_a_run_and_a_connection_leave_no_database_open(database_18: str, tmp_path: Path) -> None:
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold" / "counted.sql").write_text("SELECT count(*) AS n FROM silver.orders")
    path = write_pipeline(tmp_path, database_18)
    path.write_text(path.read_text().replace("lakehouse:\n", "lakehouse:\n  gold: gold\n"))
    with psycopg.connect(database_18, autocommit=True) as shop:
        shop.execute("CREATE TABLE orders (id int PRIMARY KEY)")
        shop.execute("INSERT INTO orders VALUES (1)")
    config = load(path)
    built = config.build()
    for _ in range(2):
        built.run(Event(), until_caught_up=True)
        # A refresh that was broken off leaves its traceback. What `built` holds is not collected.
        gc.collect()
        assert open_databases(tmp_path) == []
    refresher = GoldRefresher.of(config.lakehouse, config.directory)
    assert refresher is not None
    assert refresher.refresh()["counted"].rows == 1
    refresher.close()
    assert open_databases(tmp_path) == []


def open_databases(directory: Path) -> list[str]:
    """The files of SQLite that this process has open below a directory."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(handle.readlink()))
    return [one for one in found if one.startswith(str(directory)) and ".db" in one]


def test_old_snapshots_and_their_files_go(lake: BronzeLake) -> None:
    layer = model(lake, by_city=BY_CITY)
    counts = []
    for number in range(SNAPSHOTS_KEPT + 8):
        lake.append("orders", order(100 + number, "Oslo"))
        layer.refresh()
        counts.append(len(files(lake, "by_city")))
    assert counts[-1] == counts[-4], "files grow without end"
    assert len(lake.catalog.load_table("gold.by_city").metadata.snapshots) == SNAPSHOTS_KEPT
    assert rows(lake.connect(), "SELECT n FROM gold.by_city WHERE city = 'Oslo'") == [{"n": 2 + SNAPSHOTS_KEPT + 8}]


def test_a_model_whose_columns_change_replaces_its_table(lake: BronzeLake) -> None:
    model(lake, by_city=BY_CITY).refresh()
    layer = model(
        lake,
        by_city="SELECT city, sum(amount)::TEXT AS amount, max(id) AS newest FROM current.orders GROUP BY 1 ORDER BY 1",
    )
    layer.refresh()
    assert rows(lake.connect(), "FROM gold.by_city") == [
        {"city": "Bergen", "amount": "4.00", "newest": 3},
        {"city": "Oslo", "amount": "3.50", "newest": 2},
    ]


def test_types_that_iceberg_lacks_land_as_the_next_that_holds_them(lake: BronzeLake) -> None:
    layer = model(
        lake,
        types="""SELECT sum(id) AS huge, 7::UTINYINT AS tiny, 18446744073709551615::UBIGINT AS unsigned,
            TIME '10:00' AS time, '6f1c9b3e-0000-4000-8000-000000000000'::UUID AS id, [1::HUGEINT] AS list,
            {'a': 1::TINYINT} AS struct, MAP {'k': 1::SMALLINT} AS map, TIMESTAMP_NS '2026-01-02 03:04:05.000006' AS at,
            INTERVAL 1 DAY AS span, '{"a": 1}'::JSON AS json FROM current.orders""",
    )
    assert layer.refresh()["types"].error is None
    fields = {one.name: str(one.field_type) for one in lake.catalog.load_table("gold.types").schema().fields}
    assert {name: fields[name] for name in ("huge", "tiny", "unsigned", "time", "id", "at", "span", "json")} == {
        "huge": "decimal(38, 0)",
        "tiny": "int",
        "unsigned": "decimal(20, 0)",
        "time": "string",
        "id": "string",
        "at": "timestamp",
        "span": "string",
        "json": "string",
    }
    (row,) = lake.catalog.load_table("gold.types").scan().to_arrow().to_pylist()
    assert (row["huge"], row["unsigned"], row["list"], row["struct"]) == (6, 18446744073709551615, [1], {"a": 1})


def test_a_failing_model_keeps_its_rows_and_stops_no_other(lake: BronzeLake) -> None:
    layer = model(lake, by_city=BY_CITY, second="SELECT max(city::VARCHAR) AS city FROM current.orders")
    layer.refresh()
    (lake.directory / "gold" / "second.sql").write_text("SELECT max(city::INTEGER) AS city FROM current.orders")
    layer = model(lake)
    lake.append("orders", order(5, "Secretville"))
    status = layer.refresh()
    assert status["by_city"].error is None
    error = status["second"].error or ""
    assert "second.sql" in error
    assert "ConversionException" in error
    assert "Secretville" not in error
    assert rows(lake.connect(), "SELECT city FROM gold.second") == [{"city": "Oslo"}]


def test_a_missing_column_is_named(lake: BronzeLake) -> None:
    error = model(lake, bad="SELECT nothing FROM current.orders").refresh()["bad"].error or ""
    assert 'Referenced column "nothing" not found' in error


def test_a_repeated_key_is_an_error(lake: BronzeLake) -> None:
    error = model(lake, bad="-- key: city\nSELECT city FROM current.orders").refresh()["bad"].error or ""
    assert "1 values of its key (city) have several rows" in error


def test_a_model_waits_for_a_table_that_is_not_captured_yet(lake: BronzeLake) -> None:
    layer = model(lake, later="SELECT count(*) AS n FROM current.users")
    assert "there is no table current.users yet" in (layer.refresh()["later"].error or "")
    lake.create("users")
    lake.append("users", order(1, "Oslo"))
    assert layer.refresh()["later"].rows == 1


@pytest.fixture
def refresher(lake: BronzeLake) -> Iterator[GoldRefresher]:
    (lake.directory / "gold" / "by_city.sql").write_text(BY_CITY)
    config = lake.config.model_copy(update={"gold_interval_seconds": 0.05, "gold_budget_percent": 100.0})
    refresher = GoldRefresher.of(config, lake.directory)
    assert refresher is not None
    yield refresher
    refresher.stop()


def test_the_refresher_follows_bronze_until_it_is_stopped(lake: BronzeLake, refresher: GoldRefresher) -> None:
    refresher.start()
    wait_for(lambda: refresher.status().get("by_city") is not None and refresher.status()["by_city"].rows == 2)
    lake.append("orders", order(9, "Bodø"))
    wait_for(lambda: refresher.status()["by_city"].rows == 3)
    refresher.stop()
    lake.append("orders", order(10, "Tromsø"))
    assert refresher.refresh()["by_city"].rows == 4
    assert refresher.error is None


def test_the_refresher_outlives_a_lake_that_cannot_be_read(lake: BronzeLake, refresher: GoldRefresher) -> None:
    refresher.start()
    wait_for(lambda: "by_city" in refresher.status() and refresher.status()["by_city"].rows == 2)
    metadata = Path(lake.catalog.load_table("bronze.orders").metadata_location.removeprefix("file://"))
    lake.append("orders", order(9, "Bodø"))
    newest = Path(lake.catalog.load_table("bronze.orders").metadata_location.removeprefix("file://"))
    assert newest != metadata
    aside = newest.rename(newest.with_suffix(".aside"))
    lake.create("others")
    wait_for(lambda: refresher.error is not None or refresher.status()["by_city"].rows == 3)
    aside.rename(newest)
    wait_for(lambda: refresher.error is None and refresher.status()["by_city"].rows == 3)


@pytest.mark.parametrize(
    ("interval", "budget", "took", "pause"),
    [(2.0, 10.0, 0.1, 1.9), (2.0, 10.0, 1.0, 9.0), (2.0, 50.0, 4.0, 4.0), (0.0, 100.0, 3.0, 0.0)],
)
def test_after_a_refresh_gold_waits_as_its_budget_asks(
    interval: float, budget: float, took: float, pause: float
) -> None:
    refresher = GoldRefresher((), lambda: None, interval_seconds=interval, budget_percent=budget)  # type: ignore[arg-type, return-value]
    assert refresher.pause_after(took) == pytest.approx(pause)


def test_without_models_there_is_no_refresher(tmp_path: Path) -> None:
    lake = BronzeLake(tmp_path)
    assert GoldRefresher.of(lake.config, tmp_path) is None
