"""What happens next in the shop: an endless sequence of operations, the same for the same seed.

The sequence depends on the seed and on the rows found at the start, never on timing: keys of new orders
are reserved in blocks, so that an order can be chosen again before the server has answered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from catchment.demo.fakes import Fakes, price
from catchment.demo.shop import PAYMENT_METHODS
from catchment.errors import ConfigError

if TYPE_CHECKING:
    import psycopg

MIX: Mapping[str, int] = {"order": 32, "move": 57, "address": 5, "price": 3, "delete": 2, "leave": 1}
"""Of every hundred operations. `leave`, at most one in 500, is a user who goes with all their orders."""
LEAVE_ONE_IN = 5

KEY_BLOCK = 500
MOST_ORDERS_KEPT = 100_000
"""How many orders of one state are remembered to choose from, which bounds memory in a large shop."""

STATEMENTS: Mapping[str, str] = {
    "order": "INSERT INTO fact_sales (order_id, user_id, product_id, quantity, unit_price, total_amount,"
    " status, payment_method) VALUES (%s, %s, %s, %s, %s, %s, 'PENDING', %s)",
    "ship": "UPDATE fact_sales SET status = 'SHIPPED', updated_at = now() WHERE order_id = %s",
    "deliver": "UPDATE fact_sales SET status = 'DELIVERED', updated_at = now() WHERE order_id = %s",
    "cancel": "UPDATE fact_sales SET status = 'CANCELLED', updated_at = now() WHERE order_id = %s",
    "address": "UPDATE dim_users SET address = %s, city = %s, updated_at = now() WHERE user_id = %s",
    "price": "UPDATE dim_products SET price = %s, updated_at = now() WHERE product_id = %s",
    "delete": "DELETE FROM fact_sales WHERE order_id = %s",
    "leave_orders": "DELETE FROM fact_sales WHERE user_id = %s",
    "leave": "DELETE FROM dim_users WHERE user_id = %s",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that happens in the shop: a kind, and its statements with their parameters."""

    kind: str
    statements: tuple[tuple[str, tuple[object, ...]], ...]


class Bag:
    """Things to choose from at random, each in constant time; bounded, the oldest slots are reused."""

    def __init__(self, items: Iterable[tuple[int, int]] = (), *, most: int = MOST_ORDERS_KEPT) -> None:
        self._items = list(items)
        self._most = most

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: tuple[int, int], draw: random.Random) -> None:
        """Put one in; when full it takes the place of another, which is not chosen any more."""
        if len(self._items) < self._most:
            self._items.append(item)
        else:
            self._items[draw.randrange(self._most)] = item

    def take(self, draw: random.Random) -> tuple[int, int]:
        """Take one out. Raises IndexError when empty."""
        at = draw.randrange(len(self._items)) if self._items else 0
        items = self._items
        items[at], items[-1] = items[-1], items[at]
        return items.pop()


class Choices:
    """What happens next: an endless sequence of operations over the rows that were there at the start."""

    def __init__(
        self,
        seed: int,
        *,
        users: list[int],
        prices: dict[int, Decimal],
        orders: Mapping[str, Iterable[tuple[int, int]]],
        reserve: Callable[[], list[int]],
    ) -> None:
        if not users or not prices:
            raise ConfigError("The shop has no users or no products; create it first with `open_shop`.")
        self._draw = random.Random(seed)
        self._fakes = Fakes(seed)
        self._users = users
        self._fewest_users = max(1, len(users) // 2)
        self._gone: set[int] = set()
        self._products = sorted(prices)
        self._prices = prices
        self._orders = {status: Bag(orders.get(status, ())) for status in ("PENDING", "SHIPPED", "CLOSED")}
        self._reserve = reserve
        self._keys: list[int] = []
        self._kinds, self._weights = list(MIX), list(MIX.values())

    def next(self) -> Operation:
        """The next operation."""
        kind = self._draw.choices(self._kinds, self._weights)[0]
        if kind == "leave" and (self._draw.randrange(LEAVE_ONE_IN) or len(self._users) <= self._fewest_users):
            kind = "delete"
        match kind:
            case "move":
                return self._move() or self._order()
            case "address":
                street, city = self._fakes.address(self._draw)
                return _one("address", street, city, self._draw.choice(self._users))
            case "price":
                product = self._draw.choice(self._products)
                self._prices[product] = price(self._draw)
                return _one("price", self._prices[product], product)
            case "delete":
                return self._delete() or self._order()
            case "leave":
                return self._leave()
            case _:
                return self._order()

    def _order(self) -> Operation:
        if not self._keys:
            self._keys = self._reserve()[::-1]
        order = self._keys.pop()
        user, product = self._draw.choice(self._users), self._draw.choice(self._products)
        quantity, unit_price = self._draw.randrange(1, 6), self._prices[product]
        self._orders["PENDING"].add((order, user), self._draw)
        payment = self._draw.choice(PAYMENT_METHODS)
        return _one("order", order, user, product, quantity, unit_price, quantity * unit_price, payment)

    def _move(self) -> Operation | None:
        status = "PENDING" if self._draw.random() < 0.55 else "SHIPPED"
        order = self._take(status)
        if order is None:
            return None
        if self._draw.random() < 0.08:
            kind, after = "cancel", "CLOSED"
        else:
            kind, after = ("ship", "SHIPPED") if status == "PENDING" else ("deliver", "CLOSED")
        self._orders[after].add(order, self._draw)
        return _one(kind, order[0])

    def _delete(self) -> Operation | None:
        order = self._take("CLOSED") or self._take("PENDING")
        return _one("delete", order[0]) if order else None

    def _leave(self) -> Operation:
        at = self._draw.randrange(len(self._users))
        self._users[at], self._users[-1] = self._users[-1], self._users[at]
        user = self._users.pop()
        self._gone.add(user)
        return Operation("leave", (("leave_orders", (user,)), ("leave", (user,))))

    def _take(self, status: str) -> tuple[int, int] | None:
        """An order in this state whose user is still there."""
        bag = self._orders[status]
        while bag:
            order = bag.take(self._draw)
            if order[1] not in self._gone:
                return order
        return None


def _one(kind: str, *parameters: object) -> Operation:
    return Operation(kind, ((kind, parameters),))


def read_choices(connection: psycopg.Connection, seed: int) -> Choices:
    """The sequence over a shop as it is now: reads what there is to choose from, the newest rows, not too many."""
    most = MOST_ORDERS_KEPT
    users = connection.execute("SELECT user_id FROM dim_users ORDER BY user_id DESC LIMIT %s", (most,)).fetchall()
    products = connection.execute(
        "SELECT product_id, price FROM dim_products ORDER BY product_id DESC LIMIT %s", (most,)
    ).fetchall()
    orders: dict[str, list[tuple[int, int]]] = {}
    for order, user, state in connection.execute(
        "SELECT order_id, user_id, CASE WHEN status IN ('PENDING', 'SHIPPED') THEN status ELSE 'CLOSED' END"
        " FROM fact_sales ORDER BY order_id DESC LIMIT %s",
        (most,),
    ):
        orders.setdefault(state, []).append((order, user))

    def reserve() -> list[int]:
        rows = connection.execute(
            "SELECT nextval(pg_get_serial_sequence('fact_sales', 'order_id')) FROM generate_series(1, %s)",
            (KEY_BLOCK,),
        )
        return [key for (key,) in rows]

    return Choices(seed, users=[user for (user,) in users], prices=dict(products), orders=orders, reserve=reserve)
