"""What an expression of a rule may say: one scalar expression over the columns of one row.

Parsed by DuckDB itself, which runs it later: no subquery, no window, no aggregate, nothing that gives another
result another time (`random()`, `now()`), so that a row is judged alike whenever it is judged.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ENVELOPE = frozenset({"_committed_at"})
"""Columns of ours that an expression may read."""

_ALLOWED = frozenset(
    (
        "CONSTANT",
        "COLUMN_REF",
        "FUNCTION",
        "COMPARISON",
        "CONJUNCTION",
        "OPERATOR",
        "CASE",
        "CAST",
        "BETWEEN",
        "COLLATE",
    )
)
_REFUSED = {
    "SUBQUERY": "a subquery reads other rows; write a `relationship` rule, or a gold model",
    "WINDOW": "a window reads other rows",
    "STAR": "name the columns",
    "LAMBDA": "lambdas are not taken here",
    "PARAMETER": "there are no parameters here",
}


def judge() -> DuckDBPyConnection:
    """A DuckDB connection that judges rows: one thread, no file, no network, no extension, settings locked."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": 1,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "enable_external_access": False,
    }
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


def wrong(sql: str) -> str | None:
    """Why this is no expression for a rule; None when it is one."""
    tree = _tree(sql)
    if isinstance(tree, str):
        return tree
    said = next((complaint for node in _nodes(tree) if (complaint := _complaint(node)) is not None), None)
    if said is None and not columns(sql):
        return "it reads no column, so it says nothing of a row."
    return said


def wrong_pattern(pattern: str) -> str | None:
    """Why this is no regular expression; None when it is one."""
    import duckdb

    try:
        _answer("SELECT regexp_full_match('', $1)", [pattern])
    except duckdb.Error as error:
        return f"this is no regular expression in RE2's syntax: {str(error).partition(chr(10))[0]}"
    return None


def columns(sql: str) -> tuple[str, ...]:
    """The columns that an expression reads, in the order they come first."""
    tree = _tree(sql)
    if isinstance(tree, str):
        return ()
    names = [node["column_names"][0] for node in _nodes(tree) if node.get("class") == "COLUMN_REF"]
    return tuple(dict.fromkeys(names))


def _complaint(node: dict[str, Any]) -> str | None:
    kind = node["class"]
    if kind in _REFUSED or kind not in _ALLOWED:
        return f"{_REFUSED.get(kind, f'{kind.lower()} is not taken here')}."
    if kind == "COLUMN_REF":
        name = node["column_names"]
        if len(name) > 1:
            return f"{'.'.join(name)}: write a column's name alone."
        if name[0].lower().startswith(_OF_THE_MOMENT):
            return f"{name[0]} gives another result another time; compare with `_committed_at`, or with a column."
        if name[0].startswith("_") and name[0] not in ENVELOPE:
            return f"{name[0]} is Catchment's own; of those a rule may read {', '.join(sorted(ENVELOPE))}."
    if kind == "FUNCTION" and node["function_name"].lower() not in _functions():
        return (
            f"{node['function_name']}() cannot be used: it is unknown, reads more than one row, or gives another "
            "result another time."
        )
    return None


def _tree(sql: str) -> dict[str, Any] | str:
    """The expression as DuckDB parses it, or what is wrong."""
    # In parentheses of their own, closed on a new line: a comment cannot swallow it, and what closes it early is seen.
    text = _answer("SELECT json_serialize_sql($1)", [f"SELECT (\n{sql}\n)"])[0][0]
    parsed = json.loads(text)
    if parsed.get("error"):
        return f"this cannot be parsed: {str(parsed.get('error_message', '')).partition(chr(10))[0]}."
    statements = parsed["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = (
        node.get("type") == "SELECT_NODE"
        and len(node["select_list"]) == 1
        and node["from_table"]["type"] == "EMPTY"
        and not any(node.get(part) for part in ("where_clause", "group_expressions", "having", "qualify", "modifiers"))
        and not node["cte_map"]["map"]
    )
    if not plain:
        return "this is not one expression, such as `total_amount >= 0`."
    tree: dict[str, Any] = node["select_list"][0]
    return tree


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        # A constant's value may be anything.
        if tree.get("class") != "CONSTANT":
            for child in tree.values():
                yield from _nodes(child)
    elif isinstance(tree, list):
        for child in tree:
            yield from _nodes(child)


_one_at_a_time = threading.Lock()
"""The merger, gold and commands ask in threads of their own; a connection holds one answer."""


def _answer(query: str, values: list[str]) -> list[tuple[Any, ...]]:
    with _one_at_a_time:
        return _parser().execute(query, values).fetchall()


@cache
def _parser() -> DuckDBPyConnection:
    return judge()


@cache
def _functions() -> frozenset[str]:
    """Scalar functions that always give the same for the same."""
    query = (
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE function_type = 'scalar' "
        "AND stability = 'CONSISTENT' EXCEPT SELECT lower(function_name) FROM duckdb_functions() WHERE "
        "function_type IN ('aggregate', 'table') OR stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')"
    )
    names = (str(name) for (name,) in _answer(query, []))
    return frozenset(name for name in names if not name.startswith(_OF_THE_MOMENT)) | _MACROS


_OF_THE_MOMENT = ("current_", "getvariable", "localtime")
"""DuckDB says of some that they always give the same, within a connection."""

_MACROS = frozenset({"nullif", "split_part", "fmod", "fdiv", "date_add", "array_to_string", "round_even"})
"""Macros of DuckDB over one row. Others may be anything."""
