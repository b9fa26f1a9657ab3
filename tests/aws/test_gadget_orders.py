"""The generator of gadget sales, against a table in MiniStack."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from aws.account import AwsAccount
from catchment.demo.gadget_choices import NEXT_STATUS, PAYMENT_METHODS, PRODUCTS, STATUSES, GadgetChoices, OrderChange
from catchment.demo.gadget_orders import GadgetOrders
from catchment.demo.order_table import OrderTable, batches
from catchment.errors import ConfigError, SourceUnavailable
from e2e.cli import command, run_command

ROOT = Path(__file__).parents[2]


def rows(aws: AwsAccount, table: str = "OrderTable") -> dict[str, dict[str, Any]]:
    """What is in the table, by id, as Python values."""
    from boto3.dynamodb.types import TypeDeserializer

    plain = TypeDeserializer().deserialize
    pages = aws.client("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    items = [{name: plain(value) for name, value in item.items()} for page in pages for item in page["Items"]]
    return {item["orderid"]: item for item in items}


@pytest.fixture
def orders(aws: AwsAccount) -> GadgetOrders:
    made = GadgetOrders("OrderTable", seed=7)
    made.table.create()
    return made


def made_by(seed: int, count: int = 3000) -> list[OrderChange]:
    choices = GadgetChoices(seed, now=lambda: "2026-11-21T09:30:00.125Z")
    return [choices.next() for _ in range(count)]


def test_a_seed_always_makes_the_same_changes() -> None:
    assert made_by(3) == made_by(3)
    assert made_by(3) != made_by(4)


def test_orders_are_as_promised() -> None:
    for change in made_by(11):
        order = change.order
        assert set(order) == {
            *("orderid", "product_name", "quantity", "price", "payment_method", "order_timestamp", "status")
        }
        assert len(order["orderid"]) == 4
        assert order["orderid"].isdigit()
        assert order["product_name"] in PRODUCTS
        assert order["payment_method"] in PAYMENT_METHODS
        assert order["status"] in STATUSES
        assert 1 <= order["quantity"] <= 10
        assert isinstance(order["price"], Decimal)
        assert Decimal("10.99") <= order["price"] <= Decimal("999.99")
        assert order["price"].as_tuple().exponent == -2


def test_the_time_of_an_order_is_utc_with_milliseconds() -> None:
    before = time.time()
    stamp = GadgetChoices(1).next().order["order_timestamp"]
    from datetime import datetime

    assert len(stamp) == len("2026-11-21T09:30:00.125Z")
    assert stamp.endswith("Z")
    assert before - 0.001 <= datetime.fromisoformat(stamp).timestamp() <= time.time()


def test_an_order_is_inserted_once_moves_on_and_is_removed_once() -> None:
    """Until the ids run out, a kind says what the table will make of it."""
    there: dict[str, dict[str, Any]] = {}
    kinds = set()
    for change in made_by(5, 6000):
        before = there.get(change.key)
        kinds.add(change.kind)
        if change.kind == "insert":
            assert before is None
        else:
            assert before is not None
        if change.kind == "remove":
            assert there.pop(change.key) == change.order
            continue
        there[change.key] = change.order
        if change.kind == "modify" and before is not None:
            assert before != change.order
            moved = (before["status"], change.order["status"])
            assert moved in NEXT_STATUS.items() or moved[1] in (before["status"], "cancelled")
            assert before["order_timestamp"] == change.order["order_timestamp"]
    assert kinds == {"insert", "modify", "remove"}


def test_when_all_ids_are_taken_an_id_comes_again_as_another_order() -> None:
    changes = made_by(2, 60_000)
    there: set[str] = set()
    for change in changes:
        assert (change.kind == "insert") == (change.key not in there)
        there.add(change.key) if change.kind != "remove" else there.remove(change.key)
    assert len(there) > 8000
    late = [change for change in changes[-5000:] if change.kind == "modify"]
    assert any(change.order["status"] == "placed" for change in late)


def test_a_batch_never_has_an_order_twice() -> None:
    changes = made_by(8) + made_by(8)
    made = list(batches(changes))
    assert [change for batch in made for change in batch] == changes
    assert max(len(batch) for batch in made) == 25
    for batch in made:
        assert len({change.key for change in batch}) == len(batch)


def test_an_order_is_written_as_it_was_made(aws: AwsAccount, orders: GadgetOrders) -> None:
    order = orders.generate_order()
    orders.insert_order(order)
    assert rows(aws) == {order["orderid"]: order}


def test_a_price_that_is_a_float_is_refused(orders: GadgetOrders) -> None:
    with pytest.raises(TypeError, match="Decimal"):
        orders.insert_order({**orders.generate_order(), "price": 429.99})


@pytest.mark.parametrize("rate", [15, 400])
def test_the_table_ends_as_the_generator_says(aws: AwsAccount, orders: GadgetOrders, rate: float) -> None:
    heard: list[OrderChange] = []
    stop = threading.Event()

    def hear(changes: Sequence[OrderChange]) -> None:
        heard.extend(changes)
        if len(heard) >= rate:
            stop.set()

    summary = orders.run_continuous_generation(rate=rate, stop=stop, written=hear)
    assert summary.unwritten == 0
    assert summary.writes == len(heard) == sum(summary.kinds.values())
    assert rate <= summary.writes <= 2 + rate * summary.seconds, "never faster than asked for"
    assert rows(aws) == orders.choices.orders
    assert summary.orders == len(orders.choices.orders)


def test_its_stream_says_what_the_generator_says(aws: AwsAccount, orders: GadgetOrders) -> None:
    heard: list[OrderChange] = []
    orders.run_continuous_generation(rate=300, seconds=1, written=heard.extend)
    streams = aws.client("dynamodbstreams")
    (stream,) = streams.list_streams(TableName="OrderTable")["Streams"]
    (shard,) = streams.describe_stream(StreamArn=stream["StreamArn"])["StreamDescription"]["Shards"]
    at = streams.get_shard_iterator(
        StreamArn=stream["StreamArn"], ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    events: list[tuple[str, str]] = []
    while len(events) < len(heard):
        answer = streams.get_records(ShardIterator=at)
        assert answer["Records"], "the stream has less than was written"
        events += [(one["eventName"].lower(), one["dynamodb"]["Keys"]["orderid"]["S"]) for one in answer["Records"]]
        at = answer["NextShardIterator"]
    assert events == [(change.kind, change.key) for change in heard]


def test_the_generator_stops_when_it_is_asked_to(orders: GadgetOrders) -> None:
    stop = threading.Event()
    summary = orders.run_continuous_generation(rate=100, stop=stop, written=lambda _: stop.set())
    assert summary.writes > 0
    assert summary.seconds < 60


def test_a_missing_table_is_said_in_one_sentence(aws: AwsAccount) -> None:
    done = run_command("generate", "gadgets", "--seconds", "1")
    assert done.code == 2
    assert "There is no DynamoDB table OrderTable in us-east-1" in done.err
    assert "--create" in done.err
    assert "Traceback" not in done.err


def test_a_table_of_another_key_is_refused(aws: AwsAccount) -> None:
    aws.client("dynamodb").create_table(
        TableName="OrderTable",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ConfigError, match="another key"):
        OrderTable().check()
    with pytest.raises(ConfigError, match="another key"):
        OrderTable().create()


def test_a_table_without_a_stream_is_not_made_do_with(aws: AwsAccount) -> None:
    aws.client("dynamodb").create_table(
        TableName="OrderTable",
        KeySchema=[{"AttributeName": "orderid", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "orderid", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ConfigError, match="no stream of new and old images"):
        OrderTable().create()
    done = run_command("generate", "gadgets", "--rate", "10", "--seconds", "0.3")
    assert done.code == 0
    assert "has no stream" in done.err


def test_the_command_creates_writes_logs_and_sums_up(aws: AwsAccount) -> None:
    done = run_command(
        *("generate", "gadgets", "--table", "Sales", "--region", "us-east-1", "--create"),
        *("--rate", "40", "--seconds", "1", "--seed", "5", "--json"),
    )
    assert done.code == 0, done.err
    assert done.json["table"] == "Sales"
    assert done.json["writes"] == len(done.err.splitlines())
    assert done.json["orders"] == len(rows(aws, "Sales"))


@pytest.mark.parametrize(
    ("number", "options", "code"),
    [(signal.SIGINT, (), 0), (signal.SIGTERM, (), 0), (signal.SIGINT, ("--seconds", "600"), 130)],
)
def test_ctrl_c_ends_it_in_order(
    aws: AwsAccount, orders: GadgetOrders, number: int, options: tuple[str, ...], code: int
) -> None:
    with subprocess.Popen(
        command("generate", "gadgets", "--rate", "50", "--json", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=aws.environ,
    ) as running:
        try:
            assert running.stderr is not None
            running.stderr.readline()  # the first order
            running.send_signal(number)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == code, err
    assert json.loads(out)["writes"] == len(err.splitlines()) + 1
    assert json.loads(out)["orders"] == len(rows(aws))


def test_both_interval_and_rate_are_one_too_many(aws: AwsAccount) -> None:
    done = run_command("generate", "gadgets", "--rate", "5", "--interval", "3")
    assert done.code == 2
    assert "give one of them" in done.err


def test_a_table_that_goes_away_is_said_as_what_it_is(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceUnavailable, match="OrderTable"):
        OrderTable().check()


@pytest.fixture
def example(aws: AwsAccount) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "gadgets" / "generator.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    yield running
    running.kill()
    running.communicate()


def test_the_example_runs_until_ctrl_c(aws: AwsAccount, example: subprocess.Popen[str]) -> None:
    assert example.stderr is not None
    while " put " not in (line := example.stderr.readline()):
        assert line, "it ended without an order"
    example.stderr.readline()  # the first of the continuous ones: it listens to signals now
    example.send_signal(signal.SIGINT)
    out, err = example.communicate(timeout=60)
    assert example.returncode == 0, err
    # The second write may be a second order, a change of the first, or its removal; others follow every three seconds.
    writes, orders = (int(part.split()[0]) for part in out.split(", "))
    assert writes >= 1
    assert orders == len(rows(aws))
