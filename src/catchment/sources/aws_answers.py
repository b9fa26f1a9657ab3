"""AWS's answers as they came: their JSON without boto3's parsing, and the service's clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

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
