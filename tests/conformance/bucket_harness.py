"""What the tests of the files sink read a bucket with: a copy of it in a directory, read as the local sink's is."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Literal

import pyarrow as pa

from aws.account import AwsAccount
from aws.places import bucket_of, make_bucket
from catchment.schema import TableSchema
from catchment.sinks.base import Sink
from catchment.sinks.files.naming import Naming
from catchment.sinks.files.s3_store import S3Store
from catchment.sinks.files.sink import FilesSink
from catchment.sinks.files.store import Store
from conformance.files_harness import FilesHarness
from conformance.test_files_sink_crashes import BreakingHarness


def new_prefix(aws: AwsAccount) -> str:
    """A prefix of its own in a bucket that is there."""
    return f"s3://{make_bucket(aws)}/{uuid.uuid4().hex[:8]}"


def key_of(url: str, path: str) -> str:
    """The key of an object under a prefix."""
    return f"{url.removeprefix('s3://').partition('/')[2]}/{path}"


def keys(aws: AwsAccount, url: str) -> list[str]:
    """The paths under a prefix."""
    prefix = key_of(url, "")
    pages = aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket_of(aws), Prefix=prefix)
    return [one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", ())]


def mirror(aws: AwsAccount, url: str, directory: Path) -> Path:
    """Everything under a prefix as files; what goes while it is copied (a range's intents) is left out."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    s3 = aws.client("s3")
    for path in keys(aws, url):
        try:
            found = s3.get_object(Bucket=bucket_of(aws), Key=key_of(url, path))
        except s3.exceptions.NoSuchKey:
            continue
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(found["Body"].read())
    return directory


class BucketHarness(FilesHarness):
    """A prefix in S3 of the stand-in."""

    def __init__(
        self,
        aws: AwsAccount,
        directory: Path,
        format_: Literal["ndjson", "parquet"],
        compression: str,
        *,
        file_rows: int = 1_000_000,
        naming: Naming | None = None,
    ) -> None:
        super().__init__(directory, format_, compression, file_rows=file_rows)
        self.aws = aws
        self.url = new_prefix(aws)
        self._naming = naming

    def sink(self) -> Sink:
        return FilesSink(
            S3Store(self.url),
            pipeline="suite",
            format=self._format,
            compression=self._compression,
            file_rows=self._file_rows,
            naming=self._naming,
        )

    def read(self, schema: TableSchema) -> pa.Table:
        mirror(self.aws, self.url, self.directory)
        return super().read(schema)


class BreakingBucketHarness(BreakingHarness):
    """Small files, so that a range has several; the next sink breaks at `break_at`."""

    def __init__(self, aws: AwsAccount, directory: Path) -> None:
        self.aws = aws
        self.url = new_prefix(aws)
        self._copy = directory
        super().__init__(directory)

    @property
    def directory(self) -> Path:
        """The prefix as it is now."""
        return mirror(self.aws, self.url, self._copy)

    @directory.setter
    def directory(self, _: Path) -> None:
        """Only the base class wants it."""

    def place(self) -> Store:
        return S3Store(self.url)
