"""A pipeline's status for people."""

from __future__ import annotations

import sys
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from catchment.cli.quantities import duration, size


def show(status: dict[str, Any]) -> None:
    """Print the document that `gather` made."""
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for text in _headlines(status):
        console.print(Text(text))
    if status["tables"]:
        console.print(_tables(status["tables"]))
    if status["sinks"]:
        console.print(_sinks(status["sinks"]))
    if status["lake"]["tables"]:
        console.print(_health(status["lake"]["tables"]))
    if not status["lake"]["available"]:
        console.print(Text(f"The lake cannot be asked: {status['lake']['error']}"))
    for name, one in status["lake"]["tables"].items():
        if one["pinned_at"]:
            console.print(Text(f"{name} is pinned as it was at {one['pinned_at']}; `catchment resume` goes on."))
    if status["dead_letters"]:
        console.print(Text(f"{status['dead_letters']:,} records could not be decoded: see ops.dead_letters."))
    for rule, said in status["gold_stopped"].items():
        console.print(Text(f"Gold is stopped by {rule}: {said}"))
    for text in _source(status["source"]):
        console.print(Text(text))


def _headlines(status: dict[str, Any]) -> list[str]:
    where = f" (process {status['process']})" if status["process"] else ""
    title = f"{status['pipeline']} ({status['environment']})" if status["environment"] else status["pipeline"]
    if status["running"]:
        mode = f", {status['mode']}" if status["mode"] else ""
        behind = f"behind {size(status.get('lag_bytes'))}, {duration(status.get('lag_ms', 0) / 1000)}"
        lines = [f"{title} is running{where}{mode}, {behind}."]
    elif status["state"] == "never run":
        lines = [f"{title} has never run."]
    else:
        lines = [f"{title} is not running; it last reported `{status['state']}` at {status['reported_at']}."]
    if status.get("last_error"):
        lines.append(f"Its last error: {status['last_error']}")
    for name, one in status.get("snapshots", {}).items():
        if one["chunks_done"] < one["chunks_total"]:
            left = f", {duration(one['seconds_left'])} left" if one["seconds_left"] is not None else ""
            lines.append(f"Snapshot of {name}: {one['rows_done']:,} of about {one['rows_total']:,} rows{left}.")
    return [*lines, *status["notes"]]


def _tables(tables: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("table", "left"), ("rows in bronze", "right"), ("last commit", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading in ("this run", "per second", "freshness"):
        table.add_column(heading, justify="right")
    for name, one in tables.items():
        fresh = one.get("freshness_ms")
        table.add_row(
            Text(name),
            f"{one['rows']:,}" if "rows" in one else "",
            one.get("last_commit_at") or "",
            f"{one['durable_changes']:,}" if "durable_changes" in one else "",
            f"{one['changes_per_second']:,.0f}" if "changes_per_second" in one else "",
            duration(fresh / 1000) if fresh is not None else "",
        )
    return table


def _health(tables: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("in the lake")
    for heading in ("files", "size", "dead rows", "delete files"):
        table.add_column(heading, justify="right")
    for heading in ("readable since", "last maintained", "changes since"):
        table.add_column(heading)
    for name, one in tables.items():
        table.add_row(
            Text(name),
            f"{one['files']:,}",
            size(one["size"]),
            f"{one['dead_rows']:,}" if one["dead_rows"] else "",
            f"{one['delete_files']:,}" if one["delete_files"] else "",
            _second(one["readable_since"]),
            _second(one["maintained_at"]),
            _second(one["bronze_since"]),
        )
    return table


def _second(moment: str | None) -> str:
    return f"{moment[:19]}Z" if moment else ""


def _sinks(sinks: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("sink", "last flush", "took", "position"):
        table.add_column(heading, overflow="fold")
    for name, one in sinks.items():
        took = one["flush_seconds"]
        table.add_row(
            Text(name),
            one["last_flush_at"] or "",
            duration(took) if took is not None else "",
            Text("\n".join(f"{lane} {at}" for lane, at in one["positions"].items())),
        )
    return table


def _source(source: dict[str, Any]) -> list[str]:
    if not source["available"]:
        return [f"The source cannot be asked: {source['error']}"]
    if source["state"] == "missing":
        return list(source["notes"])
    if source["kept_bytes"] is None and source["lag_bytes"] is None:
        # A source that keeps nothing for its readers.
        return [f"The source is {source['state']}: {source['position']}.", *source["notes"]]
    lines = [
        f"The slot is {source['state']} at {source['position']}, {size(source['lag_bytes'])} behind; the server keeps "
        f"{size(source['kept_bytes'])} of WAL for it and writes {size(source['bytes_per_second'])}/s."
    ]
    if source["left_bytes"] is not None:
        at_rate = f", {duration(source['seconds_left'])} at this rate" if source["seconds_left"] is not None else ""
        lines.append(f"It would be lost after another {size(source['left_bytes'])}{at_rate}.")
    return [*lines, *source["notes"]]
