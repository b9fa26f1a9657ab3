"""Do the rules fit the tables? Asked before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from catchment.finding import Finding, ok, warning
from catchment.quality.config import Relationship
from catchment.quality.expression import ENVELOPE
from catchment.quality.outcome import counted
from catchment.quality.rules import QualityRules, Rule, TableRules


def check_rules(
    rules: QualityRules, columns: Mapping[str, Sequence[str]], merged: bool | Sequence[str] = True
) -> list[Finding]:
    """A warning for each rule that nobody could judge, given the lake's tables and columns.

    merged: the tables that silver has, True for all. Not errors: capture does not depend on rules, and a table may
    come later.
    """
    found = [finding for rule in rules for finding in _check(rule, columns)]
    found += [_not_merged(table) for table in rules.tables.values() if table.row_rules and not _in(table.table, merged)]
    return found or [ok("quality", f"{counted(len(list(rules)), 'rule')}; their tables and columns are there.")]


def _in(table: str, merged: bool | Sequence[str]) -> bool:
    return merged if isinstance(merged, bool) else table in merged


def _not_merged(table: TableRules) -> Finding:
    return warning(
        f"quality {table.table}",
        f"{table.rules[0].place}: {table.table} is not in `lakehouse.silver`: its rows are not judged when they are "
        "merged, and none is quarantined. `catchment quality` judges them all the same.",
    )


def _check(rule: Rule, columns: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    subject = f"quality {rule.table}, {rule.name}"
    wanted = [(rule.table, column) for column in rule.columns() if column not in ENVELOPE]
    if isinstance(rule.check, Relationship):
        wanted.append(rule.check.parent)
    for table in dict.fromkeys([rule.table, *(table for table, _ in wanted)]):
        if table not in columns:
            yield _not_there(rule, subject, f"Table {table} is not captured", _meant(table, list(columns)))
    for table, column in wanted:
        known = columns.get(table)
        if known is not None and column.lower() not in (one.lower() for one in known):
            yield _not_there(rule, subject, f"{table} has no column {column}", _meant(column, known))


def _not_there(rule: Rule, subject: str, what: str, meant: str) -> Finding:
    return warning(subject, f"{rule.place}: {what}: the rule is not judged.{meant}")


def _meant(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""
