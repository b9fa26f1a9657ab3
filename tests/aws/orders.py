"""Orders in a DynamoDB table for tests, and what a lake of clean records says of them."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

from aws.account import AwsAccount
from catchment.formats.clean_record import RecordCleaner
from catchment.formats.dynamodb_json import event_form, parse_json

TABLE = "OrderTable"
STREAM_OF_IMAGES = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
_CLEANER = RecordCleaner()


def make_table(aws: AwsAccount, *, stream: bool = True) -> None:
    more = {"StreamSpecification": STREAM_OF_IMAGES} if stream else {}
    aws.client("dynamodb").create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "orderid", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "orderid", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        **more,
    )


def set_stream(aws: AwsAccount, *, enabled: bool) -> None:
    """Disable the table's stream, or enable a new one; its label differs from the last in the milliseconds."""
    time.sleep(0.01)
    specification = STREAM_OF_IMAGES if enabled else {"StreamEnabled": False}
    aws.client("dynamodb").update_table(TableName=TABLE, StreamSpecification=specification)


def write(aws: AwsAccount, orderid: str, **attributes: Mapping[str, Any]) -> None:
    item = {"orderid": {"S": orderid}, "product_name": {"S": "Laptop"}, "quantity": {"N": "3"}, **attributes}
    aws.client("dynamodb").put_item(TableName=TABLE, Item=item)


def remove(aws: AwsAccount, orderid: str) -> None:
    aws.client("dynamodb").delete_item(TableName=TABLE, Key={"orderid": {"S": orderid}})


def scanned(aws: AwsAccount) -> dict[str, dict[str, Any]]:
    """What the table holds: order id → item as typed values of an event."""
    found = {}
    for page in aws.client("dynamodb").get_paginator("scan").paginate(TableName=TABLE, ConsistentRead=True):
        found.update({one["orderid"]["S"]: _comparable(event_form(one)) for one in page["Items"]})
    return found


def latest_orders(objects: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The latest version of each order in these objects of clean records, without those that were removed."""
    latest: dict[str, tuple[tuple[str, int], dict[str, Any] | None]] = {}
    for body in objects.values():
        for line in body.splitlines():
            document = parse_json(line.decode())
            order = (document["stream_label"], int(document["sequence_number"]))
            item = None if document["event_type"] == "REMOVE" else _comparable(_CLEANER.restore(line))
            if document["orderid"] not in latest or latest[document["orderid"]][0] < order:
                latest[document["orderid"]] = (order, item)
    return {key: item for key, (_, item) in latest.items() if item is not None}


def _comparable(item: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {kind: sorted(one) if kind in ("SS", "NS", "BS") else one for kind, one in value.items()}
        for name, value in item.items()
    }


class Writer:
    """Random writes to the table: orders come, change and go. The same seed makes the same."""

    def __init__(self, aws: AwsAccount, seed: int, orders: int = 40) -> None:
        self._aws = aws
        self._choose = random.Random(seed)
        self._orders = [f"{number:04d}" for number in range(orders)]
        self.writes = 0

    def write(self, count: int) -> None:
        """So many more."""
        for _ in range(count):
            orderid = self._choose.choice(self._orders)
            if self._choose.random() < 0.2:
                remove(self._aws, orderid)
            else:
                write(self._aws, orderid, **self._attributes())
            self.writes += 1

    def _attributes(self) -> dict[str, dict[str, Any]]:
        """Some of every type, so that nothing on the way may lose one."""
        choose = self._choose
        every: dict[str, dict[str, Any]] = {
            "product_name": {"S": choose.choice(["Laptop", "Phone", "Tablet", "Häd😀phones", ""])},
            "quantity": {"N": str(choose.randrange(1, 11))},
            "price": {"N": f"{choose.randrange(1099, 99999) / 100:.2f}"},
            "order_timestamp": {"S": f"2026-11-21T15:{choose.randrange(60):02d}:00.{choose.randrange(1000):03d}Z"},
            "photo": {"B": choose.randbytes(5)},
            "gift": {"BOOL": choose.random() < 0.5},
            "note": {"NULL": True},
            "tags": {"SS": choose.sample(["new", "sale", "used"], 2)},
            "sizes": {"NS": ["1", "2.5"]},
            "parts": {"L": [{"N": "1e100"}, {"M": {"event_type": {"S": "x"}}}]},
            "event_type": {"S": "of its own"},
        }
        return {name: value for name, value in every.items() if choose.random() < 0.7}
