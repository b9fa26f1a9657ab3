"""What a dry run counted, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from io import StringIO

from catchment.sinks.counting import Counts


def as_document(counts: Counts) -> str:
    """Each table's changes by operation, and the types its columns would have."""
    tables = {
        name: {
            "changes": dict(counts.changes.get(name, {})),
            "unrepresentable_rows": counts.unrepresentable[name],
            "columns": {
                column.name: {"source_type": column.source_type, "type": str(column.type), "key": column.key}
                for column in schema.columns
            },
        }
        for name, schema in sorted(counts.schemas.items())
    }
    return json.dumps({"landed": False, "acknowledged": False, "tables": tables}, indent=2)


def as_table(counts: Counts) -> str:
    """The same as tables."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = StringIO()
    console = Console(file=out, width=120)
    for name, schema in sorted(counts.schemas.items()):
        changes = counts.changes.get(name, Counter())
        said = ", ".join(f"{count:,} {operation}" for operation, count in changes.items() if count) or "no changes"
        odd = counts.unrepresentable[name]
        table = Table(
            title=Text(f"{name}: {said}" + (f"; {odd:,} with values kept as text" if odd else "")),
            title_justify="left",
            box=SIMPLE,
        )
        for heading in ("column", "in the source", "in the lake", "key"):
            table.add_column(heading)
        for column in schema.columns:
            cells = (column.name, column.source_type, str(column.type), "yes" if column.key else "")
            table.add_row(*map(Text, cells))
        console.print(table)
    console.print("Nothing was landed, nothing was acknowledged.")
    return out.getvalue().rstrip()
