"""The gadget sales' tables in Glue: every change, and a view of the latest version of each order.

The text of the view is Athena's; `infra/terraform/gadgets` has the same file, and the same columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catchment.glue.column_types import ColumnType, parse
from catchment.glue.projection import firehose_datehour, yesterday
from catchment.glue.session import client
from catchment.glue.table import GlueTable, ensure, ensure_database, external_json
from catchment.glue.view import View, presto_view

DATABASE = "gadgets_sales_db"
CHANGES = "sales_data_table"
ORDERS = "gadget_sales"
LOCATION = "s3://gadget-sales-data/"


def _typed(columns: Mapping[str, str]) -> dict[str, ColumnType]:
    return {name: parse(kind) for name, kind in columns.items()}


CHANGE_COLUMNS: Mapping[str, ColumnType] = _typed(
    {
        "orderid": "string",
        "product_name": "string",
        "quantity": "int",
        "price": "decimal(10,2)",
        "payment_method": "string",
        "order_timestamp": "timestamp",
        "status": "string",
        "event_type": "string",
        "event_time": "timestamp",
        "event_id": "string",
        "sequence_number": "string",
        "stream_label": "string",
        "order_date": "string",
    }
)
ORDER_COLUMNS: Mapping[str, ColumnType] = _typed(
    {
        "orderid": "string",
        "product_name": "string",
        "quantity": "int",
        "price": "decimal(10,2)",
        "payment_method": "string",
        "order_timestamp": "timestamp",
        "status": "string",
        "date": "date",
    }
)
ORDERS_SQL = Path(__file__).with_name("gadget_sales.sql").read_text(encoding="utf-8").strip()


def changes_table(
    location: str, first_hour: datetime | None = None, *, database: str = DATABASE, name: str = CHANGES
) -> dict[str, Any]:
    """The input for `sales_data_table`, over objects laid out as Firehose does; partitions from `first_hour` to now."""
    first = first_hour or yesterday(datetime.now(UTC))
    keys, parameters = firehose_datehour(location, first)
    return external_json(
        GlueTable(database, name, CHANGE_COLUMNS, keys=_typed(keys), location=location, parameters=parameters)
    )


def orders_view(*, database: str = DATABASE, changes: str = CHANGES) -> dict[str, Any]:
    """The input for `gadget_sales`, over the table of changes in the same database."""
    sql = ORDERS_SQL if changes == CHANGES else ORDERS_SQL.replace(CHANGES, changes)
    return presto_view(ORDERS, View(sql, database), ORDER_COLUMNS)


def ensure_gadgets(
    location: str = LOCATION, *, database: str = DATABASE, first_hour: datetime | None = None, dry_run: bool = False
) -> list[str]:
    """Make the database, the table and the view, or bring them up to date; what was changed, in words. Idempotent."""
    glue = client("glue")
    done = [] if dry_run else ensure_database(glue, database)
    done += ensure(glue, database, changes_table(location, first_hour, database=database), dry_run=dry_run)
    return done + ensure(glue, database, orders_view(database=database), dry_run=dry_run)
