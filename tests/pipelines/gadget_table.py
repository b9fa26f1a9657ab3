"""A table of gadget orders with random writes, pipelines on it, and its rows against the lake's."""

from __future__ import annotations

import random
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

from aws.account import AwsAccount
from pipelines.lake import query

TABLE = "OrderTable"
LAKE_NAME = "dynamodb_OrderTable"
STREAM_ON = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
COLUMNS = ("orderid", "product_name", "quantity", "price", "status", "note")
TYPES = '{quantity: bigint, price: "decimal(10,2)", order_timestamp: timestamp, status: string, note: string}'
DYNAMODB = """\
name: gadgets
source:
  type: dynamodb
  tables: [OrderTable]
  scan_segment_bytes: 4096
  stream_check_interval_seconds: 0.5
  %s
  columns: {OrderTable: %s}
%s
sinks: [{type: iceberg, flush_interval_seconds: 0.1}]
"""
KINESIS = """\
name: gadgets
source: {type: kinesis, stream: gadget-sales-stream, columns: {OrderTable: %s}}
%s
sinks: [{type: iceberg, flush_interval_seconds: 0.1}]
"""


def dynamodb_pipeline(directory: Path, source: str = "", rest: str = "") -> Path:
    """A pipeline.yaml that captures the table itself. source, rest: further lines of that section, and others."""
    path = directory / "pipeline.yaml"
    path.write_text(DYNAMODB % (source, TYPES, rest))
    return path


def kinesis_pipeline(directory: Path, rest: str = "") -> Path:
    """A pipeline.yaml that captures the table's changes out of a data stream."""
    path = directory / "pipeline.yaml"
    path.write_text(KINESIS % (TYPES, rest))
    return path


def make_table(aws: AwsAccount) -> None:
    aws.client("dynamodb").create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "orderid", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "orderid", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification=STREAM_ON,
    )


def order(orderid: str, chance: random.Random) -> dict[str, Any]:
    """An item, sometimes with what no column of its type holds."""
    item: dict[str, Any] = {
        "orderid": {"S": orderid},
        "product_name": {"S": chance.choice(["Laptop", "Phone", "Tablet"])},
        "quantity": {"N": str(chance.randint(1, 10))},
        "price": {"N": f"{chance.randint(1099, 99999) / 100:.2f}"},
        "order_timestamp": {"S": "2026-11-21T10:00:00.123Z"},
    }
    if chance.random() < 0.5:
        item["status"] = {"S": chance.choice(["placed", "paid", ""])}
    if chance.random() < 0.2:
        item["note"] = chance.choice([{"NULL": True}, {"S": "n" * 2000}, {"S": 'é\u2028"\\'}])
    if chance.random() < 0.1:
        item["quantity"] = chance.choice([{"S": "three"}, {"N": "1.5"}])
    if chance.random() < 0.1:
        item["tags"] = {"SS": ["a", "b"]}
    return item


class Writes:
    """Writes orders until it is left, reproducibly by seed; counts the changes that the stream has of them."""

    def __init__(self, aws: AwsAccount, seed: int, orders: int = 60) -> None:
        self._client = aws.client("dynamodb")
        self._chance = random.Random(seed)
        self._orders = [f"{number:04}" for number in range(orders)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None
        self.writes = 0

    def some(self, count: int) -> None:
        """So many writes, here."""
        for _ in range(count):
            orderid = self._chance.choice(self._orders)
            if self._chance.random() < 0.25:
                self._client.delete_item(TableName=TABLE, Key={"orderid": {"S": orderid}})
            else:
                self._client.put_item(TableName=TABLE, Item=order(orderid, self._chance))
            self.writes += 1

    def __enter__(self) -> Writes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.some(10)
                self._stop.wait(0.02)
        except BaseException as error:  # noqa: BLE001 - raised where the writes are left
            self._failure = error


def table_rows(aws: AwsAccount) -> list[tuple[Any, ...]]:
    """The table's rows, as the lake must have them."""
    pages = aws.client("dynamodb").get_paginator("scan").paginate(TableName=TABLE, ConsistentRead=True)
    items = [item for page in pages for item in page["Items"]]
    return sorted(tuple(_value(name, item.get(name)) for name in COLUMNS) for item in items)


def _value(name: str, typed: dict[str, Any] | None) -> Any:
    ((letter, content),) = (typed or {"NULL": True}).items()
    if name in ("quantity", "price"):
        if letter != "N" or (name == "quantity" and "." in content):
            return None
        return int(content) if name == "quantity" else Decimal(content).quantize(Decimal("0.01"))
    return content if letter == "S" else None


def lake_rows(pipeline: Path, layer: str = "silver") -> list[tuple[Any, ...]]:
    """The same rows in the lake."""
    return sorted(query(pipeline, f"SELECT {', '.join(COLUMNS)} FROM {layer}.{LAKE_NAME}"))


def expect_same(aws: AwsAccount, pipeline: Path) -> None:
    """Silver and `current` are the table."""
    expected = table_rows(aws)
    for layer in ("current", "silver"):
        actual = lake_rows(pipeline, layer)
        missing, ghosts = set(expected) - set(actual), set(actual) - set(expected)
        assert not missing and not ghosts, f"{layer}: missing {sorted(missing)[:3]}, too many {sorted(ghosts)[:3]}"
        assert len(actual) == len(expected), f"{layer} has rows twice"
