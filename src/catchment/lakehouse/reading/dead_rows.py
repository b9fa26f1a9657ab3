"""Which rows of a table's data files position deletes have taken away, kept from one moment to the next.

A delete file never changes: it is read once, and what it says goes into one bitmap a data file. Rows of a
bitmap are tested by DuckDB in a fraction of the time that a join with the positions takes (docs/adr/0005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from catchment.lakehouse.position_delete import Positions

Read = Callable[[str], "Mapping[str, Positions]"]
"""Gives a delete file's content: data file → positions."""

_PENDING_POSITIONS = 4_000_000
"""So many positions (32 MB) are gathered before they go into bitmaps."""


def local_path(location: str) -> str:
    """A file's path where the location is local; any other location as it is."""
    # Writers put paths into locations as they are, without quoting: nothing is undone but the scheme.
    return location.removeprefix("file://").removeprefix("file:")


@dataclass(frozen=True, slots=True)
class LakeFile:
    """A data file or delete file of a snapshot. sequence: its data sequence number; snapshot: what added it."""

    path: str
    rows: int
    sequence: int
    snapshot: int | None


class DeadRows:
    """The dead rows of one table."""

    def __init__(self) -> None:
        self._files: Mapping[str, LakeFile] = {}
        self._named: dict[str, frozenset[str]] = {}
        self._bits: dict[str, bytes] = {}

    def at(self, files: Mapping[str, LakeFile], deletes: Sequence[LakeFile], read: Read) -> dict[str, bytes]:
        """Data file → a bit for each of its rows, the first row's the highest of the first byte; set: dead.

        Files without dead rows are not in it. A delete concerns files whose sequence number is not above its
        own. Reads only delete files that are new, and those of files whose other deletes are gone.
        """
        anew = self._to_begin_anew(files, deletes)
        bits = {path: bits for path, bits in self._bits.items() if path in files and path not in anew}
        named: dict[str, frozenset[str]] = {}
        for path, flags in self._gathered(files, deletes, anew, named, read):
            before = bits.get(path)
            bits[path] = flags if before is None else _both(before, flags)
        # Only now: a file that went missing on the way leaves everything as it was.
        self._files, self._named, self._bits = files, named, bits
        return dict(bits)

    def _to_begin_anew(self, files: Mapping[str, LakeFile], deletes: Sequence[LakeFile]) -> set[str]:
        """Data files whose bitmap lost a delete file, or that came back after they had gone."""
        present = {one.path for one in deletes}
        lost = {path for delete, named in self._named.items() if delete not in present for path in named}
        back = {path for named in self._named.values() for path in named if path not in self._files}
        return (lost | back) & files.keys()

    def _gathered(
        self,
        files: Mapping[str, LakeFile],
        deletes: Sequence[LakeFile],
        anew: set[str],
        named: dict[str, frozenset[str]],
        read: Read,
    ) -> Iterator[tuple[str, bytes]]:
        """Bitmaps of what is to be added, as it is read. Fills `named`."""
        pending: dict[str, list[Positions]] = {}
        count = 0
        for delete in deletes:
            known = self._named.get(delete.path)
            if known is not None and not known & anew:
                named[delete.path] = known
                continue
            found = {local_path(location): positions for location, positions in read(delete.path).items()}
            named[delete.path] = frozenset(found)
            for path, positions in found.items():
                file = files.get(path)
                if file is None or file.sequence > delete.sequence or (known is not None and path not in anew):
                    continue
                pending.setdefault(path, []).append(positions)
                count += len(positions)
            if count > _PENDING_POSITIONS:
                yield from _flags(pending, files)
                pending, count = {}, 0
        yield from _flags(pending, files)


def _flags(pending: Mapping[str, Sequence[Positions]], files: Mapping[str, LakeFile]) -> Iterator[tuple[str, bytes]]:
    import numpy as np

    for path, parts in pending.items():
        dead = np.zeros(files[path].rows, np.bool_)
        for positions in parts:
            # A position that the file does not have deletes nothing.
            dead[positions[positions < len(dead)]] = True
        if dead.any():
            yield path, np.packbits(dead).tobytes()


def _both(one: bytes, other: bytes) -> bytes:
    import numpy as np

    def flags(bits: bytes) -> npt.NDArray[np.uint8]:
        return np.frombuffer(bits, np.uint8)

    return np.bitwise_or(flags(one), flags(other)).tobytes()
