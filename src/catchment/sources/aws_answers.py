"""What AWS answers, in our words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from catchment.aws_client import THROTTLING, error_code
from catchment.errors import CatchmentError, SourceRefused, SourceUnavailable

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
        try:
            customized_response_dict.update(json.loads(response_dict["body"]))
        except ValueError:
            # As any other answer that broke off.
            from botocore.exceptions import ResponseStreamingError

            raise ResponseStreamingError(error="the answer is not JSON") from None
        customized_response_dict[PLAIN] = True
        response_dict["body"] = b"{}"


def told_at(answer: Mapping[str, Any]) -> float | None:
    """What the service's clock said when it gave this answer (epoch seconds, whole ones); None when it did not say."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return None if said is None else parsedate_to_datetime(said).timestamp()
    except ValueError:
        return None


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
        code = error_code(error)
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
