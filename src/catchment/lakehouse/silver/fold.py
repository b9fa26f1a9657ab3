"""A run of changes folded into what it leaves of each key. Pure: Arrow and NumPy in, arrays out.

Each change is an *event* on its key; an update that moves a row to another key is two: the old key is left, then
the new one is written. The last event on a key is what counts. A value that the source did not send (`_unchanged`)
is found by following a row's events back, through moves, to the last one that carried it, or to the row as the
table has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.lakehouse.column_versions import source_column
from catchment.lakehouse.reading.replay import BEFORE
from catchment.lakehouse.silver.key_hash import Keys

Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

READ, UPDATE, DELETE, TRUNCATE = (ord(one) for one in "rudt")

HashKeys = Callable[[pa.RecordBatch], Keys]
"""Keys of rows that have the key's columns and `_unrepresentable`."""


def operations(changes: pa.RecordBatch) -> npt.NDArray[np.uint8]:
    """The letters of `_op`, as bytes."""
    column = changes.column("_op")
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    letters = np.frombuffer(column.buffers()[2], np.uint8) if len(column) else np.empty(0, np.uint8)
    return letters[offsets[:-1]]


class Fold:
    """Changes of one table, in order, without truncates; `key`: its columns."""

    def __init__(self, changes: pa.RecordBatch, key: Sequence[str], hash_keys: HashKeys) -> None:
        self.changes = changes
        self._key = tuple(key)
        self._hash = hash_keys
        self.ops = operations(changes)
        now = self._keys_now()
        self.moves, left = self._moves(now)
        count = len(self.ops)
        self._events = Keys.join([now, left]) if len(self.moves) else now
        self.change = np.concatenate([np.arange(count), self.moves])
        """Which change an event is of."""
        self.gone: Mask = np.concatenate([self.ops == DELETE, np.ones(len(self.moves), np.bool_)])
        """Has the key no row after this event?"""
        self.dropped: Mask = np.zeros(len(self.change), np.bool_)
        """Events that came too late to count."""
        self._order = self._sorted()
        self._first = self._beginnings()

    def __len__(self) -> int:
        """How many events there are."""
        return len(self.change)

    def drop(self, late: Mask) -> None:
        """These events do not count: the table has newer rows of their keys. Comes before anything is asked."""
        self.dropped = late
        self._order = self._order[~late[self._order]]
        self._first = self._beginnings()

    @cached_property
    def last(self) -> Indices:
        """The last event on each key, by key."""
        ends = np.concatenate([self._first[1:], np.ones(min(1, len(self._order)), np.bool_)])
        last: Indices = self._order[np.flatnonzero(ends)]
        return last

    @cached_property
    def history(self) -> Indices:
        """All events in the order in which they happened; a key is left before another is written."""
        order = np.lexsort((np.arange(len(self.change)) < len(self.ops), self.change))
        return order[~self.dropped[order]]

    def keys(self, events: Indices) -> Keys:
        """The keys of events."""
        return self._events.take(events)

    def versions(self, events: Indices) -> pa.Array:
        """Their `_version`."""
        return self.changes.column("_version").take(pa.array(self.change[events]))

    # -- rows

    def after(self, name: str, events: Indices, find: Find) -> pa.Array:
        """A column of the rows that events leave; a value that was not sent is looked for.

        find: the column's values, by event, of rows as the table has them.
        """
        column = self._side("after", name)
        where = self.change[events]
        unchanged = self._unchanged.get(self._source_of(name))
        if unchanged is None or not unchanged[where].any():
            return column.take(pa.array(where))
        lacking = np.flatnonzero(unchanged[where])
        source = self._carriers(name, unchanged)[events[lacking]]
        count = len(self.ops)
        carried, from_before = self._carries(name, unchanged)
        index = where.copy()
        index[lacking] = self.change[source]
        index[lacking] += np.where(from_before[source], count, 0)
        roots = ~carried[source]
        found = find(source[roots], name)
        index[lacking[roots]] = 2 * count + np.arange(int(roots.sum()))
        pool = pa.concat_arrays([column, self._side("before", name), found.cast(column.type)])
        return pool.take(pa.array(index))

    def unrepresentable(self, events: Indices, find: Find) -> pa.Array:
        """The texts of values that their columns cannot hold; those of values not sent are looked for."""
        where = self.change[events]
        own = self._own_texts(events)
        lacking = {name: np.flatnonzero(mask[where]) for name, mask in self._unchanged.items()}
        if not any(len(rows) for rows in lacking.values()):
            return own
        texts: dict[int, dict[str, str]] = {}
        for name, rows in lacking.items():
            self._find_texts(name, events, rows, find, texts)
        have_own = np.flatnonzero(np.asarray(own.is_valid()))
        concerned = sorted(set(texts) | (set(have_own.tolist()) & {int(r) for rows in lacking.values() for r in rows}))
        if not concerned:
            return own
        # Few rows ever have such values: these are built one by one.
        values = own.to_pylist()
        for row in concerned:
            absent = {name for name, rows in lacking.items() if row in set(rows.tolist())}
            kept = {key: text for key, text in (values[row] or []) if key not in absent}
            values[row] = list({**kept, **texts.get(row, {})}.items()) or None
        return pa.array(values, own.type)

    def _own_texts(self, events: Indices) -> pa.MapArray:
        """The texts that came with the changes; of values before (`before.price`) only where no row is left."""
        own = self.changes.column("_unrepresentable").take(pa.array(self.change[events]))
        if own.null_count == len(own):
            return own
        names = pa.array(self.changes.schema.field("after").type.names, pa.string())
        left = pc.and_(pc.starts_with(own.keys, BEFORE), pc.invert(pc.is_in(own.keys, names)))
        row = np.repeat(np.arange(len(own)), np.diff(own.offsets))
        keep = ~np.asarray(left) | self.gone[events][row]
        if keep.all():
            return own
        counts = np.bincount(row[keep], minlength=len(own))
        offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
        kept = (values.filter(pa.array(keep)) for values in (own.keys, own.items))
        return pa.MapArray.from_arrays(offsets, *kept, type=own.type, mask=pa.array(counts == 0))

    def _find_texts(
        self, name: str, events: Indices, rows: Indices, find: Find, texts: dict[int, dict[str, str]]
    ) -> None:
        if not len(rows):
            return
        unchanged = self._unchanged[name]
        source = self._carriers(name, unchanged)[events[rows]]
        carried, _ = self._carries(name, unchanged)
        there = self.changes.column("_unrepresentable").take(pa.array(self.change[source]))
        roots = np.flatnonzero(~carried[source])
        found = find(source[roots], "_unrepresentable")
        if there.null_count == len(there) and found.null_count == len(found):
            return
        by_root = dict(zip(roots.tolist(), found.to_pylist(), strict=True))
        for i, (row, map_) in enumerate(zip(rows.tolist(), there.to_pylist(), strict=True)):
            text = dict(by_root.get(i, map_) or []).get(name)
            if text is not None:
                texts.setdefault(row, {})[name] = text

    def roots(self) -> Indices:
        """Events before which the row as the table has it must be looked at, for some column; ascending."""
        found = [np.empty(0, np.intp)]
        names = self.changes.schema.field("after").type.names if self._unchanged else ()
        for name in names:
            unchanged = self._unchanged.get(self._source_of(name))
            if unchanged is not None:
                carried, _ = self._carries(name, unchanged)
                source = self._carriers(name, unchanged)[~self.dropped]
                found.append(source[~carried[source]])
        return np.unique(np.concatenate(found))

    def key_column(self, name: str, events: Indices) -> pa.Array:
        """A column of the events' keys."""
        count = len(self.ops)
        values = self._side("after", name)
        if values.null_count:
            values = pc.coalesce(values, self._side("before", name))
        if not len(self.moves):
            return values.take(pa.array(self.change[events]))
        left = self._side("before", name).take(pa.array(self.moves))
        return pa.concat_arrays([values, left]).take(pa.array(np.where(events < count, self.change[events], events)))

    @cached_property
    def same_key_before(self) -> Indices:
        """The event before each one on the same key; -1 for the first."""
        before = np.full(len(self.change), -1, np.intp)
        follows = np.flatnonzero(~self._first)
        before[self._order[follows]] = self._order[follows - 1]
        return before

    # -- keys

    def _keys_now(self) -> Keys:
        return self._hash(self._key_rows(np.arange(len(self.ops)), "after", "before"))

    def _moves(self, now: Keys) -> tuple[Indices, Keys]:
        before = self.changes.column("before")
        known = (self.ops == UPDATE) & _valid(before)
        rows = np.flatnonzero(known)
        if not len(rows):
            return rows, now.take(rows)
        old = self._hash(self._key_rows(rows, "before", "after"))
        moved = old.differ(now.take(rows))
        return rows[moved], old.take(np.flatnonzero(moved))

    def _key_rows(self, rows: Indices, first: str, second: str) -> pa.RecordBatch:
        """The key's columns: from one side of the change, where that lacks them from the other."""
        whole = len(rows) == len(self.ops)
        columns = []
        for name in self._key:
            values = self._side(first, name)
            if values.null_count:
                values = pc.coalesce(values, self._side(second, name))
            columns.append(values if whole else values.take(pa.array(rows)))
        texts = self.changes.column("_unrepresentable")
        columns.append(texts if whole else texts.take(pa.array(rows)))
        return pa.RecordBatch.from_arrays(columns, [*self._key, "_unrepresentable"])

    def _side(self, side: str, name: str) -> pa.Array:
        column = self.changes.column(side)
        if not column.null_count:
            return column.field(name) if not column.offset else pc.struct_field(column, name)
        return pc.struct_field(column, name)

    def _beginnings(self) -> Mask:
        """In the order by key: is the event the first on its key?"""
        ordered = self._events.take(self._order)
        count = len(self._order)
        different = ordered.take(np.arange(1, count)).differ(ordered.take(np.arange(max(0, count - 1))))
        return np.concatenate([np.ones(min(1, count), np.bool_), different])

    def _sorted(self) -> Indices:
        if not len(self.moves):
            return self._events.order()
        # A key is left just before the update that leaves it writes the other one.
        when = 2 * self.change + (np.arange(len(self.change)) < len(self.ops))
        if self._events.check is None:
            return np.lexsort((when, self._events.main))
        return np.lexsort((when, self._events.check, self._events.main))

    # -- values that were not sent

    def _source_of(self, name: str) -> str:
        """What `_unchanged` calls a column: `price__v2` holds `price` after an incompatible change of its type."""
        return source_column(name, self.changes.schema.field("after").type.names)

    @cached_property
    def _unchanged(self) -> dict[str, Mask]:
        """Column → changes that did not send it."""
        lists = self.changes.column("_unchanged")
        names = lists.flatten()
        if not len(names):
            return {}
        parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
        result = {}
        for name in names.unique().to_pylist():
            mask = np.zeros(len(self.ops), np.bool_)
            mask[parents[np.asarray(pc.equal(names, name))]] = True
            result[name] = mask
        return result

    @cached_property
    def _before(self) -> Indices:
        """The event before each one, of the same row: on the same key, or through a move; -1 for the first."""
        before = self.same_key_before.copy()
        count = len(self.ops)
        before[self.moves] = count + np.arange(len(self.moves))
        return before

    def _carries(self, name: str, unchanged: Mask) -> tuple[Mask, Mask]:
        """Which events carry the column, and which of them in the row as it was before (REPLICA IDENTITY FULL)."""
        count = len(self.ops)
        from_before = np.zeros(len(self.change), np.bool_)
        from_before[:count] = unchanged & _valid(self._side("before", name))
        carried = np.zeros(len(self.change), np.bool_)
        carried[:count] = ~unchanged
        return carried | from_before, from_before

    def _carriers(self, name: str, unchanged: Mask) -> Indices:
        """Of each event the one that its value is found at; one that carries nothing where the chain ends."""
        carried, _ = self._carries(name, unchanged)
        stop = carried | (self._before < 0)
        at: Indices = np.where(stop, np.arange(len(stop)), self._before)
        while True:
            further = at[at]
            if np.array_equal(further, at):
                return at
            at = further


