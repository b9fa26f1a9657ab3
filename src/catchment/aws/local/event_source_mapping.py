"""A Kinesis event source mapping on this machine: batches of a stream given to a function, shard by shard, in order.

What the stand-in's own mapping lacks is here: `batchItemFailures`, bisecting, retries, age, on-failure destinations.
"""

from __future__ import annotations

import base64
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from catchment.aws.local.checkpoint import Checkpoint
from catchment.aws.local.counters import Counters, RunnerSnapshot
from catchment.aws.local.failure_destination import FailureDestination
from catchment.aws.local.function import function_of
from catchment.aws.local.kinesis_intake import identity_of, stream_name
from catchment.aws.local.shard_backlog import ShardBacklog
from catchment.aws.local.shard_pages import ShardPages
from catchment.aws.local.stream_batch import Batch, GivenUp, RetryRules
from catchment.aws_client import aws_client
from catchment.errors import ConfigError, Retriable
from catchment.failpoint import reach
from catchment.sources.kinesis.stream import KinesisStream
from catchment.sources.shards import SHARD_END, TRIM_HORIZON, Page

LONGEST_WAIT_SECONDS = 0.5
RETRY_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)


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


class EventSourceMapping:
    """Runs one mapping. `run` once, in one thread; `snapshot` from any.

    function: as `function_of` takes it. state: a directory; one process at a time has it, `LeaseHeld` otherwise. A
    shard's checkpoint moves when a batch was handled, or given up and its destination told: at least once.

    Shards take turns, invocation by invocation. One that fails waits for its next attempt, and only its children wait
    for it; of what it has more is read only once there is no batch's worth of it here.
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
        self._kept: Mapping[str, str] | None = None
        self._backlogs: dict[str, ShardBacklog] = {}
        self._stop = threading.Event()
        self.ready = threading.Event()
        """Set when it reads."""

    def snapshot(self) -> RunnerSnapshot:
        """What was done so far. `put` were handled, `failed` given up; `retried` counts invocations that failed."""
        return self._counters.snapshot()

    def run(self, stop: threading.Event, *, idle_seconds: float | None = None) -> RunnerSnapshot:
        """Invoke until `stop` is set; a batch that is under way then is finished, or read again by the next run.

        idle_seconds: end also when so long nothing came, and nothing was to be done.
        """
        self._stop = stop
        saved = self._checkpoint.read()
        places = saved.get("places") if saved.get("of") == self._identity else None
        start = "TRIM_HORIZON" if saved else self.mapping.start
        self._kept = places
        pages = ShardPages(KinesisStream(self.stream), places, self._counters, start=start)
        try:
            self.ready.set()
            self._loop(pages, idle_seconds)
            if self._backlogs:
                self._counters.note("what was under way is read again by the next run")
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
            page = pages.next(self._pause(), lambda shard: self._takes(shard, pages))
            if page is not None:
                last = time.monotonic()
                self._counters.add(read=len(page.records))
                self._arrive(page, pages)
            for shard, backlog in list(self._backlogs.items()):
                if not self._stop.is_set() and self._wait(backlog) == 0.0:
                    self._invoke(shard, backlog)
                    last = time.monotonic()
            self._save(pages.places())
            idle = idle_seconds is not None and not self._backlogs and time.monotonic() - last > idle_seconds
            if idle and (pages.over or pages.caught_up(last)):
                return

    def _takes(self, shard: str, pages: ShardPages) -> bool:
        """May more of this shard come? Not before all of its parents is done."""
        backlog = self._backlogs.get(shard)
        if backlog is not None:
            return not backlog.full(self.mapping.batch_size)
        return not any(parent in self._backlogs for parent in pages.parents(shard))

    def _arrive(self, page: Page, pages: ShardPages) -> None:
        if page.shard not in self._backlogs:
            if not page.records:
                return
            self._backlogs[page.shard] = ShardBacklog(pages.before.get(page.shard, TRIM_HORIZON))
        place = pages.places().get(page.shard, SHARD_END)
        self._backlogs[page.shard].arrive(page.records, place, ended=page.ended)

    def _wait(self, backlog: ShardBacklog) -> float | None:
        return backlog.wait(self.mapping.batch_size, self.mapping.window_seconds)

    def _pause(self) -> float:
        waits = [wait for one in self._backlogs.values() if (wait := self._wait(one)) is not None]
        return min([LONGEST_WAIT_SECONDS, *waits])

    def _invoke(self, shard: str, backlog: ShardBacklog) -> None:
        """One invocation with the shard's batch."""
        batch = backlog.batch = backlog.batch or self._next_batch(shard, backlog)
        attempt = batch.attempt(lambda records: self._function.invoke(self._event(shard, records)))
        if attempt is not None:
            backlog.due = time.monotonic() + _retry_seconds(attempt)
            return
        self._counters.add(put=len(backlog.under_way))
        for record in backlog.under_way:
            self._counters.arrived(int(record["ApproximateArrivalTimestamp"].timestamp() * 1000))
        backlog.done()
        if backlog.empty:
            del self._backlogs[shard]
        self._counters.note(next((one.trouble for one in self._backlogs.values() if one.trouble), ""))

    def _next_batch(self, shard: str, backlog: ShardBacklog) -> Batch:
        records = backlog.take(self.mapping.batch_size)
        backlog.due = float("-inf")

        def failed(why: str) -> None:
            backlog.trouble = f"a batch fails that begins at {records[0]['SequenceNumber']} of {shard}: {why}"
            self._counters.add(retried=1)
            self._counters.note(backlog.trouble)

        return Batch(
            records,
            self.mapping.rules,
            give_up=lambda given_up: self._give_up(shard, given_up),
            age=lambda record: time.time() - record["ApproximateArrivalTimestamp"].timestamp(),
            failed=failed,
        )

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

    def _save(self, places: dict[str, str]) -> None:
        """Keep how far each shard is done. Not while one that ended is not: `places` has its children already."""
        if not places or any(one.ended for one in self._backlogs.values()):
            return
        places.update((shard, one.place) for shard, one in self._backlogs.items())
        if places != self._kept:
            reach("before_acknowledge")
            self._checkpoint.write({"of": self._identity, "places": places})
            self._kept = places


def _retry_seconds(attempt: int) -> float:
    if attempt == 0:
        return 0.0
    return RETRY_SECONDS[min(attempt, len(RETRY_SECONDS)) - 1]
