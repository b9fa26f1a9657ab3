"""Clients of AWS. Credentials and region come from AWS's own chain; `AWS_ENDPOINT_URL` decides who is asked."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from catchment.errors import ConfigError

CONNECTIONS = 32
_FUNCTION_SECONDS = 310
"""A Lambda function may work for five minutes: whoever hangs up before invokes it twice."""


def aws_client(service: str, region: str | None = None, *, attempts: int = 2, read_seconds: int = 30) -> Any:
    """A client of one service. It may be used by several threads.

    region: None for the chain's own. attempts: how often a call is tried in all. read_seconds: for how long an answer
    is waited for. Raises ConfigError without boto3, without a region, and for an unknown profile.
    """
    try:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ConfigError("AWS is asked with boto3: install catchment[aws].") from None
    settings = Config(
        connect_timeout=5,
        read_timeout=_FUNCTION_SECONDS if service == "lambda" else read_seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=CONNECTIONS,
        user_agent_extra="catchment",
    )
    try:
        # A session of its own, as clients are made in threads. What takes time to load is shared.
        session = botocore.session.Session()
        session.register_component("data_loader", _loader())
        # The session itself knows AWS_DEFAULT_REGION only, other SDKs AWS_REGION.
        return session.create_client(service, region_name=region or os.environ.get("AWS_REGION"), config=settings)
    except BotoCoreError as error:
        raise ConfigError(
            f"AWS cannot be asked: {error} Set AWS_REGION, and AWS_PROFILE where profiles are used, or "
            "AWS_ENDPOINT_URL for a stand-in."
        ) from None


@cache
def _loader() -> Any:
    """The services' descriptions: read once (0.1 s each), not with each client."""
    from botocore.loaders import create_loader

    return create_loader()
