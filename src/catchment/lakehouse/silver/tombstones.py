"""Keys that were left while a snapshot goes on: an older row of theirs, read late, must not come back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.lakehouse.silver.fold import Mask
from catchment.lakehouse.silver.key_hash import Keys
from catchment.lakehouse.silver.key_index import NOWHERE, Flags, KeyIndex


class Tombstones:
    """The last version at which each key was left, and that of the last truncate."""

    def __init__(self) -> None:
        self._index = KeyIndex()
        self._versions: list[pa.Array] = []
        self._dead: Flags = np.zeros(0, np.bool_)
        self._count = 0
        self._bounded = 0
        self._truncated: bytes | None = None

    def __len__(self) -> int:
        return self._count

    def add(self, keys: Keys, versions: pa.Array) -> None:
        """These keys, each once, were left at these versions."""
        if not len(keys):
            return
        known = self._index.find(keys, self._dead)
        self._dead[known[known != NOWHERE]] = True
        first, self._count = self._count, self._count + len(keys)
        if self._count > len(self._dead):
            grown = np.zeros(2 * self._count, np.bool_)
            grown[: len(self._dead)] = self._dead
            self._dead = grown
        self._versions.append(versions)
        self._index.add(keys, np.arange(first, self._count), self._dead)

    def truncate(self, version: bytes) -> None:
        """All keys were left at this version."""
        self._truncated = version if self._truncated is None else max(version, self._truncated)

    def cover(self, keys: Keys, versions: pa.Array, leaving: Mask | None = None) -> Mask:
        """Row by row: was the key left at this version or later? leaving: it is, by this very change: later only."""
        covered = np.zeros(len(keys), np.bool_)
        if self._truncated is not None:
            covered |= np.asarray(pc.less_equal(versions, pa.scalar(self._truncated, versions.type)))
        if self._count:
            at = self._index.find(keys, self._dead)
            known = np.flatnonzero(at != NOWHERE)
            if len(known):
                self._versions = [pa.concat_arrays(self._versions)]
                left = self._versions[0].take(pa.array(at[known]))
                asked = versions.take(pa.array(known))
                mine = np.zeros(len(known), np.bool_) if leaving is None else leaving[known]
                covered[known] |= np.asarray(pc.if_else(mine, pc.greater(left, asked), pc.greater_equal(left, asked)))
        return covered

    def bound(self) -> None:
        """A boundary: what was added so far is in bronze from the next commit on."""
        self._bounded = self._count

    def after_boundary(self) -> Tombstones:
        """Those that were added since the last boundary."""
        kept = Tombstones()
        kept._truncated = self._truncated
        if self._count > self._bounded:
            kept._take(self, self._bounded)
        return kept

    def take_over(self, later: Tombstones) -> None:
        """Add what others hold, which came later."""
        self._take(later, 0)
        if later._truncated is not None:
            self.truncate(later._truncated)

    def _take(self, other: Tombstones, first: int) -> None:
        keys, places = other._index.entries(other._dead)
        rows = np.flatnonzero(places >= first)
        if len(rows):
            self.add(keys.take(rows), pa.concat_arrays(other._versions).take(pa.array(places[rows])))

    def close(self) -> None:
        """Let go of the index."""
        self._index.close()
