"""The SQL that folds a table's changes into its current rows.

How a row is found. Changes are ordered by `_version`, then lane and position; a truncate takes away all at
or below it. Of each key the last change counts: an insert, update or snapshot read there, a delete of
it, or a *move* away (an update whose key before differs from the key after).

How an unchanged column is found. A value that the source did not send (`_unchanged`) is the one that the
row's last earlier change carried, in this life of the row only: since the key was last left, and, where
the row came by a move, further back under its old key. Such stretches are *spans*, found by a recursive
query over the moves alone; a table without moves and without unchanged values pays for neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from catchment.lakehouse.column_versions import places_of, source_column
from catchment.lakehouse.sql import identifier, literal

BEFORE = "before."
"""How the text of a value before begins in `_unrepresentable`."""

ENVELOPE = ("_version", "_committed_at", "_unrepresentable")
"""What stands beside the table's own columns, unless a column of the table has that name."""


class KeyColumn:
    """How a key column tells rows apart.

    A plain one by its value. One that may hold what its type cannot (an infinite date is carried as text in
    `_unrepresentable`), or that changed its type on the way (and lives on in `<name>__v2`), by its text.
    """

    def __init__(self, name: str, columns: Sequence[str], *, as_text: bool = False) -> None:
        self.name = name
        self._places = places_of(name, columns)
        self.plain = not as_text and self._places == [name]

    def now(self) -> str:
        """The key of a change: after it, or before it for a delete."""
        after, before = self._values("after"), self._values("before")
        if self.plain:
            # `after` lacks a key column only in a delete, or where its value is itself unchanged TOAST.
            return f"coalesce({after}, {before})"
        text = self._text()
        return (
            f"CASE WHEN after IS NOT NULL THEN coalesce({after}, {text}, {before}) ELSE coalesce({before}, {text}) END"
        )

    def old(self) -> str:
        """The key before a change; NULL where the change did not send it."""
        before = self._values("before")
        return before if self.plain else f"CASE WHEN before IS NOT NULL THEN coalesce({before}, {self._text()}) END"

    def _values(self, side: str) -> str:
        if self.plain:
            return f"{side}.{identifier(self.name)}"
        return ", ".join(f"CAST({side}.{identifier(place)} AS VARCHAR)" for place in self._places)

    def _text(self) -> str:
        return f"_unrepresentable[{literal(self.name)}]"


