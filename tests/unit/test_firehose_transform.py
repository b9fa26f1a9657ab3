"""Firehose's contract to the letter: every record answered once, good ones go on, the others come back unchanged."""

from __future__ import annotations

import base64
import json
import logging
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.aws import firehose_transform
from catchment.aws.firehose_transform import LARGEST_RESPONSE, handler
from catchment.errors import ConfigError, SinkRefused
from seeds import first_seed
from unit.test_clean_record import image
from unit.test_stream_record import SECRET, kinesis_destination, lambda_event

ARRIVED_MS = 1795274240448
SAMPLE = {"orderid": "7421", "product_name": "Laptop", "quantity": 3, "price": 429.99}
INVALID = {"recordId": "err-123", "data": "invalid_data_here"}


def record(number: int | str, content: object, **members: Any) -> dict[str, Any]:
    """A record as Firehose sends it."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {
        "recordId": str(number),
        "approximateArrivalTimestamp": ARRIVED_MS,
        "data": base64.b64encode(data).decode(),
        **members,
    }


def batch(*records: dict[str, Any]) -> dict[str, Any]:
    """An invocation of Firehose."""
    return {
        "invocationId": "1c4a-invocation",
        "deliveryStreamArn": "arn:aws:firehose:us-east-1:123456789012:deliverystream/gadget-sales-delivery",
        "sourceKinesisStreamArn": "arn:aws:kinesis:us-east-1:123456789012:stream/gadget-sales-stream",
        "region": "us-east-1",
        "records": list(records),
    }


def answers(*records: dict[str, Any]) -> list[dict[str, Any]]:
    """What the handler answers, through JSON as in Lambda."""
    event = json.loads(json.dumps(batch(*records)))
    response = json.loads(json.dumps(handler(event, None)))
    assert set(response) == {"records"}
    assert [one["recordId"] for one in response["records"]] == [one["recordId"] for one in records]
    return list(response["records"])


def line(answer: dict[str, Any]) -> dict[str, Any]:
    assert answer["result"] == "Ok"
    text = base64.b64decode(answer["data"], validate=True).decode()
    assert text.endswith("}\n")
    assert text.count("\n") == 1
    return dict(json.loads(text))


def test_the_sample_order_goes_through() -> None:
    (answer,) = answers(record("ok-1", SAMPLE))
    assert set(answer) == {"recordId", "result", "data"}
    assert line(answer) == {
        **SAMPLE,
        "event_type": "UNKNOWN",
        "event_time": "2026-11-21 15:17:20.448",
        "event_id": None,
        "sequence_number": None,
        "stream_label": None,
        "order_date": "2026-11-21",
    }


def test_the_malformed_record_fails_and_comes_back_unchanged() -> None:
    assert answers(INVALID) == [{"recordId": "err-123", "result": "ProcessingFailed", "data": "invalid_data_here"}]


def test_a_bad_record_leaves_the_others_alone() -> None:
    bad = record("bad", b'{"orderid": ')
    found = answers(record("a", SAMPLE), INVALID, record("b", lambda_event()), bad, record("c", kinesis_destination()))
    assert [one["result"] for one in found] == ["Ok", "ProcessingFailed", "Ok", "ProcessingFailed", "Ok"]
    assert found[3]["data"] == bad["data"]
    assert [line(found[number])["event_type"] for number in (0, 2, 4)] == ["UNKNOWN", "MODIFY", "MODIFY"]


def test_a_record_with_nothing_in_it_is_dropped() -> None:
    control = {"messageType": "CONTROL_MESSAGE", "logEvents": []}
    found = answers(record(1, b""), record(2, b"\n"), record(3, {}), record(4, control))
    assert {one["result"] for one in found} == {"Dropped"}


@pytest.mark.parametrize("number", ["0", 0, None])
def test_what_a_kinesis_source_adds_is_accepted_in_either_type(number: object) -> None:
    metadata = {
        "shardId": "shardId-000000000000",
        "partitionKey": "7421",
        "approximateArrivalTimestamp": ARRIVED_MS,
        "sequenceNumber": "49546986683135544286507457936321625675700192471156785154",
        "subsequenceNumber": number,
    }
    (answer,) = answers(record(1, lambda_event(), kinesisRecordMetadata=metadata))
    assert line(answer)["event_type"] == "MODIFY"


def test_a_record_without_data_fails() -> None:
    assert answers({"recordId": "1"}) == [{"recordId": "1", "result": "ProcessingFailed", "data": ""}]


def test_an_empty_batch_has_an_empty_answer() -> None:
    assert answers() == []


def test_without_the_setting_there_are_no_partition_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITION_KEYS", "false")
    assert "metadata" not in answers(record(1, SAMPLE))[0]


def test_partition_keys_are_the_hour_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITION_KEYS", "true")
    found = answers(record(1, lambda_event()), INVALID, record(2, b""))
    hour = {"year": "2026", "month": "11", "day": "21", "hour": "15"}
    assert found[0]["metadata"] == {"partitionKeys": hour}
    assert "metadata" not in found[1]
    assert "metadata" not in found[2]


def test_partition_keys_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITION_KEYS", "order_date, event_type")
    (answer,) = answers(record(1, image(order_timestamp={"S": "2026-11-20T15:17:18.123Z"})))
    assert answer["metadata"] == {"partitionKeys": {"order_date": "2026-11-20", "event_type": "INSERT"}}


def test_a_record_without_a_time_cannot_be_partitioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITION_KEYS", "true")
    without = record(1, SAMPLE)
    del without["approximateArrivalTimestamp"]
    assert answers(without)[0]["result"] == "ProcessingFailed"


def test_an_unknown_partition_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITION_KEYS", "year,orderid")
    with pytest.raises(ConfigError, match="'orderid'"):
        handler(batch(), None)


def test_timestamp_attributes_are_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIMESTAMP_ATTRIBUTES", "paid_at")
    (answer,) = answers(record(1, {"orderid": "1", "paid_at": 1700000000}))
    assert line(answer)["paid_at"] == "2023-11-14 22:13:20.000"


def size(response: object) -> int:
    return len(json.dumps(response).encode())


def growing(number: int, length: int) -> dict[str, Any]:
    """A record whose answer is larger than itself: what is added to a plain item."""
    return record(f"r{number}", ('{"a":"' + "x" * length + '"}').encode())


def test_a_response_that_would_be_too_large_fails_the_last_records_that_grew() -> None:
    records = [growing(number, 300) for number in range(11_000)]
    records.append(record("shrinks", lambda_event(filler="y" * 30_000)))
    response = handler(batch(*records), None)
    results = [one["result"] for one in response["records"]]
    assert size(response) <= LARGEST_RESPONSE
    assert results[-1] == "Ok", "it takes less room than its original"
    failed = results.count("ProcessingFailed")
    assert 0 < failed < 11_000
    assert results[:-1] == ["Ok"] * (11_000 - failed) + ["ProcessingFailed"] * failed
    last = response["records"][10_999]
    assert last["data"] == records[10_999]["data"]
    assert handler(batch(*records), None) == response
    room_of_one = size(handler(batch(records[10_999]), None)["records"][0]) - size(last)
    assert size(response) + room_of_one > LARGEST_RESPONSE, "none fails that has room"


def test_failed_originals_count_against_the_limit() -> None:
    bad = [{"recordId": f"bad{number}", "data": "!" * 50_000} for number in range(100)]
    good = [growing(number, 300) for number in range(1_700)]
    response = handler(batch(*bad, *good), None)
    assert size(response) <= LARGEST_RESPONSE
    results = [one["result"] for one in response["records"]]
    assert results[:100] == ["ProcessingFailed"] * 100
    assert 0 < results[100:].count("ProcessingFailed") < 1_700
    assert all(one["data"] == "!" * 50_000 for one in response["records"][:100])


def test_a_batch_whose_originals_have_no_room_is_refused_whole() -> None:
    bad = [{"recordId": str(number), "data": "!" * 60_000} for number in range(101)]
    with pytest.raises(SinkRefused, match="BufferSizeInMBs"):
        handler(batch(*bad), None)


def test_the_response_stays_below_the_limit_whatever_the_records() -> None:
    seed = first_seed()
    print(f"replay with CATCHMENT_SEED={seed}")
    chosen = random.Random(seed)
    for _ in range(3):
        records: list[dict[str, Any]] = []
        room = LARGEST_RESPONSE
        while room > 100_000:
            one = growing(len(records), chosen.choice([10, 300, 60_000]))
            if chosen.random() < 0.1:
                one["data"] = "!" + one["data"]
            records.append(one)
            room -= len(json.dumps(one))
        response = handler(batch(*records), None)
        assert size(response) <= LARGEST_RESPONSE
        assert [one["recordId"] for one in response["records"]] == [one["recordId"] for one in records]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
members = st.sampled_from([*lambda_event(), *lambda_event()["dynamodb"], "userIdentity", "tableName", "S", "N", "a"])


@given(st.lists(st.one_of(st.binary(max_size=50), json_values, st.dictionaries(members, json_values)), max_size=5))
def test_no_record_whatever_makes_the_handler_fail(contents: list[Any]) -> None:
    records = [record(number, content) for number, content in enumerate(contents)]
    for answer, original in zip(answers(*records), records, strict=True):
        if answer["result"] == "Ok":
            line(answer)
        else:
            assert answer["data"] == original["data"]


@given(
    st.dictionaries(members, json_values), st.dictionaries(members, json_values), st.sampled_from(["NewImage", "Keys"])
)
def test_no_change_record_whatever_makes_the_handler_fail(
    outside: dict[str, Any], inside: dict[str, Any], name: str
) -> None:
    event = lambda_event(**outside)
    event["dynamodb"] = {**lambda_event()["dynamodb"], **inside, name: inside}
    (answer,) = answers(record(1, event))
    assert answer["result"] in ("Ok", "ProcessingFailed")


@given(st.text())
def test_whatever_text_is_sent_as_data_comes_back(data: str) -> None:
    (answer,) = answers({"recordId": "1", "data": data})
    if answer["result"] != "Ok":
        assert answer["data"] == data


def test_logs_have_counts_ids_and_reasons_and_no_value(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, firehose_transform.__name__)
    bad = image(customer={"N": SECRET})
    answers(record("good", image(customer={"S": SECRET})), record("poison", bad), record("text", SECRET.encode()))
    (logged,) = caplog.records
    assert logged.levelname == "WARNING"
    said = json.loads(logged.getMessage())
    assert said["invocation"] == "1c4a-invocation"
    assert (said["records"], said["Ok"], said["Dropped"], said["ProcessingFailed"]) == (3, 1, 0, 2)
    assert set(said["failures"]) == {"poison", "text"}
    assert "attribute /customer" in said["failures"]["poison"]
    assert said["event_ids"] == ["c9fbe7d0261a5163fcb6940593e41797"]
    assert SECRET not in caplog.text


def test_a_batch_without_failures_is_logged_at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, firehose_transform.__name__)
    answers(record(1, SAMPLE))
    assert [one.levelname for one in caplog.records] == ["INFO"]
    assert "event_ids" not in json.loads(caplog.messages[0])
