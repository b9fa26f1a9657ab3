"""An AWS account of a test's own, on a stand-in: nobody else sees what is in it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest


class AwsAccount:
    """What a test has of AWS: clients, and the environment that leads a subprocess to the same account.

    Any boto3 client made while the fixture lasts leads there as well: the environment is the process's own.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.number = variables["AWS_ACCESS_KEY_ID"]
        self.region = variables["AWS_REGION"]
        self.endpoint = variables["AWS_ENDPOINT_URL"]
        self._variables = dict(variables)
        self._session = _session()
        self._clients: dict[str, Any] = {}

    @property
    def environ(self) -> dict[str, str]:
        """For a subprocess: the whole environment as it is now."""
        return dict(os.environ)

    def endpoint_of(self, service: str) -> str:
        """Where a service answers, with no proxy in between."""
        return self._variables.get(f"AWS_ENDPOINT_URL_{service.upper()}", self.endpoint)

    def client(self, name: str) -> Any:
        """A boto3 client of the test's own, the same one each time: `client("dynamodb")`."""
        if name not in self._clients:
            self._clients[name] = self._session.client(name, endpoint_url=self.endpoint_of(name))
        return self._clients[name]

    def empty(self) -> None:
        """Take its buckets away: their names are everybody's, and the next test wants them."""
        s3 = self.client("s3")
        for bucket in s3.list_buckets()["Buckets"]:
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                if keys := [{"Key": one["Key"]} for one in page.get("Contents", ())]:
                    s3.delete_objects(Bucket=bucket["Name"], Delete={"Objects": keys, "Quiet": True})
            s3.delete_bucket(Bucket=bucket["Name"])

    def close(self) -> None:
        """Close its clients' connections."""
        for client in self._clients.values():
            client.close()


@cache
def _service_models() -> Any:
    """What botocore has read of its service models: to read them anew for each test takes a tenth of a second."""
    import botocore.session

    return botocore.session.get_session().get_component("data_loader")


def _session() -> Any:
    import boto3
    import botocore.session

    session = botocore.session.get_session()
    session.register_component("data_loader", _service_models())
    return boto3.session.Session(botocore_session=session)


def account_number() -> str:
    """Twelve digits that no test had before."""
    return f"{1 + secrets.randbelow(10**12 - 1):012d}"


def enter(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> AwsAccount:
    """Lead this process to an account, and to nothing that the developer's own environment names."""
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # boto3's default session remembers the credentials that it was made with.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    return AwsAccount(variables)
