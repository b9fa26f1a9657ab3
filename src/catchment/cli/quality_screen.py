"""A suite of quality rules for people at a terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catchment.cli.quantities import duration
from catchment.quality.advice import advice
from catchment.quality.config import Severity
from catchment.quality.outcome import RuleOutcome, Status, Suite, TableOutcome, counted, named_keys

_STYLES = {Status.PASSED: "green", Status.UNJUDGED: "yellow"}
_BROKEN = {Severity.FAIL: "bold red", Severity.QUARANTINE: "magenta", Severity.FLAG: "yellow"}


def show(suite: Suite, page: Path | None) -> None:
    """Print each table's rules, what they add up to, and what to do next."""
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for table in suite.tables:
        console.print(_table(table))
    console.print(Text(_summary(suite)))
    for line in advice(suite):
        console.print(Text(f"- {line}"))
    if page is not None:
        console.print(Text(f"The report is in {page}."))


def _table(one: TableOutcome) -> Table:
    table = Table(title=_title(one), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("rule", "severity", "", "found"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("severity", ""))
    for rule in one.rules:
        table.add_row(
            Text(rule.rule), Text(rule.severity.value), Text(rule.status.value, _style(rule)), Text(_found(rule))
        )
    return table


def _title(one: TableOutcome) -> Text:
    if one.rows is None:
        return Text(one.table)
    where = "for quarantine" if one.layer == "source" else "in quarantine"
    quarantined = f", {one.quarantined:,} of them {where}" if one.quarantined else ""
    sampled = "" if one.whole else ", a sample"
    return Text(f"{one.layer}.{one.table}: {counted(one.rows, 'row')}{sampled}{quarantined}")


def _style(rule: RuleOutcome) -> str:
    return _BROKEN[rule.severity] if rule.status is Status.BROKEN else _STYLES[rule.status]


def _found(rule: RuleOutcome) -> str:
    return f"{rule.said} Such as {named_keys(rule)}." if rule.keys else rule.said


def _summary(suite: Suite) -> str:
    counts = suite.counts()
    said = ", ".join(f"{counts[status.value]} {status.value}" for status in Status if counts[status.value])
    return f"{suite.pipeline}: {said or 'no rules'}; judged in {duration(suite.seconds)}."
