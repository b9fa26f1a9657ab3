"""How the gadgets' demo shows itself: what there is to show, as a line, and the last word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catchment.demo.gadgets_outcome import GadgetsOutcome, ShapeOutcome

if TYPE_CHECKING:
    from catchment.aws.local.counters import RunnerSnapshot
    from catchment.telemetry import Report


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a query in another process saw of one shape last.

    changes: rows of every change. seen_after_ms: how old the newest order was when it was seen. answers: to questions.
    """

    changes: int = 0
    seen_after_ms: float | None = None
    answers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GadgetsMoment:
    """All there is to show. phase: what is being done. seconds: since the first order."""

    phase: str
    seconds: float = 0.0
    seconds_wanted: float | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    writes_per_second: float = 0.0
    pipe: RunnerSnapshot | None = None
    firehose: RunnerSnapshot | None = None
    report: Report | None = None
    sightings: Mapping[str, Sighting] = field(default_factory=dict)

    @property
    def writes(self) -> int:
        """Changes written to the table."""
        return sum(self.kinds.values())


def line(moment: GadgetsMoment) -> str:
    """A moment in one line."""
    if not moment.seconds:
        return f"{moment.phase} …"
    parts = [f"{moment.writes:,} written"]
    if moment.pipe is not None:
        parts.append(f"{moment.pipe.put:,} in Kinesis")
    if moment.firehose is not None:
        parts.append(f"{moment.firehose.put:,} in {moment.firehose.objects:,} objects")
    for shape, sighting in moment.sightings.items():
        late = f" after {sighting.seen_after_ms:,.0f} ms" if sighting.seen_after_ms is not None else ""
        parts.append(f"{sighting.changes:,} seen by a query{late}{f' ({shape})' if len(moment.sightings) > 1 else ''}")
    return f"{moment.phase}: {moment.seconds:.0f} s, {', '.join(parts)}"


def summary_text(outcome: GadgetsOutcome) -> str:
    """The last word, for people."""
    kinds = ", ".join(
        f"{count:,} {kind}s" if kind != "modify" else f"{count:,} changes" for kind, count in outcome.kinds.items()
    )
    lines = [f"{outcome.writes:,} writes to DynamoDB in {outcome.seconds:.0f} s ({kinds or 'none'})."]
    for number, (name, shape) in enumerate(outcome.shapes.items()):
        lines += ["", *_shape_text(name, shape), *(_answers_text(shape) if number == 0 else [])]
    if outcome.shapes_equal is not None:
        verdict = (
            "the same gadget_sales rows" if outcome.shapes_equal else "DIFFERENT gadget_sales rows: please report this"
        )
        lines += ["", f"Both shapes have {verdict}."]
    lines += ["", *outcome.notes]
    return "\n".join(lines).rstrip()


def _shape_text(name: str, shape: ShapeOutcome) -> list[str]:
    orders = shape.orders
    verdict = "equal, order for order" if shape.equal else "NOT EQUAL: please report this"
    lines = [
        f"{name}: {shape.changes:,} changes in sales_data_table, {orders.orders:,} orders in gadget_sales,"
        f" {orders.table_orders:,} in DynamoDB: {verdict}"
    ]
    late = shape.latency_ms
    if late.p50 is not None and late.p99 is not None:
        lines.append(
            f"  PutItem to seen by a query: {late.p50:,.0f} ms (half of the orders), {late.p99:,.0f} ms (99 %)"
        )
    return lines


def _answers_text(shape: ShapeOutcome) -> list[str]:
    lines: list[str] = []
    if shape.journey is not None:
        lines += ["", f"  The newest change, event {shape.journey['event_id']}:", *_journey_text(shape.journey)]
    for answer in shape.queries.values():
        total = answer["rows"] if isinstance(answer["rows"], int) else len(answer["rows"])
        rows = answer["newest"] if "newest" in answer else answer["rows"]
        lines += ["", f"  {answer['sql']}", *_table_text(rows[:TEXT_ROWS], total)]
    return lines


def _journey_text(journey: Mapping[str, Any]) -> list[str]:
    """A line a stage: where, and how long after the stage before."""
    lines: list[str] = []
    for stage in journey["stages"]:
        wait = stage["seconds_since_the_stage_before"]
        later = f"+{wait:.1f} s" if wait is not None else ""
        lines += [f"    {stage['stage']:<9} {later:>8}  {found['where']}" for found in stage["found"]]
    return lines


def _table_text(rows: list[dict[str, Any]], total: int) -> list[str]:
    if not rows:
        return ["    no rows"]
    names = [name for name in rows[0] if name not in HIDDEN]
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
    lines = [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    return [*lines, *([f"    and {total - len(rows):,} rows more"] if total > len(rows) else [])]


def _cell(value: Any) -> str:
    return "" if value is None else re.sub(r"\.(\d{3})\d{3}(\+00:00)?$", r".\1", str(value))


TEXT_ROWS = 6
HIDDEN = frozenset({"event_id", "sequence_number", "stream_label", "order_date", "datehour", "event_time"})
"""Columns that are left out where there is little room; the JSON has them."""
