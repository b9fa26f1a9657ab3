"""Gold tables that land by changed keys: few bytes for few changes, the same rows as when replaced whole."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyiceberg.manifest import ManifestContent

from catchment.lakehouse.gold import table as gold_table
from catchment.lakehouse.gold.landing import GoldLayer
from catchment.lakehouse.gold.model import load_models
from catchment.lakehouse.gold.table import SNAPSHOTS_KEPT
from pipelines.bronze_lake import BronzeLake
from seeds import first_seed

COPY = "-- key: id\n-- refresh: changes\nSELECT id, city, amount FROM current.orders"
ROWS = 400


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[BronzeLake]:
    (tmp_path / "gold").mkdir()
    lake = BronzeLake(tmp_path, gold=Path("gold"))
    lake.create("orders")
    lake.append("orders", *(order(number) for number in range(ROWS)))
    yield lake
    lake.catalog.close()


def order(number: int, city: str | None = "Oslo", amount: str = "1.00") -> dict[str, object]:
    return {"id": number, "city": city, "amount": Decimal(amount)}


def layer(lake: BronzeLake, sql: str | None = None) -> GoldLayer:
    if sql is not None:
        (lake.directory / "gold" / "orders.sql").write_text(sql)
    return GoldLayer(load_models(lake.directory / "gold"), lake.catalog)


def refreshed(gold: GoldLayer) -> None:
    status = gold.refresh()["orders"]
    assert status.error is None


def gold_rows(lake: BronzeLake) -> list[dict[str, Any]]:
    rows = lake.catalog.load_table("gold.orders").scan().to_arrow().to_pylist()
    return sorted(rows, key=lambda row: row["id"])


def current_rows(lake: BronzeLake) -> list[dict[str, Any]]:
    found = lake.connect().execute("SELECT id, city, amount FROM current.orders").to_arrow_table().to_pylist()
    return sorted(found, key=lambda row: row["id"])


def file_rows(lake: BronzeLake) -> dict[ManifestContent, list[int]]:
    """Rows of each live data file and of each delete file, the oldest first."""
    table = lake.catalog.load_table("gold.orders")
    snapshot = table.current_snapshot()
    assert snapshot is not None
    found: dict[ManifestContent, list[tuple[int, int]]] = {ManifestContent.DATA: [], ManifestContent.DELETES: []}
    for manifest in snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io):
            found[manifest.content].append((entry.sequence_number or 0, entry.data_file.record_count))
    return {content: [rows for _, rows in sorted(ones)] for content, ones in found.items()}


def test_only_changed_rows_are_written_and_their_old_ones_deleted(lake: BronzeLake) -> None:
    gold = layer(lake, COPY)
    refreshed(gold)
    lake.append("orders", order(3, "Bergen"), op="u")
    lake.append("orders", order(ROWS), order(ROWS + 1, None))
    lake.append("orders", order(5), order(6), op="d")
    refreshed(gold)
    assert file_rows(lake) == {ManifestContent.DATA: [ROWS, 3], ManifestContent.DELETES: [3]}
    assert gold_rows(lake) == current_rows(lake)


def test_a_restarted_refresher_goes_on_by_changes_and_equal_rows_make_no_commit(lake: BronzeLake) -> None:
    refreshed(layer(lake, COPY))
    lake.append("orders", order(3, "Bergen"), op="u")
    refreshed(layer(lake))
    lake.append("orders", order(3, "Tromsø"), order(4, "Bodø"), op="u")
    refreshed(layer(lake))
    assert file_rows(lake) == {ManifestContent.DATA: [ROWS, 1, 2], ManifestContent.DELETES: [1, 2]}
    assert gold_rows(lake) == current_rows(lake)
    lake.append("orders", order(9), op="u")
    refreshed(layer(lake))
    assert file_rows(lake)[ManifestContent.DATA] == [ROWS, 1, 2]


def test_a_table_is_replaced_when_much_of_it_changed_or_its_files_are_many(
    lake: BronzeLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gold_table, "FILES", 4)
    gold = layer(lake, COPY)
    refreshed(gold)
    for number in range(4):
        lake.append("orders", order(number % 3, f"city {number}"), op="u")
        refreshed(gold)
    assert file_rows(lake) == {ManifestContent.DATA: [ROWS], ManifestContent.DELETES: []}
    lake.append("orders", *(order(number, "Bergen") for number in range(ROWS // 2)), op="u")
    refreshed(gold)
    assert file_rows(lake) == {ManifestContent.DATA: [ROWS], ManifestContent.DELETES: []}
    assert gold_rows(lake) == current_rows(lake)


def test_other_columns_replace_the_table(lake: BronzeLake) -> None:
    refreshed(layer(lake, COPY))
    refreshed(
        layer(lake, "-- key: id\n-- refresh: changes\nSELECT id, city, amount::TEXT AS amount FROM current.orders")
    )
    assert file_rows(lake) == {ManifestContent.DATA: [ROWS], ManifestContent.DELETES: []}
    assert {row["amount"] for row in gold_rows(lake)} == {"1.00"}


def test_another_key_replaces_the_table(lake: BronzeLake) -> None:
    """Rows there may share a value of the new key: joined by it, one would be added again."""
    once = "SELECT id, id % 50 AS part, city FROM current.orders"
    both = f"{once} UNION ALL SELECT id, -1, city FROM current.orders WHERE id < 9"
    refreshed(layer(lake, f"-- key: id, part\n-- refresh: changes\n{both}"))
    refreshed(layer(lake, f"-- key: id\n-- refresh: changes\n{once}"))
    assert len(gold_rows(lake)) == ROWS


def test_another_description_changes_no_row(lake: BronzeLake) -> None:
    refreshed(layer(lake, COPY))
    refreshed(layer(lake, f"-- description: Said anew.\n{COPY}"))
    assert lake.catalog.load_table("gold.orders").properties["comment"] == "Said anew."
    assert file_rows(lake) == {ManifestContent.DATA: [ROWS], ManifestContent.DELETES: []}
    assert gold_rows(lake) == current_rows(lake)


def test_a_column_with_a_name_that_comparing_needs_replaces_the_table(lake: BronzeLake) -> None:
    sql = "-- key: id\n-- refresh: changes\nSELECT id, city, amount, 1 AS file_row_number FROM current.orders"
    gold = layer(lake, sql)
    refreshed(gold)
    lake.append("orders", order(3, "Bergen"), op="u")
    refreshed(gold)
    assert file_rows(lake) == {ManifestContent.DATA: [ROWS], ManifestContent.DELETES: []}
    assert len(gold_rows(lake)) == ROWS


def test_what_another_process_landed_is_noticed_and_landed_over(lake: BronzeLake) -> None:
    mine, theirs = layer(lake, COPY), layer(lake)
    refreshed(mine)
    refreshed(theirs)
    assert not mine.stale()
    lake.append("orders", order(3, "Bergen"), op="u")
    refreshed(theirs)
    # As if theirs had begun before, and landed an older state after: the table is set back under us.
    refreshed(mine)
    table = lake.catalog.load_table("gold.orders")
    first = min(table.metadata.snapshots, key=lambda one: one.sequence_number or 0)
    with table.manage_snapshots() as changing:
        changing.rollback_to_snapshot(first.snapshot_id)
    table.transaction().set_properties({gold_table.DIGEST_PROPERTY: "older"}).commit_transaction()
    assert mine.stale()
    refreshed(mine)
    assert gold_rows(lake) == current_rows(lake)


def test_two_that_land_at_once_is_no_warning_and_over_at_the_next_refresh(
    lake: BronzeLake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine, theirs = layer(lake, COPY), layer(lake)
    refreshed(mine)
    lake.append("orders", order(3, "Bergen"), op="u")
    with monkeypatch.context() as patch:
        # They land after we have looked at the tables, and before we do.
        patch.setattr(mine, "_notice_other_writers", lambda tables: refreshed(theirs))
        assert "changed by another writer" in (mine.refresh()["orders"].error or "")
    assert mine.stale()
    refreshed(mine)
    assert gold_rows(lake) == current_rows(lake)
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_auto_replaces_small_tables_and_changes_large_ones(lake: BronzeLake, monkeypatch: pytest.MonkeyPatch) -> None:
    gold = layer(lake, COPY.replace("changes", "auto"))
    refreshed(gold)
    lake.append("orders", order(3, "Bergen"), op="u")
    refreshed(gold)
    assert file_rows(lake)[ManifestContent.DATA] == [ROWS]
    monkeypatch.setattr(gold_table, "ROWS_REPLACED", ROWS)
    lake.append("orders", order(4, "Bergen"), op="u")
    refreshed(gold)
    assert file_rows(lake)[ManifestContent.DATA] == [ROWS, 1]
    assert gold_rows(lake) == current_rows(lake)


CITIES = ("Oslo", "OSLO", "Bodø", "")
SQL = "-- key: k, part\n-- refresh: changes\nFROM current.orders SELECT {columns}"
"""Keys and values of every kind that may be compared wrongly: NULL, NaN, zeros, lists, structs, text of other case."""

COLUMNS = """
    CASE WHEN id % 7 = 0 THEN NULL ELSE id END AS k, id // 7 AS part,
    CASE id % 5 WHEN 0 THEN 'NaN'::DOUBLE WHEN 1 THEN -0.0::DOUBLE WHEN 2 THEN NULL ELSE amount::DOUBLE END AS float,
    [city, NULL] AS list, {'a': city, 'b': id} AS struct, MAP {'c': amount} AS map,
    make_timestamptz(id * 1000003 + length(city)) AS at, encode(city) AS bytes, city
