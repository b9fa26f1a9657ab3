"""`catchment validate`: the file, then the source, then each sink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.arguments import AsJson, PipelinePath
from catchment.cli.exits import FATAL, UNAVAILABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catchment.finding import Finding


def validate(
    pipeline: PipelinePath,
    offline: Annotated[bool, typer.Option("--offline", help="Only the files; ask no server.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the pipeline file and its gold models, then the source and its tables, then each sink.

    Prints what was found and the statements that would mend it; changes nothing. Exit code 1 when
    something is wrong that capture would stumble over, 4 when a system cannot be asked.
    """
    from catchment.config import load
    from catchment.validation import check_files, check_systems

    config = load(pipeline)
    findings = check_files(config)
    unavailable = False
    if not offline:
        found, unavailable = check_systems(config)
        findings += found
    failed = any(finding.severity == "error" for finding in findings)
    if as_json:
        import json

        document = {"pipeline": config.name, "ok": not failed, "findings": [one.to_dict() for one in findings]}
        print(json.dumps(document, indent=2))
    else:
        _show(findings)
    if failed:
        raise typer.Exit(UNAVAILABLE if unavailable else FATAL)


def _show(findings: Sequence[Finding]) -> None:
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warning": "yellow", "error": "bold red"}
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "what", "found"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "")
    for finding in findings:
        table.add_row(Text(finding.severity, styles[finding.severity]), Text(finding.subject), Text(finding.message))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for severity, heading in (("error", "What would mend the errors"), ("warning", "What would mend the warnings")):
        remedies = [one.remedy for one in findings if one.severity == severity and one.remedy]
        if remedies:
            print(f"-- {heading}:")
            print("\n".join(dict.fromkeys(remedies)))
            print()
    counts = [(sum(one.severity == kind for one in findings), kind) for kind in ("error", "warning")]
    said = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for count, kind in counts if count)
    print(f"{said}." if said else "All is well.")
