"""boto3's clients for our Lambda functions: made once for a process, with AWS's own credentials and endpoint."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from catchment.aws_client import aws_client


def client(service: str) -> Any:
    """The client of one service for what the environment says now. May be used by several threads.

    Raises ConfigError when boto3 is missing.
    """
    # In Lambda the environment stays as it is; elsewhere one process may turn to another account or endpoint.
    return _made(service, tuple(sorted(one for one in os.environ.items() if one[0].startswith("AWS_"))))


@lru_cache(maxsize=8)
def _made(service: str, environment: tuple[tuple[str, str], ...]) -> Any:
    return aws_client(service)
