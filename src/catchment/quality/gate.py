"""The gate before gold: while a rule of severity `fail` is broken, gold keeps the rows it has.

The refresher asks before each refresh, over the very snapshots that its models would read. Capture, silver and
quarantine go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from catchment.errors import Retriable
from catchment.finding import Finding, error
from catchment.quality import results
from catchment.quality.config import Relationship, Severity
from catchment.quality.outcome import Suite
from catchment.quality.rules import QualityRules, load_rules
from catchment.quality.suite import run_suite
from catchment.telemetry import LOGGER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.config import LakehouseConfig
    from catchment.lakehouse.ops import OpsStore

log = logging.getLogger(LOGGER)


class QualityGate:
    """Judges the `fail` rules of a pipeline. One thread at a time.

    open_ops: where results are kept when the verdict changes; without it none are.
    """

    def __init__(self, rules: QualityRules, pipeline: str, open_ops: Callable[[], OpsStore] | None = None) -> None:
        self._rules = rules
        self._pipeline = pipeline
        self._open_ops = open_ops
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
        return cls(rules, pipeline, partial(OpsStore.open, lakehouse, directory))

    @property
    def stored(self) -> frozenset[tuple[str, str]]:
        """The stored tables that the connection given to `judge` must show, as far as they are there."""
        return frozenset(
            at
            for table in self._tables()
            for at in (("silver", table), ("silver", f"{table}_quarantine"), ("bronze", table))
        )

    def judge(self, connection: DuckDBPyConnection) -> Finding | None:
        """Why gold must stay as it is, with what to do; None when it may be refreshed."""
        suite = run_suite(connection, self._rules, self._pipeline, severities=(Severity.FAIL,))
        broken = {(one.table, one.rule): one.said for one in suite if one.stops_gold}
        self._tell(suite, broken)
        if not broken:
            return None
        return error("quality", f"Gold keeps its rows: {_listed(broken)}", f"catchment quality {self._pipeline}")

    def _tables(self) -> Iterator[str]:
        for rule in self._rules:
            if rule.severity is Severity.FAIL:
                yield rule.table
                if isinstance(rule.check, Relationship):
                    yield rule.check.parent[0]

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


def _listed(broken: Mapping[tuple[str, str], str]) -> str:
    return " ".join(f"{table}, {rule}: {said}" for (table, rule), said in broken.items())
