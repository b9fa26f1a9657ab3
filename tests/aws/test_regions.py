"""The region comes from AWS_REGION too: boto3 itself looks at AWS_DEFAULT_REGION only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from catchment.aws.local import clients
from catchment.glue import session
from catchment.sinks.files import bucket
from catchment.sources import aws_client


@pytest.mark.parametrize(
    "make",
    [
        lambda: clients.client("kinesis"),
        lambda: session.client("glue"),
        lambda: bucket._client(),
        lambda: aws_client.aws_client("kinesis", None),
    ],
    ids=["runners", "glue", "files", "sources"],
)
def test_aws_region_is_enough(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    client = make()
    assert client.meta.region_name == "eu-west-3"
    client.close()
