"""Buffers of records on their way to S3, and the objects that become of them.

Source: AWS.md 3.2. One buffer a partition, one more for each kind of error; an object's times are those of its oldest
record's arrival.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from catchment.aws.local.checkpoint import Pages
from catchment.aws.local.counters import Counters
from catchment.aws.local.delivery_stream import MIB, DeliveryStreamConfig
from catchment.aws.local.error_output import PARTITIONS_EXCEEDED, PROCESSING_FAILED, error_line
from catchment.aws.local.object_name import object_name
from catchment.aws.local.patience import now_ms, patiently
from catchment.aws.local.transformation import ArrivedRecord, Refused, Transformed
from catchment.failpoint import reach

_GZIP_LEVEL = 5


@dataclass(slots=True)
class _Buffer:
    """What one object will hold."""

    since: float
    oldest_ms: int
    partition: Mapping[str, str] | None = None
    error_type: str | None = None
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    pages: Counter[int] = field(default_factory=Counter)
    arrivals: list[int] = field(default_factory=list)

    def add(self, data: bytes, record: ArrivedRecord) -> None:
        self.parts.append(data)
        self.size += len(data)
        self.pages[record.page] += 1
        self.arrivals.append(record.arrival_ms)
        self.oldest_ms = min(self.oldest_ms, record.arrival_ms)


class Delivery:
    """Takes records, stores objects, and tells `pages` what is stored."""

    def __init__(self, config: DeliveryStreamConfig, s3: Any, pages: Pages, counters: Counters) -> None:
        self._config = config
        self._s3 = s3
        self._pages = pages
        self._counters = counters
        self._function_arn: str | None = None
        self._prefix, self._error_prefix = config.delivery_prefix, config.failure_prefix
        self._keys = self._prefix.partition_keys
        self._limit = int(config.buffer_mib * MIB)
        self._buffers: dict[tuple[str, ...], _Buffer] = {}

    def names_function(self, arn: str) -> None:
        """Error records name this function from now on."""
        self._function_arn = arn

    def take(self, one: Transformed, stop: threading.Event) -> None:
        """A record for its partition. Stores the object that it fills."""
        partition = {key: one.partition[key] for key in self._keys if one.partition.get(key)}
        if len(partition) < len(self._keys):
            missing = next(key for key in self._keys if key not in partition)
            self.refuse(_no_partition(one.record, missing), stop)
            return
        name = ("partition", *partition.values())
        if name not in self._buffers and self._partitions() >= self._config.active_partitions and self._keys:
            self.refuse(_too_many(one.record), stop, PARTITIONS_EXCEEDED)
            return
        self._add(name, one.data + self._config.append_delimiter.encode(), one.record, stop, partition=partition)

    def refuse(self, one: Refused, stop: threading.Event, error_type: str = PROCESSING_FAILED) -> None:
        """A record for the error output."""
        line = error_line(one, self._function_arn, now_ms())
        self._counters.add(failed=1)
        self._add(("error", error_type), line, one.record, stop, error_type=error_type)

    def drop(self, record: ArrivedRecord) -> None:
        """A record that goes nowhere, because the function said so."""
        self._pages.done(record.page)
        self._counters.add(dropped=1)

    @property
    def buffered_bytes(self) -> int:
        """What waits to be stored."""
        return sum(one.size for one in self._buffers.values())

    def due_in(self) -> float | None:
        """Seconds until the next object is due; None without a buffer."""
        if not self._buffers:
            return None
        oldest = min(one.since for one in self._buffers.values())
        return max(0.0, oldest + self._config.buffer_seconds - time.monotonic())

    def store_due(self, stop: threading.Event, *, everything: bool = False) -> None:
        """Store what is due by time, or all of it. Raises `SinkRefused`, or `SinkUnavailable` once `stop` is set."""
        before = time.monotonic() - self._config.buffer_seconds
        for name in [name for name, one in self._buffers.items() if everything or one.since <= before]:
            self._store(name, stop)

    def _partitions(self) -> int:
        return sum(name[0] == "partition" for name in self._buffers)

    def _add(
        self,
        name: tuple[str, ...],
        data: bytes,
        record: ArrivedRecord,
        stop: threading.Event,
        *,
        partition: Mapping[str, str] | None = None,
        error_type: str | None = None,
    ) -> None:
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = _Buffer(time.monotonic(), record.arrival_ms, partition, error_type)
            self._buffers[name] = buffer
        buffer.add(data, record)
        if buffer.size >= self._limit:
            self._store(name, stop)

    def _store(self, name: tuple[str, ...], stop: threading.Event) -> None:
        buffer = self._buffers[name]
        key, request = self._object(buffer)
        # An object that was stored although its answer was lost is stored again under the same name.
        put: Callable[[], Any] = lambda: self._s3.put_object(Bucket=self._config.bucket, Key=key, **request)  # noqa: E731
        reach("before_commit")
        patiently(put, f"PutObject into the bucket {self._config.bucket}", stop, self._counters)
        reach("after_commit")
        del self._buffers[name]
        for page, records in buffer.pages.items():
            self._pages.done(page, records)
        self._counters.add(objects=1, bytes=buffer.size)
        if buffer.error_type is None:
            self._counters.add(put=len(buffer.parts))
            for arrival in buffer.arrivals:
                self._counters.arrived(arrival)

    def _object(self, buffer: _Buffer) -> tuple[str, dict[str, Any]]:
        config, instant = self._config, datetime.fromtimestamp(buffer.oldest_ms / 1000, UTC)
        request: dict[str, Any] = {"Body": b"".join(buffer.parts), "ContentType": "application/octet-stream"}
        if config.compression == "GZIP":
            request["Body"] = gzip.compress(request["Body"], _GZIP_LEVEL, mtime=0)
            request["ContentEncoding"] = "gzip"
        if buffer.error_type is not None:
            prefix = self._error_prefix.evaluate(instant, error_type=buffer.error_type)
        else:
            prefix = self._prefix.evaluate(instant, partition=buffer.partition)
        return prefix + object_name(config.name, config.version, instant, config.extension), request


def _no_partition(record: ArrivedRecord, key: str) -> Refused:
    message = f"The function returned no value for the partition key {key}."
    return Refused(record, "DynamicPartitioning.MetadataExtractionFailed", message, 1)


def _too_many(record: ArrivedRecord) -> Refused:
    message = "The number of active partitions is over its limit."
    return Refused(record, "DynamicPartitioning.ActivePartitionsLimitExceeded", message, 1)
