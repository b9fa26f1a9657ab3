"""A change looked for in the objects of a prefix: clean records, whole changes, and what failed."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from catchment.aws.local.error_output import failed_records
from catchment.aws.local.s3_place import S3Place
from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.errors import SourceRefused

READS = 8
"""So many objects are read at the same time."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an object; in Parquet, a row. Both count from 1. at: when the object was stored."""

    where: str
    line: int
    at: datetime
    code: str = ""


class TracedObjects:
    """Looks for one event id. after: objects that were stored before are not read."""

    def __init__(self, event_id: str, after: datetime | None) -> None:
        self._event_id = event_id
        self._after = after
        self._s3 = aws_client("s3", None)

    def lines(self, place: S3Place, apart: Sequence[str]) -> list[Line]:
        """Where its clean records are. apart: prefixes in the bucket that hold something else."""
        return self._search(place, lambda key: not _is_apart(place, key, apart), self._records)

    def failures(self, place: S3Place) -> list[Line]:
        """Where it failed, and with which error code."""
        return self._search(place, lambda key: True, self._failed)

    def _search(
        self,
        place: S3Place,
        wanted: Callable[[str], bool],
        find: Callable[[str, bytes], Iterator[tuple[int, str]]],
    ) -> list[Line]:
        def found(listed: dict[str, Any]) -> list[Line]:
            key, at = listed["Key"], listed["LastModified"].astimezone(UTC)
            where = f"s3://{place.bucket}/{key}"
            data = self._content(place.bucket, key)
            return [Line(where, number, at, code) for number, code in find(key, data)]

        with ThreadPoolExecutor(READS) as pool:
            objects = (one for one in self._listed(place) if wanted(one["Key"]))
            lines = [line for lines in pool.map(found, objects) for line in lines]
        return sorted(lines, key=lambda one: (one.at, one.where, one.line))

    def _listed(self, place: S3Place) -> Iterator[dict[str, Any]]:
        with translated(f"listing {prefixed(place)}", _missing_bucket(place.bucket)):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.prefix)
            for page in pages:
                for one in page.get("Contents", ()):
                    if self._after is None or one["LastModified"] >= self._after:
                        yield one

    def _content(self, bucket: str, key: str) -> bytes:
        with translated(f"reading s3://{bucket}/{key}"):
            try:
                data: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            except self._s3.exceptions.NoSuchKey:
                return b""  # removed since it was listed
        try:
            return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        except (OSError, EOFError, zlib.error):
            return b""  # not whole: nobody can read it

    def _records(self, key: str, data: bytes) -> Iterator[tuple[int, str]]:
        if key.endswith(".parquet"):
            yield from self._rows(data)
            return
        sought = self._event_id.encode()
        if sought in data:
            for number, line in enumerate(data.split(b"\n"), 1):
                if sought in line and _event_of(line) == self._event_id:
                    yield number, ""

    def _rows(self, data: bytes) -> Iterator[tuple[int, str]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(pa.BufferReader(data)) as file:
            name = next((name for name in ("event_id", "_event_id") if name in file.schema_arrow.names), None)
            ids = [] if name is None else file.read(columns=[name]).column(name).to_pylist()
        yield from ((number, "") for number, one in enumerate(ids, 1) if one == self._event_id)

    def _failed(self, key: str, data: bytes) -> Iterator[tuple[int, str]]:
        sought = self._event_id.encode()
        for number, failed in enumerate(failed_records(data.split(b"\n")), 1):
            if failed.data is not None and sought in failed.data:
                yield number, failed.code


def prefixed(place: S3Place) -> str:
    """As people write it."""
    return f"s3://{place.bucket}/{place.prefix}"


def _event_of(line: bytes) -> str | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    found = document.get("event_id", document.get("eventID")) if isinstance(document, dict) else None
    return found if isinstance(found, str) else None


def _is_apart(place: S3Place, key: str, apart: Sequence[str]) -> bool:
    """Of another kind, or a record of the files sink's own."""
    return key.startswith(tuple(apart)) or "_catchment/" in key.removeprefix(place.prefix)


def _missing_bucket(bucket: str) -> Callable[[str, str], SourceRefused | None]:
    def known(code: str, _: str) -> SourceRefused | None:
        return SourceRefused(f"There is no bucket {bucket}.") if code == "NoSuchBucket" else None

    return known
