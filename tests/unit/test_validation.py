"""What validation says of gold models without asking any system."""

from __future__ import annotations

import pytest

from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.gold.model import Reference
from catchment.validation import _is_made, _lake_name, check_history

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


COLUMNS = {"orders": ["id", "status"], "users": ["id", "email"], "sales_orders": ["id"]}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"history": ["orders", "users.email", "sales_orders"]}, []),
        ({"history": ["ordes"]}, ["ordes is no captured table: no versions are kept for it. Did you mean orders?"]),
        (
            {"history": ["sales.orders"]},
            ["sales.orders is no column of a captured table: no versions are kept for it. Did you mean sales_orders?"],
        ),
        (
            {"history": ["public.orders"]},
            ["public.orders is no column of a captured table: no versions are kept for it. Did you mean orders?"],
        ),
        (
            {"history": ["orders.statuz"]},
            ["orders.statuz is no column of orders: no versions are kept for it. Did you mean status?"],
        ),
        (
            {"history": ["orders.status"], "silver": ["users"]},
            ["orders.status needs orders in `lakehouse.silver`: no versions are kept for it."],
        ),
    ],
)
def test_history_that_would_keep_nothing_is_told(settings: dict[str, object], said: list[str]) -> None:
    found = check_history(LakehouseConfig.model_validate(settings), COLUMNS)
    assert [(one.severity, one.message) for one in found] == [("warning", message) for message in said]
