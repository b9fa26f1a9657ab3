"""Rules before ingestion: the source's own rows, through the pipeline's transforms, judged as the merge would.

Rules about single rows are judged on the very bits that silver would get. Those about whole tables are judged as
far as the rows that were read can tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from catchment.change import ChangeBatch
from catchment.lakehouse.sql import identifier
from catchment.quality.bitmask import Bits, RowRules
from catchment.quality.condition import UNREPRESENTABLE
from catchment.quality.config import ColumnCount, RowCount
from catchment.quality.outcome import Judgement, Status, Suite, TableOutcome, counted
from catchment.quality.rules import QualityRules, Rule, TableRules
from catchment.quality.suite import KEYS_SHOWN, column_count, row_count
from catchment.schema import TableId
from catchment.sources.sample import Sample
from catchment.transforms.base import Chain

Tell = Callable[[str, int], None]
"""Called with a table and how many of its rows were judged so far."""


def judge_source(
    rules: QualityRules,
    pipeline: str,
    samples: Iterable[Sample],
    transform: Chain,
    name_of: Callable[[TableId], str],
    *,
    with_keys: bool = False,
    tell: Tell | None = None,
) -> Suite:
    """What the rules would say if these rows were ingested now. name_of: what the lake calls a table."""
    started, now = time.monotonic(), time.time()
    judged: dict[str, TableOutcome] = {}
    for sample in samples:
        table = name_of(sample.table)
        judged[table] = _table(rules.of(table), sample, transform, with_keys, tell or (lambda *_: None))
    tables = tuple(judged.get(table) or _missing(one) for table, one in rules.tables.items())
    return Suite(pipeline, now, time.monotonic() - started, tables, of="source")


@dataclass
class _Counts:
    """What was seen of a table. broken, keys: by the rule's name."""

    rows: int = 0
    any_broken: int = 0
    quarantined: int = 0
    columns: int | None = None
    broken: dict[str, int] = field(default_factory=dict)
    keys: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def _table(rules: TableRules, sample: Sample, transform: Chain, with_keys: bool, tell: Tell) -> TableOutcome:
    if sample.obstacle is not None:
        return TableOutcome.unread(rules, sample.obstacle.rstrip("."))
    counts = _Counts()
    compiled: RowRules | None = None
    try:
        for batch in sample.batches:
            changed = transform.apply(batch)
            if changed is None:
                continue
            rows = _rows(changed)
            if compiled is None:
                compiled = RowRules.compile(rules, rows.schema)
                counts.skipped = compiled.skipped
                counts.columns = len(changed.schema.columns)
            _count(counts, compiled, compiled.evaluate(rows), rows, changed.schema.key if with_keys else ())
            tell(rules.table, counts.rows)
    finally:
        if compiled is not None:
            compiled.close()
    outcomes = tuple(_judged(rule, counts, sample).of(rule, counts.rows) for rule in rules.rules)
    return TableOutcome(
        table=rules.table,
        layer="source",
        rows=counts.rows,
        quarantined=counts.quarantined,
        columns=counts.columns,
        newest=None,
        rules=outcomes,
        broken=counts.any_broken,
        whole=sample.whole,
    )


def _rows(batch: ChangeBatch) -> pa.Table:
    """The rows as silver has them; when they were committed is not known."""
    after = batch.records.column("after")
    arrays = dict(zip(after.type.names, after.flatten(), strict=True))
    for name in ("_committed_at", UNREPRESENTABLE):
        arrays.setdefault(name, batch.records.column(name))
    return pa.table(list(arrays.values()), names=list(arrays))


def _count(counts: _Counts, rules: RowRules, bits: Bits, rows: pa.Table, key: tuple[str, ...]) -> None:
    counts.rows += len(bits)
    counts.any_broken += int(np.count_nonzero(bits))
    counts.quarantined += int(np.count_nonzero(bits & np.uint64(rules.quarantine_mask)))
    for bit, name in enumerate(rules.names):
        where = np.flatnonzero(bits & np.uint64(1 << bit))
        counts.broken[name] = counts.broken.get(name, 0) + len(where)
        shown = counts.keys.setdefault(name, [])
        if key and len(where) and len(shown) < KEYS_SHOWN:
            shown += rows.select(list(key)).take(where[: KEYS_SHOWN - len(shown)]).to_pylist()


def _judged(rule: Rule, counts: _Counts, sample: Sample) -> Judgement:
    if rule.row_local:
        return _about_rows(rule, counts, sample)
    if isinstance(rule.check, ColumnCount) and counts.columns is not None:
        return column_count(rule.check, counts.columns)
    if isinstance(rule.check, RowCount) and sample.whole:
        return row_count(rule.check, counts.rows)
    return Judgement(Status.UNJUDGED, "Judged once the table is in the lake: it is about all of its rows.")


def _about_rows(rule: Rule, counts: _Counts, sample: Sample) -> Judgement:
    if rule.name in counts.skipped:
        return Judgement.unjudged(counts.skipped[rule.name])
    broken = counts.broken.get(rule.name, 0)
    if not broken:
        said = f"All {counted(counts.rows, 'row')} keep it."
        return Judgement(Status.PASSED, said if sample.whole else said.replace("All", "All of the sample's", 1), 0)
    then = {"quarantine": " and would be quarantined", "fail": " and would stop gold"}.get(rule.severity.value, "")
    verb = "breaks" if broken == 1 else "break"
    said = f"{counted(broken, 'row')} of {counts.rows:,} {verb} it{then}."
    return Judgement(Status.BROKEN, said, broken, keys=tuple(counts.keys.get(rule.name, ())))


def _missing(rules: TableRules) -> TableOutcome:
    return TableOutcome.unread(
        rules, f"no captured table of the source is called {identifier(rules.table)} in the lake"
    )
