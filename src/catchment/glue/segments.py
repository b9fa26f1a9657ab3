"""What was read of a table's objects, kept on this machine: an object is fetched and parsed once, as its ETag says.

A segment is a Parquet file with the rows of some objects, and their names and ETags in its metadata. It never changes
once it is there, so processes may share the directory. Small segments are merged into larger ones. All of it can be
made again: the directory may be deleted at any time when nobody reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

PATH = "$path"
"""The column with an object's place, which Athena calls so too."""

_METADATA = b"catchment.objects"
_SUFFIX = ".parquet"
MERGE_FROM = 24
"""So many small segments are merged into one: a query opens each of its segments."""
_ROW_GROUP = 122_880
"""Rows of a Parquet row group, as DuckDB likes them."""
_SMALL_BYTES = 16 * 1024 * 1024
_MERGED_BYTES = 128 * 1024 * 1024
_UNUSED_SECONDS = 30 * 86400.0
_GRACE_SECONDS = 600.0
"""How long a segment stays whose objects are in another one: a query may still read it."""


@dataclass(frozen=True)
class KnownObject:
    """An object in a segment, and how often something in it did not fit."""

    etag: str
    unfit: Mapping[str, int]


@dataclass(frozen=True)
class Segment:
    """A file, and the objects whose rows are in it, by their place."""

    path: Path
    objects: Mapping[str, KnownObject]


@dataclass(frozen=True)
class Part:
    """A segment to read, and the objects of it whose rows count; None when all do."""

    segment: Segment
    only: frozenset[str] | None


class SegmentStore:
    """The segments of one table with one set of columns."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._segments: dict[Path, Segment] = {}

    def load(self) -> None:
        """See what is there, as other processes left it."""
        os.utime(self.directory)  # in use: `forget_unused` leaves it
        found = {path for path in self.directory.iterdir() if path.suffix == _SUFFIX}
        for gone in set(self._segments) - found:
            del self._segments[gone]
        for path in found - set(self._segments):
            with suppress(OSError, pa.ArrowException, KeyError, ValueError):
                self._segments[path] = _read(path)

    def parts(self, wanted: Mapping[str, str]) -> tuple[list[Part], set[str]]:
        """How to read these objects (place → ETag), each once; and those that no segment has."""
        missing = set(wanted)
        parts = []
        for segment in sorted(self._segments.values(), key=lambda one: (-len(one.objects), one.path)):
            here = frozenset(place for place, known in segment.objects.items() if wanted.get(place) == known.etag)
            taken = here & missing
            if taken:
                parts.append(Part(segment, taken if len(taken) < len(segment.objects) else None))
                missing -= taken
        return parts, missing

    def add(self, rows: pa.RecordBatchReader, objects: Mapping[str, KnownObject]) -> Segment:
        """Keep the rows of these objects; `rows` has the column `$path`."""
        named = {place: [known.etag, dict(known.unfit)] for place, known in objects.items()}
        schema = rows.schema.with_metadata({_METADATA: json.dumps(named).encode()})
        path = self.directory / f"{uuid.uuid4().hex}{_SUFFIX}"
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            unfinished.chmod(0o600)
            for batch in rows:
                writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=_ROW_GROUP)
        unfinished.replace(path)
        segment = Segment(path, objects)
        self._segments[path] = segment
        return segment

    def unfit(self, parts: Iterable[Part]) -> Counter[str]:
        """How often something did not fit, by column."""
        total: Counter[str] = Counter()
        for part in parts:
            for place, known in part.segment.objects.items():
                if part.only is None or place in part.only:
                    total.update(known.unfit)
        return total

    def tidy(self, parts: Sequence[Part]) -> None:
        """Merge small segments, if there are many, and remove those that are no longer needed.

        parts: all of the table as it is now.
        """
        small = [part for part in parts if _size(part.segment.path) < _SMALL_BYTES]
        if len(small) >= MERGE_FROM:
            self._merge(small)
        used = {part.segment.path for part in parts}
        for path in set(self._segments) - used:
            self._retire(path)
        for path in self.directory.glob("*.unfinished"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _GRACE_SECONDS:
                    path.unlink()

    def _merge(self, parts: Sequence[Part]) -> None:
        tables: list[pa.Table] = []
        objects: dict[str, KnownObject] = {}
        size = 0
        for part in parts:
            if size + _size(part.segment.path) > _MERGED_BYTES:
                break
            size += _size(part.segment.path)
            with suppress(OSError):
                rows = pq.read_table(part.segment.path, memory_map=False)
                if part.only is not None:
                    rows = rows.filter(pc.is_in(rows[PATH], pa.array(sorted(part.only), pa.string())))
                tables.append(rows.replace_schema_metadata(None))
                objects |= {
                    place: known
                    for place, known in part.segment.objects.items()
                    if part.only is None or place in part.only
                }
        if len(tables) > 1:
            self.add(reader_of(pa.concat_tables(tables)), objects)

    def _retire(self, path: Path) -> None:
        """Remove it some time after it was first seen to be of no use: others may read it until they look again."""
        retired = path.with_suffix(".retired")
        with suppress(OSError):
            if not retired.exists():
                retired.touch()
            elif time.time() - retired.stat().st_mtime > _GRACE_SECONDS:
                path.unlink(missing_ok=True)
                retired.unlink()
                self._segments.pop(path, None)


def reader_of(rows: pa.Table) -> pa.RecordBatchReader:
    """The rows in large pieces: each becomes a row group."""
    return rows.combine_chunks().to_reader(_ROW_GROUP)


def _read(path: Path) -> Segment:
    named = json.loads(pq.read_metadata(path).metadata[_METADATA])
    return Segment(path, {place: KnownObject(etag, unfit) for place, (etag, unfit) in named.items()})


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def forget_unused(base: Path) -> None:
    """Remove what nobody has asked for in a month: tables that were dropped, columns as they were once."""
    for directory in base.iterdir():
        with suppress(OSError):
            if directory.is_dir() and time.time() - directory.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(directory)


def store_directory(base: Path, *identity: str) -> Path:
    """Where the segments of a table are, by everything that its rows depend on."""
    return base / hashlib.sha256("\0".join(identity).encode()).hexdigest()[:32]


def default_base() -> Path:
    """`$XDG_CACHE_HOME/catchment/athena`, usually `~/.cache/catchment/athena`."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "catchment" / "athena"
