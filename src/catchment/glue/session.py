"""Clients of AWS's, and its errors in our words. The environment alone says where they go, and as whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from catchment.errors import CatchmentError, ConfigError, SourceRefused, SourceUnavailable

Client = Any
"""boto3 has no type information."""

THREADS = 16
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidAccessKeyId"})
_BUSY = frozenset(
    {"ThrottlingException", "Throttling", "SlowDown", "TooManyRequestsException", "InternalServiceException"}
)


def client(service: str) -> Client:
    """A client of this service by the standard AWS chain. Raises ConfigError when boto3 or a region is missing."""
    try:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ConfigError("Glue, S3 and Athena are read with boto3: install catchment[aws].") from error
    settings = Config(
        retries={"mode": "standard", "max_attempts": 5},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=THREADS,
    )
    try:
        # A session of its own, as clients are made in threads. What takes time to load is shared.
        session = botocore.session.Session()
        session.register_component("data_loader", _loader())
        # boto3 itself knows AWS_DEFAULT_REGION only, other SDKs AWS_REGION.
        return session.create_client(service, region_name=os.environ.get("AWS_REGION"), config=settings)
    except BotoCoreError as error:
        raise ConfigError(
            f"AWS cannot be asked: {error} Set AWS_REGION and credentials, or AWS_ENDPOINT_URL for a stand-in."
        ) from error


@cache
def _loader() -> Any:
    """The services' descriptions: read once (0.1 s each), not with each client."""
    from botocore.loaders import create_loader

    return create_loader()


def is_on_aws() -> bool:
    """True unless AWS_ENDPOINT_URL says that a stand-in plays AWS."""
    return not os.environ.get("AWS_ENDPOINT_URL")


def code_of(error: Exception) -> str:
    """The service's own code for an error; empty when it has none."""
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Turn what AWS answers into our errors: refused for good, or worth another try. `what` says what was asked."""
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError

    try:
        yield
    except CatchmentError:
        raise
    except ClientError as error:
        code = code_of(error)
        if code in _DENIED:
            raise SourceRefused(f"{what}: AWS answers {code}. Check the credentials and their policy.") from error
        if code in _BUSY or _status(error) >= 500:
            raise SourceUnavailable(f"{what}: AWS answers {code}. Try again later.") from error
        raise SourceRefused(f"{what}: AWS answers {code}.") from error
    except (HTTPClientError, ConnectionError) as error:
        raise SourceUnavailable(
            f"{what}: {type(error).__name__}. Is AWS_ENDPOINT_URL, or the network, right?"
        ) from error
    except NoCredentialsError as error:
        raise SourceRefused(f"{what}: there are no AWS credentials. Set them as for the AWS command line.") from error
    except BotoCoreError as error:
        raise SourceRefused(f"{what}: {type(error).__name__}: {error}") from error


def _status(error: Exception) -> int:
    response: Any = getattr(error, "response", None)
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) if isinstance(response, dict) else 0
