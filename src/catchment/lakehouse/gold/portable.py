"""The SQL of gold models that means the same in DuckDB, Spark and Athena: a list, and what is not on it is refused.

Engines agree on less than it seems. `/` divides decimals into decimals or doubles, and by zero into infinity, NULL or
an error; `round` of a double goes by its binary or by its decimal value; a cast to INTEGER rounds or cuts off;
`concat` skips NULL or becomes NULL; `trim` and `lower` know different alphabets. sqlglot translates names, not such
differences. So a function is here only when a test runs it in DuckDB and in Spark with equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from sqlglot import exp

Check = Callable[[exp.Expr], str | None]
"""Why this use of it is not portable; None when it is."""


class Kind(Enum):
    """What is known of a value's type from the SQL alone."""

    DOUBLE = "double"
    DECIMAL = "decimal"
    WHOLE = "whole"
    DATE = "date"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Function:
    """A function that models may call. nodes: how sqlglot parses it. athena: does Athena have it, exactly?"""

    nodes: tuple[type[exp.Expr], ...]
    check: Check | None = None
    athena: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """What in a model is not portable. node: where; reason: in words."""

    node: exp.Expr
    reason: str


def kind(node: exp.Expr | None) -> Kind:
    """What the SQL says of a value's type."""
    if isinstance(node, exp.Cast):
        return _CAST_KINDS.get(node.to.this, Kind.UNKNOWN)
    if isinstance(node, exp.Literal):
        return Kind.UNKNOWN if node.is_string else Kind.WHOLE if node.is_int else _number(str(node.this))
    if isinstance(node, (exp.Div, exp.Avg, exp.Stddev, exp.StddevSamp, exp.TimeToUnix)):
        return Kind.DOUBLE
    if isinstance(node, (exp.Count, exp.RowNumber, exp.Rank, exp.DenseRank, exp.DateDiff, exp.Length)):
        return Kind.WHOLE
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul)):
        return _wider(kind(node.this), kind(node.expression))
    if isinstance(node, exp.Coalesce):
        return _wider(*(kind(one) for one in (node.this, *node.expressions)))
    if isinstance(node, _OF_ITS_ARGUMENT):
        return kind(node.this)
    return Kind.UNKNOWN


def refusals(tree: exp.Query, *, athena: bool) -> Iterator[Refusal]:
    """Everything in a model that is not on the list."""
    for node in tree.walk():
        reason = _refused(node, athena=athena)
        if reason is not None:
            yield Refusal(node, reason)


def _refused(node: exp.Expr, *, athena: bool) -> str | None:
    function = _BY_NODE.get(type(node))
    if function is not None:
        name, known = function
        if athena and not known.athena:
            return f"{name} is not exactly so in Athena"
        return known.check(node) if known.check is not None else None
    if type(node) in _SYNTAX:
        check = _SYNTAX[type(node)]
        return check(node) if check is not None else None
    if isinstance(node, exp.Func):
        name = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
        return f"the function {name.lower()} is not on the list of those that are equal in all engines"
    return f"{_words(node)} is not on the list of what is equal in all engines"


def _words(node: exp.Expr) -> str:
    return f"`{node.sql('duckdb')[:40]}` ({type(node).__name__})"


def _number(text: str) -> Kind:
    return Kind.DOUBLE if "e" in text.lower() else Kind.DECIMAL


def _wider(*kinds: Kind) -> Kind:
    for one in (Kind.DOUBLE, Kind.UNKNOWN, Kind.DATE, Kind.DECIMAL):
        if one in kinds:
            return one
    return Kind.WHOLE


def _bare(node: exp.Expr) -> exp.Expr:
    return node.unnest()


# -- how something may be used ---------------------------------------------------------------------------------------


def _divisor(node: exp.Expr) -> str | None:
    divisor = _bare(node.expression)
    if isinstance(divisor, exp.Literal) and not divisor.is_string and float(divisor.this) != 0:
        return None
    if isinstance(divisor, exp.Nullif) and _is_zero(divisor.expression):
        return None
    return "engines disagree on division by zero: write the divisor as nullif(…, 0)"


def _is_zero(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal) and not node.is_string and float(node.this) == 0


def _round(node: exp.Expr) -> str | None:
    decimals = node.args.get("decimals")
    if decimals is not None and not (isinstance(decimals, exp.Literal) and decimals.is_int):
        return "round takes a plain number of digits"
    if kind(node.this) is Kind.UNKNOWN:
        return "engines round DOUBLE and DECIMAL in different ways: say which it is with CAST(… AS DOUBLE)"
    return None


def _double(node: exp.Expr) -> str | None:
    if kind(node.this) is Kind.DOUBLE:
        return None
    return f"{_words(node)} has another type in each engine: write CAST(… AS DOUBLE) inside"


