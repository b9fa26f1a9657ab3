"""`catchment generate`: traffic for a database or table of one's own, to see capture work."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.exits import INTERRUPTED
from catchment.cli.prose import Prose
from catchment.cli.signals import stop_on_signals
from catchment.errors import ConfigError

if TYPE_CHECKING:
    from catchment.demo.gadget_orders import GenerationSummary
    from catchment.demo.traffic import TrafficSummary

app = typer.Typer(cls=Prose, no_args_is_help=True, help="Make traffic in PostgreSQL or DynamoDB, to see it captured.")


@app.callback()
def group() -> None:
    """Make traffic in PostgreSQL or DynamoDB, to see it captured."""


@app.command(
    epilog="Example: catchment generate shop --dsn postgresql://postgres@127.0.0.1:5432/shop --rate 500 --seconds 60"
)
def shop(
    dsn: Annotated[
        str, typer.Option(envvar="SHOP_DSN", help="The PostgreSQL database; its tables are made if absent.")
    ],
    rate: Annotated[float, typer.Option(help="Operations a second, up to 5,000.")] = 100,
    seconds: Annotated[float | None, typer.Option(min=0, help="For how long; until Ctrl-C if not given.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed makes the same rows and the same choices.")] = 1,
    users: Annotated[int, typer.Option(min=1, help="Users of a new shop.")] = 1_000,
    products: Annotated[int, typer.Option(min=1, help="Products of a new shop.")] = 200,
    orders: Annotated[int, typer.Option(min=0, help="Orders of a new shop.")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="A summary as JSON on stdout.")] = False,
) -> None:
    """Fill a shop with made-up people and goods, if it is new, and let orders come, move and go."""
    from catchment.demo.shop import ShopSize, open_shop
    from catchment.demo.traffic import Traffic, check_rate

    check_rate(rate)
    with stop_on_signals() as stop:
        filled = open_shop(dsn, seed=seed, size=ShopSize(users, products, orders))
        _tell(
            f"The shop is new: {users:,} users, {products:,} products, {orders:,} orders."
            if filled
            else "The shop is open."
        )
        summary = Traffic(dsn, seed=seed).run(stop, rate, seconds, _show)
    if sys.stderr.isatty():
        _tell("")
    if as_json:
        print(json.dumps({**asdict(summary), "filled": filled}))
    else:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.kinds.items())
        print(f"{summary.operations:,} operations in {summary.seconds:.1f} s: {kinds or 'none'}.")


@app.command(
    epilog="Example: catchment generate gadgets --table OrderTable --region us-east-1 --create --rate 50 --seconds 60"
)
def gadgets(
    table: Annotated[str, typer.Option(help="The DynamoDB table; its key is orderid.")] = "OrderTable",
    region: Annotated[
        str | None, typer.Option(envvar="AWS_REGION", help="The table's region; AWS's own chain if not given.")
    ] = None,
    interval: Annotated[float | None, typer.Option(help="Seconds from one write to the next; 3 if not given.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Writes a second instead, in batches above 20; up to 5,000.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0, help="For how long; until Ctrl-C if not given.")] = None,
    create: Annotated[bool, typer.Option("--create", help="Make the table, with its stream, if it is absent.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same orders and changes.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="A line a while instead of one for each order.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A summary as JSON on stdout.")] = False,
) -> None:
    """Let orders of gadgets come, move on, be corrected and go, in a DynamoDB table.

    Credentials come from AWS's standard chain; AWS_ENDPOINT_URL leads to a stand-in instead of AWS.
    """
    from catchment.demo.gadget_orders import GadgetOrders

    if interval is not None and rate is not None:
        raise ConfigError("--interval and --rate say the same thing; give one of them.")
    orders = GadgetOrders(table, region=region, seed=seed)
    if create:
        orders.table.create()
    elif orders.table.check() is None:
        _tell(f"DynamoDB's table {table} has no stream: nothing will hear of these orders.")
    if not quiet:
        _log_orders()
    with stop_on_signals() as stop:
        summary = orders.run_continuous_generation(
            3.0 if interval is None else interval,
            rate,
            seconds=seconds,
            stop=stop,
            progress=_show_orders if quiet else None,
        )
    if quiet and sys.stderr.isatty():
        _tell("")
    if as_json:
        print(json.dumps({"table": table, **asdict(summary)}))
    else:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in summary.kinds.items())
        missing = f"; {summary.unwritten:,} were not taken in time" if summary.unwritten else ""
        print(f"{summary.writes:,} writes in {summary.seconds:.1f} s: {kinds or 'none'}{missing}.")
    # With no end of its own, being ended is how it ends.
    if stop.signal is not None and seconds is not None:
        raise typer.Exit(INTERRUPTED)


def _log_orders() -> None:
    """Each order as a line on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
    log = logging.getLogger("catchment.demo.gadget_orders")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def _show_orders(summary: GenerationSummary) -> None:
    pace = summary.writes / max(summary.seconds, 0.001)
    waited = f"  throttled {summary.throttled:,} times" if summary.throttled else ""
    _stay(f"{summary.seconds:6.0f} s  {summary.writes:>10,} writes  {pace:>7,.0f}/s{waited}", summary.seconds)


def _show(summary: TrafficSummary) -> None:
    pace = summary.operations / max(summary.seconds, 0.001)
    _stay(f"{summary.seconds:6.0f} s  {summary.operations:>10,} operations  {pace:>7,.0f}/s", summary.seconds)


def _stay(line: str, seconds: float) -> None:
    """A line that stays in place on a terminal, and one a while elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
    elif round(seconds) % 10 == 0:
        _tell(line)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
