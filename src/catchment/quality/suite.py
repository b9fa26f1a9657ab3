"""All rules over the lake as it is now: one pass a table for the rules about rows, one more for each other rule."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from catchment.lakehouse.sql import identifier, literal
from catchment.quality.bitmask import fit
from catchment.quality.condition import UNREPRESENTABLE, Unfit, broken, resolved, types_of
from catchment.quality.config import (
    ColumnCount,
    Freshness,
    Relationship,
    RowCount,
    Severity,
    Unique,
)
from catchment.quality.expression import judge
from catchment.quality.outcome import Judgement, Status, Suite, TableOutcome, counted
from catchment.quality.relation import QUARANTINED, Relation, relation
from catchment.quality.rules import QualityRules, Rule, TableRules

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

KEYS_SHOWN = 5
ALL = tuple(Severity)


def run_suite(
    connection: DuckDBPyConnection,
    rules: QualityRules,
    pipeline: str,
    *,
    tables: Collection[str] | None = None,
    severities: Collection[Severity] = ALL,
    keys: Mapping[str, Sequence[str]] | None = None,
) -> Suite:
    """Judge the lake that a connection shows.

    tables, severities: only these. keys: table → its key's columns, to show some keys of broken rows. A rule that
    cannot be judged is told as `unjudged`; nothing is raised for it.
    """
    started, now = time.monotonic(), time.time()
    runner = _Runner(connection, now, keys or {})
    found = []
    for table in rules.tables.values():
        chosen = tuple(rule for rule in table.rules if rule.severity in severities)
        if chosen and (tables is None or table.table in tables):
            found.append(runner.table(TableRules(table.table, chosen)))
    return Suite(pipeline, now, time.monotonic() - started, tuple(found))


@dataclass
class _Pass:
    """What one pass over a table's rows found. broken: rule → rows, and those of them in quarantine."""

    rows: int = 0
    quarantined: int = 0
    with_text: int = 0
    newest: float | None = None
    any_broken: int = 0
    broken: dict[str, tuple[int, int]] = field(default_factory=dict)
    unfit: dict[str, str] = field(default_factory=dict)


