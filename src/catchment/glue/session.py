"""Clients of AWS's, and its errors in our words. The environment alone says where they go, and as whom."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

from catchment.aws_client import aws_client
from catchment.aws_errors import translated

Client = Any
"""boto3 has no type information."""

THREADS = 16


def client(service: str) -> Client:
    """A client of this service. Raises ConfigError when boto3 or a region is missing."""
    return aws_client(service, attempts=5, read_seconds=60)


def is_on_aws() -> bool:
    """True unless AWS_ENDPOINT_URL says that a stand-in plays AWS."""
    return not os.environ.get("AWS_ENDPOINT_URL")


def asking(doing: str) -> AbstractContextManager[None]:
    """What AWS raises within, in our words. doing: what is tried (`listing the objects of x`)."""
    return translated(doing, for_good=True)