class Replay:
    """A SELECT of the current rows of `changes` (a relation of the envelope).

    key: the key's columns; as_text: those that may hold what their type cannot. columns: of `after`.
    """

    def __init__(self, changes: str, key: Sequence[str], columns: Sequence[str], as_text: Iterable[str] = ()) -> None:
        textual = frozenset(as_text)
        self._relation = changes
        self._key = tuple(KeyColumn(name, columns, as_text=name in textual) for name in key)
        self._columns = tuple(columns)
        self._keys = tuple(f"key_{i}" for i in range(len(key)))
        self._plain = {one.name: at for one, at in zip(self._key, self._keys, strict=True) if one.plain}
        self._values = tuple(column for column in columns if column not in self._plain)

    def sql(self) -> str:
        """One SELECT, without a trailing semicolon."""
        # Everything that is materialised stands in the joined side: DuckDB reads only the columns that a query
        # asks for, but not below a materialised CTE.
        here = _moment("latest._version", "latest._lane", "latest._position")
        same = " AND ".join(f"latest.{key} = mended.{key}" for key in self._keys)
        return f"""
        SELECT {", ".join((*self._row_columns(), *self._row_envelope()))}
        FROM ({self._latest()}) AS latest
        LEFT JOIN ({self._mended()}) AS mended ON {same}
        WHERE latest._op <> 'd'
            AND coalesce(latest._version > (SELECT max(_version) FROM {self._relation} WHERE _op = 't'), true)
            AND CASE WHEN mended.left_at IS NULL THEN true ELSE mended.left_at < {here} END"""

    def _changes(self) -> str:
        pairs = tuple(zip(self._key, self._keys, strict=True))
        keys = (f"{column.now()} AS {key}" for column, key in pairs)
        olds = (f"{column.old()} AS old_{key}" for column, key in pairs)
        values = (
            f"after.{identifier(name)} AS value_{i}, before.{identifier(name)} AS old_value_{i}"
            for i, name in enumerate(self._values)
        )
        return f"""
        SELECT {", ".join((*keys, *olds, *values))}, _op, _version, _lane, _position, _committed_at,
            _unchanged, _unrepresentable
        FROM {self._relation}"""

    def _latest(self) -> str:
        """The last change of each key, moves away and truncates not considered."""
        columns = "".join(f"value_{i}, " for i in range(len(self._values)))
        return f"""
        SELECT {self._list()}, {columns}_op, _version, _lane, _position, _committed_at, _unchanged, _unrepresentable
        FROM ({self._changes()}) AS changes
        WHERE _op <> 't'
        QUALIFY row_number() OVER (
            PARTITION BY {self._list()} ORDER BY _version DESC, _lane DESC, _position DESC) = 1"""

    def _mended(self) -> str:
        """Of the few keys that have them: when a row last moved away, and values of unchanged columns."""
        found = "".join(f", {self._carried(i, name)}" for i, name in enumerate(self._values))
        same = " AND ".join(f"marks.{key} = carriers.{key}" for key in self._keys)
        return f"""
        SELECT {", ".join(f"row_{key} AS {key}" for key in self._keys)}, max(left_at) AS left_at{found}
        FROM ({self._marks()}) AS marks
        LEFT JOIN ({self._carriers()}) AS carriers
            ON {same} AND carriers.moment >= marks.since AND carriers.moment < marks.until
        GROUP BY {self._list("row_")}"""

    def _marks(self) -> str:
        """Departures, and the spans in which a row's values may be found: since, inclusive; until, exclusive."""
        nulls = "NULL, " * len(self._keys)
        return f"""
        WITH RECURSIVE {self._turns()}, {self._moves()}, {self._boundaries()}, {self._spans()}
        SELECT {self._list("row_")}, {self._list()}, greatest(since, (SELECT floor FROM truncated)) AS since, until,
            NULL::BLOB AS left_at
        FROM spans
        UNION ALL
        SELECT {self._origins()}, {nulls}'', '', max(moment) FROM moves GROUP BY {self._origins()}"""

    def _carriers(self) -> str:
        # Mostly no row has an unchanged column: then the cross join with nothing ends this pass before it reads.
        # Another join would read all it has to probe.
        return f"""
        SELECT *, true AS carries, {_moment("_version", "_lane", "_position")} AS moment
        FROM ({self._changes()}) AS changes
        CROSS JOIN (SELECT true FROM {self._relation} WHERE len(_unchanged) > 0 LIMIT 1) AS needed
        WHERE _op IN ('c', 'r', 'u')"""

    def _turns(self) -> str:
        # Found in one narrow pass: over thousands of small files a pass costs more than what is done with it.
        return f"""
        notable AS MATERIALIZED (
            SELECT {self._list()}, {self._list("old_")}, _op, _version, _lane, _position,
                _op = 'u' AND {self._moved()} AS moved, coalesce(len(_unchanged) > 0, false) AS partial
            FROM ({self._changes()}) AS changes
            WHERE _op IN ('t', 'd') OR len(_unchanged) > 0 OR (_op = 'u' AND {self._moved()})
        ),
        truncated AS MATERIALIZED (
            SELECT max(_version) AS version,
                coalesce(create_sort_key(max(_version), {_ASCENDING}) || '\\xFF'::BLOB, '') AS floor
            FROM notable WHERE _op = 't'
        ),
        turns AS NOT MATERIALIZED (
            SELECT * FROM notable
            WHERE _op <> 't' AND coalesce(_version > (SELECT version FROM truncated), true)
        ),
        suspects AS MATERIALIZED (SELECT DISTINCT {self._list()} FROM turns WHERE partial)"""

    def _moved(self) -> str:
        return "(" + " OR ".join(f"coalesce(old_{key} <> {key}, false)" for key in self._keys) + ")"

    def _moves(self) -> str:
        # Grouped, so that a change that was delivered twice is one move.
        origins = ", ".join(f"old_{key} AS origin_{i}" for i, key in enumerate(self._keys))
        return f"""
        moves AS MATERIALIZED (
            SELECT * EXCLUDE place, place._lane, place._position, row_number() OVER () AS move,
                {_moment("_version", "place._lane", "place._position")} AS moment
            FROM (
                SELECT {origins}, {self._list()}, _version,
                    min({{'_lane': _lane, '_position': _position}}) AS place
                FROM turns WHERE moved
                GROUP BY ALL
            ) AS moved
        )"""

    def _boundaries(self) -> str:
        keys = self._list()
        return f"""
        deletes AS (
            SELECT {keys}, {_moment("_version", "_lane", "_position")} AS moment FROM turns
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
            SELECT {rows}, {self._list()}, coalesce(since, '') AS since, '\\xFF'::BLOB AS until, came_by
            FROM suspects LEFT JOIN newest USING ({self._list()})
            UNION ALL
            SELECT {self._list("spans.row_")}, {self._origins("moves.")}, coalesce(beginnings.since, ''),
                moves.moment, beginnings.came_by
            FROM spans
            JOIN moves ON moves.move = spans.came_by
            JOIN beginnings ON beginnings.move = spans.came_by
        )"""

    def _carried(self, i: int, name: str) -> str:
        # Two changes of a row with one version are one change, delivered twice: the version alone decides here.
        # Under replica identity FULL the value of an unchanged column is in the row as it was before.
        unchanged = f"coalesce({self._is_unchanged(name)}, false)"
        value = f"CASE WHEN {unchanged} THEN old_value_{i} ELSE value_{i} END"
        text = f"CASE WHEN NOT {unchanged} THEN _unrepresentable[{literal(name)}] END"
        carried = f"FILTER (carries AND (NOT {unchanged} OR old_value_{i} IS NOT NULL))"
        return (
            f"arg_max_null({value}, carriers._version) {carried} AS found_{i}, "
            f"arg_max_null({text}, carriers._version) {carried} AS found_text_{i}"
        )

    def _is_unchanged(self, name: str, relation: str = "") -> str:
        return f"list_contains({relation}_unchanged, {literal(source_column(name, self._columns))})"

    def _row_columns(self) -> Iterable[str]:
        for name in self._columns:
            if name in self._plain:
                yield f"latest.{self._plain[name]} AS {identifier(name)}"
            else:
                i = self._values.index(name)
                unchanged = self._is_unchanged(name, "latest.")
                if name != source_column(name, self._columns):
                    unchanged += f" AND latest.value_{i} IS NULL"
                value = f"CASE WHEN {unchanged} THEN mended.found_{i} ELSE latest.value_{i} END"
                yield f"{value} AS {identifier(name)}"

    def _row_envelope(self) -> Iterable[str]:
        taken = {name.lower() for name in self._columns}
        for name in ENVELOPE:
            if name not in taken:
                value = self._unrepresentable() if name == "_unrepresentable" else f"latest.{name}"
                yield f"{value} AS {name}"

    def _unrepresentable(self) -> str:
        own = self._own_texts()
        if not self._values:
            return own
        older = ", ".join(
            f"{{'key': {literal(name)}, 'value': mended.found_text_{i}}}" for i, name in enumerate(self._values)
        )
        return f"""CASE WHEN len(latest._unchanged) > 0 THEN nullif(map_from_entries(
            list_filter([{older}], lambda entry: entry.value IS NOT NULL
                AND list_contains(latest._unchanged, entry.key))
            || list_filter(coalesce(map_entries({own}), []), lambda entry:
                NOT list_contains(latest._unchanged, entry.key))
            ), MAP {{}}) ELSE {own} END"""

    def _own_texts(self) -> str:
        """The texts that came with the change, but for those of values before (`before.price`)."""
        named = ", ".join(literal(name) for name in self._columns if name.startswith(BEFORE))
        is_left = f"starts_with(entry.key, {literal(BEFORE)})" + (f" AND entry.key NOT IN ({named})" if named else "")
        return f"""CASE WHEN latest._unrepresentable IS NOT NULL THEN nullif(map_from_entries(list_filter(
            map_entries(latest._unrepresentable), lambda entry: NOT ({is_left}))), MAP {{}}) END"""

    def _list(self, prefix: str = "") -> str:
        return ", ".join(f"{prefix}{key}" for key in self._keys)

    def _origins(self, prefix: str = "") -> str:
        return ", ".join(f"{prefix}origin_{i}" for i in range(len(self._keys)))


_ASCENDING = "'ASC NULLS FIRST'"


def _moment(version: str, lane: str, position: str) -> str:
    """One value that compares as the three do; no part of it begins with FF."""
    return f"create_sort_key({version}, {_ASCENDING}, {lane}, {_ASCENDING}, {position}, {_ASCENDING})"
