"""`silver.<table>_history`: from when to when each version of a row was valid, out of `silver.<table>_versions`.

Versions lie there in no order, some of them twice, and some say what the one before said. `_version` orders them: of
equal neighbours the first counts, and a row ends where the next begins, where it was deleted, or with a truncate.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from catchment.lakehouse.bronze import Unreadable
from catchment.lakehouse.current import KEY_PROPERTY, may_be_unrepresentable
from catchment.lakehouse.replay import source_column
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from catchment.lakehouse.moment import TableSnapshot

KIND_PROPERTY = "catchment.kind"
"""The table property that tells silver's tables apart: `silver`, `quarantine`, `versions`."""

VERSIONS = "versions"

_OF_A_CHANGE = ("_op", "_version", "_lane", "_position", "_valid_from", "_unrepresentable")
_SPAN = ("valid_from", "valid_to", "is_current")


def history_name(table: TableSnapshot) -> str | None:
    """What the history of a versions table is called; None for other tables."""
    if table.layer != "silver" or table.properties.get(KIND_PROPERTY) != VERSIONS:
        return None
    return f"{table.name.removesuffix('_versions')}_history"


def relation(table: TableSnapshot) -> str:
    """A SELECT of the history of a versions table, which must be in view under its own name.

    The table's columns, `_version`, `_unrepresentable`, and `valid_from`, `valid_to` (exclusive; NULL while it is
    valid), `is_current`; these have a leading underscore where the table has columns of their names.
    """
    types = {field.name: field.field_type for field in table.schema.fields}
    key = tuple(json.loads(table.properties.get(KEY_PROPERTY, "[]")))
    if not key or not types.keys() >= {*key, *_OF_A_CHANGE}:
        raise Unreadable(f"{table} is no table of versions: it lacks a key, or the columns of a change")
    columns = tuple(name for name in types if name not in _OF_A_CHANGE)
    uncertain = [name for name in key if may_be_unrepresentable(types[name])]
    return _History(f"{identifier(table.layer)}.{identifier(table.name)}", key, columns, uncertain).sql()


class _History:
    """The SELECT, step by step. Values are `value_<i>`, keys `key_<i>`: their names may be anything."""

    def __init__(self, versions: str, key: tuple[str, ...], columns: tuple[str, ...], uncertain: list[str]) -> None:
        self._versions = versions
        self._columns = columns
        self._keys = tuple(self._key(name, as_text=name in uncertain) for name in key)
        self._partition = ", ".join(f"key_{i}" for i in range(len(key)))
        taken = {name.lower() for name in columns}
        self._names = {name: f"_{name}" if name in taken else name for name in _SPAN}

    def sql(self) -> str:
        values = ", ".join(f"value_{i} AS {identifier(name)}" for i, name in enumerate(self._columns))
        return f"""
        WITH {self._snapshots()}, {self._truncates()}, {self._events()}, {self._compared()}, {self._begun()}
        SELECT {values}, _version, _unrepresentable,
            began AS {self._names["valid_from"]},
            CASE WHEN following IS NULL THEN until.moment
                WHEN following.cut.version < following.version THEN following.cut.moment
                ELSE following.moment END AS {self._names["valid_to"]},
            following IS NULL AND until IS NULL AS {self._names["is_current"]}
        FROM begun
        WHERE _op <> 'd'"""

    def _key(self, name: str, *, as_text: bool) -> str:
        """One value that tells rows apart by this column: its text where its type cannot hold all, or has changed."""
        places = [one for one in reversed(self._columns) if source_column(one, self._columns) == name]
        if not as_text and places == [name]:
            return f"changes.{identifier(name)}"
        texts = ", ".join(f"CAST(changes.{identifier(place)} AS VARCHAR)" for place in places)
        return f"coalesce({texts}, changes._unrepresentable[{literal(name)}])"

    def _snapshots(self) -> str:
        # Rows that a snapshot read have no time. The first snapshot's were there before anything is known; those
        # of a later one count from the last change before it.
        return f"""
        snapshots AS MATERIALIZED (
            SELECT DISTINCT changes._version AS number FROM {self._versions} AS changes
            WHERE changes._valid_from IS NULL
        ),
        known_before AS MATERIALIZED (
            SELECT snapshots.number, max(changes._valid_from) AS moment
            FROM snapshots JOIN {self._versions} AS changes ON changes._version < snapshots.number
            GROUP BY snapshots.number
        )"""

    def _truncates(self) -> str:
        # A truncate without a time begins a new snapshot: a row that it finds unchanged lives on.
        return f"""
        truncates AS MATERIALIZED (
            SELECT list({{'version': version, 'moment': moment}} ORDER BY version) AS every,
                list({{'version': version, 'moment': moment}} ORDER BY version) FILTER (emptied) AS emptying
            FROM (
                SELECT changes._version AS version, coalesce(max(changes._valid_from), max(known.moment)) AS moment,
                    max(changes._valid_from) IS NOT NULL AS emptied
                FROM {self._versions} AS changes LEFT JOIN known_before AS known ON known.number = changes._version
                WHERE changes._op = 't' GROUP BY changes._version
            ) AS found
        )"""

    def _events(self) -> str:
        keys = ", ".join(f"{key} AS key_{i}" for i, key in enumerate(self._keys))
        values = ", ".join(f"changes.{identifier(name)} AS value_{i}" for i, name in enumerate(self._columns))
        return f"""
        events AS (
            SELECT {keys}, {values}, changes._op, changes._version, changes._unrepresentable,
                coalesce(changes._valid_from, known.moment) AS began,
                {_first_from("every")} AS cut, {_first_from("emptying")} AS emptied
            FROM {self._versions} AS changes LEFT JOIN known_before AS known ON known.number = changes._version
            WHERE changes._op <> 't'
            QUALIFY row_number() OVER (
                PARTITION BY {self._partition}, changes._version
                ORDER BY changes._lane DESC, changes._position DESC) = 1
        )"""

    def _compared(self) -> str:
        before = ", ".join(f"lag(value_{i}) OVER life AS before_{i}" for i in range(len(self._columns)))
        return f"""
        compared AS (
            SELECT *, {before}, lag(_unrepresentable) OVER life AS unrepresentable_before,
                lag(_op) OVER life AS op_before, lag(cut) OVER life AS cut_before,
                lag(emptied) OVER life AS emptied_before,
                last_value(cut) OVER (life ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS until
            FROM events WINDOW life AS (PARTITION BY {self._partition} ORDER BY _version)
        )"""

    def _begun(self) -> str:
        pairs = [(f"value_{i}", f"before_{i}") for i in range(len(self._columns))]
        other = " OR ".join(
            f"{now} IS DISTINCT FROM {then}" for now, then in (*pairs, ("_unrepresentable", "unrepresentable_before"))
        )
        return f"""
        begun AS (
            SELECT *, lead({{'version': _version, 'moment': began, 'cut': cut_before}}) OVER (
                PARTITION BY {self._partition} ORDER BY _version) AS following
            FROM compared
            WHERE op_before IS NULL OR op_before = 'd' OR _op = 'd' OR emptied_before.version < _version OR {other}
        )"""


def _first_from(truncates: str) -> str:
    """The first of these truncates at or above the row's version."""
    # The list is nearly always empty: then nothing is compared for each row.
    found = f"(SELECT {truncates} FROM truncates)"
    return (
        f"CASE WHEN {found} IS NOT NULL THEN list_filter({found}, lambda one: one.version >= changes._version)[1] END"
    )
