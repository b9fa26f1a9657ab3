r"""Rules in AWS Glue's rule language (DQDL): a ruleset for each table, for a Glue job over silver.

Written by the grammar of github.com/awslabs/dqdl. What has no rule of DQDL's own with the same meaning becomes
CustomSql in Spark's dialect; what cannot be said at all becomes a comment, never nothing. In DQDL a NULL fails most
rules: a `where` leaves NULLs out. Each rule is labelled with its name and severity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal, InvalidOperation

import sqlglot
from sqlglot import exp

from catchment.lakehouse.gold.dialect import Dialect, in_dialect
from catchment.lakehouse.gold.portable import refusals
from catchment.quality.config import (
    AcceptedValues,
    ColumnCount,
    Expression,
    Freshness,
    NotNull,
    Range,
    Regex,
    Relationship,
    RowCount,
    Scalar,
    Unique,
)
from catchment.quality.relation import OURS
from catchment.quality.rules import QualityRules, Rule, TableRules


def rulesets(rules: QualityRules) -> dict[str, str]:
    """Table → its ruleset."""
    return {table.table: ruleset(table) for table in rules.tables.values()}


def ruleset(rules: TableRules) -> str:
    """The rules of one table as a DQDL document."""
    required = {column for rule in rules.rules if isinstance(rule.check, NotNull) for column in rule.check.columns}
    lines: list[str] = []
    said: list[str] = []
    for rule in rules.rules:
        try:
            said.append(f"{_rule(rule, required)} {_labels(rule)}")
            lines += [f"    # {_comment(rule)}", f"    {said[-1]},"]
        except _Unsayable as reason:
            lines.append(f"    # NOT EXPORTED: {_comment(rule)}: {reason}")
    if said:
        last = max(at for at, line in enumerate(lines) if line.endswith(","))
        lines[last] = lines[last].removesuffix(",")
    return "\n".join([*_head(rules), "Rules = [", *lines, "]", ""])


class _Unsayable(Exception):
    """A rule that DQDL has no words for."""


def _head(rules: TableRules) -> Iterator[str]:
    yield f"# Quality rules of silver.{_one_line(rules.table)}, made by `catchment quality --dqdl`."
    parents = dict.fromkeys(rule.check.parent[0] for rule in rules.rules if isinstance(rule.check, Relationship))
    if parents:
        names = ", ".join(_one_line(name) for name in parents)
        yield f"# Give the job these tables as additional data sources, under these aliases: {names}."


def _rule(rule: Rule, required: Iterable[str]) -> str:
    match rule.check:
        case NotNull(columns=(column,)):
            return f"IsComplete {_quoted(column)}"
        case Unique() as check:
            return _unique(check)
        case AcceptedValues() as check:
            return _accepted(check)
        case Range() as check:
            return _range(check)
        case Regex() as check:
            pattern = _quoted(f"^(?:{check.pattern})$")
            return f"ColumnValues {_quoted(check.column)} matches {pattern} {_there(check.column)}"
        case Relationship() as check:
            return _relationship(check, required)
        case Expression() as check:
            return _no_row(f"NOT {_spark(check.sql)}")
        case RowCount() as check:
            bounds = {">=": check.min, "<=": check.max}
            return _all(f"RowCount {operator} {bound}" for operator, bound in bounds.items() if bound is not None)
        case ColumnCount() as check:
            # Silver has columns of ours beside the source's.
            return f"ColumnCount = {check.equals + len(OURS)}"
        case Freshness() as check:
            # DataFreshness asks every row to be young; this rule asks the newest.
            age = f"SELECT unix_timestamp() - unix_timestamp(max({_name(check.column)})) FROM primary"
            return f"CustomSql {_quoted(age)} <= {_number(check.max_age_seconds)}"
    raise _Unsayable(f"there is no way to say a rule of type {rule.type}")


def _unique(check: Unique) -> str:
    columns = " ".join(_quoted(column) for column in check.columns)
    there = " AND ".join(f"{_name(column)} IS NOT NULL" for column in check.columns)
    return f"IsUnique {columns} where {_quoted(there)}"


def _accepted(check: AcceptedValues) -> str:
    column, values = check.column, check.values
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        constants = [_number(value) for value in values]
    elif any(isinstance(value, bool) for value in values):
        return _no_row(f"{_name(column)} NOT IN ({', '.join(str(value).lower() for value in values)})")
    elif all(isinstance(value, date) and not isinstance(value, datetime) for value in values):
        constants = [f'"{value}"' for value in values]
    else:
        constants = [_quoted(_text(value)) for value in values]
    return f"ColumnValues {_quoted(column)} in [{', '.join(constants)}] {_there(column)}"


def _range(check: Range) -> str:
    """`between` of DQDL leaves its ends out: each bound is a rule."""
    parts = []
    for operator, bound in check.bounds.items():
        if isinstance(bound, date) and not isinstance(bound, datetime):
            constant = f'"{bound}"'
        else:
            try:
                constant = _number(bound)
            except InvalidOperation:
                # Moments and text have no place in DQDL's conditions.
                negated = {">=": "<", "<=": ">", ">": "<=", "<": ">="}[operator]
                parts.append(_no_row(f"{_name(check.column)} {negated} {_sql_text(_text(bound))}"))
                continue
        parts.append(f"ColumnValues {_quoted(check.column)} {operator} {constant} {_there(check.column)}")
    return _all(parts)


def _relationship(check: Relationship, required: Iterable[str]) -> str:
    table, column = check.parent
    if check.column in required:
        return f"ReferentialIntegrity {_quoted(check.column)} {_quoted(f'{table}.{column}')} = 1.0"
    # For ReferentialIntegrity a NULL is an orphan.
    child, parent = f"child.{_name(check.column)}", f"parent.{_name(column)}"
    return _custom(
        f"SELECT count(*) FROM primary child LEFT ANTI JOIN {_name(table)} parent ON {child} = {parent} "
        f"WHERE {child} IS NOT NULL"
    )


def _spark(sql: str) -> str:
    """A DuckDB expression in Spark's SQL, as far as it means the same there."""
    query = sqlglot.parse_one(f"SELECT (\n{sql}\n)", read="duckdb")
    if not isinstance(query, exp.Select):
        raise _Unsayable("it cannot be translated")
    for refusal in refusals(query, athena=False):
        raise _Unsayable(refusal.reason)
    for column in query.find_all(exp.Column):
        column.this.set("quoted", True)
    return in_dialect(query, Dialect.SPARK).removeprefix("SELECT ")


