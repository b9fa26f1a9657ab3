"""Orders of gadgets into a DynamoDB table, one every few seconds, until Ctrl-C.

    python examples/gadgets/generator.py OrderTable

Credentials and region come from AWS's standard chain. For a stand-in on this machine set AWS_ENDPOINT_URL as well.
`catchment generate gadgets` does the same with more options.
"""

from __future__ import annotations

import logging
import sys

from catchment.demo.gadget_orders import GadgetOrders
from catchment.errors import CatchmentError

__all__ = ["GadgetOrders"]


def main() -> None:
    """Create the table if it is absent, write one order by hand, and go on by itself."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    orders = GadgetOrders(sys.argv[1] if len(sys.argv) > 1 else "OrderTable")
    orders.table.create()

    order = orders.generate_order()
    orders.insert_order(order)

    summary = orders.run_continuous_generation(interval=3)
    print(f"{summary.writes} writes, {summary.orders} orders in the table")


if __name__ == "__main__":
    try:
        main()
    except CatchmentError as error:
        sys.exit(str(error))
