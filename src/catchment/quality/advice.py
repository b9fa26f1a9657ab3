"""What to do next about a suite: one sentence each, the most pressing first."""

from __future__ import annotations

from collections.abc import Iterator

from catchment.quality.config import Severity
from catchment.quality.outcome import Status, Suite, counted, listed


def advice(suite: Suite) -> list[str]:
    """The sentences; none when everything holds."""
    return list(_before(suite) if suite.of == "source" else _sentences(suite))


def _before(suite: Suite) -> Iterator[str]:
    """Before ingestion nothing has happened yet."""
    stopping = [f"{rule.table}.{rule.rule}" for rule in suite if rule.stops_gold]
    if stopping:
        yield f"{listed(stopping)} would stop gold: mend the source's rows first, or lower the severity."
    for table in suite.tables:
        if table.quarantined:
            yield (
                f"{counted(table.quarantined, 'row')} of {table.table} would go to quarantine, and come back by "
                "themselves once they are mended at the source."
            )
    flagged = [f"{rule.table}.{rule.rule}" for rule in suite.broken(Severity.FLAG)]
    if flagged:
        yield f"{listed(flagged)} would be flagged; the rows go into silver all the same."


def _sentences(suite: Suite) -> Iterator[str]:
    stopping = [f"{rule.table}.{rule.rule}" for rule in suite if rule.stops_gold]
    if stopping:
        yield (
            f"Gold keeps the rows it has until {listed(stopping)} {'holds' if len(stopping) == 1 else 'hold'} again: "
            "mend the data at its source, or lower the severity."
        )
    for table in suite.tables:
        if table.quarantined:
            yield (
                f"{counted(table.quarantined, 'row')} of {table.table} {'is' if table.quarantined == 1 else 'are'} in "
                f"quarantine: mend them at the source and they come back by themselves, or let them out with "
                f"`--release {table.table}`; look at them in silver.{table.table}_quarantine."
            )
    loose = [rule for rule in suite.broken(Severity.QUARANTINE) if (rule.broken or 0) > rule.quarantined]
    if loose and any(table.layer == "silver" for table in suite.tables):
        names = listed([f"{rule.table}.{rule.rule}" for rule in loose])
        yield (
            f"Rows that break {names} are in silver: they were merged before the rule was written, or released. The "
            "next change of such a row is judged anew."
        )
    flagged = [f"{rule.table}.{rule.rule}" for rule in suite.broken(Severity.FLAG)]
    if flagged:
        yield f"Look into {listed(flagged)}; in silver, `_quality` names the rules that a row breaks."
    unjudged = [f"{rule.table}.{rule.rule}" for rule in suite if rule.status is Status.UNJUDGED]
    if unjudged:
        yield f"{listed(unjudged)} could not be judged: correct the rule, or wait for its table."
