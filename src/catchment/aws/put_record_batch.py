"""Lines put to Firehose: within its limits, and again what it did not take.

Source: Amazon Data Firehose API reference, PutRecordBatch: a call that succeeds may leave records out.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from catchment.aws.client import client
from catchment.errors import SinkRefused

MOST_RECORDS = 500
MOST_BYTES = 4 * 1024 * 1024
LARGEST_RECORD = 1_000 * 1024
"""What Firehose takes in one call, and as one record."""

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.1
LAST_SECONDS = 5.0
"""Nothing is tried again when Lambda would end the function in less time than this."""

PASSING = frozenset({"ServiceUnavailableException", "ThrottlingException", "LimitExceededException", "InternalFailure"})
"""Errors of a whole call after which the same call may succeed."""

logger = logging.getLogger(__name__)


class Line(NamedTuple):
    """The clean line of the record with this number in the batch."""

    number: int
    data: bytes
    event_id: str | None


def put_lines(lines: Sequence[Line], stream: str, context: object) -> int | None:
    """Put lines to a delivery stream, in order; returns the number of the first that it did not take, or None.

    What comes after that one may have been taken.
    Raises SinkRefused when trying again will not help.
    """
    for batch in batches(lines):
        left = _put_batch(batch, stream, context)
        if left:
            return left[0].number
    return None


def batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """The lines in batches that one call takes."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        if len(batch) == MOST_RECORDS or size + len(line.data) > MOST_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.data)
    if batch:
        yield batch


def _put_batch(batch: Sequence[Line], stream: str, context: object) -> Sequence[Line]:
    """Put one batch, then what of it was not taken, a few times. Returns what is left, in order."""
    left = _put_once(batch, stream)
    for attempt in range(1, ATTEMPTS):
        if not left or not _paused(attempt, context):
            break
        left = _put_once(left, stream)
    return left


def _put_once(batch: Sequence[Line], stream: str) -> Sequence[Line]:
    from botocore.exceptions import BotoCoreError, ClientError

    firehose = client("firehose")
    try:
        answer = firehose.put_record_batch(DeliveryStreamName=stream, Records=[{"Data": line.data} for line in batch])
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code not in PASSING:
            raise SinkRefused(
                f"Firehose refused PutRecordBatch to {stream} ({code}): check DELIVERY_STREAM and the function's role"
            ) from None
        return batch
    except BotoCoreError as error:
        logger.warning("%s", json.dumps({"message": "Firehose cannot be reached", "error": type(error).__name__}))
        return batch
    if not answer["FailedPutCount"]:
        return []
    return [line for line, one in zip(batch, answer["RequestResponses"], strict=True) if one.get("ErrorCode")]


def _paused(attempt: int, context: object) -> bool:
    """Wait before a further attempt; False when there is no time for one."""
    seconds = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    if remaining is not None and remaining() / 1000 < seconds + LAST_SECONDS:
        return False
    time.sleep(seconds)
    return True
