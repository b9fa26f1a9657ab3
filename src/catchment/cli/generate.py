"""`catchment generate`: traffic for a database of one's own, to see capture work."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from catchment.cli.signals import stop_on_signals

if TYPE_CHECKING:
    from catchment.demo.traffic import TrafficSummary

app = typer.Typer(no_args_is_help=True, help="Make traffic in a PostgreSQL database, to see it captured.")


@app.callback()
def group() -> None:
    """Make traffic in a PostgreSQL database, to see it captured."""


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


def _show(summary: TrafficSummary) -> None:
    """A line that stays in place on a terminal, and one a while elsewhere."""
    pace = summary.operations / max(summary.seconds, 0.001)
    line = f"{summary.seconds:6.0f} s  {summary.operations:>10,} operations  {pace:>7,.0f}/s"
    if sys.stderr.isatty():
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
    elif round(summary.seconds) % 10 == 0:
        _tell(line)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
