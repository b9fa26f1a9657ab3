"""Which tables an SQL text names: what need not be read for a query is not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from catchment.lakehouse.sql import identifier

BESIDE_SILVER = ("_quarantine", "_versions", "_history")
"""What the names of silver's other tables and views end with."""

At = tuple[str, str]
"""Schema and name."""


def is_mentioned(sql: str, schema: str, name: str) -> bool:
    """Does the text have `schema.name`, quoted or not? It may say so where no table is meant."""
    before = rf"(?:(?<!\w){re.escape(schema)}|{re.escape(identifier(schema))})"
    after = rf"(?:{re.escape(name)}(?!\w)|{re.escape(identifier(name))})"
    return re.search(rf"{before}\s*\.\s*{after}", sql, re.IGNORECASE) is not None


def mentioned(sql: str, tables: Iterable[At], *, with_kin: bool = False) -> set[At] | None:
    """Of these tables those that the text names, or whose views it names; None when it names none.

    with_kin: and all tables of the same source table.
    """
    there = set(tables)
    found = {at for at in there if any(is_mentioned(sql, *view) for view in _views(*at))}
    if with_kin:
        roots = {_root(*at) for at in found}
        found |= {at for at in there if _root(*at) in roots}
    return found or None


def _views(layer: str, name: str) -> Iterator[At]:
    yield layer, name
    if layer == "bronze":
        yield "current", name
    if layer == "silver" and name.endswith("_versions"):
        yield layer, f"{name.removesuffix('_versions')}_history"


def _root(layer: str, name: str) -> At:
    if layer == "gold":
        return layer, name
    return "", next((name.removesuffix(end) for end in BESIDE_SILVER if layer == "silver" and name.endswith(end)), name)
