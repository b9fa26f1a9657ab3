"""The region comes from AWS_REGION too: boto3 itself looks at AWS_DEFAULT_REGION only."""

from __future__ import annotations

import pytest

from catchment.aws_client import aws_client
from catchment.errors import ConfigError


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def test_aws_region_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    client = aws_client("kinesis")
    assert client.meta.region_name == "eu-west-3"
    client.close()


def test_a_named_region_goes_before_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    client = aws_client("kinesis", "us-east-1")
    assert client.meta.region_name == "us-east-1"
    client.close()


def test_without_a_region_one_sentence_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"AWS cannot be asked: .*region.* Set AWS_REGION"):
        aws_client("kinesis")


def test_a_profile_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        aws_client("kinesis", "us-east-1")
