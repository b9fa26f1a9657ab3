"""A Kinesis event source mapping on this machine: batches of a stream given to a function, shard by shard, in order.

What the stand-in's own mapping lacks is here: `batchItemFailures`, bisecting, retries, age, on-failure destinations.
"""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from catchment.aws.local.checkpoint import Checkpoint, Pages
from catchment.aws.local.counters import Counters, RunnerSnapshot
from catchment.aws.local.failure_destination import FailureDestination
from catchment.aws.local.function import PAYLOAD_BYTES, function_of
from catchment.aws.local.kinesis_intake import identity_of, stream_name
from catchment.aws.local.shard_pages import ShardPages
from catchment.aws.local.stream_batch import GivenUp, Interrupted, RetryRules, handle
from catchment.aws_client import aws_client
from catchment.errors import ConfigError, Retriable
from catchment.failpoint import reach
from catchment.sources.kinesis.stream import KinesisStream

LONGEST_WAIT_SECONDS = 0.5
RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_RECORD_ENVELOPE_BYTES = 700


@dataclass(frozen=True, slots=True)
class MappingRules:
    """What a mapping is told to do.

    window_seconds: a batch is begun at the latest after so long. start: TRIM_HORIZON or LATEST, the first time.
    """

    batch_size: int = 100
    window_seconds: float = 0
    rules: RetryRules = field(default_factory=RetryRules)
    on_failure: str | None = None
    start: str = "TRIM_HORIZON"
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= 10_000:
            raise ConfigError("A batch has 1 to 10,000 records.")
        if not 0 <= self.window_seconds <= 300:
            raise ConfigError("A batching window has 0 to 300 seconds.")
        if not -1 <= self.rules.retries <= 10_000:
            raise ConfigError("A mapping tries again -1 (without end) to 10,000 times.")
        if not -1 <= self.rules.age_seconds <= 604_800:
            raise ConfigError("A record's age is limited to -1 (any) to 604,800 seconds.")

    @classmethod
    def described(cls, mapping_id: str) -> tuple[Self, str, str]:
        """As GetEventSourceMapping tells of one that exists; with the ARNs of its stream and its function."""
        from botocore.exceptions import ClientError, ParamValidationError

        try:
            found = aws_client("lambda").get_event_source_mapping(UUID=mapping_id)
        except ParamValidationError as error:
            raise ConfigError(f"{mapping_id} is not the UUID of an event source mapping.") from error
        except ClientError as error:
            code = error.response["Error"]["Code"]
            raise ConfigError(f"The event source mapping {mapping_id} cannot be described: {code}.") from error
        rules = RetryRules(
            found.get("MaximumRetryAttempts", -1),
            bool(found.get("BisectBatchOnFunctionError")),
            "ReportBatchItemFailures" in (found.get("FunctionResponseTypes") or ()),
            found.get("MaximumRecordAgeInSeconds", -1),
        )
        destination = ((found.get("DestinationConfig") or {}).get("OnFailure") or {}).get("Destination")
        mapping = cls(
            found.get("BatchSize", 100),
            found.get("MaximumBatchingWindowInSeconds", 0),
            rules,
            destination or None,
            "LATEST" if found.get("StartingPosition") == "LATEST" else "TRIM_HORIZON",
            mapping_id,
        )
        return mapping, found["EventSourceArn"], found["FunctionArn"]


@dataclass(slots=True)
class _Waiting:
    """What of a shard is not in a batch yet: records, and the page of each."""

    since: float
    records: deque[tuple[Mapping[str, Any], int]] = field(default_factory=deque)
    size: int = 0


