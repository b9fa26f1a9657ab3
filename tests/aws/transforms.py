"""Handlers of Firehose's contract that fail in one way each. A record `poison` is what they fail at."""

from __future__ import annotations

import base64
import json
from typing import Any

POISON = base64.b64encode(b"poison").decode()
DROP = base64.b64encode(b"drop me").decode()
_calls = 0


def _ok(one: dict[str, Any], **metadata: str) -> dict[str, Any]:
    answer = {"recordId": one["recordId"], "result": "Ok", "data": one["data"]}
    return {**answer, "metadata": {"partitionKeys": metadata}} if metadata else answer


def picky(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Poison failed, some dropped; the Kinesis metadata has to be there."""
    assert all(one["kinesisRecordMetadata"]["sequenceNumber"] for one in event["records"])
    assert event["sourceKinesisStreamArn"].endswith("stream/gadget-sales-stream")
    results = {POISON: "ProcessingFailed", DROP: "Dropped"}
    return {"records": [_ok(one) | {"result": results.get(one["data"], "Ok")} for one in event["records"]]}


def broken(event: dict[str, Any], context: Any) -> dict[str, Any]:
    raise ValueError("broken")


def silent(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {
        "records": [_ok(one) for one in event["records"] if one["data"] != POISON]
        + [_ok({"recordId": "x", "data": ""})]
    }


def twice(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"records": [_ok(one) for one in event["records"] for _ in range(1 + (one["data"] == POISON))]}


def without_data(event: dict[str, Any], context: Any) -> dict[str, Any]:
    answers = [_ok(one) for one in event["records"]]
    for one in answers:
        if one["data"] == POISON:
            del one["data"]
    return {"records": answers}


def nothing(event: dict[str, Any], context: Any) -> None:
    return None


def too_much(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"records": [_ok(one) | {"data": "A" * 3_000_000} for one in event["records"]]}


def third_time(event: dict[str, Any], context: Any) -> dict[str, Any]:
    global _calls
    _calls += 1
    if _calls % 3:
        raise ValueError("not yet")
    return {"records": [_ok(one) for one in event["records"]]}


def _number(one: dict[str, Any]) -> int:
    return int(json.loads(base64.b64decode(one["data"]))["n"])


def by_parity(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {
        "records": [
            _ok(one) if one["data"] == POISON else _ok(one, parity="odd" if _number(one) % 2 else "even")
            for one in event["records"]
        ]
    }


def by_number(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"records": [_ok(one, n=str(_number(one))) for one in event["records"]]}


def unmended(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Our own handler as it was before it could read tablets."""
    from catchment.aws.firehose_transform import handler

    answer: dict[str, Any] = handler(event, context)
    for given, one in zip(event["records"], answer["records"], strict=True):
        if b'"Tablet"' in base64.b64decode(given["data"]):
            one.update(result="ProcessingFailed", data=given["data"])
    return answer