"""


def test_any_workload_gives_the_rows_that_replacing_whole_gives(lake: BronzeLake) -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    draw = random.Random(seed)
    gold = layer(lake, SQL.format(columns=COLUMNS))
    there = set(range(ROWS))
    for _ in range(12):
        picked = draw.sample(sorted(there), draw.choice([0, 1, 20]))
        gone = {number for number in picked if draw.random() < 0.3}
        lake.append("orders", *(order(one, draw.choice(CITIES), "2.00") for one in picked if one not in gone), op="u")
        lake.append("orders", *(order(number) for number in gone), op="d")
        there -= gone
        new = [draw.randrange(10_000) for _ in range(draw.choice([0, 3]))]
        lake.append("orders", *(order(number) for number in set(new) - there))
        there |= set(new)
        if draw.random() < 0.2:
            gold = layer(lake)
        refreshed(gold)
        assert _difference(lake) == []
    kept = lake.catalog.load_table("gold.orders").metadata.snapshots
    assert len(kept) <= SNAPSHOTS_KEPT


def _difference(lake: BronzeLake) -> list[tuple[object, ...]]:
    landed = lake.catalog.load_table("gold.orders").scan().to_arrow()
    with lake.connect() as connection, duckdb.connect() as fresh:
        wanted = connection.execute(f"FROM current.orders SELECT {COLUMNS}").to_arrow_table()
        connection.register("wanted", wanted)
        shown = connection.execute("SELECT count(*) FROM (FROM gold.orders EXCEPT ALL FROM wanted)").fetchall()
        assert shown == [(0,)], "our own view differs"
        fresh.execute("SET TimeZone = 'UTC'")
        fresh.register("landed", landed)
        fresh.register("wanted", wanted)
        return fresh.execute(
            "(FROM landed EXCEPT ALL FROM wanted) UNION ALL (FROM wanted EXCEPT ALL FROM landed)"
        ).fetchall()
