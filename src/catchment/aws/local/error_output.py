"""Firehose's error output: records that could not be delivered, as lines of JSON under the error prefix.

The raw data in them is what came in, not redacted: wherever they lie is a store of personal data.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from catchment.aws.local.transformation import Refused

PROCESSING_FAILED = "processing-failed"
PARTITIONS_EXCEEDED = "activePartitionExceeded"


def error_line(refused: Refused, function_arn: str | None, now_ms: int) -> bytes:
    """One failed record as AWS writes it: numbers, and `lambdaARN`."""
    document: dict[str, Any] = {
        "rawData": base64.b64encode(refused.record.data).decode(),
        "errorCode": refused.code,
        "errorMessage": refused.message,
        "attemptsMade": refused.attempts,
        "arrivalTimestamp": refused.record.arrival_ms,
        "attemptEndingTimestamp": now_ms,
    }
    if function_arn is not None:
        document["lambdaARN"] = function_arn
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class FailedRecord:
    """A line of the error output, read back. data: None when the line holds none that can be read."""

    data: bytes | None
    code: str
    arrival_ms: int | None


def failed_records(lines: Iterable[bytes]) -> Iterator[FailedRecord]:
    """What lines of an error object say, in AWS's spellings: those of its pages (text) and the real ones (numbers).

    Also reads what a failed conversion of formats writes (`ErrorCode`, `lastErrorCode`).
    """
    for line in lines:
        if not line.strip():
            continue
        try:
            document = json.loads(line)
            yield _failed_record(document)
        except (ValueError, AttributeError):
            yield FailedRecord(None, "unreadable", None)


def _failed_record(document: dict[str, Any]) -> FailedRecord:
    code = next((document[key] for key in ("errorCode", "ErrorCode", "lastErrorCode") if key in document), "unknown")
    arrival = document.get("arrivalTimestamp")
    try:
        data = base64.b64decode(document["rawData"], validate=True)
    except (KeyError, TypeError, binascii.Error):
        return FailedRecord(None, str(code), None)
    return FailedRecord(data, str(code), int(arrival) if arrival is not None else None)
