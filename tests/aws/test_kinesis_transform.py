"""The handler behind a Kinesis mapping, on Firehose and S3 of the stand-in: nothing lost, poison stops nothing."""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import boto3
import botocore.session
import pytest

from aws.account import AwsAccount
from aws.busy_aws import BusyAws
from aws.places import bucket_of, make_bucket, objects
from catchment.aws import kinesis_transform, put_record_batch
from catchment.aws.kinesis_transform import handler
from catchment.aws.local.error_output import failed_records
from catchment.aws.put_record_batch import MOST_BYTES, Line, batches
from catchment.errors import ConfigError, SinkRefused
from unit.test_stream_record import SECRET, lambda_event

DELIVERY = "gadget-sales-delivery"
SHARD = "shardId-000000000006"
DONE: dict[str, list[dict[str, str]]] = {"batchItemFailures": []}
FIRST = 49590338271490256608559692538361571095921575989136588898


class Context:
    """What the handler uses of Lambda's."""

    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:gadget-sales-transform"

    def __init__(self, milliseconds: int = 60_000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def quick_session(kind: Callable[..., Any]) -> Any:
    """A boto3 session that does not read the service models anew: half a second for each test."""
    session = botocore.session.get_session()
    session.register_component("data_loader", service_models())
    return kind(botocore_session=session)


@cache
def service_models() -> Any:
    return botocore.session.get_session().get_component("data_loader")


@pytest.fixture
def delivery(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> AwsAccount:
    """A delivery stream to the account's bucket, and the function's environment."""
    bucket = make_bucket(aws)
    aws.client("firehose").create_delivery_stream(
        DeliveryStreamName=DELIVERY,
        ExtendedS3DestinationConfiguration={
            "BucketARN": f"arn:aws:s3:::{bucket}",
            "RoleARN": f"arn:aws:iam::{aws.number}:role/firehose",
            "Prefix": "data/!{timestamp:yyyy}/",
            "ErrorOutputPrefix": "errors/!{firehose:error-output-type}/",
        },
    )
    monkeypatch.setenv("DELIVERY_STREAM", DELIVERY)
    monkeypatch.setenv("ERROR_BUCKET", bucket)
    monkeypatch.setattr(put_record_batch, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(boto3.session, "Session", partial(quick_session, boto3.session.Session))
    return aws


def with_text(*texts: str) -> Callable[[Any], bool]:
    """Entries of a call whose line has one of these."""
    return lambda entry: any(text.encode() in base64.b64decode(entry["Data"]) for text in texts)


def change(number: int) -> dict[str, Any]:
    return lambda_event(eventID=f"event-{number}")


def event(*contents: object, start: int = 0) -> dict[str, Any]:
    """A batch of a mapping; bytes as they are, everything else as JSON."""
    records = []
    for number, content in enumerate(contents, start):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kinesis = {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "7421",
            "sequenceNumber": str(FIRST + number),
            "data": base64.b64encode(data).decode(),
            "approximateArrivalTimestamp": 1795274240.448,
        }
        records.append(
            {
                "kinesis": kinesis,
                "eventSource": "aws:kinesis",
                "eventID": f"{SHARD}:{FIRST + number}",
                "eventSourceARN": "arn:aws:kinesis:us-east-1:123456789012:stream/gadget-sales-stream",
            }
        )
    return {"Records": records}


def delivered(aws: AwsAccount) -> Counter[str]:
    """Event ids of the lines in S3, and how often each is there."""
    lines = b"".join(objects(aws, "data/").values()).splitlines()
    return Counter(json.loads(line)["event_id"] for line in lines)


def errors(aws: AwsAccount) -> list[bytes]:
    """The originals below the error prefix."""
    bodies = objects(aws, "errors/").values()
    return [one.data or b"" for body in bodies for one in failed_records(body.splitlines())]


def again_from(answer: dict[str, list[dict[str, str]]]) -> int:
    """Which record of the batch the mapping has to begin with again."""
    (failure,) = answer["batchItemFailures"]
    return int(failure["itemIdentifier"]) - FIRST


def test_a_batch_reaches_s3_as_lines_and_poison_stops_nothing(delivery: AwsAccount) -> None:
    poison = b'{"customer": "' + SECRET.encode()
    assert handler(event(change(0), poison, change(2), b"", {"orderid": "7421"}), Context()) == DONE
    assert delivered(delivery) == Counter({"event-0": 1, "event-2": 1, None: 1})
    assert errors(delivery) == [poison]


def test_poison_lies_where_and_as_firehose_writes_it(delivery: AwsAccount) -> None:
    assert handler(event(change(0), b"no"), Context()) == DONE
    ((key, body),) = objects(delivery, "errors/").items()
    assert key.startswith(f"errors/processing-failed/2026/11/21/15/{DELIVERY}-1-2026-11-21-15-17-20-")
    line = json.loads(body)
    assert line.pop("attemptEndingTimestamp") > line["arrivalTimestamp"] - 10**12
    assert line == {
        "rawData": base64.b64encode(b"no").decode(),
        "errorCode": "Catchment.PoisonRecord",
        "errorMessage": "not one JSON document: Expecting value, at character 0",
        "attemptsMade": 1,
        "arrivalTimestamp": 1795274240448,
        "lambdaARN": Context.invoked_function_arn,
    }


def test_what_firehose_leaves_out_is_put_again(delivery: AwsAccount, busy_aws: BusyAws) -> None:
    busy_aws.refuse_parts("PutRecordBatch", share=0.5, times=3)
    assert handler(event(*map(change, range(40))), Context()) == DONE
    assert busy_aws.happened["PutRecordBatch", "parts"] > 0
    assert delivered(delivery) == Counter({f"event-{number}": 1 for number in range(40)})


def test_what_stays_out_comes_again_from_the_first_of_it(delivery: AwsAccount, busy_aws: BusyAws) -> None:
    contents = [change(0), b"first poison", change(2), change(3), b"second poison", change(5)]
    busy_aws.refuse_parts("PutRecordBatch", chosen=with_text("event-2", "event-5"))
    assert again_from(handler(event(*contents), Context())) == 2
    assert errors(delivery) == [b"first poison"], "the second comes again"
    busy_aws.calm()
    assert handler(event(*contents[2:], start=2), Context()) == DONE
    assert sorted(errors(delivery)) == [b"first poison", b"second poison"]
    assert set(delivered(delivery)) == {"event-0", "event-2", "event-3", "event-5"}
    assert delivered(delivery)["event-0"] == 1


def test_after_a_batch_that_stays_out_no_further_one_is_put(
    delivery: AwsAccount, busy_aws: BusyAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_record_batch, "MOST_RECORDS", 2)
    busy_aws.refuse_parts("PutRecordBatch", chosen=with_text("event-3"))
    assert again_from(handler(event(*map(change, range(6))), Context())) == 3
    assert set(delivered(delivery)) == {"event-0", "event-1", "event-2"}


def test_a_throttled_call_is_made_again(delivery: AwsAccount, busy_aws: BusyAws) -> None:
    busy_aws.fail("PutRecordBatch", "ServiceUnavailableException", times=3)
    assert handler(event(change(0)), Context()) == DONE
    assert delivered(delivery) == Counter({"event-0": 1})


def test_a_lost_answer_loses_no_record(delivery: AwsAccount, busy_aws: BusyAws) -> None:
    busy_aws.lose_answers("PutRecordBatch", times=3)
    assert handler(event(change(0), b"poison", change(2)), Context()) == DONE
    assert set(delivered(delivery)) == {"event-0", "event-2"}


def test_it_gives_up_in_time(delivery: AwsAccount, busy_aws: BusyAws) -> None:
    busy_aws.refuse_parts("PutRecordBatch", share=1.0)
    assert again_from(handler(event(change(0)), Context(milliseconds=4_000))) == 0
    assert busy_aws.calls["PutRecordBatch"] == 1


def test_when_s3_is_away_the_batch_comes_again_from_the_poison(delivery: AwsAccount, busy_aws: BusyAws) -> None:
    busy_aws.fail("PutObject", "SlowDown", status=503)
    batch = event(b"first", b"second")
    assert again_from(handler(batch, Context())) == 0
    busy_aws.calm()
    assert handler(batch, Context()) == DONE
    assert errors(delivery) == [b"first", b"second"]


def test_the_same_batch_again_writes_the_same_error_object(delivery: AwsAccount) -> None:
    batch = event(change(0), b"poison")
    for _ in range(2):
        assert handler(batch, Context()) == DONE
    assert errors(delivery) == [b"poison"]


def test_a_record_that_is_too_large_for_firehose_is_poison(delivery: AwsAccount) -> None:
    large = {"orderid": "1", "note": "x" * 1_024_000}
    assert handler(event(large, change(1)), Context()) == DONE
    assert delivered(delivery) == Counter({"event-1": 1})
    assert len(errors(delivery)) == 1


def test_a_stream_that_is_not_there_is_refused(delivery: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELIVERY_STREAM", "nowhere")
    with pytest.raises(SinkRefused, match="nowhere"):
        handler(event(change(0)), Context())


def test_an_error_bucket_that_is_not_there_is_refused(delivery: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERROR_BUCKET", f"nowhere-{bucket_of(delivery)}")
    with pytest.raises(SinkRefused, match="ERROR_BUCKET"):
        handler(event(b"poison"), Context())


def test_missing_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DELIVERY_STREAM", raising=False)
    monkeypatch.setenv("ERROR_BUCKET", "")
    with pytest.raises(ConfigError, match="DELIVERY_STREAM and ERROR_BUCKET"):
        handler(event(), Context())


def test_events_of_another_source_are_refused(delivery: AwsAccount) -> None:
    with pytest.raises(ConfigError, match="Kinesis"):
        handler({"Records": [change(0)]}, Context())


def test_logs_have_no_value(delivery: AwsAccount, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, kinesis_transform.__name__)
    handler(event(change(0), SECRET.encode(), {"note": SECRET}), Context())
    said = json.loads(next(one.getMessage() for one in caplog.records if one.name == kinesis_transform.__name__))
    assert (said["records"], said["lines"], said["poison"]) == (3, 2, 1)
    assert said["event_ids"] == ["event-0", None]
    assert str(FIRST + 1) in next(iter(said["reasons"]))
    assert SECRET not in caplog.text


def test_a_call_has_no_more_records_or_bytes_than_firehose_takes() -> None:
    small = [Line(number, b"{}\n", None) for number in range(1_201)]
    assert [len(batch) for batch in batches(small)] == [500, 500, 201]
    large = [Line(number, b"x" * 1_000_000, None) for number in range(10)]
    assert [len(batch) for batch in batches(large)] == [4, 4, 2]
    assert all(sum(len(line.data) for line in batch) <= MOST_BYTES for batch in batches(large))
    assert [line for batch in batches(small + large) for line in batch] == small + large
    assert list(batches([])) == []
