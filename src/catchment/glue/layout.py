"""Which objects a table has, and the partition that each is in: as Athena would find them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

from catchment.glue import projection
from catchment.glue.session import Client, asking
from catchment.glue.table import GlueTable
from catchment.s3_address import bucket_and_key

_MOST_LISTINGS = 100
"""More directories than that are listed by what they lie in."""


class Wanted(Protocol):
    """Which partitions may hold rows that are asked for."""

    def __call__(self, values: Mapping[str, str]) -> bool:
        """By those of its values that are known, may a partition? True when in doubt."""
        ...

    def among(self, name: str, values: Sequence[str]) -> list[str]:
        """Those of a column's values that may be asked for."""
        ...


@dataclass(frozen=True)
class S3Object:
    """An object of a table. `partition`: the values of the partition columns, as text."""

    bucket: str
    key: str
    etag: str
    size: int
    partition: tuple[str, ...] = ()
    modified: datetime | None = None

    @property
    def location(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def objects_of(s3: Client, glue: Client, table: GlueTable, wanted: Wanted | None = None) -> list[S3Object]:
    """The objects of a table; of those partitions only that are wanted.

    Hidden ones (a name or directory that begins with `_` or `.`) and empty ones are not there, as in Athena.
    """
    with asking(f"listing the objects of {table.full_name} in {table.location}"):
        projected = projection.read(table.parameters, tuple(table.keys), table.location, datetime.now(UTC))
        if projected is not None:
            found = _projected(s3, projected, tuple(table.keys), wanted)
        elif table.keys:
            found = _registered(s3, glue, table, wanted)
        else:
            found = _below(s3, *bucket_and_key(_directory(table.location)))
        return list(found)


def _projected(
    s3: Client, projected: projection.Projection, keys: Sequence[str], wanted: Wanted | None
) -> Iterator[S3Object]:
    bucket, _ = bucket_and_key(projected.prefix)
    values = lru_cache(maxsize=None)(lambda directory: projected.values(f"s3://{bucket}/{directory}"))
    for prefix in _prefixes(s3, projected, wanted):
        for one in _below(s3, bucket, prefix):
            found = values(one.key.rpartition("/")[0] + "/")
            if found is not None and (wanted is None or wanted(found)):
                yield _in(one, tuple(found[key] for key in keys))


def _prefixes(s3: Client, projected: projection.Projection, wanted: Wanted | None) -> list[str]:
    """Where to list: directory by directory as far as that can leave something out, the whole trees below."""
    _, start = bucket_and_key(projected.prefix)
    levels = projected.levels()
    if wanted is not None and (few := _few_directories(projected, levels, wanted)) is not None:
        return [f"{start}{directory}/" for directory in few]
    # Without a condition one level is enough: it leaves out what stands beside the table, such as an error prefix.
    depth = len(levels) if wanted is not None and all(levels) else 1
    found: list[tuple[str, dict[str, str]]] = [(start, {})]
    bucket, _ = bucket_and_key(projected.prefix)
    for name in levels[:depth]:
        below = []
        for prefix, values in found:
            for directory in _directories(s3, bucket, prefix):
                value = directory[len(prefix) :].rstrip("/")
                if (known := _known(projected, name, value)) is None:
                    continue
                if wanted is None or wanted({**values, **known}):
                    below.append((directory, {**values, **known}))
        found = below
    return [prefix for prefix, _ in found]


def _few_directories(
    projected: projection.Projection, levels: Sequence[str | None], wanted: Wanted
) -> list[str] | None:
    """The directories of a date's wanted values (2026/11/21/08), or what they lie in when they are many."""
    name = levels[0] if len(levels) == 1 else None
    every = projected.columns[name].every if name is not None else None
    if name is None or every is None:
        return None
    found = wanted.among(name, every())
    while len(found) > _MOST_LISTINGS and all("/" in one for one in found):
        found = sorted({one.rpartition("/")[0] for one in found})
    return found if len(found) <= _MOST_LISTINGS else None


def _known(projected: projection.Projection, name: str | None, value: str) -> dict[str, str] | None:
    """What a directory's name says of a column; None when no partition can be below it."""
    if name is None:
        return {} if projected.may_begin(value) else None
    column = projected.columns[name]
    if re.fullmatch(column.pattern, value):
        return {name: value} if column.exists(value) else None
    # A column of several directories (a date as yyyy/MM/dd/HH): this is its first.
    return {} if projected.may_begin(value) else None


def _registered(s3: Client, glue: Client, table: GlueTable, wanted: Wanted | None) -> Iterator[S3Object]:
    for values, location in partitions_of(glue, table):
        if wanted is None or wanted(dict(zip(table.keys, values, strict=True))):
            for one in _below(s3, *bucket_and_key(_directory(location))):
                yield _in(one, values)


def partitions_of(glue: Client, table: GlueTable) -> list[tuple[tuple[str, ...], str]]:
    """The partitions that are registered in Glue: values and place."""
    pages = glue.get_paginator("get_partitions").paginate(
        DatabaseName=table.database, TableName=table.name, ExcludeColumnSchema=True
    )
    return [
        (tuple(one["Values"]), one.get("StorageDescriptor", {}).get("Location") or "")
        for page in pages
        for one in page["Partitions"]
    ]


def _in(one: S3Object, partition: tuple[str, ...]) -> S3Object:
    return S3Object(one.bucket, one.key, one.etag, one.size, partition, one.modified)


def _directory(location: str) -> str:
    return location if location.endswith("/") else location + "/"


def _directories(s3: Client, bucket: str, prefix: str) -> Iterator[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    for page in pages:
        for one in page.get("CommonPrefixes", ()):
            if not one["Prefix"][len(prefix) :].startswith(("_", ".")):
                yield one["Prefix"]


def _below(s3: Client, bucket: str, prefix: str) -> Iterator[S3Object]:
    """Every object below a prefix that is there to be read."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for one in page.get("Contents", ()):
            if one["Size"] and not is_hidden(one["Key"][len(prefix) :]):
                yield _object(bucket, one)


def objects_below(s3: Client, location: str) -> Iterator[S3Object]:
    """Every object below a place that is there to be read, in no partition."""
    return _below(s3, *bucket_and_key(_directory(location)))


def _object(bucket: str, answer: Mapping[str, Any]) -> S3Object:
    return S3Object(bucket, answer["Key"], answer["ETag"], answer["Size"], (), answer.get("LastModified"))


def is_hidden(key: str) -> bool:
    """Does Athena pass over an object of this name below a table's place?"""
    return any(part.startswith(("_", ".")) for part in key.split("/"))