class _Runner:
    """Judges one table after the other over one connection."""

    def __init__(self, connection: DuckDBPyConnection, now: float, keys: Mapping[str, Sequence[str]]) -> None:
        self._connection = connection
        self._now = now
        self._keys = keys

    def table(self, rules: TableRules) -> TableOutcome:
        """A table with its rules."""
        try:
            rows = relation(self._connection, rules.table)
            passed = self._pass(rows, rules)
        except Unfit as reason:
            return TableOutcome.unread(rules, str(reason))
        outcomes = tuple(self._judge(rule, rows, passed).of(rule, passed.rows) for rule in rules.rules)
        return TableOutcome(
            table=rules.table,
            layer=rows.layer,
            rows=passed.rows,
            quarantined=passed.quarantined,
            columns=len(rows.columns),
            newest=passed.newest,
            rules=outcomes,
            broken=passed.any_broken if passed.broken else None,
        )

    def _judge(self, rule: Rule, rows: Relation, passed: _Pass) -> Judgement:
        try:
            if rule.row_local:
                return self._about_rows(rule, rows, passed)
            return self._about_tables(rule, rows, passed)
        except Unfit as reason:
            return Judgement.unjudged(str(reason))

    def _pass(self, rows: Relation, rules: TableRules) -> _Pass:
        """Everything that one look at each row can tell."""
        found = _Pass()
        conditions = {}
        with judge() as checking:
            for rule in rules.row_rules:
                try:
                    conditions[rule.name] = _condition(checking, rule, rows)
                except Unfit as reason:
                    found.unfit[rule.name] = str(reason)
        newest = "epoch_us(max(_committed_at))" if "_committed_at" in rows.schema.names else "NULL"
        texts = f"count({UNREPRESENTABLE})" if rows.keeps_text else "0"
        any_broken = " OR ".join(f"_broken_{number}" for number in range(len(conditions))) or "false"
        wanted = ["count(*)", f"count(*) FILTER ({QUARANTINED})", texts, newest, f"count(*) FILTER ({any_broken})"]
        for number in range(len(conditions)):
            wanted += [f"count(*) FILTER (_broken_{number})", f"count(*) FILTER (_broken_{number} AND {QUARANTINED})"]
        judged = "".join(f", {condition} AS _broken_{number}" for number, condition in enumerate(conditions.values()))
        values = self._row(f"SELECT {', '.join(wanted)} FROM (SELECT *{judged} FROM {rows.sql})")
        found.rows, found.quarantined, found.with_text = values[:3]
        found.newest = None if values[3] is None else values[3] / 1e6
        found.any_broken = values[4]
        found.broken = {name: (values[5 + 2 * at], values[6 + 2 * at]) for at, name in enumerate(conditions)}
        return found

    def _about_rows(self, rule: Rule, rows: Relation, passed: _Pass) -> Judgement:
        if rule.name in passed.unfit:
            raise Unfit(passed.unfit[rule.name])
        count, quarantined = passed.broken[rule.name]
        if not count:
            return Judgement(Status.PASSED, f"All {counted(passed.rows, 'row')} keep it.", 0)
        said = f"{counted(count, 'row')} of {passed.rows:,} {'breaks' if count == 1 else 'break'} it"
        if quarantined:
            said += f", {'all' if quarantined == count else f'{quarantined:,}'} in quarantine"
        # What is in quarantine is not in silver, and so not in gold.
        held = rule.severity is Severity.FAIL and quarantined == count
        keys = self._some_keys(rows, rule)
        return Judgement(Status.PASSED if held else Status.BROKEN, f"{said}.", count, quarantined, keys)

    def _about_tables(self, rule: Rule, rows: Relation, passed: _Pass) -> Judgement:
        match rule.check:
            case Unique() as check:
                return self._unique(check, rows, passed)
            case Relationship() as check:
                return self._relationship(check, rows, passed)
            case Freshness() as check:
                return self._freshness(check, rows)
            case RowCount() as check:
                return row_count(check, passed.rows)
            case ColumnCount() as check:
                return column_count(check, len(rows.columns))
        raise Unfit(f"there is no way to judge a rule of type {rule.type}")

    def _unique(self, check: Unique, rows: Relation, passed: _Pass) -> Judgement:
        parts = [_parts(rows, name, text=passed.with_text > 0) for name in check.columns]
        there = " AND ".join(f"({' OR '.join(f'{part} IS NOT NULL' for part in column)})" for column in parts)
        grouped = ", ".join(part for column in parts for part in column)
        groups = f"SELECT count(*) AS _rows FROM {rows.sql} WHERE {there} GROUP BY {grouped} HAVING count(*) > 1"
        shared, values = self._row(f"SELECT coalesce(sum(_rows), 0)::BIGINT, count(*) FROM ({groups})")
        if not shared:
            return Judgement(Status.PASSED, "No two rows have the same.", 0)
        said = f"{counted(shared, 'row')} share {counted(values, 'value')} of {', '.join(check.columns)}."
        return Judgement(Status.BROKEN, said, shared)

    def _relationship(self, check: Relationship, rows: Relation, passed: _Pass) -> Judgement:
        table, column = check.parent
        parents = relation(self._connection, table)
        count, values = 0, 0
        for child, parent in zip(
            _parts(rows, check.column, text=passed.with_text > 0), _parts(parents, column, text=True), strict=False
        ):
            lost = self._row(
                f"SELECT count(*), count(DISTINCT _value) FROM (SELECT {child} AS _value FROM {rows.sql}) ANTI JOIN "
                f"(SELECT DISTINCT {parent} AS _value FROM {parents.sql}) USING (_value) WHERE _value IS NOT NULL"
            )
            count, values = count + lost[0], values + lost[1]
        if not count:
            return Judgement(Status.PASSED, f"Every {check.column} is found in {check.to}.", 0)
        said = f"{counted(count, 'row')} with {counted(values, 'value')} that {check.to} does not have."
        return Judgement(Status.BROKEN, said, count)

    def _freshness(self, check: Freshness, rows: Relation) -> Judgement:
        newest = self._newest(rows, check.column)
        if newest is None and check.column == "_committed_at":
            raise Unfit("every row comes from a snapshot, which does not know when it was committed")
        if newest is None:
            return Judgement(Status.BROKEN, f"No row has a {check.column}.")
        age = max(0.0, self._now - newest)
        said = f"The newest {check.column} is {_duration(age)} old"
        if age > check.max_age_seconds:
            return Judgement(Status.BROKEN, f"{said}; at most {_duration(check.max_age_seconds)} is expected.")
        return Judgement(Status.PASSED, f"{said}.")

    def _newest(self, rows: Relation, column: str) -> float | None:
        (kind,) = types_of([column], rows.schema).values()
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            raise Unfit(f"{column} is of type {kind}, which is no moment")
        (micros,) = self._row(f"SELECT epoch_us(max({identifier(column)})) FROM {rows.sql}")
        if micros is None:
            return None
        # A date lasts until its end.
        return float(micros / 1e6 + (86_400 if pa.types.is_date(kind) else 0))

    def _some_keys(self, rows: Relation, rule: Rule) -> tuple[Mapping[str, Any], ...]:
        key = self._keys.get(rule.table)
        if not key:
            return ()
        with judge() as checking:
            condition = _condition(checking, rule, rows)
        columns = ", ".join(identifier(name) for name in key)
        query = f"SELECT {columns} FROM {rows.sql} WHERE {condition} ORDER BY ALL LIMIT {KEYS_SHOWN}"
        return tuple(dict(zip(key, found, strict=True)) for found in self._execute(query).fetchall())

    def _row(self, query: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._execute(query).fetchall()[0]
        return row

    def _execute(self, query: str) -> DuckDBPyConnection:
        try:
            return self._connection.execute(query)
        except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException) as error:
            raise Unfit(str(error).partition("\n")[0].rstrip(".")) from None
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            # Its message may hold a value of a row.
            raise Unfit(f"DuckDB stopped with {type(error).__name__}") from None


