"""Change records of a DynamoDB stream as entries of a Kinesis stream, as a pipe puts them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from catchment.aws.local.ordered_put import RECORD_BYTES, Entry, partition_key
from catchment.errors import ConfigError
from catchment.formats.stream_record import event_of

PATH_LETTERS = 256


class TooLarge(ValueError):
    """A record that no Kinesis record holds. The message names no value."""


class KeyPath:
    """A path into an event that gives its partition key: `$.dynamodb.Keys.orderid.S`."""

    def __init__(self, path: str) -> None:
        """Raises `ConfigError` when it is no such path."""
        steps = path.split(".")
        if len(steps) < 2 or steps[0] != "$" or not all(steps) or len(path) > PATH_LETTERS:
            raise ConfigError(f"{path} is no path to a partition key; write it as $.dynamodb.Keys.orderid.S.")
        self.path = path
        self._steps = steps[1:]

    def of(self, event: Mapping[str, Any]) -> str:
        """The partition key of an event. Raises `ConfigError` when the path leads nowhere."""
        found: Any = event
        for step in self._steps:
            if not isinstance(found, Mapping) or step not in found:
                raise ConfigError(f"The path {self.path} leads to nothing in a change record. Check --partition-key.")
            found = found[step]
        if not isinstance(found, str):
            raise ConfigError(f"The path {self.path} leads to no text in a change record. Check --partition-key.")
        return partition_key(found)

    @classmethod
    def of_table(cls, description: Mapping[str, Any]) -> KeyPath:
        """The hash key of a table, as DescribeTable tells of it."""
        name = next(one["AttributeName"] for one in description["KeySchema"] if one["KeyType"] == "HASH")
        types = {one["AttributeName"]: one["AttributeType"] for one in description["AttributeDefinitions"]}
        return cls(f"$.dynamodb.Keys.{name}.{types[name]}")


def change_entry(record: Mapping[str, Any], arn: str, region: str, path: KeyPath) -> Entry:
    """A record of GetRecords as an entry. When it would not fit, it goes without its old image.

    Raises `TooLarge` when it does not fit even so.
    """
    return event_entry(event_of(record, arn, region), path)


def event_entry(event: dict[str, Any], path: KeyPath) -> Entry:
    """An event as an entry; as `change_entry`."""
    key = path.of(event)
    entry = Entry(key, _line(event), _event_ms(event))
    if entry.size > RECORD_BYTES and "NewImage" in event["dynamodb"] and "OldImage" in event["dynamodb"]:
        without = {name: value for name, value in event["dynamodb"].items() if name != "OldImage"}
        entry = Entry(key, _line({**event, "dynamodb": without}), entry.event_ms)
    if entry.size > RECORD_BYTES:
        raise TooLarge("larger than the 1 MiB of a Kinesis record")
    return entry


def _line(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def _event_ms(event: Mapping[str, Any]) -> int | None:
    created = event["dynamodb"].get("ApproximateCreationDateTime")
    return None if created is None else int(created * 1000)
