"""What Iceberg's REST protocol says: answers, errors, namespaces in a path, pages. Pure.

https://github.com/apache/iceberg/blob/main/open-api/rest-catalog-open-api.yaml
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

SEPARATOR = "\x1f"
"""Between the parts of a namespace in a path: the unit separator, unless a server names another."""

Namespace = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and JSON where there is any."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """A request for something in the catalog: the path's parts, decoded, and what stands behind the question mark."""

    method: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, method: str, target: str, headers: Mapping[str, str]) -> Request:
        """A request line's method and target. headers: any, with their names in lower case."""
        path, _, query = target.partition("?")
        # Split first: a part may hold an encoded slash.
        parts = tuple(unquote(part) for part in path.split("/") if part)
        return cls(method, parts, dict(parse_qsl(query, keep_blank_values=True)), headers)


class BadRequestError(ValueError):
    """What was asked cannot be understood; answered with 400."""


def document(content: Mapping[str, Any], status: int = 200) -> Answer:
    """An answer with a JSON object."""
    return Answer(status, json.dumps(content, ensure_ascii=False).encode())


def refusal(status: int, kind: str, message: str) -> Answer:
    """An error as the protocol wants it: its type, and words for a person."""
    return document({"error": {"message": message, "type": kind, "code": status}}, status)


def namespace(text: str) -> Namespace:
    """The parts of a namespace, from one part of a path or from `parent`."""
    return tuple(text.split(SEPARATOR)) if text else ()


def page(names: Sequence[str], query: Mapping[str, str]) -> tuple[list[str], str | None]:
    """The names that were asked for, in order, and the token for the next ones.

    Without `pageToken` and `pageSize`: all of them. A token says after which name to go on, so that tables that come
    and go in between shift nothing. Raises `BadRequestError`.
    """
    found = sorted(names)
    if token := query.get("pageToken"):
        last = _last(token)
        found = [name for name in found if name > last]
    size = query.get("pageSize")
    if size is None:
        return found, None
    if not (size.isascii() and size.isdigit() and int(size) > 0):
        raise BadRequestError("pageSize is not a number above 0")
    first = found[: int(size)]
    return first, _token(first[-1]) if len(first) < len(found) else None


def _token(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode()).decode()


def _last(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise BadRequestError("pageToken is not one that this catalog gave out") from error