def row_count(check: RowCount, rows: int) -> Judgement:
    """Has a table so many rows?"""
    said = f"It has {counted(rows, 'row')}"
    if check.min is not None and rows < check.min:
        return Judgement(Status.BROKEN, f"{said}; at least {check.min:,} are expected.")
    if check.max is not None and rows > check.max:
        return Judgement(Status.BROKEN, f"{said}; at most {check.max:,} are expected.")
    return Judgement(Status.PASSED, f"{said}.")


def column_count(check: ColumnCount, columns: int) -> Judgement:
    """Has a table so many columns?"""
    said = f"It has {counted(columns, 'column')}"
    if columns != check.equals:
        return Judgement(Status.BROKEN, f"{said}; {check.equals} {'is' if check.equals == 1 else 'are'} expected.")
    return Judgement(Status.PASSED, f"{said}.")


def _condition(checking: DuckDBPyConnection, rule: Rule, rows: Relation) -> str:
    """What is true for rows that break the rule."""
    fit(checking, rule, rows.schema, {})
    return broken(rule.check, types_of(rule.columns(), rows.schema), kept_as_text=rows.keeps_text)


def _parts(rows: Relation, name: str, *, text: bool) -> tuple[str, ...]:
    """What a column's value is made of: itself, and with `text` what stands for a value that it cannot hold."""
    column = identifier(resolved(rows.schema, name))
    if not text:
        return (column,)
    kept = f"map_extract_value({UNREPRESENTABLE}, {literal(name)})" if rows.keeps_text else "NULL::VARCHAR"
    return column, kept


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return counted(int(seconds // size), unit)
    return counted(int(seconds), "second")
