"""Handlers of Kinesis batches for tests. `seen` is what they were given, in order."""

from __future__ import annotations

import base64
from typing import Any

seen: list[bytes] = []
POISON = b"poison"


def _data(event: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(one["kinesis"]["data"]) for one in event["Records"]]


def reporting(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Handles records up to poison, and reports that."""
    for record, data in zip(event["Records"], _data(event), strict=True):
        seen.append(data)
        if data == POISON:
            return {"batchItemFailures": [{"itemIdentifier": record["kinesis"]["sequenceNumber"]}]}
    return {"batchItemFailures": []}


def raising(event: dict[str, Any], context: Any) -> None:
    if POISON in _data(event):
        raise ValueError("poison")
    seen.extend(_data(event))


def taking(event: dict[str, Any], context: Any) -> None:
    seen.extend(_data(event))


def counting(event: dict[str, Any], context: Any) -> None:
    seen.append(b"%d" % len(event["Records"]))
