"""What a reconciliation takes for an item's latest version is what `gadget_sales` shows."""

from __future__ import annotations

import json
import random
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from catchment.aws.local.lake_records import LakeRecords, cleaner_of_environment, item_digest, key_text
from catchment.glue.gadgets import CHANGES, ORDERS_SQL
from seeds import first_seed

SEED = first_seed()
VIEW = ("orderid", "product_name", "quantity", "price", "payment_method", "order_timestamp", "status", "order_date")


def line(rng: random.Random, numbers: list[str | None]) -> dict[str, Any]:
    """One version of an order; what it says follows from where it stands, so that no two of one place differ."""
    change = {
        "stream_label": rng.choice([None, "2026-11-21T10:00:00.000", "2026-11-21T11:00:00.000"]),
        "sequence_number": rng.choice(numbers),
        "event_time": rng.choice([None, "2026-11-21 10:00:00.000", "2026-11-21 10:00:01.000"]),
        "orderid": rng.choice("12"),
    }
    # An absent text, and 0 for a number, are the least there are: as if they were the same place.
    place = f"{change['orderid']} {change['stream_label']} {change['sequence_number'] or '0'} {change['event_time']}"
    return {**change, "product_name": place, "event_type": "REMOVE" if sum(place.encode()) % 3 == 0 else "MODIFY"}


@pytest.mark.parametrize("round_", range(60))
def test_the_latest_version_is_the_one_that_the_view_shows(round_: int) -> None:
    print(f"replay with CATCHMENT_SEED={SEED}")
    rng = random.Random(SEED + round_)
    numbers = rng.sample([None, "0", "7", "10"], 2)
    lines = [line(rng, numbers) for _ in range(rng.randrange(1, 24))]
    lake = LakeRecords(["orderid"], cleaner_of_environment())
    for one in lines:
        lake.add(json.dumps(one).encode())
    table = pa.Table.from_pylist([{**dict.fromkeys(VIEW), **one} for one in lines])
    with duckdb.connect() as connection:
        connection.register(CHANGES, table)
        shown = connection.execute(f"SELECT orderid, product_name FROM ({ORDERS_SQL})").fetchall()
    expected = {
        key_text({"orderid": {"S": order}}): item_digest({"orderid": {"S": order}, "product_name": {"S": place}})
        for order, place in shown
    }
    assert {key: one.digest for key, one in lake.latest.items() if one.digest is not None} == expected
