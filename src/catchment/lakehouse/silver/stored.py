"""Rows as a table had them before a fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from catchment.lakehouse.silver.fold import Fold, Indices
from catchment.lakehouse.silver.key_index import NOWHERE, Places
from catchment.lakehouse.silver.keyed_table import KeyedTable, whole


class Stored:
    """Rows as the table has them before a fold, where its changes did not send all values; read when asked for."""

    def __init__(self, tables: Sequence[KeyedTable], fold: Fold, missed: Callable[[], None]) -> None:
        """tables: where a key's row may be. missed: called when a value that is asked for is in none of them."""
        self._tables = tables
        self._missed = missed
        self._fold = fold
        self._roots: Indices | None = None
        self._places: list[Places] = []
        self._columns: dict[str, pa.Array] = {}

    def find(self, events: Indices, name: str) -> pa.Array:
        """A column's values before these events; NULL where there was no row."""
        if self._roots is None:
            self._roots = self._fold.roots()
            keys = self._fold.keys(self._roots)
            self._places = [table.find(keys) for table in self._tables]
            for places in self._places:
                # A newer row of the key is another's: the one that is looked for was there before it.
                places[self._fold.dropped[self._roots]] = NOWHERE
            if (np.max(self._places, axis=0) == NOWHERE).any():
                self._missed()
        if name not in self._columns:
            self._columns[name] = self._read(name)
        return self._columns[name].take(pa.array(np.searchsorted(self._roots, events)))

    def _read(self, name: str) -> pa.Array:
        pool, index, count = [], np.full(len(self._places[0]), -1, np.int64), 0
        for table, places in zip(self._tables, self._places, strict=True):
            known = np.flatnonzero(places != NOWHERE)
            pool.append(whole(table.take(places[known], [name]).column(0)))
            index[known] = count + np.arange(len(known))
            count += len(known)
        return pa.concat_arrays(pool).take(pa.array(index, mask=index < 0))
