"""Firehose's Lambda transform: one batch in, and for each record what becomes of it.

Source: AWS.md 3.1. A function error is tried again three times; an answer that is not as it must be is not. One bad
record never takes the others of its batch with it.
"""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catchment.aws.local.function import PAYLOAD_BYTES, Function, FunctionFailed

RETRIES = 3
_ENVELOPE_BYTES = 512
"""What a record needs in an event beside its data, at most."""

_MESSAGES = {
    "Lambda.MissingRecordId": "One or more record Ids were not returned. Ensure that the Lambda function returns all "
    "received record Ids.",
    "Lambda.DuplicatedRecordId": "Multiple records are returned with the same record ID. Ensure that the Lambda "
    "function returns unique record IDs for each record.",
    "Lambda.InvalidReturnFormat": "The Lambda function returned a record whose result or data is not as it must be.",
    "Lambda.ProcessingFailedStatus": "ProcessingFailed status set for record",
}


@dataclass(frozen=True, slots=True)
class ArrivedRecord:
    """A record as it came in. `page` finds its place in the source again; arrival in milliseconds."""

    record_id: str
    data: bytes
    arrival_ms: int
    page: int
    shard_id: str | None = None
    partition_key: str | None = None
    sequence_number: str | None = None

    def as_input(self) -> dict[str, Any]:
        """Its form in the event."""
        form: dict[str, Any] = {
            "recordId": self.record_id,
            "approximateArrivalTimestamp": self.arrival_ms,
            "data": base64.b64encode(self.data).decode(),
        }
        if self.sequence_number is not None:
            form["kinesisRecordMetadata"] = {
                "shardId": self.shard_id,
                "partitionKey": self.partition_key,
                "approximateArrivalTimestamp": self.arrival_ms,
                "sequenceNumber": self.sequence_number,
                "subsequenceNumber": "",
            }
        return form


@dataclass(frozen=True, slots=True)
class Transformed:
    """What the function made of a record: deliver it, with the keys of its partition."""

    record: ArrivedRecord
    data: bytes
    partition: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A record that goes to the error output, as it came in."""

    record: ArrivedRecord
    code: str
    message: str
    attempts: int


@dataclass(slots=True)
class Outcome:
    """What became of a batch; each record is in exactly one of these."""

    transformed: list[Transformed] = field(default_factory=list)
    dropped: list[ArrivedRecord] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    retried: int = 0


class Transformation:
    """Invokes the function of one delivery stream."""

    def __init__(self, function: Function, stream_arn: str, region: str, source_arn: str | None = None) -> None:
        self.function = function
        self._fixed: dict[str, Any] = {"deliveryStreamArn": stream_arn, "region": region}
        if source_arn is not None:
            self._fixed["sourceKinesisStreamArn"] = source_arn

    def apply(self, records: Sequence[ArrivedRecord]) -> Outcome:
        """What becomes of these records. Their event must fit: see `batches`."""
        outcome = Outcome()
        event = {"invocationId": str(uuid.uuid4()), **self._fixed, "records": [one.as_input() for one in records]}
        while True:
            try:
                answer = self.function.invoke(event)
            except FunctionFailed as failure:
                if failure.retriable and outcome.retried < RETRIES:
                    outcome.retried += 1
                    continue
                attempts = outcome.retried + 1
                outcome.refused = [Refused(one, failure.code, str(failure), attempts) for one in records]
                return outcome
            _sort_out(records, answer, outcome)
            return outcome


def batches(records: Sequence[ArrivedRecord], hint_bytes: int) -> list[list[ArrivedRecord]]:
    """Records in invocations: about `hint_bytes` of data each, and never an event over Lambda's limit."""
    result: list[list[ArrivedRecord]] = []
    data_bytes = event_bytes = 0
    for one in records:
        size = len(one.data)
        in_event = 4 * ((size + 2) // 3) + _ENVELOPE_BYTES
        if not result or data_bytes + size > hint_bytes or event_bytes + in_event > PAYLOAD_BYTES - 4096:
            result.append([])
            data_bytes = event_bytes = 0
        result[-1].append(one)
        data_bytes += size
        event_bytes += in_event
    return result


def _sort_out(records: Sequence[ArrivedRecord], answer: Any, outcome: Outcome) -> None:
    """Put each record where the answer says. Ids that nobody asked for are ignored, as Firehose does."""
    listed = answer.get("records") if isinstance(answer, dict) else None
    given: dict[Any, list[dict[str, Any]]] = {}
    for one in listed if isinstance(listed, list) else ():
        if isinstance(one, dict) and isinstance(one.get("recordId"), str):
            given.setdefault(one["recordId"], []).append(one)
    attempts = outcome.retried + 1
    for record in records:
        answers = given.get(record.record_id, [])
        if len(answers) == 1:
            result = _result(record, answers[0])
        else:
            result = "Lambda.DuplicatedRecordId" if answers else "Lambda.MissingRecordId"
        if isinstance(result, Transformed):
            outcome.transformed.append(result)
        elif result is None:
            outcome.dropped.append(record)
        else:
            outcome.refused.append(Refused(record, result, _MESSAGES[result], attempts))


def _result(record: ArrivedRecord, answer: dict[str, Any]) -> Transformed | str | None:
    """The record transformed, None when it was dropped, or the code of what is wrong."""
    result = answer.get("result")
    if result == "Dropped":
        return None
    if result == "ProcessingFailed":
        return "Lambda.ProcessingFailedStatus"
    if result != "Ok" or not isinstance(answer.get("data"), str):
        return "Lambda.InvalidReturnFormat"
    try:
        data = base64.b64decode(answer["data"], validate=True)
    except (binascii.Error, ValueError):
        return "Lambda.InvalidReturnFormat"
    metadata = answer.get("metadata")
    keys = metadata.get("partitionKeys") if isinstance(metadata, dict) else None
    partition = {str(k): str(v) for k, v in keys.items()} if isinstance(keys, dict) else {}
    return Transformed(record, data, partition)
