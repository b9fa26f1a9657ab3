"""The Lambda function for the shape Kinesis → Lambda → Firehose: it is an event source mapping's target.

Change records of a Kinesis batch become lines of clean JSON and are put to Firehose (Direct PUT, without a processor).

* What Firehose does not take is tried again a few times; what is left then is reported (`batchItemFailures`) and the
  mapping comes again from there: a record may reach Firehose more than once, and none is skipped. The mapping needs
  `FunctionResponseTypes: [ReportBatchItemFailures]`.
* A record that cannot be read stops nothing: it goes to S3 as Firehose itself writes failed records, below
  `ERROR_PREFIX`, and the batch goes on.

Environment: `DELIVERY_STREAM` and `ERROR_BUCKET` (both needed), `ERROR_PREFIX` (default `errors/processing-failed/`),
`TIMESTAMP_ATTRIBUTES` (names, separated by commas; default `order_timestamp`), `LOG_LEVEL` (in Lambda; default INFO).

Logs hold counts, sequence numbers, event ids and reasons; never a value.

Source: Lambda developer guide, "Using Lambda with Kinesis".
"""

from __future__ import annotations

import json
import logging
import os
from binascii import a2b_base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from catchment.aws.error_object import Poison, put_poison
from catchment.aws.put_record_batch import LARGEST_RECORD, Line, put_lines
from catchment.errors import ConfigError
from catchment.formats.clean_record import DEFAULT_TIMESTAMPS, RecordCleaner, cleaner_for
from catchment.formats.stream_record import PoisonRecord, epoch_microseconds

DEFAULT_ERROR_PREFIX = "errors/processing-failed/"
REASONS_LOGGED = 20

logger = logging.getLogger(__name__)
if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
    logger.setLevel(os.environ.get("LOG_LEVEL", "INFO").upper())

Record = Mapping[str, Any]


class Settings(NamedTuple):
    """What the function's environment says."""

    delivery_stream: str
    error_bucket: str
    error_prefix: str
    timestamps: str


def handler(event: Mapping[str, Any], context: object) -> dict[str, list[dict[str, str]]]:
    """Put a batch of a Kinesis event source mapping to Firehose; say from where it has to come again.

    event: `{Records: [{eventID, kinesis: {sequenceNumber, data, approximateArrivalTimestamp, …}}]}`, of one shard.
    Returns `{"batchItemFailures": []}`, or with one entry: the first record that is not done. All before it are; what
    comes after it may have been put already.
    Raises ConfigError for a wrong environment, SinkRefused when Firehose or S3 refuse: the whole batch comes again.
    """
    settings = _settings(os.environ)
    records: Sequence[Record] = event["Records"]
    if not all("kinesis" in record for record in records):
        raise ConfigError("this function takes the events of a Kinesis stream: check the event source mapping")
    lines, poison = _read(records, cleaner_for(settings.timestamps))
    undone = put_lines(lines, settings.delivery_stream, context)
    first = len(records) if undone is None else undone
    # What comes after the first undone record comes again, and is written then: each is written once.
    due = [one for one in poison if one.number < first]
    place = (settings.error_bucket, settings.error_prefix, settings.delivery_stream)
    if due and not put_poison(due, *place, context):
        first = due[0].number
    _log(records, lines, poison, first)
    return {"batchItemFailures": [{"itemIdentifier": _sequence_number(one)} for one in records[first : first + 1]]}


def _settings(environment: Mapping[str, str]) -> Settings:
    missing = [name for name in ("DELIVERY_STREAM", "ERROR_BUCKET") if not environment.get(name)]
    if missing:
        raise ConfigError(f"the function's environment lacks {' and '.join(missing)}")
    return Settings(
        environment["DELIVERY_STREAM"],
        environment["ERROR_BUCKET"],
        environment.get("ERROR_PREFIX", DEFAULT_ERROR_PREFIX),
        environment.get("TIMESTAMP_ATTRIBUTES", DEFAULT_TIMESTAMPS),
    )


def _read(records: Sequence[Record], cleaner: RecordCleaner) -> tuple[list[Line], list[Poison]]:
    """The batch's lines and its poison records; what has nothing in it is neither."""
    lines, poison = [], []
    for number, record in enumerate(records):
        arrived_at = _arrival(record)
        data = record["kinesis"].get("data")
        try:
            line = _line(number, data, arrived_at, cleaner)
        except PoisonRecord as error:
            text = data if isinstance(data, str) else ""
            poison.append(Poison(number, _identity(record), text, str(error), arrived_at or 0))
        else:
            if line is not None:
                lines.append(line)
    return lines, poison


def _line(number: int, data: Any, arrived_at: int | None, cleaner: RecordCleaner) -> Line | None:
    try:
        content = a2b_base64(data, strict_mode=True)
    except (ValueError, TypeError):
        raise PoisonRecord("data is not base64") from None
    clean = cleaner.of_data(content, arrived_at)
    if clean is None:
        return None
    if len(clean.line) > LARGEST_RECORD:
        raise PoisonRecord("it is larger than the 1,000 KiB that Firehose takes")
    return Line(number, clean.line, clean.event_id)


def _arrival(record: Record) -> int | None:
    """When Kinesis took the record, in epoch microseconds."""
    try:
        return epoch_microseconds(record["kinesis"].get("approximateArrivalTimestamp"))
    except PoisonRecord:
        return None


def _sequence_number(record: Record) -> str:
    return str(record["kinesis"]["sequenceNumber"])


def _identity(record: Record) -> str:
    """Which record of which shard this is."""
    return f"{record.get('eventSourceARN')}/{record.get('eventID') or _sequence_number(record)}"


def _log(records: Sequence[Record], lines: Sequence[Line], poison: Sequence[Poison], first: int) -> None:
    said: dict[str, Any] = {"message": "transformed", "records": len(records), "lines": len(lines)}
    if records:
        said |= {"first": _sequence_number(records[0]), "last": _sequence_number(records[-1])}
    if poison:
        said |= {"poison": len(poison), "reasons": {one.identity: one.reason for one in poison[:REASONS_LOGGED]}}
    if first < len(records):
        said["again_from"] = _sequence_number(records[first])
    if logger.isEnabledFor(logging.DEBUG):
        said["event_ids"] = [line.event_id for line in lines]
    is_well = not poison and first == len(records)
    logger.log(logging.INFO if is_well else logging.WARNING, "%s", json.dumps(said))
