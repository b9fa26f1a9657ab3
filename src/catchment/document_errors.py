"""What is wrong with a file of ours, said with its line and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from catchment.document import Document, Place

WRONG_TYPE = "component_type"
"""The pydantic error type for a `type:` that is missing or unknown."""

Keys = Callable[[Place], Sequence[str]]
"""The keys that the mapping at a place may have."""


def explain(error: ValidationError, read: Document, keys: Keys) -> str:
    """One line for each thing that is wrong, in the file's order. Never shows a value that may be secret."""
    found = []
    for details in error.errors(include_url=False):
        place = tuple(details["loc"])
        if details["type"] == WRONG_TYPE:
            place = (*place, "type")
        found.append((read.line(place), _message(details, place, keys)))
    return "\n".join(f"{read.path}:{line}: {message}" for line, message in sorted(found, key=lambda one: one[0]))


def _message(details: ErrorDetails, place: Place, keys: Keys) -> str:
    kind, name = details["type"], dotted(place)
    if kind == "missing":
        return f"`{name}` is missing; add it."
    if kind == "extra_forbidden":
        return _unknown_key(place, keys(place[:-1]))
    if kind in ("literal_error", "enum"):
        options = re.findall(r"'([^']*)'", str(details.get("ctx", {}).get("expected", "")))
        return _sentence(f"`{name}` is one of {', '.join(options)}{_meant(str(details['input']), options)}")
    if kind == "string_type":
        return f"`{name}` is text; put quotes around it."
    said = details["msg"].removeprefix("Value error, ")
    return _sentence(f"`{name}`: {said}" if name else said)


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else f"{text}."


def _unknown_key(place: Place, known: Sequence[str]) -> str:
    where = f" in `{dotted(place[:-1])}`" if place[:-1] else ""
    meant = _meant(str(place[-1]), known)
    there = "" if meant else f"; there are: {', '.join(known)}"
    return _sentence(f"there is no key `{place[-1]}`{where}{meant}{there}")


def _meant(word: str, options: Sequence[str]) -> str:
    close = get_close_matches(word, options, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def dotted(place: Place) -> str:
    """A place as people write it: sinks[0].type."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
