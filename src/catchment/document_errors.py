"""What is wrong with a file of ours, said with its line and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from catchment.document import Document, Place

WRONG_TYPE = "component_type"
"""The pydantic error type for a `type:` that is missing or unknown."""

_LIST = "is a list: write it as [a, b], or each entry on a line of its own after `- `"
_SECTION = "is a section: write its keys on lines of their own below it, indented"
_SHAPES = {
    "string_type": "is text; put quotes around it",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _SECTION,
    "mapping_type": _SECTION,
    "model_type": _SECTION,
    "model_attributes_type": _SECTION,
}
"""What a value of the wrong kind should be, by pydantic's error type."""

_KINDS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "datetime": "a moment",
    "date": "a date",
    "str": "text",
    "list[str]": "a list",
}
"""Kinds of values that a key may have several of, by pydantic's names."""

_FORMS = {
    "^[a-z][a-z0-9_-]*$": "has only lower-case letters, digits, `_` and `-`, and begins with a letter",
    "^[a-z][a-z0-9_]*$": "has only lower-case letters, digits and `_`, and begins with a letter",
    r"^[^.]+\.[^.]+$": "is written `table.column`",
}
"""Patterns of names, in words."""

Keys = Callable[[Place], Sequence[str]]
"""The keys that the mapping at a place may have."""


def explain(error: ValidationError, read: Document, keys: Keys) -> str:
    """One line for each thing that is wrong, in the file's order. Never shows a value that may be secret."""
    found = []
    choices: dict[Place, list[str]] = {}
    for details in error.errors(include_url=False):
        place = tuple(details["loc"])
        if details["type"] == WRONG_TYPE:
            place = (*place, "type")
        chosen = _choice(place, read)
        if chosen is not None:
            choices.setdefault(place[:chosen], []).append(str(place[chosen]))
        else:
            found.append((read.line(place), _message(details, place, keys)))
    for place, kinds in choices.items():
        words = dict.fromkeys(_KINDS.get(kind, kind) for kind in kinds)
        found.append((read.line(place), f"`{dotted(place)}` is one of these: {', '.join(words)}."))
    return "\n".join(f"{read.path}:{line}: {message}" for line, message in sorted(found, key=lambda one: one[0]))


def sentences(error: ValidationError, keys: Keys) -> list[str]:
    """The same of values that stand in no file: a sentence for each thing that is wrong, without its value."""
    return [_message(details, tuple(details["loc"]), keys) for details in error.errors(include_url=False)]


def _choice(place: Place, read: Document) -> int | None:
    """Where a place goes on with the name of a kind that its value might have had, and is no part of the file."""
    for at, step in enumerate(place):
        if at and isinstance(step, str) and place[:at] in read.lines and not isinstance(read.at(place[:at]), Mapping):
            return at
    return None


def _message(details: ErrorDetails, place: Place, keys: Keys) -> str:
    kind, name = details["type"], dotted(place)
    if kind == "missing":
        return f"`{name}` is missing; add it."
    if kind == "extra_forbidden":
        return _unknown_key(place, keys(place[:-1]))
    if kind in ("literal_error", "enum"):
        options = re.findall(r"'([^']*)'", str(details.get("ctx", {}).get("expected", "")))
        return _sentence(f"`{name}` is one of {', '.join(options)}{_meant(str(details['input']), options)}")
    if kind.endswith("_type") and kind != WRONG_TYPE and details["input"] is None:
        return f"`{name}` is empty; give it a value, or take the key out."
    plain = _SHAPES.get(kind) or _bound(kind, details.get("ctx", {}))
    if plain is not None:
        return f"`{name}` {plain}."
    said = details["msg"].removeprefix("Value error, ")
    if said.startswith("Input should "):
        return _sentence(f"`{name}` {said.removeprefix('Input ')}")
    return _sentence(f"`{name}`: {said}" if name else said)


def _bound(kind: str, ctx: Mapping[str, Any]) -> str | None:
    """What a value must be that was too long, too short, or of another form."""
    if kind == "string_pattern_mismatch":
        pattern = str(ctx["pattern"])
        return _FORMS.get(pattern, f"does not have the form `{pattern}`")
    if kind == "string_too_long":
        return f"has at most {ctx['max_length']} characters"
    if kind == "string_too_short":
        return f"has at least {ctx['min_length']} character{'s' if ctx['min_length'] != 1 else ''}"
    if kind == "too_short":
        return "needs at least one entry" if ctx["min_length"] == 1 else f"needs at least {ctx['min_length']} entries"
    return None


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else f"{text}."


def _unknown_key(place: Place, known: Sequence[str]) -> str:
    where = f" in `{dotted(place[:-1])}`" if place[:-1] else ""
    meant = _meant(str(place[-1]), known)
    there = "" if meant or not known else f"; there are: {', '.join(known)}"
    return _sentence(f"there is no key `{place[-1]}`{where}{meant}{there}")


def _meant(word: str, options: Sequence[str]) -> str:
    close = get_close_matches(word, options, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def dotted(place: Place) -> str:
    """A place as people write it: sinks[0].type."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
