"""Names and values written into SQL text."""

from __future__ import annotations

from collections.abc import Iterable


def identifier(name: str) -> str:
    """A name, quoted: it keeps its case and may hold anything."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string constant."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """A list of string constants."""
    return "[" + ", ".join(literal(text) for text in texts) + "]"
