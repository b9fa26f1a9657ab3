"""Tables and views of a Glue database, declared in a YAML file: columns whose types are settled, and views' SQL.

::

    tables:
      sales_data_table:
        location: s3://gadget-sales-data/
        columns: {orderid: string, quantity: int, price: "decimal(10,2)"}
    views:
      gadget_sales:
        columns: {orderid: string, date: date}
        sql: SELECT orderid, CAST(order_date AS date) AS date FROM sales_data_table
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from catchment.component import ComponentConfig
from catchment.document import Place, read
from catchment.document_errors import explain
from catchment.errors import ConfigError
from catchment.glue import gadgets
from catchment.glue.athena_sql import parse as parse_sql
from catchment.glue.column_types import ColumnType, parse
from catchment.glue.projection import firehose_datehour, yesterday
from catchment.glue.session import Client
from catchment.glue.table import GlueTable, ensure, external_json
from catchment.glue.view import View, presto_view


class DeclaredTable(ComponentConfig):
    """An external table of JSON lines, laid out as Firehose does (`yyyy/MM/dd/HH/`)."""

    location: str | None = None
    """Where its objects are; `--location` says it otherwise."""
    columns: dict[str, str]
    """Its columns, by Glue's types."""


class DeclaredView(ComponentConfig):
    """A view of Athena's."""

    columns: dict[str, str]
    """Its columns, by Glue's types."""
    sql: str
    """Its text in Athena's SQL."""


class Definitions(ComponentConfig):
    """What a database has."""

    tables: dict[str, DeclaredTable] = Field(default={})
    """External tables."""
    views: dict[str, DeclaredView] = Field(default={})
    """Views over them."""

    def columns(self, table: str) -> frozenset[str]:
        """The columns that are declared for a table."""
        found = self.tables.get(table)
        return frozenset(found.columns) if found is not None else frozenset()


GADGETS = Definitions(
    tables={gadgets.CHANGES: DeclaredTable(columns={name: str(kind) for name, kind in gadgets.CHANGE_COLUMNS.items()})},
    views={
        gadgets.ORDERS: DeclaredView(
            columns={name: str(kind) for name, kind in gadgets.ORDER_COLUMNS.items()}, sql=gadgets.ORDERS_SQL
        )
    },
)
EXAMPLES: Mapping[str, Definitions] = {"gadgets": GADGETS}


def read_definitions(path: Path) -> Definitions:
    """The definitions in a file. Raises ConfigError naming the file and what is wrong with it."""
    document = read(path, os.environ, expected="a file of tables is a mapping with the keys `tables:` and `views:`.")
    try:
        return Definitions.model_validate(document.values)
    except ValidationError as error:
        raise ConfigError(explain(error, document, _keys)) from None


def _keys(place: Place) -> list[str]:
    """The keys that the mapping at a place of the file may have."""
    if not place:
        return list(Definitions.model_fields)
    sections: dict[str, type[ComponentConfig]] = {"tables": DeclaredTable, "views": DeclaredView}
    declared = sections.get(str(place[0]))
    return list(declared.model_fields) if declared is not None and len(place) == 2 else []


def ensure_table(
    glue: Client, definitions: Definitions, database: str, name: str, location: str | None, *, dry_run: bool
) -> list[str]:
    """Make a declared table, or bring it up to its declaration; what was changed, in words."""
    declared = definitions.tables.get(name)
    if declared is None:
        return []
    place = location or declared.location
    if place is None:
        raise ConfigError(f"Nothing says where {database}.{name} is. Add --location s3://bucket/prefix/.")
    keys, parameters = firehose_datehour(place, yesterday(datetime.now(UTC)))
    table = GlueTable(
        database, name, _typed(declared.columns), keys=_typed(keys), location=place, parameters=parameters
    )
    return ensure(glue, database, external_json(table), dry_run=dry_run)


def ensure_views(glue: Client, definitions: Definitions, database: str, *, dry_run: bool) -> list[str]:
    """Make the declared views, or bring them up to their declarations; what was changed, in words."""
    changes = []
    for name, declared in definitions.views.items():
        parse_sql(declared.sql, database)
        wanted: dict[str, Any] = presto_view(name, View(declared.sql, database), _typed(declared.columns))
        changes += ensure(glue, database, wanted, dry_run=dry_run)
    return changes


def _typed(columns: Mapping[str, str]) -> dict[str, ColumnType]:
    return {name.lower(): parse(kind) for name, kind in columns.items()}
