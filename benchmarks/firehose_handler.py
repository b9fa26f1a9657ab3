"""How fast does the Lambda function of Firehose answer? One core, beside the least that any such function must do."""

from __future__ import annotations

import base64
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figure import Figure
from benchmarks.sizes import Sizes
from catchment.aws import firehose_transform
from catchment.aws.firehose_transform import handler
from catchment.demo.postgres import EmbeddedPostgres

RECORDS = 2_000
"""A batch: with 500 bytes a record, Firehose's default buffer of 1 MB."""

LEAST_ROUNDS = 15


def firehose_handler(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Records a second, by the process's own time: neighbours on the machine do not count."""
    logging.getLogger(firehose_transform.__name__).setLevel(logging.ERROR)
    small, orders, modified = _batch(_small), _batch(_inserted), _batch(_modified)
    rounds = LEAST_ROUNDS * max(1, sizes.repeat)
    plain, ours = _records_a_second(_plain, small, rounds), _records_a_second(_handled, small, rounds)
    yield Figure(
        "Firehose handler, records of 500 bytes, one core",
        *(ours / 1e3, "k records/s"),
        at_least=50.0,
        beside={
            "loads + dumps + base64 alone, k/s": plain / 1e3,
            "ratio": ours / plain,
            "bytes a record": _bytes(small),
            "gadget orders, k/s": _records_a_second(_handled, orders, rounds) / 1e3,
            "their bytes": _bytes(orders),
            "with old image, k/s": _records_a_second(_handled, modified, rounds) / 1e3,
            "its bytes": _bytes(modified),
        },
    )


def _handled(batch: dict[str, Any]) -> None:
    assert all(answer["result"] == "Ok" for answer in handler(batch, None)["records"])


def _plain(batch: dict[str, Any]) -> list[dict[str, str]]:
    """The least: base64 and JSON in and out, nothing understood."""
    return [
        {
            "recordId": record["recordId"],
            "result": "Ok",
            "data": base64.b64encode(json.dumps(json.loads(base64.b64decode(record["data"]))).encode()).decode(),
        }
        for record in batch["records"]
    ]


def _records_a_second(work: Callable[[dict[str, Any]], object], batch: dict[str, Any], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        work(batch)
        best = min(best, time.process_time() - started)
    return RECORDS / best


def _batch(content: Callable[[random.Random, int], dict[str, Any]]) -> dict[str, Any]:
    draw = random.Random(1)
    return {"invocationId": "1", "records": [_record(content(draw, number), number) for number in range(RECORDS)]}


def _record(document: dict[str, Any], number: int) -> dict[str, Any]:
    data = json.dumps(document, separators=(",", ":")).encode()
    return {
        "recordId": f"{number:056}",
        "approximateArrivalTimestamp": 1_795_274_240_448,
        "data": base64.b64encode(data).decode(),
    }


def _bytes(batch: dict[str, Any]) -> float:
    return sum(len(base64.b64decode(record["data"])) for record in batch["records"]) / RECORDS


def _order(draw: random.Random) -> dict[str, Any]:
    return {
        "orderid": {"S": f"{draw.randrange(10_000):04}"},
        "product_name": {"S": draw.choice(["Laptop", "Phone", "Tablet", "Headphones", "Charger", "Smartwatch"])},
        "quantity": {"N": str(draw.randint(1, 10))},
        "price": {"N": f"{draw.randint(1_099, 99_999) / 100:.2f}"},
        "payment_method": {"S": draw.choice(["UPI", "Credit Card", "Debit Card", "Net Banking"])},
        "order_timestamp": {"S": f"2026-11-21T15:17:{draw.randrange(60):02}.{draw.randrange(1_000):03}Z"},
        "status": {"S": draw.choice(["placed", "paid", "shipped", "delivered"])},
    }


def _inserted(draw: random.Random, number: int) -> dict[str, Any]:
    """An insert of a gadget order, as a Pipe sends it."""
    return _event(draw, number, _order(draw))


def _modified(draw: random.Random, number: int) -> dict[str, Any]:
    """A modification, with the image before it."""
    return _event(draw, number, _order(draw), OldImage=_order(draw))


def _small(draw: random.Random, number: int) -> dict[str, Any]:
    """The same insert as DynamoDB's own Kinesis destination sends it."""
    order = _order(draw)
    return {
        "awsRegion": "us-east-1",
        "eventID": f"{draw.getrandbits(128):032x}",
        "eventName": "INSERT",
        "userIdentity": None,
        "recordFormat": "application/json",
        "tableName": "OrderTable",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_795_274_238_000 + number,
            "Keys": {"orderid": order["orderid"]},
            "NewImage": order,
            "SizeBytes": 200,
        },
        "eventSource": "aws:dynamodb",
    }


def _event(draw: random.Random, number: int, image: dict[str, Any], **images: Any) -> dict[str, Any]:
    return {
        "eventID": f"{draw.getrandbits(128):032x}",
        "eventName": "MODIFY" if images else "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/OrderTable/stream/2026-11-21T12:00:00.000",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_795_274_238 + number // 100,
            "Keys": {"orderid": image["orderid"]},
            "NewImage": image,
            **images,
            "SequenceNumber": str(10**22 + number),
            "SizeBytes": 200,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    }
