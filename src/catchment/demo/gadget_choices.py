"""What happens next in the sale of gadgets: an endless sequence of changes to orders, the same for the same seed.

Only the time of an order is the clock's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

Order = dict[str, Any]
"""orderid, product_name, quantity (int), price (Decimal), payment_method, order_timestamp, status."""

PRODUCTS = ("Laptop", "Phone", "Tablet", "Headphones", "Charger", "Smartwatch")
PAYMENT_METHODS = ("UPI", "Credit Card", "Debit Card", "Net Banking", "Wallet", "Cash on Delivery")
STATUSES = ("placed", "paid", "shipped", "delivered", "cancelled")
NEXT_STATUS: Mapping[str, str] = {"placed": "paid", "paid": "shipped", "shipped": "delivered"}
ORDER_IDS = range(1000, 10_000)
MOST_UNITS = 10
CENTS = range(1099, 100_000)

MIX: Mapping[str, int] = {"insert": 50, "modify": 42, "remove": 8}
"""Of every hundred changes, while there are orders to modify and ids for new ones."""
CORRECTED = 0.25
"""How many of the changes to an order that is not shipped yet correct its quantity."""
CANCELLED = 0.1
"""How many of them cancel it."""


@dataclass(frozen=True, slots=True)
class OrderChange:
    """One write. kind: `insert`, `modify` or `remove`; order: the whole order, for a removal as it last was."""

    kind: str
    order: Order

    @property
    def key(self) -> str:
        """The order's id."""
        return str(self.order["orderid"])

    def __str__(self) -> str:
        one = self.order
        return (
            f"{self.kind} {one['orderid']}: {one['quantity']} × {one['product_name']} at {one['price']}, "
            f"{one['payment_method']}, {one['status']}"
        )


def utc_now() -> str:
    """Now as ISO 8601 text in UTC, with milliseconds: `2026-11-21T09:30:00.125Z`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class GadgetChoices:
    """The orders as they should be, and what happens to them next.

    An order is placed, paid, shipped and delivered, or cancelled; its quantity may be corrected until it is shipped.
    Its order_timestamp, and so its date, stays.
    """

    def __init__(self, seed: int | None = None, *, now: Callable[[], str] = utc_now) -> None:
        self._draw = random.Random(seed)
        self._now = now
        self._free = self._draw.sample(ORDER_IDS, len(ORDER_IDS))
        self._moving = _Ids()
        self._settled = _Ids()
        self.orders: dict[str, Order] = {}
        """By id, every order that there should be."""

    def next(self) -> OrderChange:
        """The next change."""
        (kind,) = self._draw.choices(list(MIX), list(MIX.values()))
        if kind == "remove" and self.orders:
            return self._remove()
        return self.next_order() if kind == "remove" else self.next_order(kind)

    def next_order(self, kind: str | None = None) -> OrderChange:
        """The next insert or modification. When all ids are taken or no order can change, it is the other one."""
        if kind is None:
            (kind,) = self._draw.choices(["insert", "modify"], [MIX["insert"], MIX["modify"]])
        if (kind == "modify" and self._moving) or not (self._free or self._settled):
            return self._modify()
        if self._free:
            return self._place(str(self._free.pop()), "insert")
        return self._place(self._settled.take(self._draw), "modify")  # an id comes again, as another order

    def _place(self, key: str, kind: str) -> OrderChange:
        draw = self._draw
        order: Order = {
            "orderid": key,
            "product_name": draw.choice(PRODUCTS),
            "quantity": draw.randint(1, MOST_UNITS),
            "price": Decimal(draw.choice(CENTS)).scaleb(-2),
            "payment_method": draw.choice(PAYMENT_METHODS),
            "order_timestamp": self._now(),
            "status": "placed",
        }
        self._moving.add(key)
        return self._keep(kind, order)

    def _modify(self) -> OrderChange:
        key = self._moving.any(self._draw)
        order = dict(self.orders[key])
        chance = self._draw.random()
        if order["status"] != "shipped" and chance < CORRECTED:
            others = [units for units in range(1, MOST_UNITS + 1) if units != order["quantity"]]
            order["quantity"] = self._draw.choice(others)
        elif order["status"] != "shipped" and chance < CORRECTED + CANCELLED:
            order["status"] = "cancelled"
        else:
            order["status"] = NEXT_STATUS[order["status"]]
        if order["status"] not in NEXT_STATUS:
            self._moving.remove(key)
            self._settled.add(key)
        return self._keep("modify", order)

    def _remove(self) -> OrderChange:
        """Mostly what is settled goes; the id is free again, and may come back soon."""
        ids = self._settled if (self._settled and self._draw.random() < 0.7) or not self._moving else self._moving
        key = ids.take(self._draw)
        self._free.insert(max(0, len(self._free) - self._draw.randrange(100)), int(key))
        return OrderChange("remove", self.orders.pop(key))

    def _keep(self, kind: str, order: Order) -> OrderChange:
        self.orders[order["orderid"]] = order
        return OrderChange(kind, order)


class _Ids:
    """Ids to choose from at random, each in constant time."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, key: str) -> None:
        self._at[key] = len(self._ids)
        self._ids.append(key)

    def any(self, draw: random.Random) -> str:
        return draw.choice(self._ids)

    def take(self, draw: random.Random) -> str:
        key = self.any(draw)
        self.remove(key)
        return key

    def remove(self, key: str) -> None:
        at, last = self._at.pop(key), self._ids.pop()
        if last != key:
            self._ids[at] = last
            self._at[last] = at
