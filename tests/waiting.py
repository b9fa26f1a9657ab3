"""Waiting on a condition, never on time alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from duckdb import CatalogException

Answer = TypeVar("Answer")


def wait_for(condition: Callable[[], Answer], what: str = "the condition", seconds: float = 120.0) -> Answer:
    """The condition's first answer that is true; a question about a table that is not there yet has none."""
    deadline = time.monotonic() + seconds
    while True:
        absent: CatalogException | None = None
        try:
            if answer := condition():
                return answer
        except CatalogException as error:
            absent = error
        assert time.monotonic() < deadline, f"{what} did not come in {seconds:.0f} s{f': {absent}' if absent else ''}"
        time.sleep(0.02)
