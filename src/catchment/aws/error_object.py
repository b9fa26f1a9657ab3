"""Poison records of the Kinesis handler, written below the error prefix as Firehose writes the ones that failed.

The original is in them, unchanged: whatever personal data a record has, the error prefix has.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from catchment.aws.client import client
from catchment.errors import SinkRefused
from catchment.formats.clean_record import time_text

ERROR_CODE = "Catchment.PoisonRecord"
PASSING = frozenset({"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException"})
"""Refusals of S3 after which the same call may succeed, beside all with a status of 500 and above."""

logger = logging.getLogger(__name__)


class Poison(NamedTuple):
    """A record that cannot be read.

    number: its place in the batch. identity: which record of which shard it is. data: base64, as it came.
    arrived_at: epoch microseconds, 0 when unknown.
    """

    number: int
    identity: str
    data: str
    reason: str
    arrived_at: int


def put_poison(poison: Sequence[Poison], bucket: str, prefix: str, stream: str, context: object) -> bool:
    """Write these records as one object; False when S3 does not take it now.

    The object's name follows from the records: a batch that comes again writes the same object.
    Raises SinkRefused when trying again will not help.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    body = "".join(error_line(one, context) for one in poison).encode()
    s3 = client("s3")
    try:
        s3.put_object(Bucket=bucket, Key=error_key(poison, prefix, stream), Body=body)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        code = error.response.get("Error", {}).get("Code", "")
        if status < 500 and code not in PASSING:
            raise SinkRefused(
                f"S3 refused an object below {prefix} in {bucket} ({code}): "
                "check ERROR_BUCKET, ERROR_PREFIX and the function's role"
            ) from None
        return False
    except BotoCoreError as error:
        logger.warning("%s", json.dumps({"message": "S3 cannot be reached", "error": type(error).__name__}))
        return False
    return True


def error_key(poison: Sequence[Poison], prefix: str, stream: str) -> str:
    """`<prefix>yyyy/MM/dd/HH/<stream>-1-yyyy-MM-dd-HH-mm-ss-<uuid>`, by the arrival of the first record, UTC."""
    arrived = time_text(poison[0].arrived_at)
    hour = arrived[:13].replace("-", "/").replace(" ", "/")
    second = arrived[:19].replace(" ", "-").replace(":", "-")
    return (
        f"{prefix}{hour}/{stream}-1-{second}-{uuid.uuid5(uuid.NAMESPACE_URL, ' '.join(one.identity for one in poison))}"
    )


def error_line(poison: Poison, context: object) -> str:
    """One record as Firehose's error output has it, on a line."""
    line = {
        "rawData": poison.data,
        "errorCode": ERROR_CODE,
        "errorMessage": poison.reason,
        "attemptsMade": 1,
        "arrivalTimestamp": poison.arrived_at // 1000,
        "attemptEndingTimestamp": time.time_ns() // 1_000_000,
        "lambdaARN": getattr(context, "invoked_function_arn", None),
    }
    return json.dumps({name: value for name, value in line.items() if value is not None}) + "\n"
