"""Suites kept in `ops.quality_results`, for the report's trend, for `status` and for dashboards."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from catchment.lakehouse.ops import ops_errors, quality_results_table
from catchment.quality.config import Severity
from catchment.quality.outcome import Status, Suite, TableOutcome, counted

if TYPE_CHECKING:
    from catchment.lakehouse.ops import OpsStore

SUITES_KEPT = 200
"""Suites kept for each pipeline and for each of those who judge (the command, the gate before gold)."""

COMMAND, GATE = "command", "gate"

WHOLE = "*"
"""The rule's name in a result about all row rules of a table together."""


@dataclass(frozen=True, slots=True)
class Point:
    """A rule in an earlier suite."""

    judged_at: float
    status: Status
    rows: int | None
    broken: int | None


def keep(ops: OpsStore, suite: Suite, judged_by: str) -> None:
    """Add a suite, and forget those that are older than the last `SUITES_KEPT`."""
    at = quality_results_table.c
    mine = (at.pipeline == suite.pipeline, at.judged_by == judged_by)
    rows: list[dict[str, object]] = [
        {
            "pipeline": suite.pipeline,
            "judged_at": suite.judged_at,
            "judged_by": judged_by,
            "table": one.table,
            "rule": one.rule,
            "type": one.type,
            "severity": one.severity.value,
            "status": one.status.value,
            "row_count": one.rows,
            "broken": one.broken,
            "quarantined": one.quarantined,
            "said": one.said,
        }
        for one in suite
    ]
    rows += [_whole(suite, table, judged_by) for table in suite.tables if table.broken is not None]
    if not rows:
        return
    with ops_errors("The results of quality rules could not be kept"), ops.writing() as connection:
        connection.execute(insert(quality_results_table), rows)
        moments = select(at.judged_at).where(*mine).distinct().order_by(at.judged_at.desc())
        oldest = connection.execute(moments.offset(SUITES_KEPT).limit(1)).scalar()
        if oldest is not None:
            connection.execute(delete(quality_results_table).where(*mine, at.judged_at <= oldest))


def _whole(suite: Suite, table: TableOutcome, judged_by: str) -> dict[str, object]:
    return {
        "pipeline": suite.pipeline,
        "judged_at": suite.judged_at,
        "judged_by": judged_by,
        "table": table.table,
        "rule": WHOLE,
        "type": WHOLE,
        "severity": Severity.FLAG.value,
        "status": (Status.BROKEN if table.broken else Status.PASSED).value,
        "row_count": table.rows,
        "broken": table.broken,
        "quarantined": table.quarantined,
        "said": f"{counted(table.broken or 0, 'row')} of {table.rows:,} break a rule.",
    }


def history(ops: OpsStore, pipeline: str) -> dict[tuple[str, str], list[Point]]:
    """(table, rule) → what the kept suites of the command said, the oldest first."""
    at = quality_results_table.c
    query = (
        select(at.table, at.rule, at.judged_at, at.status, at.row_count, at.broken)
        .where(at.pipeline == pipeline, at.judged_by == COMMAND)
        .order_by(at.judged_at, at.id)
    )
    found: dict[tuple[str, str], list[Point]] = defaultdict(list)
    with ops_errors("The results of quality rules could not be read"), ops.reading() as connection:
        for table, rule, judged_at, status, rows, broken in connection.execute(query):
            found[table, rule].append(Point(judged_at, Status(status), rows, broken))
    return dict(found)


def last_gate(ops: OpsStore, pipeline: str) -> dict[tuple[str, str], str]:
    """(table, rule) → what the gate said last of a `fail` rule that was broken then; empty when gold may go on."""
    at = quality_results_table.c
    mine = (at.pipeline == pipeline, at.judged_by == GATE)
    newest = select(at.judged_at).where(*mine).order_by(at.judged_at.desc()).limit(1).scalar_subquery()
    query = select(at.table, at.rule, at.said).where(
        *mine, at.judged_at == newest, at.status == Status.BROKEN.value, at.severity == Severity.FAIL.value
    )
    with ops_errors("The results of quality rules could not be read"), ops.reading() as connection:
        return {(table, rule): said for table, rule, said in connection.execute(query)}
