"""`catchment snapshots`: which states of the tables are still there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath

if TYPE_CHECKING:
    from rich.console import Console

    from catchment.lakehouse.recovery.snapshot_listing import KeptSnapshot, SnapshotsOfTable


def snapshots(
    pipeline: PipelinePath,
    table: Annotated[
        str | None, typer.Argument(metavar="[TABLE]", help="silver.orders, or orders for every layer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the snapshots of the lake's tables that are kept: how they were, and can be read or set back to.

    Without TABLE one line a table. Rows are those that a reader of the snapshot sees.
    """
    import json
    from contextlib import closing

    from catchment.config import load
    from catchment.lakehouse.catalog import load_catalog
    from catchment.lakehouse.recovery.snapshot_listing import kept_snapshots

    config = load(pipeline)
    with closing(load_catalog(config.lakehouse.catalog, config.directory)) as catalog:
        found = kept_snapshots(catalog, table)
    if as_json:
        document = {"pipeline": config.name, "tables": [one.to_dict() for one in found]}
        print(json.dumps(document, indent=2))
    else:
        _show(found, whole=table is not None)


def _show(tables: list[SnapshotsOfTable], *, whole: bool) -> None:
    import sys

    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    if not tables:
        console.print("The lake has no tables yet.")
    elif whole:
        for one in tables:
            _show_table(console, one)
    else:
        _show_overview(console, tables)


def _show_overview(console: Console, tables: list[SnapshotsOfTable]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from catchment.lakehouse.recovery.snapshot_listing import iso

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("table", "kept", "from", "to", "rows", "files", ""):
        shown.add_column(heading, justify="right" if heading in ("kept", "rows", "files") else "left")
    for one in tables:
        last = one.snapshots[-1] if one.snapshots else None
        shown.add_row(
            Text(one.table),
            str(len(one.snapshots)),
            iso(one.snapshots[0].at) if last else "",
            iso(last.at) if last else "",
            _count(last.rows) if last else "",
            _files(last) if last else "",
            "pinned" if one.pinned else "",
        )
    console.print(shown)


def _show_table(console: Console, table: SnapshotsOfTable) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from catchment.lakehouse.recovery.snapshot_listing import iso

    mark = "; pinned by a rollback, `catchment resume` goes on" if table.pinned else ""
    console.print(Text(f"{table.table}: {len(table.snapshots)} snapshots are kept{mark}."))
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("snapshot", "committed", "operation", "rows", "files", "added", "deleted", "position"):
        shown.add_column(heading, justify="left" if heading in ("committed", "operation", "position") else "right")
    for one in table.snapshots:
        shown.add_row(
            str(one.id),
            iso(one.at),
            f"{one.operation}{' (current)' if one.current else ''}",
            _count(one.rows),
            _files(one),
            f"{one.added_rows:,}",
            f"{one.deleted_rows:,}",
            Text(", ".join(one.positions.values())),
        )
    console.print(shown)


def _count(rows: int | None) -> str:
    return f"{rows:,}" if rows is not None else "?"


def _files(one: KeptSnapshot) -> str:
    return f"{_count(one.files)}{f' + {one.delete_files}' if one.delete_files else ''}"
