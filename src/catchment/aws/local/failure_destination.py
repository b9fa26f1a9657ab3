"""Where an event source mapping tells of batches that it gave up: an SQS queue, or S3.

SQS is told of the batch's place only, so the records have to be read again while the stream keeps them. S3 gets the
whole event as well: raw records, so personal data.

Source: Lambda developer guide, "Retaining discarded batch records for a Kinesis event source".
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from catchment.aws.local.patience import patiently
from catchment.aws.local.stream_batch import GivenUp
from catchment.aws_client import aws_client
from catchment.errors import ConfigError


class FailureDestination:
    """An on-failure destination, by ARN: `arn:aws:sqs:…:queue` or `arn:aws:s3:::bucket`."""

    def __init__(self, arn: str, mapping_id: str, stream_arn: str, function_arn: str) -> None:
        """Raises `ConfigError` for another kind of destination, and for a queue that is not there."""
        self._mapping_id = mapping_id
        self._stream_arn = stream_arn
        self._function_arn = function_arn
        service, name = arn.split(":")[2] if arn.count(":") >= 5 else "", arn.rpartition(":")[2]
        if service == "sqs":
            self._send = _to_queue(name)
            self._with_event = False
        elif service == "s3":
            self._send = _to_bucket(name)
            self._with_event = True
        else:
            raise ConfigError(f"The on-failure destination {arn} is not played here: give the ARN of SQS or S3.")

    def tell(self, given_up: GivenUp, shard: str, event: Mapping[str, Any], stop: threading.Event) -> None:
        """Tell of a batch. It is durable when this returns."""
        now = datetime.now(UTC)
        document = self._document(given_up, shard, now)
        if self._with_event:
            document["payload"] = json.dumps(event)
        key = f"aws/lambda/{self._mapping_id}/{shard}/{now:%Y/%m/%d}/{now:%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"
        self._send(key, json.dumps(document), stop)

    def _document(self, given_up: GivenUp, shard: str, now: datetime) -> dict[str, Any]:
        records = given_up.records
        document: dict[str, Any] = {
            "requestContext": {
                "requestId": str(uuid.uuid4()),
                "functionArn": self._function_arn,
                "condition": given_up.condition,
                "approximateInvokeCount": given_up.attempts,
            },
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST"},
            "version": "1.0",
            "timestamp": _text(now),
            "KinesisBatchInfo": {
                "shardId": shard,
                "startSequenceNumber": records[0]["SequenceNumber"],
                "endSequenceNumber": records[-1]["SequenceNumber"],
                "approximateArrivalOfFirstRecord": _text(records[0]["ApproximateArrivalTimestamp"]),
                "approximateArrivalOfLastRecord": _text(records[-1]["ApproximateArrivalTimestamp"]),
                "batchSize": len(records),
                "streamArn": self._stream_arn,
            },
        }
        if given_up.function_error:
            document["responseContext"]["functionError"] = "Unhandled"
        return document


Send = Callable[[str, str, threading.Event], None]


def _to_queue(name: str) -> Send:
    from botocore.exceptions import ClientError

    sqs = aws_client("sqs")
    try:
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    except ClientError as error:
        raise ConfigError(f"There is no SQS queue {name}: {error.response['Error']['Code']}.") from error

    def send(key: str, body: str, stop: threading.Event) -> None:
        patiently(lambda: sqs.send_message(QueueUrl=url, MessageBody=body), f"SendMessage to {name}", stop)

    return send


def _to_bucket(name: str) -> Send:
    s3 = aws_client("s3")

    def send(key: str, body: str, stop: threading.Event) -> None:
        patiently(
            lambda: s3.put_object(Bucket=name, Key=key, Body=body.encode(), ContentType="application/json"),
            f"PutObject into the bucket {name}",
            stop,
        )

    return send


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
