"""`catchment demo`: the whole of it on this machine, with a PostgreSQL or an AWS of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from catchment.cli.prose import Prose
from catchment.cli.signals import stop_on_signals
from catchment.errors import ConfigError

app = typer.Typer(cls=Prose, no_args_is_help=True, help="See it work: a server on this machine, traffic in it, a lake.")

DIRECTORY = Path("shop-demo")
GADGETS_DIRECTORY = Path("gadgets-demo")
SECONDS_WITHOUT_TERMINAL = 20.0


@app.callback()
def group() -> None:
    """See it work: a server on this machine, traffic in it, a lake."""


@app.command(epilog="Example: catchment demo shop --seconds 20 --rate 500 --json")
def shop(
    seconds: Annotated[
        float | None, typer.Option(min=0, help="How long to make traffic; until Ctrl-C on a terminal, else 20.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Operations a second in the shop, up to 5,000.")] = 200,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where all of it is kept; run again, it resumes.")
    ] = DIRECTORY,
    seed: Annotated[int, typer.Option(help="The same seed makes the same shop.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="No screen; a JSON document as the last thing on stdout.")
    ] = False,
) -> None:
    """Start a PostgreSQL with a shop in it, capture it live into a lake, and watch.

    DIR keeps pipeline.yaml, so every other command works on it afterwards: catchment query
    DIR/pipeline.yaml "SELECT * FROM gold.city_performance".
    """
    from catchment.demo.shop_demo import ShopDemo, to_json
    from catchment.demo.views import Lines, line, summary_text

    on_screen = sys.stdout.isatty() and not as_json
    if seconds is None and not on_screen:
        seconds = SECONDS_WITHOUT_TERMINAL
    with stop_on_signals() as stop:
        demo = ShopDemo(directory, rate=rate, seconds=seconds, seed=seed)
        if on_screen:
            from catchment.demo.screen import Screen

            outcome = demo.run(stop, Screen(directory))
        else:
            outcome = demo.run(stop, Lines(sys.stderr, line))
    print(to_json(outcome) if as_json else summary_text(outcome))


@app.command(epilog="Example: catchment demo gadgets --seconds 20 --rate 50 --json")
def gadgets(
    seconds: Annotated[
        float | None, typer.Option(min=0, help="How long to write orders; until Ctrl-C on a terminal, else 20.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Changes of orders a second, up to 5,000.")] = 50,
    shape: Annotated[
        str, typer.Option(help="serverless (pipe, Kinesis, Firehose, S3), direct (into Iceberg), or both.")
    ] = "serverless",
    directory: Annotated[Path, typer.Option("--dir", help="Where what it makes is kept; each run begins anew.")] = (
        GADGETS_DIRECTORY
    ),
    seed: Annotated[int, typer.Option(help="The same seed makes the same orders and changes.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="No screen; a JSON document as the last thing on stdout.")
    ] = False,
) -> None:
    """Start AWS's stand-in, sell gadgets in DynamoDB, carry every change to S3 and SQL, and watch.

    The first run installs the stand-in (MiniStack) into an environment of its own. It ends with the proof that
    gadget_sales has the table's orders, and fails when it has not.
    """
    from catchment.demo.gadgets_demo import GadgetsDemo, Shape, to_json
    from catchment.demo.gadgets_views import line, summary_text
    from catchment.demo.views import Lines

    if shape not in set(Shape):
        raise ConfigError(f"--shape is {', '.join(Shape)}.")
    on_screen = sys.stdout.isatty() and not as_json
    if seconds is None and not on_screen:
        seconds = SECONDS_WITHOUT_TERMINAL
    with stop_on_signals() as stop:
        demo = GadgetsDemo(directory, rate=rate, seconds=seconds, seed=seed, shape=Shape(shape))
        if on_screen:
            from catchment.demo.gadgets_screen import GadgetsScreen

            outcome = demo.run(stop, GadgetsScreen(directory))
        else:
            outcome = demo.run(stop, Lines(sys.stderr, line))
    print(to_json(outcome) if as_json else summary_text(outcome))
    if not outcome.equal:
        raise typer.Exit(1)


@app.command(epilog="Example: catchment demo server shop-demo --detach")
def server(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The demo's directory, or a new one.")],
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running and return.")] = False,
    stop_it: Annotated[bool, typer.Option("--stop", help="Stop the one that was left running.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Listen here; remembered if it is new.")] = None,
) -> None:
    """Run the demo's PostgreSQL by itself, at the same DSN as before, until Ctrl-C."""
    from catchment.demo.shop_demo import demo_server, server_dsn

    postgres = demo_server(directory, port=port)
    if stop_it:
        was_running = postgres.running
        postgres.shut_down()
        print("PostgreSQL is stopped." if was_running else "PostgreSQL was not running.", file=sys.stderr)
        return
    with stop_on_signals() as stop:
        was_running = postgres.running
        postgres.start(keep=detach)
        try:
            if postgres.moved_from is not None:
                print(f"Port {postgres.moved_from} is taken; a new one was chosen.", file=sys.stderr)
            print(server_dsn(directory, postgres), flush=True)
            if was_running:
                print("It was running already and is left so.", file=sys.stderr)
            elif detach:
                print(f"It goes on by itself; catchment demo server {directory} --stop ends it.", file=sys.stderr)
            else:
                print(f"PostgreSQL {postgres.version} is running; Ctrl-C stops it.", file=sys.stderr)
                while postgres.running and not stop.wait(0.5):
                    pass
        finally:
            if not detach:
                postgres.stop()
