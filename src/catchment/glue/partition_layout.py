"""How objects lie below a table's place: by which columns that partitions them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote

from catchment.glue import projection
from catchment.glue.column_types import ColumnType, parse
from catchment.glue.layout import S3Object
from catchment.glue.table import GlueTable
from catchment.s3_address import bucket_and_key

ERROR_PREFIX = "errors/"
_FIREHOSE_HOUR = "%Y/%m/%d/%H"


@dataclass(frozen=True)
class Target:
    """What is kept up to date: a table, the place of its objects, and what below that does not belong to it.

    declared: columns whose types are settled. project: a new table over Firehose's layout gets partition projection.
    """

    database: str
    table: str
    location: str
    exclude: Sequence[str] = (ERROR_PREFIX,)
    declared: frozenset[str] = frozenset()
    project: bool = True

    @property
    def start(self) -> str:
        """What every key of the table begins with: nothing, or a prefix with its slash."""
        _, start = bucket_and_key(self.location)
        return start if not start or start.endswith("/") else f"{start}/"


@dataclass(frozen=True)
class PartitionLayout:
    """How objects lie below the table's place: the partition columns, and which of the objects are in none."""

    keys: Mapping[str, ColumnType]
    parameters: Mapping[str, str]
    start: str
    projected: projection.Projection | None
    first_hour: str | None
    strays: int

    @property
    def registers(self) -> bool:
        """Are partitions registered in Glue?"""
        return bool(self.keys) and self.projected is None

    @staticmethod
    def of(table: GlueTable | None, target: Target, objects: Sequence[S3Object]) -> PartitionLayout:
        start = target.start
        keys, parameters = (table.keys, table.parameters) if table is not None else _found(target, objects, start)
        projected = projection.read(parameters, tuple(keys), target.location, datetime.now(UTC))
        places = [projected.written(one.location) for one in objects] if projected is not None else []
        if projected is not None:
            strays = places.count(None)
        else:
            strays = sum(values_of(one.key[len(start) :], tuple(keys)) is None for one in objects)
        hours = [found["datehour"] for found in places if found is not None and "datehour" in found]
        return PartitionLayout(keys, parameters, start, projected, min(hours, default=None), strays)


def _found(target: Target, objects: Sequence[S3Object], start: str) -> tuple[dict[str, ColumnType], Mapping[str, str]]:
    """The partition columns of a table that is not there yet, as most of its objects lie."""
    directories = Counter(tuple(one.key[len(start) :].split("/")[:-1]) for one in objects)
    depths = Counter({len(parts): 0 for parts in directories})
    for parts, count in directories.items():
        depths[len(parts)] += count
    depth = depths.most_common(1)[0][0] if depths else 0
    usual = [parts for parts in directories if len(parts) == depth]
    if depth == 4 and target.project and all(_hour(parts) is not None for parts in usual):
        first = min(hour for parts in usual if (hour := _hour(parts)) is not None)
        keys, parameters = projection.firehose_datehour(target.location, first)
        return {name: parse(kind) for name, kind in keys.items()}, parameters
    names = []
    for at in range(depth):
        named = {parts[at].partition("=")[0].lower() for parts in usual if "=" in parts[at]}
        everywhere = all("=" in parts[at] for parts in usual)
        names.append(named.pop() if len(named) == 1 and everywhere else f"partition_{at}")
    return {name: parse("string") for name in names}, {}


def _hour(parts: Sequence[str]) -> datetime | None:
    try:
        return datetime.strptime("/".join(parts), _FIREHOSE_HOUR).replace(tzinfo=UTC)
    except ValueError:
        return None


def values_of(key: str, names: Sequence[str]) -> tuple[str, ...] | None:
    """The partition that a key below the table's place is in, by its directories; None when they are others."""
    directories = key.split("/")[:-1]
    if len(directories) != len(names):
        return None
    values = []
    for directory, name in zip(directories, names, strict=True):
        told, equals, value = directory.partition("=")
        if equals and told.lower() != name:
            return None
        values.append(unquote(value) if equals else directory)
    return tuple(values)