def _cast(node: exp.Expr) -> str | None:
    to = node.args["to"]
    of = kind(node.this)
    if to.this in _SAFE_CASTS:
        return None
    if to.this in _WHOLE_TYPES:
        whole = of is Kind.WHOLE or isinstance(_bare(node.this), (exp.Floor, exp.Ceil))
        return None if whole else "a cast to a whole number rounds here and cuts off there: use round, floor or ceil"
    if to.this == exp.DataType.Type.DECIMAL:
        exact = of in (Kind.WHOLE, Kind.DECIMAL)
        return None if exact else "a cast of a DOUBLE to DECIMAL rounds in different ways: use round"
    return f"each engine casts to {to.sql('duckdb')} in its own way"


def _days(node: exp.Expr) -> str | None:
    unit = str(node.args.get("unit") or "day").lower().strip("'")
    dates = kind(node.this) is Kind.DATE and kind(node.expression) is Kind.DATE
    if unit == "day" and dates:
        return None
    return "date_diff counts days between two CAST(… AS DATE); for anything shorter subtract epoch(…)"


def _unit(*allowed: str) -> Check:
    def check(node: exp.Expr) -> str | None:
        unit = node.args.get("unit") or node.this
        name = str(getattr(unit, "name", unit)).lower()
        known = name in allowed or name.rstrip("s") in allowed
        return None if known else f"the unit {name} is not equal in all engines; there are {', '.join(allowed)}"

    return check


def _truncated(node: exp.Expr) -> str | None:
    if kind(node.this) is Kind.DATE:
        return "date_trunc of a DATE has another type in each engine"
    return _unit("minute", "hour", "day", "week", "month", "quarter", "year")(node)


def _interval(node: exp.Expr) -> str | None:
    amount = node.this
    if not (isinstance(amount, exp.Literal) and str(amount.this).isdigit()):
        return "an interval is a plain number of one unit: INTERVAL 7 DAYS"
    return _unit("second", "minute", "hour", "day", "month", "year")(node)


def _plus(node: exp.Expr) -> str | None:
    sides = (node.this, node.expression)
    if any(kind(one) is Kind.DATE for one in sides):
        return "arithmetic with a DATE has another type in each engine: use date_diff, or a TIMESTAMP"
    return None


def _like(node: exp.Expr) -> str | None:
    pattern = node.expression
    plain = isinstance(pattern, exp.Literal) and pattern.is_string and "\\" not in str(pattern.this)
    return None if plain else "the pattern of LIKE is plain text without a backslash"


def _from_one(node: exp.Expr) -> str | None:
    start = node.args.get("start")
    plain = isinstance(start, exp.Literal) and start.is_int and int(start.this) >= 1
    return None if plain else "substring begins at a plain number from 1"


def _length(node: exp.Expr) -> str | None:
    length = node.expression
    plain = isinstance(length, exp.Literal) and length.is_int
    return None if plain else "left takes a plain number of characters"


def _join(node: exp.Expr) -> str | None:
    words = {str(node.args.get(name) or "").upper() for name in ("method", "side", "kind")} - {""}
    if words <= {"LEFT", "RIGHT", "FULL", "INNER", "CROSS", "OUTER"}:
        return None
    return f"{' '.join(sorted(words))} JOIN is not equal in all engines"


def _plain_group(node: exp.Expr) -> str | None:
    extra = [name for name in ("all", "grouping_sets", "cube", "rollup", "totals") if node.args.get(name)]
    return f"GROUP BY {extra[0].upper().replace('_', ' ')} is not in all engines: name the columns" if extra else None


def _plain_star(node: exp.Expr) -> str | None:
    extra = [name for name in ("except_", "except", "replace", "rename") if node.args.get(name)]
    return "* with EXCLUDE, REPLACE or RENAME is not in all engines: name the columns" if extra else None


def _plain_select(node: exp.Expr) -> str | None:
    # What else a SELECT may hold (QUALIFY, SAMPLE, PIVOT …) is a node of its own, and refused as such.
    distinct = node.args.get("distinct")
    return "DISTINCT ON is not in all engines" if distinct is not None and distinct.args.get("on") else None


def _plain_union(node: exp.Expr) -> str | None:
    return "UNION BY NAME is not in all engines" if node.args.get("by_name") else None


def _plain_with(node: exp.Expr) -> str | None:
    return "WITH RECURSIVE is not in all engines" if node.args.get("recursive") else None


def _table(node: exp.Expr) -> str | None:
    if not isinstance(node.this, exp.Identifier):
        return f"{_words(node)}: table functions are not in all engines"
    extra = [name for name in ("pivots", "joins", "laterals", "sample", "when", "version") if node.args.get(name)]
    return f"a table with {extra[0].upper()} is not in all engines" if extra else None


def _ordered(node: exp.Expr) -> str | None:
    return "ORDER BY ALL is not in all engines" if node.args.get("with_fill") or _is_all(node.this) else None


def _is_all(node: exp.Expr) -> bool:
    return isinstance(node, exp.Var) or (isinstance(node, exp.Column) and node.sql().upper() == "ALL")


def _in(node: exp.Expr) -> str | None:
    return "IN takes a list or a subquery" if node.args.get("unnest") or node.args.get("field") else None


