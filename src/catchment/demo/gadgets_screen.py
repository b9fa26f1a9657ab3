"""The gadgets' live screen: a line a stage, the two questions' answers, what to type elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from catchment.demo.gadget_places import BUCKET, DATABASE, DELIVERY, STREAM, TABLE
from catchment.demo.gadgets_views import HIDDEN, GadgetsMoment
from catchment.demo.screen import HIGH, Highlight, LiveScreen
from catchment.demo.views import size

if TYPE_CHECKING:
    from catchment.aws.local.counters import RunnerSnapshot

UPI_ROWS = 4
UNITS_ROWS = 6
LATE_MS = 3_000


class GadgetsScreen(LiveScreen[GadgetsMoment]):
    """Draws the gadgets' moments."""

    def __init__(self, directory: Path, console: Console | None = None) -> None:
        super().__init__(console)
        self._directory = directory
        self._units = Highlight()
        self._upi = Highlight()

    def draw(self, moment: GadgetsMoment) -> RenderableType:
        """The whole screen of a moment."""
        parts: list[RenderableType] = [_headline(moment)]
        if moment.seconds:
            parts.append(_stages(moment))
        for sighting in moment.sightings.values():
            parts += self._answers(sighting.answers)
        parts.append(_foot(moment, self._directory))
        return Panel(Group(*parts), title="[bold]Catchment[/] · gadget sales", border_style="cyan", padding=(0, 1))

    def _answers(self, answers: Any) -> list[RenderableType]:
        if not answers:
            return []
        units, upi = answers["units_today"], answers["changes_by_upi"]
        title = "Units sold today"
        shown: list[RenderableType] = [self._units.table("units_today", units["rows"], title, UNITS_ROWS)]
        if self._console.height >= HIGH:
            newest = [{name: row[name] for name in row if name not in HIDDEN} for row in upi["newest"][:UPI_ROWS]]
            title = f"Paid by UPI, newest of {upi['rows']:,} changes (sales_data_table)"
            shown.append(self._upi.table("changes_by_upi", newest, title))
        return shown


def _headline(moment: GadgetsMoment) -> RenderableType:
    grid = Table.grid(padding=(0, 3))
    cells = [Text(moment.phase, style="bold")]
    if moment.seconds:
        wanted = f" of {moment.seconds_wanted:.0f}" if moment.seconds_wanted else ""
        cells.append(Text(f"{moment.seconds:.0f}{wanted} s"))
        cells.append(Text(f"{moment.writes_per_second:,.0f} writes/s"))
    for shape, sighting in moment.sightings.items():
        if sighting.seen_after_ms is not None:
            style = "yellow" if sighting.seen_after_ms > LATE_MS else "green"
            cells.append(Text(f"{shape}: seen by a query after {sighting.seen_after_ms:,.0f} ms", style=style))
    grid.add_row(*cells)
    return grid


def _stages(moment: GadgetsMoment) -> RenderableType:
    result = Table(box=SIMPLE, pad_edge=False)
    result.add_column("stage", style="bold")
    result.add_column("records", justify="right")
    result.add_column("", style="dim")
    result.add_row(f"DynamoDB {TABLE}", f"{moment.writes:,}", _kinds(moment))
    if moment.pipe is not None and moment.firehose is not None:
        _serverless_rows(result, moment.pipe, moment.firehose)
    if moment.report is not None:
        durable = sum(table.durable_changes for table in moment.report.tables.values())
        result.add_row("Iceberg bronze, silver, gold", f"{durable:,}", moment.report.mode or moment.report.state)
    for shape, sighting in moment.sightings.items():
        name = "rows in SQL" if len(moment.sightings) == 1 else f"rows in SQL, {shape}"
        result.add_row(name, f"{sighting.changes:,}", "")
    return result


def _serverless_rows(result: Table, pipe: RunnerSnapshot, firehose: RunnerSnapshot) -> None:
    failed = f", {firehose.failed:,} under errors/" if firehose.failed else ""
    clean = firehose.put + firehose.dropped + firehose.failed
    result.add_row("stream records, read by the pipe", f"{pipe.read:,}", pipe.note)
    result.add_row(f"Kinesis {STREAM}", f"{pipe.put:,}", _late(pipe))
    result.add_row("transformed by the function", f"{clean:,}", f"{firehose.dropped:,} dropped{failed}")
    objects = f"{firehose.objects:,} objects, {size(firehose.bytes)}, {DELIVERY}"
    result.add_row(f"s3://{BUCKET}", f"{firehose.put:,}", objects)


def _late(snapshot: RunnerSnapshot) -> str:
    return f"p50 {snapshot.latency_p50_ms:,.0f} ms" if snapshot.latency_p50_ms is not None else ""


def _kinds(moment: GadgetsMoment) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in sorted(moment.kinds.items()))


def _foot(moment: GadgetsMoment, directory: Path) -> RenderableType:
    lines = Text()
    if moment.report is not None and moment.report.last_error and moment.report.state == "waiting":
        lines.append(f"{moment.report.last_error}\n", style="red")
    if moment.seconds:
        lines.append(f"In another terminal: . {directory}/aws.env\n")
        if moment.firehose is not None:
            lines.append(f'    catchment query --database {DATABASE} "SELECT * FROM gadget_sales LIMIT 5"\n')
        if moment.report is not None:
            lines.append(f'    catchment query {directory}/pipeline.yaml "SELECT * FROM gold.product_performance"\n')
    lines.append("Ctrl-C ends it.", style="dim")
    return lines