class EventSourceMapping:
    """Runs one mapping. `run` once, in one thread; `snapshot` from any.

    function: as `function_of` takes it. state: a directory; one process at a time has it, `LeaseHeld` otherwise. The
    checkpoint moves when a batch was handled, or given up and its destination told: at least once.
    """

    def __init__(
        self,
        stream: str,
        function: str,
        state: Path,
        mapping: MappingRules | None = None,
    ) -> None:
        self.mapping = mapping or MappingRules()
        self.stream = stream_name(stream)
        self._identity, self._arn = identity_of(self.stream)
        self._region = self._arn.split(":")[3]
        self._function = function_of(function)
        self._counters = Counters()
        self._destination = None
        if self.mapping.on_failure is not None:
            self._destination = FailureDestination(
                self.mapping.on_failure, self.mapping.id, self._arn, self._function.arn
            )
        self._checkpoint = Checkpoint(state, f"mapping-{self.stream}")
        self._tracked = Pages()
        self._shards: dict[str, _Waiting] = {}
        self._stop = threading.Event()
        self.ready = threading.Event()
        """Set when it reads."""

    def snapshot(self) -> RunnerSnapshot:
        """What was done so far. `put` were handled, `failed` given up; `retried` counts invocations that failed."""
        return self._counters.snapshot()

    def run(self, stop: threading.Event, *, idle_seconds: float | None = None) -> RunnerSnapshot:
        """Invoke until `stop` is set; a batch that is under way then is finished, or read again by the next run.

        idle_seconds: end also when so long nothing came.
        """
        self._stop = stop
        saved = self._checkpoint.read()
        places = saved.get("places") if saved.get("of") == self._identity else None
        start = "TRIM_HORIZON" if saved else self.mapping.start
        pages = ShardPages(KinesisStream(self.stream), places, self._counters, start=start)
        try:
            self.ready.set()
            self._loop(pages, idle_seconds)
        except Interrupted:
            self._counters.note("the batch that was under way is read again by the next run")
        except Retriable:
            if not stop.is_set():
                raise
        finally:
            pages.close()
            self._checkpoint.close()
        return self.snapshot()

    def _loop(self, pages: ShardPages, idle_seconds: float | None) -> None:
        last = time.monotonic()
        while not self._stop.is_set():
            page = pages.next(self._pause())
            if page is not None:
                last = time.monotonic()
                number = self._tracked.begin(pages.places(), len(page.records))
                self._counters.add(read=len(page.records))
                self._arrive(page.shard, page.records, number)
                if page.ended and page.shard in self._shards:
                    # Before anything of its children, which do not wait for the window when they fill a batch.
                    self._shards[page.shard].since = float("-inf")
            elif self._tracked.begun == 0 and pages.places():
                # So that a run that got no record leaves no gap after LATEST.
                self._tracked.begin(pages.places(), 0)
            for shard in list(self._shards):
                while self._due(shard) and not self._stop.is_set():
                    self._handle(shard)
            self._save()
            idle = idle_seconds is not None and not self._shards and time.monotonic() - last > idle_seconds
            if idle and (pages.over or pages.caught_up(last)):
                return

    def _arrive(self, shard: str, records: Sequence[Mapping[str, Any]], page: int) -> None:
        if not records:
            return
        waiting = self._shards.setdefault(shard, _Waiting(time.monotonic()))
        waiting.records.extend((one, page) for one in records)
        waiting.size += sum(map(_event_bytes, records))

    def _pause(self) -> float:
        due = [one.since + self.mapping.window_seconds - time.monotonic() for one in self._shards.values()]
        return max(0.0, min([LONGEST_WAIT_SECONDS, *due]))

    def _due(self, shard: str) -> bool:
        waiting = self._shards.get(shard)
        if waiting is None:
            return False
        full = len(waiting.records) >= self.mapping.batch_size or waiting.size >= PAYLOAD_BYTES - 4096
        return full or time.monotonic() - waiting.since >= self.mapping.window_seconds

    def _handle(self, shard: str) -> None:
        batch, numbers = self._next_batch(shard)
        handle(
            batch,
            lambda records: self._function.invoke(self._event(shard, records)),
            self.mapping.rules,
            give_up=lambda given_up: self._give_up(shard, given_up),
            pause=lambda attempt: not self._stop.wait(_retry_seconds(attempt)),
            age=lambda record: time.time() - record["ApproximateArrivalTimestamp"].timestamp(),
            failed=lambda why: self._failed(shard, batch, why),
        )
        self._counters.note("")
        self._counters.add(put=len(batch))
        for record, number in zip(batch, numbers, strict=True):
            self._counters.arrived(int(record["ApproximateArrivalTimestamp"].timestamp() * 1000))
            self._tracked.done(number)

    def _failed(self, shard: str, batch: Sequence[Mapping[str, Any]], why: str) -> None:
        self._counters.add(retried=1)
        self._counters.note(f"a batch fails that begins at {batch[0]['SequenceNumber']} of {shard}: {why}")

    def _next_batch(self, shard: str) -> tuple[list[Mapping[str, Any]], list[int]]:
        waiting = self._shards[shard]
        batch: list[Mapping[str, Any]] = []
        numbers: list[int] = []
        size = 0
        while waiting.records and len(batch) < self.mapping.batch_size:
            more = _event_bytes(waiting.records[0][0])
            if batch and size + more > PAYLOAD_BYTES - 4096:
                break
            record, number = waiting.records.popleft()
            batch.append(record)
            numbers.append(number)
            size += more
        waiting.size -= size
        if not waiting.records:
            del self._shards[shard]
        return batch, numbers

    def _give_up(self, shard: str, given_up: GivenUp) -> None:
        if self._destination is not None:
            self._destination.tell(given_up, shard, self._event(shard, given_up.records), self._stop)
        self._counters.add(failed=len(given_up.records), put=-len(given_up.records))

    def _event(self, shard: str, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "Records": [
                {
                    "kinesis": {
                        "kinesisSchemaVersion": "1.0",
                        "partitionKey": one["PartitionKey"],
                        "sequenceNumber": one["SequenceNumber"],
                        "data": base64.b64encode(one["Data"]).decode(),
                        "approximateArrivalTimestamp": one["ApproximateArrivalTimestamp"].timestamp(),
                    },
                    "eventSource": "aws:kinesis",
                    "eventVersion": "1.0",
                    "eventID": f"{shard}:{one['SequenceNumber']}",
                    "eventName": "aws:kinesis:record",
                    "invokeIdentityArn": self._function.arn,
                    "awsRegion": self._region,
                    "eventSourceARN": self._arn,
                }
                for one in records
            ]
        }

    def _save(self) -> None:
        settled = self._tracked.settled()
        if settled is not None:
            reach("before_acknowledge")
            self._checkpoint.write({"of": self._identity, "places": dict(settled)})


def _event_bytes(record: Mapping[str, Any]) -> int:
    """What a record takes of an event, at most."""
    return 4 * ((len(record["Data"]) + 2) // 3) + len(record["PartitionKey"]) * 6 + _RECORD_ENVELOPE_BYTES


def _retry_seconds(attempt: int) -> float:
    if attempt == 0:
        return 0.0
    return RETRY_SECONDS[min(attempt, len(RETRY_SECONDS)) - 1]
