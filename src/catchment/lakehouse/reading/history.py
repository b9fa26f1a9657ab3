"""`silver.<table>_history`: from when to when each version of a row was valid, out of `silver.<table>_versions`.

Versions lie there in no order, some of them twice, and some say what the one before said. `_version` orders them: of
equal neighbours the first counts, and a row ends where the next begins, where it was deleted, or with a truncate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from catchment.lakehouse.column_versions import places_of, source_key
from catchment.lakehouse.properties import KIND, key_of
from catchment.lakehouse.reading.bronze import Unreadable
from catchment.lakehouse.reading.current import may_be_unrepresentable
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from catchment.lakehouse.reading.moment import TableSnapshot


VERSIONS = "versions"

_OF_A_CHANGE = ("_op", "_version", "_lane", "_position", "_valid_from", "_unrepresentable")
_SPAN = ("valid_from", "valid_to", "is_current")


def history_name(table: TableSnapshot) -> str | None:
    """What the history of a versions table is called; None for other tables."""
    if table.layer != "silver" or table.properties.get(KIND) != VERSIONS:
        return None
    return f"{table.name.removesuffix('_versions')}_history"


def relation(table: TableSnapshot) -> str:
    """A SELECT of the history of a versions table, which must be in view under its own name.

    The table's columns, `_version`, `_unrepresentable`, and `valid_from`, `valid_to` (exclusive; NULL while it is
    valid), `is_current`; these have a leading underscore where the table has columns of their names.
    """
    types = {field.name: field.field_type for field in table.schema.fields}
    key = key_of(table.properties)
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
        key = source_key(key)
        self._keys = tuple(self._key(name, as_text=name in uncertain) for name in key)
        self._partition = ", ".join(f"key_{i}" for i in range(len(key)))
        # A filter by a key that is a column reaches the files only if the key itself is what is selected.
        self._plain = {name: f"key_{i}" for i, name in enumerate(key) if self._keys[i] == _column(name)}
        self._values = tuple(name for name in columns if name not in self._plain)
        taken = {name.lower() for name in columns}
        self._names = {name: f"_{name}" if name in taken else name for name in _SPAN}

    def sql(self) -> str:
        return f"""
        WITH {self._snapshots()}, {self._truncates()}, {self._events()}, {self._compared()}, {self._begun()}
        SELECT {", ".join(self._row())}, _version, _unrepresentable,
            began AS {self._names["valid_from"]},
            CASE WHEN until IS NOT NULL THEN (SELECT moments FROM truncates)[until]
                WHEN next_begins THEN next_began END AS {self._names["valid_to"]},
            until IS NULL AND next_begins IS DISTINCT FROM true AS {self._names["is_current"]}
        FROM (
            SELECT *, CASE WHEN next_begins IS NULL THEN cut
                WHEN NOT next_begins THEN next_cut
                WHEN cut_before_next < next_version THEN cut_before_next END AS until
            FROM begun
        ) AS spans
        WHERE begins AND _op <> 'd'"""

    def _row(self) -> Iterator[str]:
        for name in self._columns:
            place = self._plain[name] if name in self._plain else f"value_{self._values.index(name)}"
            yield f"{place} AS {identifier(name)}"

    def _key(self, name: str, *, as_text: bool) -> str:
        """One value that tells rows apart by this column: its text where its type cannot hold all, or has changed."""
        places = places_of(name, self._columns)
        if not as_text and places == [name]:
            return _column(name)
        texts = ", ".join(f"CAST({_column(place)} AS VARCHAR)" for place in places)
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
            SELECT map_from_entries(list({{'k': number, 'v': moment}})) AS moments FROM (
                SELECT snapshots.number, max(changes._valid_from) AS moment
                FROM snapshots JOIN {self._versions} AS changes ON changes._version < snapshots.number
                GROUP BY snapshots.number HAVING max(changes._valid_from) IS NOT NULL
            ) AS found
        )"""

    def _truncates(self) -> str:
        # A truncate without a time begins a new snapshot: a row that it finds unchanged lives on.
        return f"""
        truncates AS MATERIALIZED (
            SELECT list(version ORDER BY version) AS every, list(version ORDER BY version) FILTER (emptied) AS emptying,
                map_from_entries(list({{'k': version, 'v': moment}})) AS moments
            FROM (
                SELECT changes._version AS version, max({_MOMENT}) AS moment,
                    max(changes._valid_from) IS NOT NULL AS emptied
                FROM {self._versions} AS changes
                WHERE changes._op = 't' GROUP BY changes._version
            ) AS found
        )"""

    def _events(self) -> str:
        keys = ", ".join(f"{key} AS key_{i}" for i, key in enumerate(self._keys))
        values = "".join(f"{_column(name)} AS value_{i}, " for i, name in enumerate(self._values))
        return f"""
        events AS (
            SELECT {keys}, {values} changes._op, changes._version, changes._unrepresentable,
                {_MOMENT} AS began,
                {_first_from("every")} AS cut, {_first_from("emptying")} AS emptied
            FROM {self._versions} AS changes
            WHERE changes._op <> 't'
        )"""

    def _compared(self) -> str:
        # One pass over all rows: whatever needs another order or other partitions costs as much again.
        before = "".join(f"lag(value_{i}) OVER life AS before_{i}, " for i in range(len(self._values)))
        return f"""
        compared AS (
            SELECT *, {before} lag(_unrepresentable) OVER life AS unrepresentable_before,
                lag(_op) OVER life AS op_before, lag(cut) OVER life AS cut_before,
                lag(emptied) OVER life AS emptied_before,
                lead(true) OVER life IS NULL AS is_last
            FROM events WINDOW life AS (PARTITION BY {self._partition} ORDER BY _version)
        )"""

    def _begun(self) -> str:
        pairs = [(f"value_{i}", f"before_{i}") for i in range(len(self._values))]
        other = " OR ".join(
            f"{now} IS DISTINCT FROM {then}" for now, then in (*pairs, ("_unrepresentable", "unrepresentable_before"))
        )
        # What a replay brought twice says the same twice: that begins nothing.
        return f"""
        begun AS (
            SELECT *, lead(begins) OVER life AS next_begins, lead(_version) OVER life AS next_version,
                lead(began) OVER life AS next_began, lead(cut) OVER life AS next_cut,
                lead(cut_before) OVER life AS cut_before_next
            FROM (
                SELECT *, op_before IS NULL OR op_before = 'd' OR _op = 'd'
                    OR coalesce(emptied_before < _version, false) OR {other} AS begins
                FROM compared
            ) AS marked
            WHERE begins OR is_last
            WINDOW life AS (PARTITION BY {self._partition} ORDER BY _version, is_last)
        )"""


def _column(name: str) -> str:
    return f"changes.{identifier(name)}"


_MOMENT = """CASE WHEN changes._valid_from IS NULL
    THEN (SELECT moments FROM known_before)[changes._version] ELSE changes._valid_from END"""
"""When a change was committed, as far as it can be told."""


def _first_from(truncates: str) -> str:
    """The first of these truncates at or above the row's version."""
    # The list is nearly always empty: then nothing is compared for each row.
    found = f"(SELECT {truncates} FROM truncates)"
    return f"CASE WHEN {found} IS NOT NULL THEN list_filter({found}, lambda one: one >= changes._version)[1] END"
