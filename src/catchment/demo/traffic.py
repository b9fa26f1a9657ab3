"""Traffic for the shop: orders come, move and go, people move house, prices change.

The sequence of choices depends on the seed and on the rows found at the start, never on timing: keys of
new orders are reserved in blocks, so that an order can be chosen again before the server has answered.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from catchment.demo.fakes import Fakes, price
from catchment.demo.shop import PAYMENT_METHODS, connect
from catchment.errors import ConfigError, SourceUnavailable

if TYPE_CHECKING:
    import psycopg

FASTEST = 5_000
"""Operations a second that one generator is made for."""

MIX: Mapping[str, int] = {"order": 32, "move": 57, "address": 5, "price": 3, "delete": 2, "leave": 1}
"""Of every hundred operations. `leave`, at most one in 500, is a user who goes with all their orders."""
LEAVE_ONE_IN = 5

TICK_SECONDS = 0.02
LONGEST_BATCH_SECONDS = 0.1
"""How much of a second's work is sent at once at most, so that stopping takes effect soon."""
COMMITS_PER_SECOND = 500
"""Above that many operations a second, several share a transaction, as few as possible."""
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


@dataclass(frozen=True, slots=True)
class TrafficSummary:
    """What was done. kinds: operations by kind; transactions: commits; seconds: how long it took."""

    operations: int
    transactions: int
    seconds: float
    kinds: Mapping[str, int]


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


def check_rate(rate: float) -> None:
    """Raises `ConfigError` for a rate that one generator is not made for."""
    if not 0 < rate <= FASTEST:
        raise ConfigError(f"The rate must be above 0 and at most {FASTEST:,} operations a second.")


class Traffic:
    """Makes things happen in a shop at a steady rate, over one connection, in small transactions."""

    def __init__(self, dsn: str, *, seed: int = 1) -> None:
        self._dsn = dsn
        self._seed = seed

    def run(
        self,
        stop: threading.Event,
        rate: float,
        seconds: float | None = None,
        progress: Callable[[TrafficSummary], None] | None = None,
    ) -> TrafficSummary:
        """Go on at `rate` operations a second until `stop` is set or the seconds are over.

        A server that is slower than that gets as much as it takes; what was missed for more than a second
        is not made up for. `progress` is called about once a second. Everything counted is committed.

        Raises `SourceUnavailable` when the server goes away.
        """
        import psycopg

        check_rate(rate)
        try:
            with connect(self._dsn) as connection:
                return _Run(connection, self._seed, rate).go(stop, seconds, progress)
        except psycopg.OperationalError as error:
            raise SourceUnavailable(f"PostgreSQL went away under the shop's traffic: {str(error).strip()}") from None


class Pace:
    """How many operations are due, and what is forgiven: more than a second's worth is not made up for."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._since = now
        self._done = 0

    def due(self, now: float) -> int:
        """How many should have been done by now and were not."""
        owed = int((now - self._since) * self._rate) - self._done
        most = max(1, int(self._rate))
        if owed > most:
            self._since, self._done, owed = now - most / self._rate, 0, most
        return owed

    def did(self, count: int) -> None:
        """So many were done."""
        self._done += count

    def wait(self, now: float) -> float:
        """Seconds until the next one is due."""
        return max(0.0, self._since + (self._done + 1) / self._rate - now)


class _Run:
    """One run over one connection."""

    def __init__(self, connection: psycopg.Connection, seed: int, rate: float) -> None:
        self._connection = connection
        self._seed = seed
        self._rate = rate
        self._per_transaction = max(1, round(rate / COMMITS_PER_SECOND))
        self._choices = _choices(connection, seed)
        self._kinds: Counter[str] = Counter()
        self._transactions = 0
        self._began = time.monotonic()

    def go(
        self,
        stop: threading.Event,
        seconds: float | None,
        progress: Callable[[TrafficSummary], None] | None,
    ) -> TrafficSummary:
        self._began = told = time.monotonic()
        end = self._began + seconds if seconds is not None else float("inf")
        pace = Pace(self._rate, self._began)
        most = max(self._per_transaction, int(self._rate * LONGEST_BATCH_SECONDS))
        while not stop.is_set():
            now = min(time.monotonic(), end)
            due = min(pace.due(now), most)
            if due:
                self._make(due)
                pace.did(due)
            elif now >= end:
                break
            else:
                stop.wait(min(max(TICK_SECONDS, pace.wait(now)), end - now, 1.0))
            if progress is not None and time.monotonic() - told >= 1.0:
                told = time.monotonic()
                progress(self.summary())
        return self.summary()

    def summary(self) -> TrafficSummary:
        return TrafficSummary(
            operations=self._kinds.total(),
            transactions=self._transactions,
            seconds=round(time.monotonic() - self._began, 3),
            kinds=dict(sorted(self._kinds.items())),
        )

    def _make(self, count: int) -> None:
        """Do so many operations, in transactions one after the other, with one wait for all of them."""
        import psycopg

        operations = [self._choices.next() for _ in range(count)]
        groups = [operations[at : at + self._per_transaction] for at in range(0, count, self._per_transaction)]
        try:
            with self._connection.pipeline() as pipeline:
                for group in groups:
                    for operation in group:
                        for statement, parameters in operation.statements:
                            self._connection.execute(STATEMENTS[statement].encode(), parameters, prepare=True)
                    pipeline.sync()  # in a pipeline, what lies between two of these is one transaction
        except (psycopg.IntegrityError, psycopg.errors.DeadlockDetected):
            # Another generator took a user or an order away at the same moment. What was made of this
            # batch is not counted; we look at the shop again and go on.
            self._seed += 1
            self._choices = _choices(self._connection, self._seed)
            return
        self._transactions += len(groups)
        self._kinds.update(operation.kind for operation in operations)


def _choices(connection: psycopg.Connection, seed: int) -> Choices:
    """Read what there is to choose from: at most a fixed number of rows, the newest ones."""
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
