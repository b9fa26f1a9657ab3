"""Calls to AWS that are made again while it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from catchment.aws.local.counters import Counters
from catchment.aws_errors import THROTTLING
from catchment.errors import SinkRefused, SinkUnavailable

Result = TypeVar("Result")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0
_AWAY = frozenset(
    {"InternalFailure", "InternalServerError", "InternalError", "ServiceUnavailable", "ServiceUnavailableException"}
)


def throttled(code: str) -> bool:
    """Does this error code say: the same call later?"""
    return code in THROTTLING or code in _AWAY


def patiently(call: Callable[[], Result], what: str, stop: threading.Event, counters: Counters | None = None) -> Result:
    """The answer of a call, which is made again while the service is away or throttles.

    what: names the call in messages ("PutObject to gadget-sales-data"). counters: count repetitions, and note what is
    waited for.
    Raises `SinkRefused` when trying again will not help, `SinkUnavailable` when `stop` is set before it was answered.
    """
    from botocore.exceptions import BotoCoreError as AnyBotoCoreError
    from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError

    counters = counters or Counters()
    pause, waited = FIRST_PAUSE_SECONDS, False
    while True:
        try:
            answer = call()
            if waited:
                counters.note("")
            return answer
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
            if not throttled(code) and status < 500:
                raise SinkRefused(f"{what} was refused: {code}. Check that it exists and that we may.") from error
            reason = code
        except (NoCredentialsError, ParamValidationError) as error:
            raise SinkRefused(f"{what} cannot be asked for: {type(error).__name__}. Check the credentials.") from error
        except AnyBotoCoreError as error:
            reason = type(error).__name__
        waited = True
        counters.add(retried=1)
        counters.note(f"waits for {what}: {reason}")
        if stop.wait(pause):
            raise SinkUnavailable(f"{what} was not answered before the end: {reason}.")
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def now_ms() -> int:
    """Milliseconds of now, UTC."""
    return time.time_ns() // 1_000_000
