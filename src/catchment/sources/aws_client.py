"""Clients of AWS, and what AWS answers in our words. The only place that imports boto3 for sources.

Credentials and region come from AWS's own chain; `AWS_ENDPOINT_URL` decides whom is asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from catchment.errors import CatchmentError, ConfigError, SourceRefused, SourceUnavailable

REFUSALS = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "ExpiredTokenException",
        "MissingAuthenticationToken",
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "KMSOptInRequired",
    }
)
THROTTLING = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "KMSThrottlingException",
    }
)


def aws_client(service: str, region: str | None) -> Any:
    """A client of one service, with AWS's own credentials chain. May be used by several threads.

    region: None for the chain's own. Raises ConfigError without boto3, without a region, and for an unknown profile.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise ConfigError("Sources of AWS need boto3: install catchment[aws].") from None
    limits = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 2},
        max_pool_connections=32,
        user_agent_extra="catchment",
    )
    try:
        # boto3 itself knows AWS_DEFAULT_REGION only, other SDKs AWS_REGION.
        wanted = region or os.environ.get("AWS_REGION")
        return boto3.session.Session().client(service, region_name=wanted, config=limits)
    except BotoCoreError as error:
        raise ConfigError(
            f"AWS cannot be asked: {error} Set `source.region` or AWS_REGION, and AWS_PROFILE where profiles are used."
        ) from None


PLAIN = "PlainJson"
"""In an answer whose members are as JSON has them: binary values as base64 text, times as numbers."""


def answer_plainly(client: Any, service: str, operation: str) -> None:
    """Have a client answer this operation as the JSON that came: boto3's own parsing takes ten times as long.

    service: its id with hyphens (`dynamodb-streams`). An answer that came as JSON has the member `PlainJson`; any
    other, and errors, are parsed as ever.
    """
    client.meta.events.register(f"before-parse.{service}.{operation}", _parse_plainly)


def _parse_plainly(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    kind = str(response_dict["headers"].get("content-type", ""))
    if response_dict["status_code"] == 200 and "json" in kind:
        customized_response_dict.update(json.loads(response_dict["body"]))
        customized_response_dict[PLAIN] = True
        response_dict["body"] = b"{}"


@contextmanager
def translated(
    doing: str, known: Callable[[str, str], CatchmentError | None] = lambda code, message: None
) -> Iterator[None]:
    """What AWS raises within, as `catchment.errors`. doing: what was tried (`reading shard x of y`).

    known: code and message of an error → what it means here; None for what it means everywhere.
    Raises SourceRefused where credentials or rights are missing, else SourceUnavailable.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        message = str(error.response.get("Error", {}).get("Message", ""))
        raise known(code, message) or _refused(doing, code, message) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise SourceRefused(
            f"No AWS credentials were found while {doing}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run where a role is given."
        ) from error
    except BotoCoreError as error:
        raise SourceUnavailable(f"AWS did not answer while {doing}: {error}") from error


def _refused(doing: str, code: str, message: str) -> CatchmentError:
    if code in REFUSALS:
        return SourceRefused(f"AWS refused {doing} ({code}): {message} Give the role this right, then start again.")
    if code in THROTTLING:
        return SourceUnavailable(f"AWS asks for fewer calls ({code}) while {doing}.")
    return SourceUnavailable(f"AWS failed while {doing} ({code}): {message}")
