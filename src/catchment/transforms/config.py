"""The `transforms` section of pipeline.yaml. Light: a transform's code is imported when it is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr

from catchment.component import BuildContext, ComponentConfig
from catchment.finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from catchment.transforms.base import Transform

SHORTEST_GOOD_SECRET = 16


def _pattern(pattern: str) -> str:
    if not all(pattern.rpartition(".")):
        raise ValueError(
            "a column pattern is schema.table.column, where * stands for anything: "
            "public.users.email, *.users.email or *.phone"
        )
    return pattern


ColumnPattern = Annotated[str, AfterValidator(_pattern)]


class HashConfig(ComponentConfig):
    """Replaces values by a keyed hash: equal values stay equal, and nobody can read or guess them."""

    type: Literal["hash"] = "hash"
    columns: tuple[ColumnPattern, ...] = Field(min_length=1)
    """Which columns, as patterns: public.users.email, *.phone."""
    secret: SecretStr = Field(min_length=1)
    """The key. Whoever has it can check guesses; whoever changes it changes every hash."""

    def build(self, context: BuildContext) -> Transform:
        """A new transform."""
        from catchment.transforms.redact import HashColumns

        return HashColumns(self)

    def covers(self, table: str, column: str) -> bool:
        """Is this column (of `schema.table`) hashed?"""
        return any(fnmatchcase(f"{table}.{column}", pattern) for pattern in self.columns)

    def check_columns(self, columns: Mapping[str, Sequence[str]]) -> list[Finding]:
        """Every pattern must match a column: one that does not is a misspelt one, and would leak."""
        names = [f"{table}.{column}" for table, there in columns.items() for column in there]
        findings = [_check_pattern(pattern, names) for pattern in self.columns]
        if len(self.secret.get_secret_value()) < SHORTEST_GOOD_SECRET:
            findings.append(
                warning(
                    "transform hash",
                    f"The secret has fewer than {SHORTEST_GOOD_SECRET} characters: hashes of guessable values "
                    "can be found by trying. Generate one with `openssl rand -hex 32`.",
                )
            )
        return findings


def _check_pattern(pattern: str, names: Sequence[str]) -> Finding:
    subject = f"transform hash, {pattern}"
    covered = [name for name in names if fnmatchcase(name, pattern)]
    if not covered:
        return error(subject, "The pattern matches no column of any captured table; check table and column names.")
    return ok(subject, f"Hashes {', '.join(covered[:5])}{' and others' if len(covered) > 5 else ''}.")
