"""The command line: `catchment COMMAND`. One file a command; what a command needs is imported when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from catchment import __version__
from catchment.cli import aws, catalog, demo, generate
from catchment.cli.backup import backup
from catchment.cli.exits import EXIT_CODES, exit_code
from catchment.cli.gold import gold
from catchment.cli.init import init
from catchment.cli.maintain import maintain
from catchment.cli.prose import Prose
from catchment.cli.quality import quality
from catchment.cli.query import query
from catchment.cli.rebuild import rebuild
from catchment.cli.remove import remove
from catchment.cli.restore import restore
from catchment.cli.resume import resume
from catchment.cli.rollback import rollback
from catchment.cli.run import run
from catchment.cli.schema import schema
from catchment.cli.serve import serve
from catchment.cli.snapshots import snapshots
from catchment.cli.status import status
from catchment.cli.validate import validate
from catchment.cli.verify import verify
from catchment.errors import CatchmentError

EXITS = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

app = typer.Typer(
    name="catchment",
    cls=Prose,
    help="Every change of an operational database, exactly once, in an open lakehouse, seconds later.",
    epilog=f"Begin with: catchment demo shop, or catchment init DIR. {EXITS}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"catchment {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Every change of an operational database, exactly once, in an open lakehouse, seconds later."""


app.add_typer(demo.app, name="demo")
app.command(epilog="Example: catchment init warehouse")(init)
app.command(epilog="Example: catchment validate pipeline.yaml")(validate)
app.command(epilog="Example: catchment run pipeline.yaml --until-caught-up")(run)
app.command(epilog="Example: catchment status pipeline.yaml --json")(status)
app.command(epilog='Example: catchment query pipeline.yaml "SELECT * FROM current.orders LIMIT 10" --format json')(
    query
)
app.command(epilog="Example: catchment verify pipeline.yaml orders --deep")(verify)
app.command(epilog="Example: catchment gold pipeline.yaml --dialect spark --print")(gold)
app.command(epilog="Example: catchment quality pipeline.yaml --html quality.html")(quality)
app.command(epilog="Example: catchment snapshots pipeline.yaml silver.orders")(snapshots)
app.command(epilog="Example: catchment serve pipeline.yaml --port 8181")(serve)
app.command(epilog="Example: catchment rollback pipeline.yaml silver.orders --to 2026-11-20T10:00")(rollback)
app.command(epilog="Example: catchment resume pipeline.yaml silver.orders")(resume)
app.command(epilog="Example: catchment rebuild pipeline.yaml silver.orders")(rebuild)
app.command(epilog="Example: catchment backup pipeline.yaml catalog.backup")(backup)
app.command(epilog="Example: catchment restore pipeline.yaml catalog.backup --dry-run")(restore)
app.command(epilog="Example: catchment maintain pipeline.yaml --dry-run")(maintain)
app.command(epilog="Example: catchment remove pipeline.yaml --table public.orders")(remove)
app.command(epilog="Example: catchment schema > pipeline.schema.json")(schema)
app.add_typer(catalog.app, name="catalog")
app.add_typer(generate.app, name="generate")
app.add_typer(aws.app, name="aws")


def main() -> None:
    """Run the command line. The only place that turns errors into words and exit codes."""
    try:
        app()
    except CatchmentError as error:
        print(f"catchment: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
