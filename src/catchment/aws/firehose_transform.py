"""The Lambda function that Firehose invokes: change records in, lines of clean JSON out.

Each record of the batch is answered exactly once, under its `recordId`:

* `Ok`: `data` is the clean record (`formats/clean_record.py`) with its newline, base64;
* `Dropped`: there was nothing in it (white space, `{}`, a control message);
* `ProcessingFailed`: it cannot be read, or has no room in the response; `data` is the original, unchanged. Firehose
  writes it below the error prefix, where `catchment aws replay` finds it.

Environment: `TIMESTAMP_ATTRIBUTES` (names, separated by commas; default `order_timestamp`), `PARTITION_KEYS` (for
dynamic partitioning: `true` is year, month, day, hour; or names of `KEYS`), `LOG_LEVEL` (in Lambda; default INFO).

Logs hold counts, record ids, event ids and reasons; never a value.

Source: Amazon Data Firehose developer guide, "Transform source data"; Lambda quotas.
"""

from __future__ import annotations

import json
import logging
import os
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from catchment.errors import ConfigError, SinkRefused
from catchment.formats.clean_record import DEFAULT_TIMESTAMPS, CleanRecord, RecordCleaner, cleaner_for
from catchment.formats.stream_record import PoisonRecord

LARGEST_RESPONSE = 6_000_000
"""Bytes of the response as JSON, data in base64. Lambda's limit is 6 MB (6,291,556 bytes); over it all is lost."""

BESIDE_DATA = 512
"""More bytes than an answer has beside its data. Batches that fit by this figure are not measured exactly."""

REASONS_LOGGED = 20
"""Failed records of a batch that are logged one by one."""

KEYS: Mapping[str, Callable[[CleanRecord], str | None]] = {
    "year": lambda record: record.event_time and record.event_time[:4],
    "month": lambda record: record.event_time and record.event_time[5:7],
    "day": lambda record: record.event_time and record.event_time[8:10],
    "hour": lambda record: record.event_time and record.event_time[11:13],
    "order_date": lambda record: record.order_date,
    "event_type": lambda record: record.event_type,
}
"""What a record can be partitioned by: year to hour are those of `event_time`, UTC."""

HOURLY = ("year", "month", "day", "hour")

logger = logging.getLogger(__name__)
if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    logger.setLevel(os.environ.get("LOG_LEVEL", "INFO").upper())

Answer = dict[str, Any]


def handler(event: Mapping[str, Any], context: object) -> dict[str, list[Answer]]:
    """Answer a batch of Firehose's records, each exactly once, in their order.

    event: `{invocationId, deliveryStreamArn, region, records: [{recordId, approximateArrivalTimestamp, data}]}`.
    The response is never over 6 MB: when it would be, the last records that grew are `ProcessingFailed`.
    Raises `ConfigError` for a wrong environment variable, and `SinkRefused` when not even the originals fit.
    """
    cleaner = cleaner_for(os.environ.get("TIMESTAMP_ATTRIBUTES", DEFAULT_TIMESTAMPS))
    keys = _partition_keys(os.environ.get("PARTITION_KEYS", ""))
    event_ids: list[str | None] | None = [] if logger.isEnabledFor(logging.DEBUG) else None
    failures: dict[str, str] = {}
    records = event["records"]
    answers = [_answer(record, cleaner, keys, failures, event_ids) for record in records]
    _make_room(answers, records, failures)
    _log(event, answers, failures, event_ids)
    return {"records": answers}


def _answer(
    record: Mapping[str, Any],
    cleaner: RecordCleaner,
    keys: tuple[str, ...],
    failures: dict[str, str],
    event_ids: list[str | None] | None,
) -> Answer:
    identity = record["recordId"]
    try:
        clean = _clean(record, cleaner)
        if clean is None:
            return {"recordId": identity, "result": "Dropped", "data": record["data"]}
        if event_ids is not None:
            event_ids.append(clean.event_id)
        data = b2a_base64(clean.line, newline=False).decode("ascii")
        if keys:
            return {
                "recordId": identity,
                "result": "Ok",
                "data": data,
                "metadata": {"partitionKeys": _values(clean, keys)},
            }
        return {"recordId": identity, "result": "Ok", "data": data}
    except PoisonRecord as poison:
        return _failed(record, str(poison), failures)


def _clean(record: Mapping[str, Any], cleaner: RecordCleaner) -> CleanRecord | None:
    try:
        data = a2b_base64(record["data"], strict_mode=True)
    except (ValueError, TypeError, KeyError):
        raise PoisonRecord("data is not base64") from None
    arrived_at = record.get("approximateArrivalTimestamp")
    return cleaner.of_data(data, arrived_at * 1000 if type(arrived_at) is int else None)


def _failed(record: Mapping[str, Any], reason: str, failures: dict[str, str]) -> Answer:
    failures[record["recordId"]] = reason
    return {"recordId": record["recordId"], "result": "ProcessingFailed", "data": record.get("data", "")}


@lru_cache(maxsize=8)
def _partition_keys(setting: str) -> tuple[str, ...]:
    text = setting.strip().lower()
    if text in ("", "false"):
        return ()
    names = HOURLY if text == "true" else tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in KEYS]:
        raise ConfigError(
            f"PARTITION_KEYS names {', '.join(map(repr, unknown))}: set it to true or to some of {', '.join(KEYS)}"
        )
    return names


def _values(clean: CleanRecord, keys: tuple[str, ...]) -> dict[str, str]:
    found = {name: KEYS[name](clean) for name in keys}
    values = {name: value for name, value in found.items() if value}
    if len(values) < len(keys):
        raise PoisonRecord("it has no time to partition by")
    return values


def _make_room(answers: list[Answer], records: list[Mapping[str, Any]], failures: dict[str, str]) -> None:
    """Turn the last records whose answers are larger than their originals into failures, until the response fits."""
    if sum([len(answer["data"]) for answer in answers]) + len(answers) * BESIDE_DATA < LARGEST_RESPONSE:
        return
    excess = _size({"records": answers}) - LARGEST_RESPONSE
    for number in range(len(answers) - 1, -1, -1):
        if excess <= 0:
            return
        original = {
            "recordId": answers[number]["recordId"],
            "result": "ProcessingFailed",
            "data": records[number].get("data", ""),
        }
        gain = _size(answers[number]) - _size(original)
        if answers[number]["result"] == "Ok" and gain > 0:
            answers[number] = _failed(records[number], "no room in the response of 6 MB", failures)
            excess -= gain
    if excess > 0:
        raise SinkRefused(
            "the batch's originals alone are more than the 6 MB that a function may answer: "
            "make the processor's BufferSizeInMBs smaller (3 is the largest that is allowed, 1 is the default)"
        )


def _size(answer: object) -> int:
    """Bytes of this as JSON, with spaces, as Lambda's Python runtime writes it."""
    return len(json.dumps(answer))


def _log(
    event: Mapping[str, Any], answers: list[Answer], failures: dict[str, str], event_ids: list[str | None] | None
) -> None:
    counts = {"Ok": 0, "Dropped": 0, "ProcessingFailed": 0}
    for answer in answers:
        counts[answer["result"]] += 1
    line: dict[str, Any] = {"invocation": event.get("invocationId"), "records": len(answers), **counts}
    if failures:
        line["failures"] = dict(list(failures.items())[:REASONS_LOGGED])
    if event_ids is not None:
        line["event_ids"] = event_ids
    logger.log(logging.WARNING if failures else logging.INFO, "%s", json.dumps({"message": "transformed", **line}))
