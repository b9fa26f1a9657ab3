"""Columns that changed their type beyond what Iceberg can widen: `price` goes on in `price__v1834729384`.

No value and no file is changed for it: the old column stays, new values go to a column of their own, which is named
after the version of the source's schema.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_DIGITS = 5
"""At least so many digits are in such a name: a schema's version is a checksum, while a source's own column may well
be called `note__v2`."""
_VERSIONED = re.compile(rf"(?P<source>.+)__v\d{{{_DIGITS},}}(_\d+)?", re.DOTALL)


def versioned_column(source: str, version: int) -> str:
    """What a column is called that goes on with the source's one; `_2` and so on may follow."""
    return f"{source}__v{version:0{_DIGITS}}"


def source_column(name: str, columns: Sequence[str]) -> str:
    """What the source calls a column."""
    versioned = _VERSIONED.fullmatch(name)
    return versioned["source"] if versioned and versioned["source"] in columns else name


def places_of(source: str, columns: Sequence[str]) -> list[str]:
    """The columns that hold values of one of the source's, newest first."""
    return [name for name in reversed(columns) if source_column(name, columns) == source]


def key_columns(key: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """All columns that hold a key, or held it. key: the source's columns."""
    return tuple(one for name in key for one in columns if one == name or source_column(one, columns) == name)


def source_key(key: Sequence[str]) -> tuple[str, ...]:
    """The inverse of `key_columns`: what the source calls them."""
    return tuple(dict.fromkeys(source_column(name, key) for name in key))