def _no_row(condition: str) -> str:
    return _custom(f"SELECT count(*) FROM primary WHERE {condition}")


def _custom(sql: str) -> str:
    return f"CustomSql {_quoted(sql)} = 0"


def _all(parts: Iterable[str]) -> str:
    listed = list(parts)
    return listed[0] if len(listed) == 1 else f"({' and '.join(f'({part})' for part in listed)})"


def _labels(rule: Rule) -> str:
    return f'labels=["rule"={_quoted(rule.name)}, "severity"={_quoted(rule.severity.value)}]'


def _there(column: str) -> str:
    return f"where {_quoted(f'{_name(column)} IS NOT NULL')}"


def _comment(rule: Rule) -> str:
    description = f": {_one_line(rule.check.description)}" if rule.check.description else ""
    return f"{rule.name}, {rule.severity.value}{description}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _name(column: str) -> str:
    """A column in Spark's SQL."""
    return f"`{column.replace('`', '``')}`"


def _sql_text(text: str) -> str:
    return exp.Literal.string(text).sql(dialect="spark")


def _text(value: Scalar) -> str:
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _number(value: Scalar) -> str:
    """A number as DQDL writes it, without an exponent. Raises InvalidOperation for what is none."""
    return f"{Decimal(str(value).strip()):f}"


def _quoted(text: str) -> str:
    r"""A string of DQDL: `"` and `\` are escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