_OF_ITS_ARGUMENT = (
    exp.Paren,
    exp.Neg,
    exp.Abs,
    exp.Floor,
    exp.Ceil,
    exp.Round,
    exp.Nullif,
    exp.Sum,
    exp.Min,
    exp.Max,
    exp.Median,
    exp.PercentileCont,
    exp.Window,
    exp.Filter,
    exp.Lag,
    exp.Lead,
    exp.FirstValue,
    exp.LastValue,
)

_T = exp.DataType.Type
_CAST_KINDS = {
    _T.DOUBLE: Kind.DOUBLE,
    _T.FLOAT: Kind.UNKNOWN,
    _T.DECIMAL: Kind.DECIMAL,
    _T.INT: Kind.WHOLE,
    _T.BIGINT: Kind.WHOLE,
    _T.DATE: Kind.DATE,
}
_SAFE_CASTS = frozenset({_T.DOUBLE, _T.DATE, _T.TIMESTAMP, _T.TIMESTAMPNTZ, _T.TIMESTAMPTZ})
_WHOLE_TYPES = frozenset({_T.INT, _T.BIGINT})

FUNCTIONS: Mapping[str, Function] = {
    "abs": Function((exp.Abs,)),
    "avg": Function((exp.Avg,)),
    "bool_and": Function((exp.LogicalAnd,)),
    "bool_or": Function((exp.LogicalOr,)),
    "case": Function((exp.Case, exp.If)),
    "cast": Function((exp.Cast,), _cast),
    "ceil": Function((exp.Ceil,)),
    "coalesce": Function((exp.Coalesce,)),
    "contains": Function((exp.Contains,), athena=False),
    "count": Function((exp.Count,)),
    "cume_dist": Function((exp.CumeDist,)),
    "date_diff": Function((exp.DateDiff,), _days),
    "date_trunc": Function((exp.TimestampTrunc, exp.DateTrunc), _truncated),
    "day": Function((exp.Day,)),
    "dense_rank": Function((exp.DenseRank,)),
    "epoch": Function((exp.TimeToUnix,)),
    "exists": Function((exp.Exists,)),
    "extract": Function((exp.Extract,), _unit("year", "quarter", "month", "week", "day", "hour", "minute")),
    "first_value": Function((exp.FirstValue,)),
    "floor": Function((exp.Floor,)),
    "greatest": Function((exp.Greatest,), athena=False),
    "hour": Function((exp.Hour,)),
    "lag": Function((exp.Lag,)),
    "last_value": Function((exp.LastValue,)),
    "lead": Function((exp.Lead,)),
    "least": Function((exp.Least,), athena=False),
    "left": Function((exp.Left,), _length),
    "length": Function((exp.Length,)),
    "max": Function((exp.Max,)),
    "median": Function((exp.Median,), _double, athena=False),
    "min": Function((exp.Min,)),
    "minute": Function((exp.Minute,)),
    "month": Function((exp.Month,)),
    "ntile": Function((exp.Ntile,)),
    "nullif": Function((exp.Nullif,)),
    "percent_rank": Function((exp.PercentRank,)),
    "quarter": Function((exp.Quarter,)),
    "quantile_cont": Function((exp.PercentileCont,), _double, athena=False),
    "rank": Function((exp.Rank,)),
    "replace": Function((exp.Replace,)),
    "round": Function((exp.Round,), _round),
    "row_number": Function((exp.RowNumber,)),
    "starts_with": Function((exp.StartsWith,)),
    "stddev": Function((exp.Stddev,), _double),
    "stddev_samp": Function((exp.StddevSamp,), _double),
    "substring": Function((exp.Substring,), _from_one),
    "sum": Function((exp.Sum,)),
    "year": Function((exp.Year,)),
}
"""By the name that DuckDB has for them. A test runs each, in DuckDB and in Spark."""

_BY_NODE: Mapping[type[exp.Expr], tuple[str, Function]] = {
    node: (name, function) for name, function in FUNCTIONS.items() for node in function.nodes
}

_SYNTAX: Mapping[type[exp.Expr], Check | None] = {
    **dict.fromkeys(
        (
            *(exp.Alias, exp.Boolean, exp.CTE, exp.Column, exp.DataType, exp.DataTypeParam, exp.Distinct, exp.Filter),
            *(exp.From, exp.Having, exp.Identifier, exp.Limit, exp.Literal, exp.Null, exp.Order, exp.Paren),
            *(exp.Subquery, exp.TableAlias, exp.Tuple, exp.Values, exp.Var, exp.Where, exp.Window, exp.WindowSpec),
            *(exp.And, exp.Or, exp.Not, exp.Is, exp.Between, exp.Neg, exp.Mul, exp.DPipe),
            *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ),
        )
    ),
    exp.Add: _plus,
    exp.Sub: _plus,
    exp.Div: _divisor,
    exp.Mod: _divisor,
    exp.Group: _plain_group,
    exp.In: _in,
    exp.Interval: _interval,
    exp.Join: _join,
    exp.Like: _like,
    exp.Ordered: _ordered,
    exp.Select: _plain_select,
    exp.Star: _plain_star,
    exp.Table: _table,
    exp.Union: _plain_union,
    exp.With: _plain_with,
}
"""All else that a model may be made of."""
