"""The rules of a quality.yaml, read and named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from catchment import document
from catchment.document import Document, Place
from catchment.document_errors import explain
from catchment.errors import ConfigError
from catchment.quality import expression
from catchment.quality.config import (
    RULES,
    Expression,
    NotNull,
    QualityConfig,
    Regex,
    RuleConfig,
    Severity,
)

MOST_ROW_RULES = 63
"""A row's broken rules are the bits of one word."""

EXPECTED = "rules stand under `tables:`, by table. See docs/quality.md for a file to begin with."


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a table, and where it stands."""

    table: str
    name: str
    check: RuleConfig
    place: str

    @property
    def severity(self) -> Severity:
        return self.check.severity

    @property
    def row_local(self) -> bool:
        """Can one row alone break it?"""
        return self.check.row_local

    @property
    def type(self) -> str:
        return self.check.type

    def columns(self) -> tuple[str, ...]:
        """The columns of its table that it reads."""
        if isinstance(self.check, Expression):
            return expression.columns(self.check.sql)
        return self.check.subject()


@dataclass(frozen=True, slots=True)
class TableRules:
    """The rules of one table, in the file's order."""

    table: str
    rules: tuple[Rule, ...]

    @property
    def row_rules(self) -> tuple[Rule, ...]:
        """Those that one row alone can break."""
        return tuple(rule for rule in self.rules if rule.row_local)


@dataclass(frozen=True, slots=True)
class QualityRules:
    """All rules of a file."""

    file: Path
    tables: Mapping[str, TableRules]

    def of(self, table: str) -> TableRules:
        """The rules of a table: none when the file does not name it."""
        return self.tables.get(table, TableRules(table, ()))

    def __iter__(self) -> Iterator[Rule]:
        return (rule for table in self.tables.values() for rule in table.rules)


def load_rules(file: Path, environ: Mapping[str, str] | None = None) -> QualityRules:
    """Read a quality.yaml.

    Variables come from `environ` (os.environ unless given) and from a `.env` beside the file. Raises ConfigError
    that names file and line of everything that is wrong, expressions and patterns included.
    """
    if not file.is_file():
        raise ConfigError(f"There is no file {file} of quality rules. Correct `lakehouse.quality`, or write it.")
    read = document.read(file, os.environ if environ is None else environ, expected=EXPECTED)
    try:
        config = QualityConfig.model_validate(read.values)
    except ValidationError as error:
        raise ConfigError(explain(error, read, lambda place: _keys(place, read))) from None
    complaints: list[tuple[int, str]] = []
    tables = {
        table: TableRules(table, tuple(_named(table, checks, read, complaints)))
        for table, checks in config.tables.items()
    }
    if complaints:
        raise ConfigError("\n".join(f"{file}:{line}: {said}" for line, said in sorted(complaints)))
    return QualityRules(file, tables)


def _named(
    table: str, checks: Sequence[RuleConfig], read: Document, complaints: list[tuple[int, str]]
) -> Iterator[Rule]:
    """A table's rules with their names; what is wrong with them is added to the complaints."""
    taken: dict[str, int] = {}
    bits = 0
    for number, check in enumerate(checks):
        place: Place = ("tables", table, number)
        line = read.line(place)
        wrong = _wrong(check)
        if wrong is not None:
            complaints.append((read.line((*place, wrong[0])), wrong[1]))
        for single in _singles(check):
            name = single.name or _default_name(single)
            if name in taken:
                complaints.append(
                    (line, f"there is a rule `{name}` of {table} in line {taken[name]}; give one another `name`.")
                )
            taken.setdefault(name, line)
            bits += single.row_local
            if single.row_local and bits == MOST_ROW_RULES + 1:
                complaints.append(
                    (line, f"{table} has more than {MOST_ROW_RULES} rules about single rows; join some as expressions.")
                )
            yield Rule(table, name, single, f"{read.path.name}:{line}")


def _singles(check: RuleConfig) -> Iterator[RuleConfig]:
    if isinstance(check, NotNull):
        yield from (check.model_copy(update={"columns": (column,)}) for column in check.columns)
    else:
        yield check


def _default_name(check: RuleConfig) -> str:
    return "_".join((check.type, *(column.strip("_") for column in check.subject())))


def _wrong(check: RuleConfig) -> tuple[str, str] | None:
    """What only DuckDB can tell of a rule: the key it stands at, and what is wrong."""
    if isinstance(check, Expression) and (said := expression.wrong(check.sql)) is not None:
        return "sql", f"`sql`: {said}"
    if isinstance(check, Regex) and (said := expression.wrong_pattern(check.pattern)) is not None:
        return "pattern", f"`pattern`: {said}"
    return None


def _keys(place: Place, read: Document) -> list[str]:
    if not place:
        return list(QualityConfig.model_fields)
    given = read.at(place)
    model = RULES.get(str(given.get("type"))) if isinstance(given, Mapping) else None
    return list(model.model_fields) if model is not None else []
