"""What came of the gadgets' demo: do the lake's orders equal the table's, how fresh were they, and what do they say?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from catchment.demo.outcome import Freshness
from catchment.demo.probe import json_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CHANGES_BY_UPI = (
    "SELECT * FROM gadgets_sales_db.sales_data_table WHERE payment_method = 'UPI' ORDER BY order_timestamp DESC"
)
UNITS_TODAY = (
    "SELECT product_name, SUM(quantity) AS total_units FROM gadget_sales "
    "WHERE date = CURRENT_DATE GROUP BY product_name"
)
COLUMNS = ("orderid", "product_name", "quantity", "price", "payment_method", "order_timestamp", "status", "date")

Order = tuple[str, str, int, Decimal, str, datetime, str, date]
"""An order as `gadget_sales` has it; its moment is UTC without saying so."""


@dataclass(frozen=True, slots=True)
class OrdersOutcome:
    """`gadget_sales` beside the table it came from, order for order, every column.

    table_orders: in DynamoDB. orders: in gadget_sales. missing, unexpected, different: orders by how they differ.
    """

    table_orders: int
    orders: int
    missing: int
    unexpected: int
    different: int

    @property
    def equal(self) -> bool:
        """Is each order of the table there once, as it is, and nothing else?"""
        return self.table_orders == self.orders and not (self.missing or self.unexpected or self.different)


@dataclass(frozen=True, slots=True)
class ShapeOutcome:
    """One shape's last word. changes: rows of sales_data_table. latency_ms: from PutItem until a query saw it.

    stages: what each part counted. queries: the two questions, and their rows. journey: the newest change, followed by
    its event id through every stage; None where there are no stages.
    """

    changes: int
    orders: OrdersOutcome
    equal: bool
    latency_ms: Freshness
    stages: Mapping[str, Mapping[str, Any]]
    queries: Mapping[str, Any]
    journey: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class GadgetsOutcome:
    """The demo's last word. shapes_equal: do both shapes have the same gadget_sales rows? None when only one ran."""

    directory: str
    seconds: float
    writes: int
    kinds: Mapping[str, int]
    shapes: Mapping[str, ShapeOutcome]
    shapes_equal: bool | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Did everything come out as it should?"""
        return all(shape.equal for shape in self.shapes.values()) and self.shapes_equal is not False


def answers(
    ask: Callable[[str], DuckDBPyConnection], changes_by_upi: str, units_today: str, *, limit: int
) -> dict[str, Any]:
    """The two questions' answers, as JSON can hold them: of the changes the newest ones, of the units all."""
    upi = _rows(ask(changes_by_upi))
    return {
        "changes_by_upi": {"sql": changes_by_upi, "rows": len(upi), "newest": upi[:limit]},
        "units_today": {
            "sql": units_today,
            "rows": sorted(_rows(ask(units_today)), key=lambda row: -row["total_units"]),
        },
    }


def _rows(answer: DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in answer.description or ()]
    return [json_row(names, row) for row in answer.fetchall()]


def scanned_orders(table: str) -> dict[str, Order]:
    """Every order that is in the table, by a consistent scan."""
    from boto3.dynamodb.types import TypeDeserializer

    from catchment.aws_client import aws_client

    plain = TypeDeserializer().deserialize
    pages = aws_client("dynamodb", None).get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    items = ({name: plain(value) for name, value in item.items()} for page in pages for item in page["Items"])
    return {item["orderid"]: _order_of_item(item) for item in items}


def _order_of_item(item: Mapping[str, Any]) -> Order:
    moment = datetime.fromisoformat(item["order_timestamp"]).astimezone(UTC).replace(tzinfo=None)
    return (
        item["orderid"],
        item["product_name"],
        int(item["quantity"]),
        item["price"],
        item["payment_method"],
        moment,
        item["status"],
        moment.date(),
    )


def asked_orders(answer: DuckDBPyConnection) -> list[Order]:
    """The rows of `SELECT <COLUMNS> FROM gadget_sales`."""
    return [(*row[:5], _naive(row[5]), *row[6:]) for row in answer.fetchall()]


def _naive(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None and moment.tzinfo is not None else moment


def compare_orders(table: Mapping[str, Order], orders: Iterable[Order]) -> OrdersOutcome:
    """Compare gadget_sales with the table. An order that is there twice is unexpected the second time."""
    seen: set[str] = set()
    count = unexpected = different = 0
    for order in orders:
        count += 1
        if order[0] in seen or order[0] not in table:
            unexpected += 1
        elif order != table[order[0]]:
            different += 1
        seen.add(order[0])
    return OrdersOutcome(len(table), count, len(table.keys() - seen), unexpected, different)
