"""Our zip file as real Lambda functions of the stand-in: deployed, invoked, answered."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from aws.account import AwsAccount
from aws.places import make_bucket, objects
from aws.test_kinesis_transform import event
from catchment.aws.bundle import zipped
from unit.test_firehose_transform import INVALID, SAMPLE, batch, record
from unit.test_stream_record import lambda_event

NAME = "gadget-sales-transform"


def deployed(aws: AwsAccount, handler: str, **environment: str) -> None:
    functions = aws.client("lambda")
    functions.create_function(
        FunctionName=NAME,
        Runtime="python3.13",
        Role=f"arn:aws:iam::{aws.number}:role/{NAME}",
        Handler=handler,
        Code={"ZipFile": zipped()},
        Timeout=300,
        Environment={"Variables": environment},
    )
    functions.get_waiter("function_active_v2").wait(FunctionName=NAME, WaiterConfig={"Delay": 1})


def invoked(aws: AwsAccount, sent: object) -> Any:
    answer = aws.client("lambda").invoke(FunctionName=NAME, Payload=json.dumps(sent).encode())
    payload = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, payload
    return payload


@pytest.fixture
def firehose_function(aws: AwsAccount) -> AwsAccount:
    deployed(aws, "catchment.aws.firehose_transform.handler", PARTITION_KEYS="order_date")
    return aws


def test_the_deployed_function_answers_firehose(firehose_function: AwsAccount) -> None:
    sent = batch(record("ok-1", SAMPLE), INVALID, record("ok-2", lambda_event()))
    records = invoked(firehose_function, sent)["records"]
    assert [(one["recordId"], one["result"]) for one in records] == [
        ("ok-1", "Ok"),
        ("err-123", "ProcessingFailed"),
        ("ok-2", "Ok"),
    ]
    assert records[0]["metadata"] == {"partitionKeys": {"order_date": "2026-11-21"}}
    assert records[1]["data"] == INVALID["data"]
    assert json.loads(base64.b64decode(records[2]["data"]))["sequence_number"] == "111900000000006283034203"


def test_the_deployed_function_behind_a_mapping_puts_lines_to_firehose(aws: AwsAccount) -> None:
    bucket = make_bucket(aws)
    aws.client("firehose").create_delivery_stream(
        DeliveryStreamName="gadget-sales-delivery",
        ExtendedS3DestinationConfiguration={
            "BucketARN": f"arn:aws:s3:::{bucket}",
            "RoleARN": f"arn:aws:iam::{aws.number}:role/firehose",
            "Prefix": "data/",
        },
    )
    deployed(
        aws,
        "catchment.aws.kinesis_transform.handler",
        DELIVERY_STREAM="gadget-sales-delivery",
        ERROR_BUCKET=bucket,
    )
    assert invoked(aws, event(lambda_event(), b"poison")) == {"batchItemFailures": []}
    ((key, body),) = objects(aws, "data/").items()
    assert json.loads(body)["event_type"] == "MODIFY", key
    ((_, failed),) = objects(aws, "errors/processing-failed/").items()
    assert base64.b64decode(json.loads(failed)["rawData"]) == b"poison"
