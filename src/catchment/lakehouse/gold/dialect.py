"""Gold models in the SQL of other engines: Spark and Athena.

What is not on the list of `portable` is refused. What is on it and still differs is rewritten here before sqlglot
writes it out: division, averages, rounding, quantiles, `epoch` and `date_diff`. Engines run it in UTC, as DuckDB does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from catchment.errors import ConfigError
from catchment.lakehouse.gold.model import HISTORY, Model, Reference, parse

if TYPE_CHECKING:
    from sqlglot import exp

    Rewrite = Callable[["exp.Expr", "Dialect"], "exp.Expr | None"]


class Dialect(StrEnum):
    """Whose SQL."""

    DUCKDB = "duckdb"
    SPARK = "spark"
    ATHENA = "athena"


def transpile(model: Model, dialect: Dialect) -> str:
    """The model's SELECT in an engine's SQL, over the Iceberg tables `silver.…`, `bronze.…` and `gold.…`.

    Raises ConfigError naming file and line for what would not give the same rows there.
    """
    if dialect is Dialect.DUCKDB:
        return model.sql.strip()
    found = not_portable(model, dialect)
    if found:
        raise ConfigError("\n".join(found))
    return in_dialect(parse(model.file, model.sql), dialect, pretty=True)


def in_dialect(tree: exp.Query, dialect: Dialect, *, pretty: bool = False) -> str:
    """A query of DuckDB's, of which `refusals` has nothing to say, in another engine's SQL. Changes the tree."""
    for node in tree.walk():
        node.comments = None
    return _rewritten(tree, dialect).sql(dialect=dialect.value, pretty=pretty)


def not_portable(model: Model, dialect: Dialect) -> list[str]:
    """Why an engine cannot run a model, each reason with file and line; empty when it can."""
    from catchment.lakehouse.gold.portable import refusals

    found = [(one.line, reason) for one in model.references if (reason := _unknown_there(one)) is not None]
    tree = parse(model.file, model.sql)
    found += [(_line(one.node), one.reason) for one in refusals(tree, athena=dialect is Dialect.ATHENA)]
    return [f"{model.file}:{line}: {reason}." for line, reason in sorted(set(found))]


def _unknown_there(reference: Reference) -> str | None:
    view = f"{reference} is a view of Catchment's own, not a table"
    if reference.layer == "current":
        return f"{view}; silver.{reference.table} has the same rows, those in quarantine apart"
    if reference.layer == "silver" and reference.table.endswith(HISTORY):
        return f"{view}; it is made of {'.'.join(reference.stored[-1])}"
    return None


def _line(node: exp.Expr) -> int:
    """Where it stands: tokens know their line, and what has none stands where its parts do."""
    lines = [int(one.meta["line"]) for one in node.walk() if "line" in one.meta]
    if lines:
        return min(lines)
    return _line(node.parent) if node.parent is not None else 1


def _rewritten(tree: exp.Query, dialect: Dialect) -> exp.Query:
    rewrites = _rewrites()
    # Parts before what they are part of: a rewrite takes the parts as they are then.
    for node in reversed(list(tree.walk())):
        rewrite = rewrites.get(type(node))
        replacement = rewrite(node, dialect) if rewrite is not None else None
        if replacement is not None:
            node.replace(replacement)
    return tree


def _rewrites() -> Mapping[type[exp.Expr], Rewrite]:
    from sqlglot import exp

    return {
        exp.Div: _division,
        exp.Avg: _average,
        exp.Round: _rounding,
        exp.TimeToUnix: _epoch,
        exp.DateDiff: _days,
        exp.PercentileCont: _quantile,
    }


def _double(node: exp.Expr) -> exp.Expr:
    from sqlglot import exp

    return exp.cast(node.copy(), "DOUBLE")


def _division(node: exp.Expr, _: Dialect) -> exp.Expr:
    """DuckDB divides into a DOUBLE, whatever it divides."""
    from sqlglot import exp

    return exp.Paren(this=exp.Div(this=_double(node.this), expression=_double(node.expression), typed=True, safe=False))


def _average(node: exp.Expr, _: Dialect) -> exp.Expr:
    """DuckDB's average is a DOUBLE; Spark's of decimals is a decimal with four more digits."""
    from sqlglot import exp

    return exp.Avg(this=_double(node.this))


def _rounding(node: exp.Expr, _: Dialect) -> exp.Expr | None:
    """DuckDB rounds a DOUBLE × 10ⁿ to a whole number; Spark goes by the decimal digits that it would print."""
    from sqlglot import exp

    from catchment.lakehouse.gold.portable import Kind, kind

    decimals = node.args.get("decimals")
    if kind(node.this) is not Kind.DOUBLE or decimals is None:
        return None
    scale = exp.Literal.number(f"1E{decimals.this}")
    whole = exp.Round(
        this=exp.Mul(this=exp.Paren(this=node.this.copy()), expression=scale), decimals=exp.Literal.number(0)
    )
    return exp.Paren(this=exp.Div(this=whole, expression=scale.copy(), typed=True, safe=False))


def _epoch(node: exp.Expr, dialect: Dialect) -> exp.Expr | None:
    """Seconds with their fraction; Spark's UNIX_TIMESTAMP has whole ones."""
    from sqlglot import exp

    if dialect is not Dialect.SPARK:
        return None
    micros = _double(exp.Anonymous(this="UNIX_MICROS", expressions=[node.this.copy()]))
    million = exp.Literal.number("1E6")
    return exp.Paren(this=exp.Div(this=micros, expression=million, typed=True, safe=False))


def _days(node: exp.Expr, dialect: Dialect) -> exp.Expr:
    """Days between dates. sqlglot knows which argument comes first in DuckDB, and mixes them up for Athena."""
    from sqlglot import exp

    later, earlier = node.this.copy(), node.expression.copy()
    if dialect is Dialect.SPARK:
        return exp.Anonymous(this="DATEDIFF", expressions=[later, earlier])
    return exp.Anonymous(this="DATE_DIFF", expressions=[exp.Literal.string("day"), earlier, later])


def _quantile(node: exp.Expr, _: Dialect) -> exp.Expr:
    """Spark's PERCENTILE interpolates as DuckDB does; its PERCENTILE_CONT has another syntax. Athena has neither."""
    from sqlglot import exp

    return exp.Anonymous(this="PERCENTILE", expressions=[node.this.copy(), node.expression.copy()])
