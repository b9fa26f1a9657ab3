"""Orders, from a process of their own: `python -m catchment.demo.gadget_traffic TABLE RATE SECONDS SEED`.

0 seconds is without an end. Tells how many writes of each kind are in the table.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from catchment.demo.child import run_child, tell

if TYPE_CHECKING:
    from catchment.demo.gadget_orders import OrderChange

TELL_SECONDS = 0.2


class Teller:
    """Adds up what was written, and tells of it now and then."""

    def __init__(self) -> None:
        self._kinds: Counter[str] = Counter()
        self._began = self._told = time.monotonic()

    def hear(self, changes: Sequence[OrderChange]) -> None:
        """These are in the table."""
        self._kinds.update(change.kind for change in changes)
        if time.monotonic() - self._told > TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Tell it as it is now."""
        self._told = time.monotonic()
        tell(kinds=dict(self._kinds), seconds=round(self._told - self._began, 3))


def main(arguments: list[str]) -> int:
    """Write until told to stop, or the seconds are over."""
    table, rate, seconds, seed = arguments

    def work(stop: threading.Event) -> None:
        from catchment.demo.gadget_orders import GadgetOrders

        orders = GadgetOrders(table, seed=int(seed))
        teller = Teller()
        teller.tell()
        try:
            orders.run_continuous_generation(
                rate=float(rate), seconds=float(seconds) or None, stop=stop, written=teller.hear
            )
        finally:
            teller.tell()

    return run_child(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
