"""What validation says of gold models without asking any system."""

from __future__ import annotations

import pytest

from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.gold.model import Reference
from catchment.validation import _is_made, _lake_name

TABLES = {"orders", "users", "users_history"}


@pytest.mark.parametrize(
    ("layer", "table", "settings", "made"),
    [
        ("current", "orders", {}, True),
        ("bronze", "parcels", {}, False),
        ("silver", "orders", {}, True),
        ("silver", "orders", {"silver": False}, False),
        ("silver", "orders", {"silver": ["users"]}, False),
        ("current", "orders", {"silver": False}, True),
        ("silver", "orders_history", {}, False),
        ("silver", "orders_history", {"history": ["orders.status"]}, True),
        ("silver", "orders_versions", {"history": ["users"]}, False),
        ("silver", "orders_quarantine", {}, False),
        ("silver", "orders_quarantine", {"quality": "quality.yaml"}, True),
        ("silver", "users_history", {}, True),
        ("gold", "anything", {}, True),
    ],
)
def test_a_model_waits_for_what_the_pipeline_does_not_make(
    layer: str, table: str, settings: dict[str, object], made: bool
) -> None:
    assert _is_made(Reference(layer, table, 1), TABLES, LakehouseConfig.model_validate(settings)) is made


@pytest.mark.parametrize(
    ("source", "lake"),
    [("public.orders", "orders"), ("sales.orders", "sales_orders"), ("dynamodb.Orders.v2", "dynamodb_Orders.v2")],
)
def test_tables_are_looked_for_under_the_names_that_the_lake_gives_them(source: str, lake: str) -> None:
    assert _lake_name(source) == lake
