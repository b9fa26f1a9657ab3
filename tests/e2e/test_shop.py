"""The shop: the same seed gives the same rows and the same traffic, at the rate that was asked for."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from catchment.demo.choices import MIX, Bag, Choices, Operation
from catchment.demo.shop import STATUSES, TABLES, ShopSize, open_shop
from catchment.demo.traffic import Pace, Traffic
from catchment.errors import ConfigError, SourceUnavailable

SMALL = ShopSize(users=60, products=20, orders=400)


def rows(dsn: str, table: str, columns: str = "*") -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1".encode()).fetchall()


def empty(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DROP TABLE fact_sales, dim_products, dim_users")


def choices(seed: int, *, users: int = 40, orders: int = 100) -> Choices:
    keys = iter(range(1_000_000, 10_000_000))
    return Choices(
        seed,
        users=list(range(users)),
        prices={product: Decimal("9.99") for product in range(10)},
        orders={"PENDING": [(order, order % users) for order in range(orders)]},
        reserve=lambda: [next(keys) for _ in range(100)],
    )


def test_a_seed_always_gives_the_same_rows(database_18: str) -> None:
    assert open_shop(database_18, seed=7, size=SMALL)
    first = {table: rows(database_18, table) for table in TABLES}
    assert [len(first[table]) for table in TABLES] == [60, 20, 400]
    empty(database_18)
    open_shop(database_18, seed=7, size=SMALL)
    assert {table: rows(database_18, table) for table in TABLES} == first
    empty(database_18)
    open_shop(database_18, seed=8, size=SMALL)
    assert all(rows(database_18, table) != first[table] for table in TABLES)


def test_a_shop_is_filled_once_even_by_two_at_the_same_time(database_18: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        filled = list(pool.map(lambda _: open_shop(database_18, size=SMALL), range(4)))
    assert sorted(filled) == [False, False, False, True]
    assert len(rows(database_18, "fact_sales")) == SMALL.orders


def test_keys_go_on_after_the_filled_rows(database: str) -> None:
    open_shop(database, size=SMALL)
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(
            "INSERT INTO dim_users (name, email, address, city) VALUES ('a', 'b', 'c', 'd') RETURNING user_id"
        ).fetchone()
    assert row == (SMALL.users + 1,)


def test_a_table_of_that_name_that_is_not_the_shops_is_refused(database_18: str) -> None:
    with psycopg.connect(database_18, autocommit=True) as connection:
        connection.execute("CREATE TABLE fact_sales (something int)")
    with pytest.raises(ConfigError, match="not the shop's"):
        open_shop(database_18, size=SMALL)


def test_a_server_that_does_not_answer_is_one_clear_sentence() -> None:
    with pytest.raises(SourceUnavailable, match="does not answer"):
        open_shop("postgresql://nobody@127.0.0.1:1/nowhere")


def test_a_seed_always_gives_the_same_operations() -> None:
    def sequence(seed: int) -> list[Operation]:
        source = choices(seed)
        return [source.next() for _ in range(5_000)]

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)


def test_operations_come_in_the_mix_and_touch_only_what_is_there() -> None:
    source = choices(11, orders=2_000)
    live: dict[object, object] = {order: order % 40 for order in range(2_000)}
    users = set(range(40))
    status: dict[object, str] = dict.fromkeys(live, "PENDING")
    kinds: Counter[str] = Counter()
    for _ in range(20_000):
        operation = source.next()
        kinds[operation.kind] += 1
        parameters = operation.statements[-1][1]
        match operation.kind:
            case "order":
                assert parameters[0] not in live, "a key is new"
                assert parameters[1] in users
                live[parameters[0]], status[parameters[0]] = parameters[1], "PENDING"
            case "ship" | "deliver" | "cancel":
                order = parameters[0]
                assert live[order] in users, "the order and its user are there"
                allowed = {"ship": ("PENDING",), "deliver": ("SHIPPED",), "cancel": ("PENDING", "SHIPPED")}
                assert status[order] in allowed[operation.kind]
                status[order] = {"ship": "SHIPPED", "deliver": "DELIVERED", "cancel": "CANCELLED"}[operation.kind]
            case "delete":
                assert live.pop(parameters[0]) in users
            case "leave":
                users.remove(parameters[0])  # type: ignore[arg-type]
    moves = kinds["ship"] + kinds["deliver"] + kinds["cancel"]
    total = kinds.total()
    assert abs(kinds["order"] / total - MIX["order"] / 100) < 0.03
    assert abs(moves / total - MIX["move"] / 100) < 0.03
    assert abs(kinds["price"] / total - MIX["price"] / 100) < 0.01
    assert abs(kinds["address"] / total - MIX["address"] / 100) < 0.01
    assert kinds["leave"] == 20, "half of the users stay, whatever happens"


def test_a_bag_gives_back_each_thing_once_and_never_grows_above_its_bound() -> None:
    import random

    draw = random.Random(5)
    bag = Bag(((number, 0) for number in range(50)), most=60)
    for number in range(50, 200):
        bag.add((number, 0), draw)
    assert len(bag) == 60
    taken = [bag.take(draw) for _ in range(60)]
    assert len(set(taken)) == 60
    assert not bag


def test_pace_owes_nothing_for_more_than_the_last_second() -> None:
    pace = Pace(100.0, now=0.0)
    assert pace.due(0.5) == 50
    pace.did(50)
    assert pace.due(0.5) == 0
    assert pace.wait(0.5) == pytest.approx(0.01)
    assert pace.due(60.0) == 100
    pace.did(100)
    assert pace.due(60.5) == 50


def test_traffic_does_what_was_asked_and_counts_it(database: str) -> None:
    open_shop(database, size=SMALL)
    summary = Traffic(database, seed=2).run(threading.Event(), rate=400, seconds=2)
    # What was missed for more than a second, on a machine that is busy elsewhere, is not made up for.
    assert 0 < summary.operations <= 800
    assert sum(summary.kinds.values()) == summary.operations
    assert summary.transactions <= summary.operations, "at this rate each is one, unless the disk is slow"
    counts = Counter(status for _, status in rows(database, "fact_sales", "order_id, status"))
    assert set(counts) <= set(STATUSES)
    # Some orders go with their user, by a statement for all of them: never more than one can count.
    remaining = SMALL.orders + summary.kinds["order"] - summary.kinds.get("delete", 0)
    if summary.kinds.get("leave", 0):
        assert counts.total() < remaining
    else:
        assert counts.total() == remaining


def test_traffic_of_a_seed_leaves_the_same_shop_however_it_was_timed(database_18: str) -> None:
    columns = "order_id, user_id, product_id, quantity, unit_price, total_amount, status, payment_method"

    def after(rate: float, seconds: float) -> list[tuple[object, ...]]:
        """The orders after 450 operations: fewer are done where the machine is slow, so then another time."""
        while True:
            open_shop(database_18, seed=5, size=SMALL)
            done = Traffic(database_18, seed=9).run(threading.Event(), rate, seconds).operations
            found = rows(database_18, "fact_sales", columns)
            empty(database_18)
            if done == 450:
                return found

    assert after(rate=225, seconds=2) == after(rate=900, seconds=0.5)


def test_fast_traffic_shares_transactions_and_keeps_them_small(database_18: str) -> None:
    open_shop(database_18, size=SMALL)
    summary = Traffic(database_18).run(threading.Event(), rate=5_000, seconds=1)
    assert summary.operations <= 5_000
    # How many share one depends on how quick the server is; that some do, and no more than 32, does not.
    assert summary.transactions < summary.operations <= 32 * summary.transactions


def test_two_generators_in_one_shop_do_not_stop_each_other(database: str) -> None:
    open_shop(database, size=SMALL)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda seed: Traffic(database, seed=seed).run(threading.Event(), 1500, 2), (1, 2)))
    assert all(summary.operations > 50 for summary in both)


def test_traffic_stops_when_told(database_18: str) -> None:
    open_shop(database_18, size=SMALL)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(Traffic(database_18).run, stop, 100, None, lambda _: stop.set())
        assert running.result(timeout=120).operations > 0


def test_a_rate_that_cannot_be_kept_is_refused(database_18: str) -> None:
    with pytest.raises(ConfigError, match="at most 5,000"):
        Traffic(database_18).run(threading.Event(), 5_001)


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("catchment")), *arguments]


def test_the_command_fills_a_shop_and_says_what_it_did(database: str) -> None:
    done = subprocess.run(
        command(
            *("generate", "shop", "--dsn", database, "--rate", "300", "--seconds", "1"),
            *("--seed", "4", "--users", "30", "--products", "10", "--orders", "50", "--json"),
        ),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = json.loads(done.stdout)
    assert said["filled"] is True
    assert 0 < said["operations"] == sum(said["kinds"].values()) <= 300
    assert len(rows(database, "dim_products")) == 10


def test_the_command_ends_cleanly_on_ctrl_c(database_18: str) -> None:
    running = subprocess.Popen(
        command("generate", "shop", "--dsn", database_18, "--rate", "50", "--orders", "10", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    try:
        assert "The shop is new" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 0, err
    assert "Traceback" not in err
    assert json.loads(out)["filled"] is True
