"""boto3's clients for our Lambda functions: made once for a process, with AWS's own credentials and endpoint."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from catchment.errors import ConfigError

ENVIRONMENT = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")


def client(service: str) -> Any:
    """The client of one service for what the environment says now. May be used by several threads.

    Raises ConfigError when boto3 is missing.
    """
    return _made(service, *map(os.environ.get, ENVIRONMENT))


@lru_cache(maxsize=8)
def _made(service: str, *environment: str | None) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError("boto3 is missing: install catchment[aws]") from None
    limits = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 2})
    return boto3.session.Session().client(service, config=limits)
