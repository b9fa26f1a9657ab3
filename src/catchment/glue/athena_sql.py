"""Athena's SQL: which tables it names, what it says of partitions, and the same question in DuckDB's SQL.

What is the same by sqlglot is left to it; what it leaves different is rewritten here: the names of columns without one
(`_col0`), averages and quotients of decimals, the catalog's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catchment.errors import ConfigError
from catchment.glue.column_types import ColumnType, in_athena

if TYPE_CHECKING:
    from sqlglot import exp

CATALOG = "awsdatacatalog"


@dataclass(frozen=True)
class Name:
    """A table's name, in lower case."""

    database: str
    table: str

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"


Columns = Callable[[Name], Mapping[str, ColumnType] | None]
"""The columns of a table, partition columns last; None when there is no such table."""


def parse(sql: str, database: str) -> exp.Query:
    """The question, every table with its database. Raises ConfigError unless it is one statement that only reads."""
    import sqlglot
    from sqlglot import errors, exp

    try:
        found = [tree for tree in sqlglot.parse(sql, read="athena") if tree is not None]
    except errors.SqlglotError as error:
        raise ConfigError(f"This is not Athena's SQL: {_plain(str(error))}") from error
    if len(found) != 1:
        raise ConfigError(f"One statement at a time: these are {len(found)}.")
    tree = found[0]
    if not isinstance(tree, exp.Query):
        raise ConfigError("Tables of a catalog can only be read here. Write SELECT … or WITH … SELECT ….")
    for table in _tables(tree):
        if table.catalog and table.catalog.lower() != CATALOG:
            raise ConfigError(f"{table.sql()}: only the catalog {CATALOG} is known here.")
        table.set("catalog", None)
        table.set("db", exp.to_identifier((table.db or database).lower()))
        table.set("this", exp.to_identifier(table.name.lower()))
    return tree


def _plain(message: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", message)


def _tables(tree: exp.Expr) -> list[exp.Table]:
    """The tables that a query reads; names of its own (WITH) are none."""
    from sqlglot import exp
    from sqlglot.optimizer.scope import traverse_scope

    found = {
        id(source): source
        for scope in traverse_scope(tree)
        for source in scope.sources.values()
        if isinstance(source, exp.Table) and source.name
    }
    return list(found.values())


def names(tree: exp.Query) -> set[Name]:
    """The tables that a parsed question reads."""
    return {Name(table.db, table.name) for table in _tables(tree)}


def in_athena_sql(tree: exp.Query) -> str:
    """The text for Athena."""
    return tree.sql(dialect="athena", pretty=True)


def in_duckdb_sql(tree: exp.Query, columns: Columns) -> str:
    """The same question in DuckDB's SQL. Raises ConfigError for what has no counterpart."""
    from sqlglot import errors

    named = _with_names(tree.copy())
    typed = _annotated(named, columns)
    if typed is not None:
        _exact_decimals(typed)
    try:
        return (typed or named).sql(dialect="duckdb", unsupported_level=errors.ErrorLevel.RAISE)
    except errors.UnsupportedError as error:
        raise ConfigError(f"This cannot be asked here, though Athena may know it: {_plain(str(error))}") from error


def _with_names(tree: exp.Query) -> exp.Query:
    """Athena calls a column without a name by its number: `_col0` is the first."""
    from sqlglot import exp

    for at, column in enumerate(tree.selects):
        if not isinstance(column, (exp.Alias, exp.Aliases, exp.Column, exp.Dot)) and not column.is_star:
            column.replace(exp.alias_(column.copy(), f"_col{at}"))
    return tree


def _annotated(tree: exp.Query, columns: Columns) -> exp.Query | None:
    """The question with types; None when they cannot be told."""
    from sqlglot import errors
    from sqlglot.optimizer.annotate_types import annotate_types
    from sqlglot.optimizer.qualify import qualify

    schema: dict[str, dict[str, dict[str, str]]] = {}
    whole: dict[str, object] = {}
    for name in names(tree):
        found = columns(name)
        if found is None:
            return None
        schema.setdefault(name.database, {})[name.table] = {
            column: in_athena(kind) for column, kind in found.items()
        } | {"$path": "varchar"}
    whole.update(schema)
    try:
        qualified = qualify(
            tree.copy(),
            dialect="athena",
            schema=whole,
            expand_stars=False,
            validate_qualify_columns=False,
            quote_identifiers=False,
            allow_partial_qualification=True,
        )
        annotated = annotate_types(qualified, schema=whole, dialect="athena")
    except errors.SqlglotError:
        return None
    from sqlglot import exp

    return annotated if isinstance(annotated, exp.Query) else None


def _exact_decimals(tree: exp.Query) -> None:
    """In Athena an average of decimals has their scale, and a quotient the larger one of its two."""
    from sqlglot import exp

    for node in list(tree.find_all(exp.Avg, exp.Div)):
        parts = [node.this] if isinstance(node, exp.Avg) else [node.this, node.expression]
        scales = [_scale(part) for part in parts]
        if any(scales) and None not in scales:
            scale = max(one for one in scales if one is not None)
            node.replace(exp.cast(node.copy(), f"DECIMAL(38, {scale})"))


def _scale(node: exp.Expr) -> int | None:
    """Digits behind the point of an exact number; None for any other type."""
    from sqlglot import exp

    kind = node.type
    if kind is None:
        return None
    if kind.is_type(*exp.DataType.INTEGER_TYPES):
        return 0
    if not kind.is_type(exp.DataType.Type.DECIMAL) or len(kind.expressions) < 2:
        return None
    return int(kind.expressions[1].name)


def asks_for_path(tree: exp.Query) -> bool:
    """Does it ask for `"$path"`, the place of a row's object?"""
    from sqlglot import exp

    return any(column.name == "$path" for column in tree.find_all(exp.Column))


def columns_in(condition: exp.Expr) -> set[str]:
    """The names of the columns in a condition, in lower case."""
    from sqlglot import exp

    return {column.name.lower() for column in condition.find_all(exp.Column)}


def conditions(tree: exp.Query, table: Name, keys: Sequence[str]) -> list[exp.Expr] | None:
    """What must hold of a table's partition columns, each condition in these columns only; None: of nothing.

    Only a question that names the table once, in a SELECT from it alone, is looked at.
    """
    from sqlglot import exp

    found = [one for one in _tables(tree) if Name(one.db, one.name) == table]
    select = found[0].find_ancestor(exp.Select) if len(found) == 1 else None
    where = select.args.get("where") if select is not None and not select.args.get("joins") else None
    if where is None:
        return None
    usable = []
    for condition in where.this.flatten() if isinstance(where.this, exp.And) else [where.this]:
        columns = columns_in(condition)
        if columns and columns <= set(keys) and condition.find(exp.Subquery, exp.Select) is None:
            bare = condition.copy()
            for column in bare.find_all(exp.Column):
                column.set("table", None)
                column.set("db", None)
            usable.append(bare)
    return usable or None
