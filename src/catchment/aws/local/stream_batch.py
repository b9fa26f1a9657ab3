"""One batch of a Kinesis event source mapping, brought to its end: handled, in parts if need be, or given up.

Source: AWS.md 3.6 and 6; Lambda developer guide, "Using Lambda to process records from Kinesis".

* An answer with `batchItemFailures`: the lowest sequence number in it is the checkpoint; everything from it is tried
  again, and what comes before it is done. An identifier that is empty or of no record of the batch: all of it failed.
* An error: with bisecting the batch is cut in two halves, each with its retries anew; else all of it is tried again.
* After the retries it is given up, and the on-failure destination told. A record that a handler keeps reporting is
  given up alone: what is behind it in the batch goes on. How retries count across partial progress is our choice: each
  record that gets ahead begins them anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catchment.aws.local.function import FunctionFailed

EXHAUSTED = "RetryAttemptsExhausted"
TOO_OLD = "MaximumRecordAgeExceeded"

Event = dict[str, Any]
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Records that were not handled. condition: why. attempts: of the last part. function_error: it raised."""

    records: Records
    condition: str
    attempts: int
    function_error: bool


@dataclass(frozen=True, slots=True)
class RetryRules:
    """How a mapping tries again. retries: -1 for without end; age in seconds, -1 for any."""

    retries: int = -1
    bisect: bool = False
    report_failures: bool = True
    age_seconds: int = -1


class Batch:
    """Records of one shard, in order, on their way to their end: one attempt after the other, until nothing is left.

    give_up: is told of what was given up. failed: of each invocation that raised or reported failures, and why, without
    values. age: of a record, in seconds.
    """

    def __init__(
        self,
        records: Records,
        rules: RetryRules,
        *,
        give_up: Callable[[GivenUp], None],
        age: Callable[[Mapping[str, Any]], float],
        failed: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._rules = rules
        self._give_up = give_up
        self._age = age
        self._failed = failed
        self._work: deque[tuple[Records, int]] = deque([(records, 0)])

    def attempt(self, invoke: Callable[[Records], Any]) -> int | None:
        """Invoke the function once; the number of the attempt that is to follow, None when all is done.

        invoke: the function, with the event of these records; raises `FunctionFailed`.
        """
        while self._work:
            records, attempts = self._work.popleft()
            records = _young(records, attempts, self._rules, self._give_up, self._age)
            if records:
                self._work.extendleft(reversed(self._invoked(invoke, records, attempts)))
                break
        return self._work[0][1] if self._work else None

    def _invoked(self, invoke: Callable[[Records], Any], records: Records, attempts: int) -> list[tuple[Records, int]]:
        try:
            answer, raised, why = invoke(records), False, "the function reported failures"
        except FunctionFailed as error:
            answer, raised, why = None, True, error.kind
        first = 0 if raised else _first_failed(records, answer, self._rules.report_failures)
        if first is None:
            return []
        self._failed(why)
        return _further(records, attempts, first, raised, self._rules, self._give_up)


def _first_failed(batch: Records, answer: Any, report: bool) -> int | None:
    """Where the batch has to be taken up again; None when it is done."""
    failed = answer.get("batchItemFailures") if report and isinstance(answer, dict) else None
    if not failed:
        return None
    places = {one["SequenceNumber"]: place for place, one in enumerate(batch)}
    try:
        return min(places[one["itemIdentifier"]] for one in failed)
    except (KeyError, TypeError):
        return 0


def _further(
    batch: Records,
    attempts: int,
    first: int,
    raised: bool,
    rules: RetryRules,
    give_up: Callable[[GivenUp], None],
) -> list[tuple[Records, int]]:
    """What is to be tried next of a batch that failed from `first` on, each part with the attempts it had."""
    if first > 0:
        return [(batch[first:], 0)]
    if raised and rules.bisect and len(batch) > 1:
        half = len(batch) // 2
        return [(batch[:half], 0), (batch[half:], 0)]
    if rules.retries < 0 or attempts < rules.retries:
        return [(batch, attempts + 1)]
    if not raised and len(batch) > 1:
        give_up(GivenUp(batch[:1], EXHAUSTED, attempts + 1, function_error=False))
        return [(batch[1:], 0)]
    give_up(GivenUp(batch, EXHAUSTED, attempts + 1, function_error=raised))
    return []


def _young(
    batch: Records,
    attempts: int,
    rules: RetryRules,
    give_up: Callable[[GivenUp], None],
    age: Callable[[Mapping[str, Any]], float],
) -> Records:
    """The batch without its first records that are too old by now; those are given up."""
    if rules.age_seconds < 0:
        return batch
    old = 0
    while old < len(batch) and age(batch[old]) > rules.age_seconds:
        old += 1
    if old:
        give_up(GivenUp(batch[:old], TOO_OLD, attempts, function_error=attempts > 0))
    return batch[old:]
