"""The table of orders in DynamoDB: made, looked at, and written to, one by one or in batches."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from catchment.aws_client import aws_client
from catchment.aws_errors import THROTTLING, translated
from catchment.demo.gadget_choices import Order, OrderChange
from catchment.errors import CatchmentError, ConfigError, SourceUnavailable

KEY = "orderid"
STREAM_VIEW = "NEW_AND_OLD_IMAGES"
BATCH = 25
"""Writes in a BatchWriteItem at most."""
ACTIVE_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0
LAST_TRIES_SECONDS = 5.0
"""How long a throttled write is tried on when everything should end."""


class OrderTable:
    """A table with the key `orderid`, written to in order: of two changes to one order the later one wins.

    region: None for AWS's own chain. A throttled write is repeated, with growing pauses, until it is taken.
    """

    def __init__(self, name: str = "OrderTable", region: str | None = None) -> None:
        self.name = name
        self.throttled = 0
        """How often AWS asked for patience."""
        self._client = aws_client("dynamodb", region)
        self._region = self._client.meta.region_name
        from boto3.dynamodb.types import TypeSerializer

        self._typed = TypeSerializer().serialize

    def create(self) -> None:
        """Make it, paid by request, with a stream of new and old images; a table that is there is looked at only.

        Raises `ConfigError` when the one that is there has another key or no such stream.
        """
        with self._speaking("creating"), suppress(self._client.exceptions.ResourceInUseException):
            self._client.create_table(
                TableName=self.name,
                KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
                StreamSpecification={"StreamEnabled": True, "StreamViewType": STREAM_VIEW},
            )
        deadline = time.monotonic() + ACTIVE_SECONDS
        while (found := self._describe())["TableStatus"] not in ("ACTIVE", "UPDATING"):
            if time.monotonic() > deadline:
                raise SourceUnavailable(f"DynamoDB's table {self.name} is {found['TableStatus']}; try again later.")
            time.sleep(0.2)
        self._check_key(found)
        if self._stream_view(found) != STREAM_VIEW:
            raise ConfigError(
                f"DynamoDB's table {self.name} is there, but has no stream of new and old images. Switch it on: aws "
                f"dynamodb update-table --table-name {self.name} --stream-specification "
                f"StreamEnabled=true,StreamViewType={STREAM_VIEW}"
            )

    def check(self) -> str | None:
        """Is it there, with the right key? Returns its stream's view type, None when it has no stream.

        Raises `ConfigError` when it is not there or has another key.
        """
        found = self._describe()
        self._check_key(found)
        return self._stream_view(found)

    def put(self, order: Order) -> None:
        """Write one order, over what was there. A price is a Decimal: floats are refused with TypeError."""
        item = self._item(order)
        self._until_taken(lambda: self._client.put_item(TableName=self.name, Item=item), threading.Event())

    def write(self, changes: Sequence[OrderChange], stop: threading.Event) -> int:
        """Write one change by itself and several in batches; returns how many are written, from the first on.

        All are, unless `stop` is set while AWS throttles: then they are tried for some seconds more.
        """
        done = 0
        for batch in batches(changes):
            if not (self._write_one(batch[0], stop) if len(batch) == 1 else self._write_batch(batch, stop)):
                break
            done += len(batch)
        return done

    def _write_one(self, change: OrderChange, stop: threading.Event) -> bool:
        if change.kind == "remove":
            key = self._key(change)
            return self._until_taken(lambda: self._client.delete_item(TableName=self.name, Key=key), stop)
        item = self._item(change.order)
        return self._until_taken(lambda: self._client.put_item(TableName=self.name, Item=item), stop)

    def _write_batch(self, batch: Sequence[OrderChange], stop: threading.Event) -> bool:
        left: list[dict[str, Any]] = [
            {"DeleteRequest": {"Key": self._key(change)}}
            if change.kind == "remove"
            else {"PutRequest": {"Item": self._item(change.order)}}
            for change in batch
        ]

        def call() -> bool:
            answer = self._client.batch_write_item(RequestItems={self.name: left})
            left[:] = answer.get("UnprocessedItems", {}).get(self.name, [])
            return not left

        return self._until_taken(call, stop)

    def _until_taken(self, call: Callable[[], Any], stop: threading.Event) -> bool:
        """Repeat a call while it is throttled or returns False. False when there was no more time for it."""
        from botocore.exceptions import ClientError

        pause, give_up = FIRST_PAUSE_SECONDS, float("inf")
        while True:
            with self._speaking("writing to"):
                try:
                    if call() is not False:
                        return True
                except ClientError as error:
                    if error.response["Error"]["Code"] not in THROTTLING:
                        raise
            self.throttled += 1
            if stop.is_set():
                give_up = min(give_up, time.monotonic() + LAST_TRIES_SECONDS)
                time.sleep(min(pause, 0.2))
            else:
                stop.wait(pause * (0.5 + random.random()))
            if time.monotonic() > give_up:
                return False
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _item(self, order: Order) -> dict[str, Any]:
        return {name: self._typed(value) for name, value in order.items()}

    def _key(self, change: OrderChange) -> dict[str, Any]:
        return {KEY: {"S": change.key}}

    def _describe(self) -> dict[str, Any]:
        with self._speaking("looking at"):
            found: dict[str, Any] = self._client.describe_table(TableName=self.name)["Table"]
        return found

    def _check_key(self, found: dict[str, Any]) -> None:
        schema = {one["AttributeName"]: one["KeyType"] for one in found["KeySchema"]}
        types = {one["AttributeName"]: one["AttributeType"] for one in found["AttributeDefinitions"]}
        if schema != {KEY: "HASH"} or types[KEY] != "S":
            raise ConfigError(
                f"DynamoDB's table {self.name} has another key than `{KEY}` (text); choose another table."
            )

    @staticmethod
    def _stream_view(found: dict[str, Any]) -> str | None:
        stream = found.get("StreamSpecification", {})
        return str(stream["StreamViewType"]) if stream.get("StreamEnabled") else None

    def _speaking(self, doing: str) -> AbstractContextManager[None]:
        def known(code: str, message: str) -> CatchmentError | None:
            if code == "ResourceNotFoundException":
                where = f"{self._region} of this account"
                return ConfigError(f"There is no DynamoDB table {self.name} in {where}. Create it with --create.")
            return None

        return translated(f"{doing} DynamoDB's table {self.name} in {self._region}", known)


def batches(changes: Iterable[OrderChange]) -> Iterator[list[OrderChange]]:
    """In order, up to 25 in each, never two of one order: BatchWriteItem refuses these, and has no order within."""
    batch: list[OrderChange] = []
    keys: set[str] = set()
    for change in changes:
        if len(batch) == BATCH or change.key in keys:
            yield batch
            batch, keys = [], set()
        batch.append(change)
        keys.add(change.key)
    if batch:
        yield batch
