"""How objects are called: by range, as Firehose calls them, or in Hive partitions.

A name is made of what a replay finds the same: the pipeline, the number of the range, the place in it, and its
*moment*, which the range's first intent keeps. Names say nothing of a row but the hour of its change.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.schema import TableId

NAMESPACE = uuid.UUID("6f3c1f0a-4f1e-5b0e-9d56-0c6f0d9b7a11")
"""Of the version 5 UUIDs in Firehose's names."""
FIREHOSE_VERSION = 1
"""Where Firehose counts the changes of a stream's configuration, this stands."""

_NOT_IN_A_NAME = re.compile(r'[%/\\:*?"<>|\x00-\x1f]')
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_US = 3_600_000_000
_UNTIMED = -(2**62)


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """Rows that may stand in one object: of one table, and of one of its partitions ("": none, or no time)."""

    table: TableId
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object stands in its range. part: counts from 1 within the group. moment: the range's, in µs (UTC)."""

    group: Group
    number: int
    part: int
    moment: int


class Naming(Protocol):
    """How objects are called, and which rows they may hold."""

    def split(self, table: TableId, records: pa.RecordBatch) -> Iterator[tuple[Group, pa.RecordBatch]]:
        """The rows by group, each in their order. Only the rows decide, never how they came in batches."""
        ...

    def path(self, place: Place) -> str:
        """The object's path without its ending."""
        ...


class RangeNames:
    """`<table>/<range>-<part>`."""

    def split(self, table: TableId, records: pa.RecordBatch) -> Iterator[tuple[Group, pa.RecordBatch]]:
        yield Group(table), records

    def path(self, place: Place) -> str:
        return f"{directory_of(place.group.table)}/{place.number:012d}-{place.part:04d}"


class FirehoseNames(RangeNames):
    """`YYYY/MM/DD/HH/<stream>-<version>-<yyyy-MM-dd-HH-mm-ss>-<uuid>`; the time is the range's oldest change's."""

    def __init__(self, pipeline: str, stream: str) -> None:
        self._pipeline = pipeline
        self._stream = _name(stream)

    def path(self, place: Place) -> str:
        at = _time(place.moment)
        what = f"{self._pipeline}\n{place.group.table}\n{place.number}\n{place.part}"
        return (
            f"{at:%Y/%m/%d/%H}/{self._stream}-{FIREHOSE_VERSION}-{at:%Y-%m-%d-%H-%M-%S}-{uuid.uuid5(NAMESPACE, what)}"
        )


class HiveNames:
    """`<table>/year=…/month=…/day=…/hour=…/<range>-<part>`, by the hour of each change.

    partitions: name → strftime form, of nothing finer than hours. A change without a time stands at the range's moment.
    """

    def __init__(self, partitions: Mapping[str, str]) -> None:
        self._partitions = dict(partitions)

    def split(self, table: TableId, records: pa.RecordBatch) -> Iterator[tuple[Group, pa.RecordBatch]]:
        times = records.column("_committed_at").cast(pa.int64())
        hours = pc.fill_null(times, _UNTIMED).to_numpy(zero_copy_only=False) // _HOUR_US
        partitions = {int(hour): self._partition(int(hour)) for hour in np.unique(hours)}
        for partition in dict.fromkeys(partitions.values()):
            mine = [hour for hour, name in partitions.items() if name == partition]
            rows = records if len(mine) == len(partitions) else records.filter(pa.array(np.isin(hours, mine)))
            yield Group(table, partition), rows

    def path(self, place: Place) -> str:
        partition, untimed = place.group.partition, ""
        if not partition:
            partition, untimed = self._partition(place.moment // _HOUR_US), "-untimed"
        return f"{directory_of(place.group.table)}/{partition}/{place.number:012d}-{place.part:04d}{untimed}"

    def _partition(self, hour: int) -> str:
        if hour == _UNTIMED // _HOUR_US:
            return ""
        at = _time(hour * _HOUR_US)
        return "/".join(f"{name}={at.strftime(form)}" for name, form in self._partitions.items())


def directory_of(table: TableId) -> str:
    """The table's directory: its name, with what file systems do not take as %XX."""
    return _name(str(table))


def oldest(records: pa.RecordBatch) -> int | None:
    """When the first of these changes was committed, in µs; None when none of them says."""
    at = pc.min(records.column("_committed_at").cast(pa.int64())).as_py()
    return None if at is None else int(at)


def _time(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _name(text: str) -> str:
    return _NOT_IN_A_NAME.sub(lambda match: f"%{ord(match[0]):02X}", text)
