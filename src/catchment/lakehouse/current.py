"""`current.<table>`: the rows that a table has now, by replaying its bronze changes in SQL.

Slow, simple and correct: it keeps no state of its own, and is what faster layers are compared with.

How a row is found. Changes are ordered by `_version`, then lane and position; a truncate takes away all at
or below it. Of each key the last change counts: an insert, update or snapshot read there, a delete of
it, or a *move* away (an update whose key before differs from the key after).

How an unchanged column is found. A value that the source did not send (`_unchanged`) is the one that the
row's last earlier change carried, in this life of the row only: since the key was last left, and, where
the row came by a move, further back under its old key. Such stretches are *spans*, found by a recursive
query over the moves alone; a table without moves and without unchanged values pays for neither.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from catchment.lakehouse.bronze import Unreadable
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catchment.lakehouse.moment import LakeTable

KEY_PROPERTY = "catchment.key"

ENVELOPE = ("_version", "_committed_at", "_unrepresentable")
"""What stands beside the table's own columns, unless a column of the table has that name."""


def relation(table: LakeTable) -> str:
    """A SELECT of the current rows of a bronze table.

    Raises `Unreadable` for a table without a key: it has changes but no current rows.
    """
    from pyiceberg.types import StructType

    key = tuple(json.loads(table.properties.get(KEY_PROPERTY, "[]")))
    after = table.schema.find_field("after").field_type
    if not isinstance(after, StructType):
        raise Unreadable(f"{table} does not hold changes: its column after is no struct")
    columns = tuple(field.name for field in after.fields)
    if not key or not set(key) <= set(columns):
        raise Unreadable(f"{table} has no key, so it has no current rows; query its changes in {table}")
    return Replay(f"{identifier(table.layer)}.{identifier(table.name)}", key, columns).sql()


