"""What Catchment says of its tables in their Iceberg properties, so that anybody who reads them can tell."""

from __future__ import annotations

import json
from collections.abc import Mapping

from catchment.progress import Progress

PIPELINE = "catchment.pipeline"
"""The pipeline that writes the table."""
TABLE = "catchment.table"
"""The source's name of the table: `public.orders`."""
KEY = "catchment.key"
"""The key's columns, as a JSON list."""
KIND = "catchment.kind"
"""Of a table of the silver layer: `silver`, `quarantine` or `versions`."""
SCHEMA_VERSION = "catchment.schema-version"
"""The version of the source's schema that was written last."""
MARKER = "catchment.progress"
"""What the table holds, a `Progress` as JSON; in snapshots' summaries too, with lanes only."""
PINNED = "catchment.pinned"
"""Set by a rollback: the table stays as it is until it is resumed."""
BRONZE_SINCE = "catchment.bronze-since"
"""Of a bronze table whose first changes were let go: from when on it is whole, ISO 8601."""


def key_of(properties: Mapping[str, str]) -> tuple[str, ...]:
    """The key's columns of a table by its properties; none where nothing is said."""
    return tuple(json.loads(properties.get(KEY, "[]")))


def marker_of(properties: Mapping[str, str]) -> Progress | None:
    """What a table holds by its properties, or a snapshot's table by its summary; None where nothing is said."""
    text = properties.get(MARKER)
    return Progress.from_json(text) if text else None
