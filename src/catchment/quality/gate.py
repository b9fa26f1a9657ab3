"""The gate before gold: while a rule of severity `fail` is broken, gold keeps the rows it has.

The refresher asks before each refresh, over the very snapshots that its models would read. Capture, silver and
quarantine go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import Retriable
from catchment.finding import Finding, error
from catchment.quality import results
from catchment.quality.config import Freshness, Relationship, Severity
from catchment.quality.outcome import Suite, TableOutcome
from catchment.quality.rules import QualityRules, Rule, TableRules, load_rules
from catchment.quality.suite import run_suite
from catchment.telemetry import LOGGER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.config import LakehouseConfig
    from catchment.lakehouse.ops import OpsStore

log = logging.getLogger(LOGGER)

Stored = tuple[str, str]
"""A stored table: its layer and its name."""


class QualityGate:
    """Judges the `fail` rules of a pipeline. One thread at a time.

    open_ops: where results are kept when the verdict changes; without it none are. merged: tables that silver has,
    True for all; the others are judged in `current`.
    """

    def __init__(
        self,
        rules: QualityRules,
        pipeline: str,
        open_ops: Callable[[], OpsStore] | None = None,
        *,
        merged: bool | Collection[str] = False,
    ) -> None:
        self._rules = rules
        self._pipeline = pipeline
        self._open_ops = open_ops
        self._stored = {table: _stored(table, merged) for table in _tables(rules)}
        self._judged: dict[str, tuple[object, TableOutcome]] = {}
        self._verdict: dict[tuple[str, str], str] | None = None

    @classmethod
    def of(cls, lakehouse: LakehouseConfig, directory: Path, pipeline: str) -> QualityGate | None:
        """As configured; None without a rule of severity `fail`. Raises ConfigError when quality.yaml is wrong."""
        from catchment.lakehouse.ops import OpsStore

        if lakehouse.quality is None:
            return None
        rules = load_rules(directory / lakehouse.quality)
        if not any(rule.severity is Severity.FAIL for rule in rules):
            return None
        return cls(rules, pipeline, partial(OpsStore.open, lakehouse, directory), merged=lakehouse.silver)

    @property
    def stored(self) -> frozenset[Stored]:
        """The stored tables that the connection given to `judge` must show, as far as they are there."""
        return frozenset(at for stored in self._stored.values() for at in stored)

    def judge(self, connection: DuckDBPyConnection, versions: Mapping[Stored, str] | None = None) -> Finding | None:
        """Why gold must stay as it is, with what to do; None when it may be refreshed.

        versions: of the stored tables that the connection shows. Tables that are as they were are not read again.
        """
        started, now = time.monotonic(), time.time()
        outcomes = [self._table(connection, rules, versions) for rules in self._rules.tables.values()]
        told = tuple(one for one in outcomes if one is not None)
        suite = Suite(self._pipeline, now, time.monotonic() - started, told)
        broken = {(one.table, one.rule): one.said for one in suite if one.stops_gold}
        self._tell(suite, broken)
        if not broken:
            return None
        return error("quality", f"Gold keeps its rows: {_listed(broken)}")

    def _table(
        self, connection: DuckDBPyConnection, rules: TableRules, versions: Mapping[Stored, str] | None
    ) -> TableOutcome | None:
        mine = [rule for rule in rules.rules if rule.severity is Severity.FAIL]
        if not mine:
            return None
        state: object = None
        if versions is not None and not any(isinstance(rule.check, Freshness) for rule in mine):
            state = tuple(versions.get(at) for rule in mine for table in _read_by(rule) for at in self._stored[table])
            known = self._judged.get(rules.table)
            if known is not None and known[0] == state:
                return known[1]
        only = QualityRules(self._rules.file, {rules.table: TableRules(rules.table, tuple(mine))})
        (outcome,) = run_suite(connection, only, self._pipeline).tables
        self._judged[rules.table] = (state, outcome) if state is not None else (object(), outcome)
        return outcome

    def _tell(self, suite: Suite, broken: Mapping[tuple[str, str], str]) -> None:
        """Once for each change of the verdict."""
        before = self._verdict
        if before is not None and before.keys() == broken.keys():
            return
        self._verdict = dict(broken)
        if broken:
            log.warning("Gold keeps its rows until these rules hold: %s Capture goes on.", _listed(broken))
        elif before:
            log.info("The rules that stopped gold hold again.")
        if self._open_ops is not None:
            self._keep(suite, self._open_ops)

    def _keep(self, suite: Suite, open_ops: Callable[[], OpsStore]) -> None:
        try:
            ops = open_ops()
            try:
                results.keep(ops, suite, results.GATE)
            finally:
                ops.close()
        except Retriable as reason:
            # Only a record for people: the verdict itself does not depend on it.
            log.warning("%s", reason)


def _tables(rules: QualityRules) -> Iterator[str]:
    """The tables that `fail` rules read."""
    return (table for rule in rules if rule.severity is Severity.FAIL for table in _read_by(rule))


def _read_by(rule: Rule) -> tuple[str, ...]:
    parents = (rule.check.parent[0],) if isinstance(rule.check, Relationship) else ()
    return (rule.table, *parents)


def _stored(table: str, merged: bool | Collection[str]) -> tuple[Stored, ...]:
    in_silver = merged if isinstance(merged, bool) else table in merged
    silver = (("silver", table), ("silver", f"{table}_quarantine"))
    # The changes of a table in silver are not replayed as well.
    return silver if in_silver else (*silver, ("bronze", table))


def _listed(broken: Mapping[tuple[str, str], str]) -> str:
    return " ".join(f"{table}, {rule}: {said}" for (table, rule), said in broken.items())