class Replay:
    """The SQL that folds a relation of changes into current rows."""

    def __init__(self, changes: str, key: Sequence[str], columns: Sequence[str]) -> None:
        self._changes = changes
        self._key = tuple(key)
        self._values = tuple(column for column in columns if column not in key)
        self._columns = tuple(columns)
        self._keys = tuple(f"key_{i}" for i in range(len(key)))

    def sql(self) -> str:
        """One SELECT, without a trailing semicolon."""
        parts = (
            self._events(),
            self._moves(),
            self._latest(),
            *((self._suspects(), self._boundaries(), self._spans(), self._filled()) if self._values else ()),
        )
        return f"WITH RECURSIVE {', '.join(parts)} {self._rows()}"

    def _events(self) -> str:
        # `after` lacks a key column only in a delete, or where the value is itself unchanged TOAST.
        keys = (
            f"coalesce(after.{identifier(name)}, before.{identifier(name)}) AS {key}"
            for name, key in zip(self._key, self._keys, strict=True)
        )
        olds = (f"before.{identifier(name)} AS old_{key}" for name, key in zip(self._key, self._keys, strict=True))
        values = (
            f"after.{identifier(name)} AS value_{i}, before.{identifier(name)} AS old_value_{i}"
            for i, name in enumerate(self._values)
        )
        return f"""
        events AS NOT MATERIALIZED (
            SELECT {", ".join((*keys, *olds, *values))}, _op, _version, _lane, _position,
                _committed_at, _unchanged, _unrepresentable
            FROM {self._changes}
            WHERE _op <> 't' AND coalesce(
                _version > (SELECT max(_version) FROM {self._changes} WHERE _op = 't'), true)
        )"""

    def _moves(self) -> str:
        # Grouped, so that a change that was delivered twice is one move.
        moved = " OR ".join(f"coalesce(old_{key} <> {key}, false)" for key in self._keys)
        origins = ", ".join(f"old_{key} AS origin_{i}" for i, key in enumerate(self._keys))
        return f"""
        moves AS MATERIALIZED (
            SELECT * EXCLUDE place, place._lane, place._position, row_number() OVER () AS move,
                {_moment("_version", "place._lane", "place._position")} AS moment
            FROM (
                SELECT {origins}, {self._list()}, _version,
                    min({{'_lane': _lane, '_position': _position}}) AS place
                FROM events WHERE _op = 'u' AND ({moved})
                GROUP BY ALL
            ) AS moved
        )"""

    def _latest(self) -> str:
        columns = ", ".join(f"value_{i}" for i in range(len(self._values)))
        columns = f"{columns}, " if columns else ""
        nulls = "NULL, " * len(self._values)
        return f"""
        latest AS (
            SELECT * FROM (
                SELECT {self._list()}, {columns}_op, _version, _lane, _position,
                    _committed_at, _unchanged, _unrepresentable
                FROM events
                UNION ALL
                SELECT {self._origins()}, {nulls}'d', _version, _lane, _position, NULL, NULL, NULL FROM moves
            ) AS effects
            QUALIFY row_number() OVER (
                PARTITION BY {self._list()} ORDER BY _version DESC, _lane DESC, _position DESC) = 1
        )"""

    def _suspects(self) -> str:
        return f"""
        suspects AS MATERIALIZED (
            SELECT DISTINCT {self._list()} FROM events WHERE _op <> 'd' AND len(_unchanged) > 0
        )"""

    def _boundaries(self) -> str:
        keys = self._list()
        return f"""
        deletes AS (
            SELECT {keys}, {_moment("_version", "_lane", "_position")} AS moment FROM events
            SEMI JOIN (
                SELECT {keys} FROM suspects
                UNION ALL SELECT {self._origins()} FROM moves
            ) AS concerned USING ({keys})
            WHERE _op = 'd'
        ),
        boundaries AS (
            SELECT {keys}, moment, NULL AS leaves_by, NULL AS comes_by FROM deletes
            UNION ALL SELECT {self._origins()}, moment, move, NULL FROM moves
            UNION ALL SELECT {keys}, moment, NULL, move FROM moves
        ),
        beginnings AS MATERIALIZED (
            SELECT leaves_by AS move, since, came_by FROM (
                SELECT leaves_by, lag(moment) OVER life AS since, lag(comes_by) OVER life AS came_by
                FROM boundaries WINDOW life AS (PARTITION BY {keys} ORDER BY moment)
            ) AS lives WHERE leaves_by IS NOT NULL
        ),
        newest AS (
            SELECT {keys}, max(moment) AS since, arg_max_null(comes_by, moment) AS came_by
            FROM boundaries GROUP BY {keys}
        )"""

    def _spans(self) -> str:
        rows = ", ".join(f"{key} AS row_{key}" for key in self._keys)
        return f"""
        spans AS (
            SELECT {rows}, {self._list()}, since, NULL::BLOB AS until, came_by
            FROM suspects LEFT JOIN newest USING ({self._list()})
            UNION ALL
            SELECT {self._list("spans.row_")}, {self._origins("moves.")}, beginnings.since, moves.moment,
                beginnings.came_by
            FROM spans
            JOIN moves ON moves.move = spans.came_by
            JOIN beginnings ON beginnings.move = spans.came_by
        )"""

    def _filled(self) -> str:
        found = ", ".join(self._carried(i, name) for i, name in enumerate(self._values))
        return f"""
        filled AS (
            SELECT {self._list("row_")}, {found}
            FROM (
                SELECT *, {_moment("_version", "_lane", "_position")} AS moment FROM events WHERE _op <> 'd'
            ) AS carriers
            JOIN spans USING ({self._list()})
            WHERE (since IS NULL OR carriers.moment >= since) AND (until IS NULL OR carriers.moment < until)
            GROUP BY {self._list("row_")}
        )"""

    def _carried(self, i: int, name: str) -> str:
        # Under replica identity FULL the value of an unchanged column is in the row as it was before.
        unchanged = f"coalesce(list_contains(_unchanged, {literal(name)}), false)"
        value = f"CASE WHEN {unchanged} THEN old_value_{i} ELSE value_{i} END"
        text = f"CASE WHEN NOT {unchanged} THEN _unrepresentable[{literal(name)}] END"
        return (
            f"arg_max({{value: {value}, text: {text}}}, carriers.moment) "
            f"FILTER (NOT {unchanged} OR old_value_{i} IS NOT NULL) AS found_{i}"
        )

    def _rows(self) -> str:
        join = " AND ".join(f"latest.{key} = filled.row_{key}" for key in self._keys)
        filled = f" LEFT JOIN filled ON {join}" if self._values else ""
        return f"""
        SELECT {", ".join((*self._row_columns(), *self._row_envelope()))}
        FROM latest{filled} WHERE latest._op <> 'd'"""

    def _row_columns(self) -> Iterable[str]:
        for name in self._columns:
            if name in self._key:
                yield f"latest.{self._keys[self._key.index(name)]} AS {identifier(name)}"
            else:
                i = self._values.index(name)
                yield (
                    f"CASE WHEN list_contains(latest._unchanged, {literal(name)}) THEN filled.found_{i}.value "
                    f"ELSE latest.value_{i} END AS {identifier(name)}"
                )

    def _row_envelope(self) -> Iterable[str]:
        taken = {name.lower() for name in self._columns}
        for name in ENVELOPE:
            if name not in taken:
                value = self._unrepresentable() if name == "_unrepresentable" else f"latest.{name}"
                yield f"{value} AS {name}"

    def _unrepresentable(self) -> str:
        if not self._values:
            return "latest._unrepresentable"
        older = ", ".join(
            f"{{'key': {literal(name)}, 'value': filled.found_{i}.text}}" for i, name in enumerate(self._values)
        )
        return f"""CASE WHEN len(latest._unchanged) > 0 THEN nullif(map_from_entries(
            list_filter([{older}], lambda entry: entry.value IS NOT NULL
                AND list_contains(latest._unchanged, entry.key))
            || list_filter(coalesce(map_entries(latest._unrepresentable), []), lambda entry:
                NOT list_contains(latest._unchanged, entry.key))
            ), MAP {{}}) ELSE latest._unrepresentable END"""

    def _list(self, prefix: str = "") -> str:
        return ", ".join(f"{prefix}{key}" for key in self._keys)

    def _origins(self, prefix: str = "") -> str:
        return ", ".join(f"{prefix}origin_{i}" for i in range(len(self._keys)))


def _moment(version: str, lane: str, position: str) -> str:
    """One value that compares as the three do."""
    order = "'ASC NULLS FIRST'"
    return f"create_sort_key({version}, {order}, {lane}, {order}, {position}, {order})"
