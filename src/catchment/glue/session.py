"""Clients of AWS's, and its errors in our words. The environment alone says where they go, and as whom."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from catchment.aws_client import THROTTLING, aws_client, error_code
from catchment.errors import CatchmentError, SourceRefused, SourceUnavailable

Client = Any
"""boto3 has no type information."""

THREADS = 16
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidAccessKeyId"})
_BUSY = THROTTLING | {"InternalServiceException"}


def client(service: str) -> Client:
    """A client of this service. Raises ConfigError when boto3 or a region is missing."""
    return aws_client(service, attempts=5, read_seconds=60)


def is_on_aws() -> bool:
    """True unless AWS_ENDPOINT_URL says that a stand-in plays AWS."""
    return not os.environ.get("AWS_ENDPOINT_URL")


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Turn what AWS answers into our errors: refused for good, or worth another try. `what` says what was asked."""
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, NoCredentialsError

    try:
        yield
    except CatchmentError:
        raise
    except ClientError as error:
        code = error_code(error)
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
