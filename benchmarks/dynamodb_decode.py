"""How fast do DynamoDB's change records become Arrow, on one core? Against what Python has for it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial

import pyarrow as pa
from boto3.dynamodb.types import TypeDeserializer

from benchmarks.figure import Figure
from benchmarks.sizes import Sizes
from catchment.change import ChangeBatch
from catchment.demo.postgres import EmbeddedPostgres
from catchment.formats.dynamodb_changes import ChangeDecoder
from catchment.schema import UTC_MICROSECONDS, TableId

PAGE = 10_000
"""Records at once: what Lambda and GetRecords of Kinesis have at most."""
PAGES = 5

COLUMNS = {"quantity": pa.int64(), "price": pa.decimal128(10, 2), "order_timestamp": UTC_MICROSECONDS}


def dynamodb_decode(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """Orders with eight attributes, images of before and after, in the form in which Lambda and Pipes have them."""
    draw = random.Random(1)
    short = [_record(draw, number, images=1) for number in range(PAGE)]
    both = [_record(draw, number, images=2) for number in range(PAGE)]
    repeat = max(3, sizes.repeat)
    for name, records, target in (("NewImage alone", short, None), ("NewImage and OldImage", both, 150_000)):
        ours, theirs = _fastest(repeat, partial(_decode, records), partial(_python, records))
        size = sum(map(len, records)) / len(records)
        yield Figure(
            f"DynamoDB's change records to Arrow, one core, {name}",
            *(PAGE / ours, "records/s"),
            at_least=target,
            beside={"bytes a record": size, "attributes": 8, "MB/s": PAGE / ours * size / 1e6},
        )
        yield Figure("– against json.loads and boto3's TypeDeserializer", *(theirs / ours, "×"))


def _fastest(repeat: int, *candidates: Callable[[], float]) -> list[float]:
    """The fewest CPU seconds for a page of each, in turns: neighbours only ever make it slower."""
    return [min(seconds) for seconds in zip(*([one() for one in candidates] for _ in range(repeat)), strict=True)]


def _decode(records: list[bytes]) -> float:
    decoder = ChangeDecoder(TableId("dynamodb", "OrderTable"), {"orderid": "S"}, declared=COLUMNS)
    positions = [number.to_bytes(24, "big") for number in range(PAGE)]
    decoder.decode(records, lane="warm", positions=positions)
    started = time.process_time()
    for _ in range(PAGES):
        events = decoder.decode(records, lane="shard", positions=positions)
    seconds = (time.process_time() - started) / PAGES
    (batch,) = events
    assert isinstance(batch, ChangeBatch)
    assert len(batch) == PAGE
    assert batch.records.column("after").field("price").null_count == 0
    return seconds


def _python(records: list[bytes]) -> float:
    """Python objects, not yet columns."""
    deserialize = TypeDeserializer().deserialize
    started = time.process_time()
    for record in records:
        change = json.loads(record)["dynamodb"]
        for image in ("Keys", "NewImage", "OldImage"):
            item = {name: deserialize(value) for name, value in change.get(image, {}).items()}
    assert isinstance(item.get("price", Decimal()), Decimal)
    return time.process_time() - started


def _record(draw: random.Random, number: int, *, images: int) -> bytes:
    def order(status: str) -> dict[str, object]:
        return {
            "orderid": {"S": f"{number % 10_000:04d}"},
            "product_name": {"S": draw.choice(["Laptop", "Phone", "Tablet", "Headphones", "Charger", "Smartwatch"])},
            "quantity": {"N": str(draw.randint(1, 10))},
            "price": {"N": f"{draw.uniform(10.99, 999.99):.2f}"},
            "payment_method": {"S": draw.choice(["UPI", "Credit Card", "Cash"])},
            "order_timestamp": {"S": f"2026-11-21T15:17:{number % 60:02d}.{number % 1_000_000:06d}Z"},
            "status": {"S": status},
            "gift": {"BOOL": draw.random() < 0.1},
        }

    change = {
        "ApproximateCreationDateTime": 1795274236 + number // 1_000,
        "Keys": {"orderid": {"S": f"{number % 10_000:04d}"}},
        "NewImage": order("SHIPPED"),
        **({"OldImage": order("PLACED")} if images == 2 else {}),
        "SequenceNumber": str(4421584500000000017450439091 + number),
        "SizeBytes": 260,
        "StreamViewType": "NEW_AND_OLD_IMAGES",
    }
    record = {
        "eventID": f"{draw.getrandbits(128):032x}",
        "eventName": "MODIFY",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/OrderTable/stream/2026-11-21T00:00:00.000",
        "dynamodb": change,
    }
    return json.dumps(record, separators=(",", ":")).encode()
