"""The first type seen of each attribute, kept in `Progress.facts`: `dynamodb.OrderTable` → `price=N`."""

from __future__ import annotations

from collections.abc import Mapping

from catchment.progress import Progress
from catchment.schema import TableId


def known_attributes(table: TableId, held: Progress) -> dict[str, str]:
    """Attribute → type letter, out of what is held."""
    # Where it was kept at first: what a run of then has kept is read once more, and kept as a fact.
    kept = held.facts.get(str(table)) or held.chunks.get(f"{table}#columns", frozenset())
    return {name: letter for name, _, letter in (one.rpartition("=") for one in sorted(kept))}


def keeping_attributes(table: TableId, known: Mapping[str, str]) -> Progress:
    """What says that attributes have these types."""
    if not known:
        return Progress()
    return Progress(facts={str(table): frozenset(f"{name}={letter}" for name, letter in known.items())})
