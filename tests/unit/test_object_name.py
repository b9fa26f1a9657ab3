"""Names of Firehose's objects: Java's patterns, prefixes with expressions, what is refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from catchment.aws.local.delivery_stream import DeliveryStreamConfig
from catchment.aws.local.object_name import Prefix, UnknownPartition, error_prefix, formatted, object_name
from catchment.errors import ConfigError

MOMENT = datetime(2026, 3, 7, 9, 5, 4, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("yyyy/MM/dd/HH", "2026/03/07/09"),
        ("yyyy-M-d H:m:s", "2026-3-7 9:5:4"),
        ("yy uuuu", "26 2026"),
        ("MMM MMMM", "Mar March"),
        ("EEE EEEE e", "Sat Saturday 7"),
        ("DDD", "066"),
        ("hh a", "09 AM"),
        ("SSS", "123"),
        ("'year='yyyy''", "year=2026'"),
        ("'it''s' yyyy", "it's 2026"),
        ("HHmm'T'X", "0905TZ"),
        ("_./-", "_./-"),
    ],
)
def test_patterns_are_those_of_java(pattern: str, text: str) -> None:
    assert formatted(pattern, MOMENT) == text


@pytest.mark.parametrize("pattern", ["QQ", "yyyy'", "VV"])
def test_a_pattern_that_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        formatted(pattern, MOMENT)


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("", "2026/03/07/09/"),
        ("legacy", "legacy2026/03/07/09/"),
        ("sales/", "sales/2026/03/07/09/"),
        ("sales/!{timestamp:yyyy}", "sales/2026"),
        ("!{timestamp:yyyy/}!{timestamp:'hour='HH}/", "2026/hour=09/"),
    ],
)
def test_a_prefix_without_expressions_gets_the_hour_and_no_slash(prefix: str, text: str) -> None:
    assert Prefix(prefix).evaluate(MOMENT) == text


def test_a_zone_moves_the_hour() -> None:
    assert Prefix("", "Asia/Tokyo").evaluate(MOMENT) == "2026/03/07/18/"
    assert formatted("XXX Z", MOMENT.astimezone(ZoneInfo("Asia/Tokyo"))) == "+09:00 +0900"


def test_partition_keys_and_random_strings_are_filled_in() -> None:
    prefix = Prefix("a=!{partitionKeyFromLambda:a}/b=!{partitionKeyFromLambda:b}/!{firehose:random-string}/")
    assert prefix.partition_keys == ("a", "b")
    assert re.fullmatch(r"a=1/b=x/[A-Za-z0-9]{11}/", prefix.evaluate(MOMENT, partition={"a": "1", "b": "x"}))
    with pytest.raises(UnknownPartition):
        prefix.evaluate(MOMENT, partition={"a": "1"})


def test_an_error_prefix_says_the_kind_of_error() -> None:
    assert error_prefix(None).evaluate(MOMENT, error_type="processing-failed") == "processing-failed/2026/03/07/09/"
    assert error_prefix("errors/").evaluate(MOMENT, error_type="x") == "errors/x/2026/03/07/09/"
    assert error_prefix("e/!{firehose:error-output-type}/").evaluate(MOMENT, error_type="x") == "e/x/"


@pytest.mark.parametrize("prefix", ["!{timestamp}", "!{x:y}", "!{firehose:x}", "!{partitionKeyFromQuery:a}", "!{"])
def test_an_expression_that_is_not_known_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError):
        Prefix(prefix)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"prefix": "!{timestamp:yyyy}/"}, "needs an error prefix"),
        ({"prefix": "!{timestamp:yyyy}/", "error_prefix": "errors/!{timestamp:yyyy}/"}, "needs an error prefix"),
        ({"prefix": "!{firehose:error-output-type}/", "error_prefix": "!{firehose:error-output-type}/"}, "belongs"),
        ({"dynamic_partitioning": True}, "go together"),
        ({"time_zone": "Mars/Base"}, "no time zone"),
        ({"buffer_seconds": 901}, "buffer_seconds"),
        ({"surprise": 1}, "^test: there is no key `surprise`; there are: name, bucket"),
        ({"bucket": 3}, "^test: `bucket` is text; put quotes around it.$"),
    ],
)
def test_a_delivery_stream_that_aws_would_refuse_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DeliveryStreamConfig.checked({"name": "gadgets", "bucket": "b", **values}, "test")


def test_an_object_is_named_by_stream_version_and_time() -> None:
    name = object_name("gadgets", "3", MOMENT, ".gz")
    assert re.fullmatch(r"gadgets-3-2026-03-07-09-05-04-[0-9a-f-]{36}\.gz", name)
