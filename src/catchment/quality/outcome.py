"""What a suite found: of each rule, of each table, of the whole lake. No value of a row, but for keys asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from catchment.quality.config import RULES, Severity

if TYPE_CHECKING:
    from catchment.quality.rules import Rule, TableRules


class Status(StrEnum):
    """passed: holds. broken: does not. unjudged: could not be told, and why is said; it stops nothing."""

    PASSED = "passed"
    BROKEN = "broken"
    UNJUDGED = "unjudged"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one rule came to; see `RuleOutcome`."""

    status: Status
    said: str
    broken: int | None = None
    quarantined: int = 0
    keys: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def unjudged(cls, reason: str) -> Self:
        """It could not be told. reason: without a full stop."""
        return cls(Status.UNJUDGED, f"Not judged: {reason}.")

    def of(self, rule: Rule, rows: int | None) -> RuleOutcome:
        """With the rule that it is about. rows: how many were judged."""
        return RuleOutcome(
            table=rule.table,
            rule=rule.name,
            type=rule.type,
            severity=rule.severity,
            status=self.status,
            said=self.said,
            place=rule.place,
            description=rule.check.description,
            rows=rows,
            broken=self.broken,
            quarantined=self.quarantined,
            keys=self.keys,
        )


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """One rule.

    rows: how many were judged. broken: how many of them break it, None where it is not about rows. quarantined: of
    those, how many are kept out of silver. keys: of a few broken rows, when they were asked for.
    """

    table: str
    rule: str
    type: str
    severity: Severity
    status: Status
    said: str
    place: str
    description: str | None = None
    rows: int | None = None
    broken: int | None = None
    quarantined: int = 0
    keys: tuple[Mapping[str, Any], ...] = ()

    @property
    def row_local(self) -> bool:
        """Can one row alone break it?"""
        return RULES[self.type].row_local

    @property
    def stops_gold(self) -> bool:
        """Is it a `fail` rule that does not hold?"""
        return self.severity is Severity.FAIL and self.status is Status.BROKEN

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "table": self.table,
            "rule": self.rule,
            "type": self.type,
            "severity": self.severity.value,
            "status": self.status.value,
            "said": self.said,
            "place": self.place,
            "description": self.description,
            "rows": self.rows,
            "broken": self.broken,
            "quarantined": self.quarantined,
            "keys": [dict(key) for key in self.keys],
        }


@dataclass(frozen=True, slots=True)
class TableOutcome:
    """One table. layer: where its rows were read, None when they could not be. rows: quarantined ones included.

    broken: rows that break a rule about rows, None without such rules. whole: were all rows read? newest: seconds
    since 1970 of the newest change that the source committed, where known.
    """

    table: str
    layer: str | None
    rows: int | None
    quarantined: int
    columns: int | None
    newest: float | None
    rules: tuple[RuleOutcome, ...]
    broken: int | None = None
    whole: bool = True

    @classmethod
    def unread(cls, rules: TableRules, reason: str) -> Self:
        """Of a table whose rows could not be read. reason: without a full stop."""
        told = tuple(Judgement.unjudged(reason).of(rule, None) for rule in rules.rules)
        return cls(rules.table, None, None, 0, None, None, told)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "table": self.table,
            "layer": self.layer,
            "whole": self.whole,
            "rows": self.rows,
            "broken": self.broken,
            "quarantined": self.quarantined,
            "columns": self.columns,
            "newest_commit": self.newest,
            "rules": [rule.to_dict() for rule in self.rules],
        }


@dataclass(frozen=True, slots=True)
class Suite:
    """All of them, judged together. judged_at: seconds since 1970. of: what was judged, `lake` or `source`."""

    pipeline: str
    judged_at: float
    seconds: float
    tables: tuple[TableOutcome, ...]
    of: str = "lake"

    def __iter__(self) -> Iterator[RuleOutcome]:
        return (rule for table in self.tables for rule in table.rules)

    def broken(self, *severities: Severity) -> list[RuleOutcome]:
        """The broken rules of these severities; of all, when none is given."""
        wanted = severities or tuple(Severity)
        return [rule for rule in self if rule.status is Status.BROKEN and rule.severity in wanted]

    @property
    def stops_gold(self) -> bool:
        """Is a `fail` rule broken?"""
        return any(rule.stops_gold for rule in self)

    def counts(self) -> dict[str, int]:
        """How many rules passed, are broken, could not be judged."""
        statuses = [rule.status for rule in self]
        return {status.value: statuses.count(status) for status in Status}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "pipeline": self.pipeline,
            "of": self.of,
            "judged_at": self.judged_at,
            "seconds": round(self.seconds, 3),
            "stops_gold": self.stops_gold,
            **self.counts(),
            "tables": [table.to_dict() for table in self.tables],
        }


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 row, 2,000 rows."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Some names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def named_keys(rule: RuleOutcome) -> str:
    """The keys that were asked for: `order_id 41, 198`, or `(a 1, b 2) (a 1, b 3)` for keys of several columns."""
    if all(len(key) == 1 for key in rule.keys):
        names = {name for key in rule.keys for name in key}
        return f"{', '.join(names)} {', '.join(str(value) for key in rule.keys for value in key.values())}"
    return " ".join("(" + ", ".join(f"{name} {value}" for name, value in key.items()) + ")" for key in rule.keys)
