"""The latest version of each item that the lake has, or will have: of its objects in S3, and of what is on its way.

A record that Kinesis still keeps counts as well: it may be in a Firehose's buffer, and be an object only later.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catchment.aws.local.counters import Counters
from catchment.aws.local.s3_place import S3Place
from catchment.aws.local.shard_pages import ShardPages
from catchment.aws_client import aws_client
from catchment.errors import SourceUnavailable
from catchment.formats.clean_record import DEFAULT_TIMESTAMPS, RecordCleaner, cleaner_for
from catchment.formats.dynamodb_json import parse_json
from catchment.formats.stream_record import PoisonRecord
from catchment.sources.kinesis.stream import KinesisStream

_SETS = frozenset({"SS", "NS", "BS"})


@dataclass(frozen=True, slots=True)
class Known:
    """The latest version of one item, as `gadget_sales` has it. digest: None when it was removed.

    number: -1 where there is none, which is the least, as 0 is.
    """

    label: str
    number: int
    time: str
    digest: bytes | None

    @property
    def order(self) -> tuple[str, int, str]:
        """What the latest one has most of: the label, then the sequence number, then the time of the event."""
        return self.label, max(self.number, 0), self.time


class LakeRecords:
    """Gathers latest versions, key by key. In memory: about 200 bytes a key."""

    def __init__(self, keys: Sequence[str], cleaner: RecordCleaner) -> None:
        self._keys = tuple(keys)
        self._cleaner = cleaner
        self.latest: dict[str, Known] = {}
        self.lines = 0
        self.unreadable = 0

    def read_objects(self, bucket: str, prefix: str, apart: Sequence[str], stop: threading.Event) -> None:
        """All objects under a prefix, but not those under one of `apart`."""
        s3 = aws_client("s3")
        place = S3Place(bucket, prefix)
        for one in place.objects(s3, stop):
            if not one["Key"].startswith(tuple(apart)):
                for line in place.lines(s3, one["Key"], stop):
                    self.add(line)

    def read_stream(self, stream: str, stop: threading.Event) -> None:
        """All that a Kinesis stream keeps, up to now. Raises `SourceUnavailable` when `stop` is set before the end."""
        began = time.monotonic()
        pages = ShardPages(KinesisStream(stream), None, Counters(), start="TRIM_HORIZON")
        try:
            while True:
                page = pages.next(0.2)
                for record in page.records if page is not None else ():
                    self._add_raw(bytes(record["Data"]))
                if page is None and (pages.over or pages.caught_up(began)):
                    return
                if stop.is_set():
                    raise SourceUnavailable(f"The stream {stream} was not read to its end.")
        finally:
            pages.close()

    def add(self, line: bytes) -> None:
        """A clean record."""
        if not line.strip():
            return
        self.lines += 1
        try:
            document = parse_json(line.decode())
            item = self._cleaner.restore(line)
            key = key_text({name: item[name] for name in self._keys})
        except (ValueError, KeyError, AttributeError):
            self.unreadable += 1
            return
        removed = document.get("event_type") == "REMOVE"
        known = Known(
            document.get("stream_label") or "",
            int(document.get("sequence_number") or -1),
            str(document.get("event_time") or ""),
            None if removed else item_digest(item),
        )
        if key not in self.latest or self.latest[key].order < known.order:
            self.latest[key] = known

    def _add_raw(self, data: bytes) -> None:
        try:
            clean = self._cleaner.of_data(data, None)
        except PoisonRecord:
            self.unreadable += 1
            return
        if clean is not None:
            self.add(clean.line)


def cleaner_of_environment() -> RecordCleaner:
    """The cleaner that our handlers have with this environment."""
    return cleaner_for(os.environ.get("TIMESTAMP_ATTRIBUTES", DEFAULT_TIMESTAMPS))


def key_text(keys: Mapping[str, Any]) -> str:
    """The typed key attributes of an item, as one text."""
    return json.dumps(keys, sort_keys=True)


def item_digest(item: Mapping[str, Any]) -> bytes:
    """The same for the same item, whatever the order of its attributes and of what is in its sets."""
    return hashlib.blake2b(json.dumps(_ordered(item), sort_keys=True).encode(), digest_size=16).digest()


def _ordered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: sorted(one) if name in _SETS and _is_set(one) else _ordered(one) for name, one in value.items()}
    return [_ordered(one) for one in value] if isinstance(value, list) else value


def _is_set(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
