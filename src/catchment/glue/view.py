"""Athena's views in Glue: their text in Athena's SQL, as a JSON document in base64 within a comment (Presto's form)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catchment.errors import SourceRefused
from catchment.glue.column_types import ColumnType, in_athena

_FORM = re.compile(r"/\*\s*Presto View:\s*(\S+)\s*\*/")
VIEW = "VIRTUAL_VIEW"


@dataclass(frozen=True)
class View:
    """A view's text in Athena's SQL, and the database in which its names are looked up."""

    sql: str
    database: str


def view_of(answer: Mapping[str, Any]) -> View | None:
    """The view that Glue describes; None when it is a table. Raises SourceRefused for views that are not Athena's."""
    if answer.get("TableType") != VIEW:
        return None
    found = _FORM.search(answer.get("ViewOriginalText") or "")
    try:
        document = json.loads(base64.b64decode(found[1] if found else "", validate=True))
        return View(document["originalSql"], (document.get("schema") or answer.get("DatabaseName", "")).lower())
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise SourceRefused(
            f"The view {answer.get('DatabaseName', '')}.{answer.get('Name')} was not made by Athena, so its text "
            "cannot be read here. Make it anew with CREATE OR REPLACE VIEW in Athena, or with `catchment catalog sync`."
        ) from error


def presto_view(name: str, view: View, columns: Mapping[str, ColumnType]) -> dict[str, Any]:
    """The input with which Glue makes a view that Athena takes for its own."""
    document = {
        "originalSql": view.sql,
        "catalog": "awsdatacatalog",
        "schema": view.database,
        "columns": [{"name": name, "type": in_athena(kind)} for name, kind in columns.items()],
    }
    text = base64.b64encode(json.dumps(document).encode()).decode()
    return {
        "Name": name,
        "TableType": VIEW,
        "Parameters": {"presto_view": "true", "comment": "Presto View"},
        "PartitionKeys": [],
        "StorageDescriptor": {
            "Columns": [{"Name": name, "Type": str(kind)} for name, kind in columns.items()],
            "Location": "",
            "SerdeInfo": {"Name": "-", "SerializationLibrary": "-"},
        },
        "ViewOriginalText": f"/* Presto View: {text} */",
        "ViewExpandedText": "/* Presto View */",
    }
