"""The first type seen of each attribute, kept in `Progress.chunks`: `dynamodb.OrderTable#columns` → `price=N`."""

from __future__ import annotations

from collections.abc import Mapping

from catchment.progress import Progress
from catchment.schema import TableId


def known_attributes(table: TableId, held: Progress) -> dict[str, str]:
    """Attribute → type letter, out of what is held."""
    kept = held.chunks.get(_key(table), frozenset())
    return {name: letter for name, _, letter in (one.rpartition("=") for one in sorted(kept))}


def keeping_attributes(table: TableId, known: Mapping[str, str]) -> Progress:
    """What says that attributes have these types."""
    if not known:
        return Progress()
    return Progress({}, {_key(table): frozenset(f"{name}={letter}" for name, letter in known.items())})


def _key(table: TableId) -> str:
    return f"{table}#columns"
