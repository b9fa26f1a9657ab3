"""What AWS answers when it does not do what it was asked, in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from catchment.errors import CatchmentError, SourceRefused, SourceUnavailable

THROTTLING = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
        "KMSThrottlingException",
    }
)
"""Error codes that say: the same call later."""

REFUSALS = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
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
"""Error codes that say: not as you, or not with this key."""


def error_code(error: Exception) -> str:
    """The service's own code for an error; empty when it has none."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


@contextmanager
def translated(
    doing: str,
    known: Callable[[str, str], CatchmentError | None] = lambda code, message: None,
    *,
    for_good: bool = False,
) -> Iterator[None]:
    """What AWS raises within, as `catchment.errors`. doing: what was tried (`reading shard x of y`).

    known: code and message of an error → what it means here; None for what it means everywhere.
    for_good: what AWS finds wrong with a call is refused, too: a command ends with it, where a capture goes on asking.
    Raises SourceRefused where credentials or rights are missing, else SourceUnavailable.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        HTTPClientError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    try:
        yield
    except ClientError as error:
        answer = _answer(error)
        code, message = error_code(error), str(answer.get("Error", {}).get("Message", ""))
        wrong = for_good and answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) < 500
        raise known(code, message) or _meant(doing, code, message, wrong=wrong) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise SourceRefused(
            f"No AWS credentials were found while {doing}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or run where a role is given."
        ) from error
    except BotoCoreError as error:
        if for_good and not isinstance(error, (HTTPClientError, ConnectionError)):
            raise SourceRefused(f"AWS could not be asked while {doing}: {error}") from error
        said = str(error).rstrip(".")
        raise SourceUnavailable(
            f"AWS did not answer while {doing}: {said}. Is AWS_ENDPOINT_URL, or the network, right?"
        ) from error


def _meant(doing: str, code: str, message: str, *, wrong: bool) -> CatchmentError:
    said = f": {message.rstrip('.')}." if message else "."
    if code in REFUSALS:
        return SourceRefused(
            f"AWS refused {doing} ({code}){said} Renew the credentials, or give the role this right, then start again."
        )
    if code in THROTTLING:
        return SourceUnavailable(f"AWS asks for fewer calls ({code}) while {doing}.")
    if wrong:
        return SourceRefused(f"AWS refused {doing} ({code}){said}")
    return SourceUnavailable(f"AWS failed while {doing} ({code}){said}")


def _answer(error: Exception) -> dict[str, Any]:
    answer: Any = getattr(error, "response", None)
    return answer if isinstance(answer, dict) else {}
