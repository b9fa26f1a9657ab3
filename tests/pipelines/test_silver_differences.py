"""The oracle of silver finds a row that is missing, one too many, one that differs, and one that is there twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from catchment.lakehouse.silver.table import silver_schema
from catchment.testing.lake import expect_silver_equals_current, silver_differences
from pipelines.bronze_lake import ORDER, BronzeLake


class SilverLake(BronzeLake):
    """Bronze, and silver tables written by hand."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.create("orders")
        self.append("orders", *({"id": n, "city": "Oslo", "amount": None} for n in (1, 2, 3)))
        self.catalog.create_namespace_if_not_exists("silver")

    def silver(self, *rows: dict[str, Any], table: str = "orders") -> None:
        schema = silver_schema(ORDER)
        at = f"silver.{table}"
        if not self.catalog.table_exists(at):
            self.catalog.create_table(at, schema, properties={"catchment.key": json.dumps(["id"])})
        self.catalog.load_table(at).append(pa.Table.from_pylist(list(rows), schema))

    def told(self) -> list[str]:
        return [str(one) for one in silver_differences(self.config, self.directory)["orders"]]


def order(number: int, city: str = "Oslo") -> dict[str, Any]:
    return {"id": number, "city": city, "_version": number.to_bytes(8, "big"), "_quality": ["some_rule"]}


@pytest.fixture
def lake(tmp_path: Path) -> SilverLake:
    return SilverLake(tmp_path)


def test_silver_and_its_quarantine_are_counted_together_and_quality_is_left_out(lake: SilverLake) -> None:
    lake.silver(order(1), order(3))
    lake.silver(order(2), table="orders_quarantine")
    assert lake.told() == []


def test_each_kind_of_difference_is_told_with_its_key(lake: SilverLake) -> None:
    lake.silver(order(1, "Bergen"), order(2), order(2), order(4))
    assert lake.told() == [
        "current only: {'id': '1'} of version 0000000000000001",
        "current only: {'id': '3'} of version 0000000000000003",
        "silver only: {'id': '1'} of version 0000000000000001",
        "silver only: {'id': '2'} of version 0000000000000002",
        "silver only: {'id': '4'} of version 0000000000000004",
    ]


def test_the_assertion_fails_with_the_keys_and_without_silver(lake: SilverLake) -> None:
    pipeline = lake.directory / "pipeline.yaml"
    pipeline.write_text("name: test\nsource: {type: postgres, dsn: host=nowhere}\nsinks: [{type: iceberg}]\n")
    with pytest.raises(AssertionError, match="no table is in silver"):
        expect_silver_equals_current(pipeline)
    lake.silver(order(1), order(2))
    with pytest.raises(AssertionError, match=r"orders: current only: \{'id': '3'\}"):
        expect_silver_equals_current(pipeline)
    lake.silver(order(3))
    expect_silver_equals_current(pipeline, "orders")
    with pytest.raises(AssertionError, match="not in silver: users"):
        expect_silver_equals_current(pipeline, "users")