Find = Callable[[Indices, str], pa.Array]


@dataclass(frozen=True)
class Stretch:
    """A run of changes without truncates; `truncated` when one stands before it: its version."""

    changes: pa.RecordBatch
    truncated: bytes | None = None


def stretches(changes: pa.RecordBatch) -> list[Stretch]:
    """Changes split at their truncates."""
    cuts = np.flatnonzero(operations(changes) == TRUNCATE).tolist()
    if not cuts:
        return [Stretch(changes)]
    versions = changes.column("_version")
    found = [Stretch(changes.slice(0, cuts[0]))]
    for at, following in zip(cuts, [*cuts[1:], changes.num_rows], strict=True):
        found.append(Stretch(changes.slice(at + 1, following - at - 1), versions[at].as_py()))
    return found


def in_order(changes: pa.RecordBatch) -> pa.RecordBatch:
    """The changes by `_version`; the very same batch when they came so."""
    versions = changes.column("_version")
    return changes if ascending(versions) else changes.take(pc.sort_indices(versions))


def ascending(versions: pa.Array) -> bool:
    """Is none of them below the one before it?"""
    count = len(versions)
    return count < 2 or bool(pc.all(pc.less_equal(versions.slice(0, count - 1), versions.slice(1))).as_py())


def _valid(column: pa.Array) -> Mask:
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
