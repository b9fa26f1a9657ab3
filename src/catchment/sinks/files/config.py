"""The `files` sink's section of pipeline.yaml."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from catchment.component import BuildContext, ComponentConfig
from catchment.errors import CatchmentError
from catchment.finding import Finding, error, ok
from catchment.s3_address import is_address

if TYPE_CHECKING:
    from catchment.sinks.base import Sink
    from catchment.sinks.files.naming import Naming
    from catchment.sinks.files.store import Store

_FORM = re.compile(r"(%[YmdH]|[A-Za-z0-9_.+-])+")


class FilesSinkConfig(ComponentConfig):
    """Changes as files in a directory or in S3, each exactly once: NDJSON (a line a change) or Parquet.

    A file whose name stands in a record under `_catchment/done/` is complete and never changes.
    """

    type: Literal["files"]
    name: str = "files"
    """What reports and the command line call this sink."""
    path: str
    """The directory, relative to pipeline.yaml, or `s3://bucket/prefix`. It belongs to one pipeline alone."""
    format: Literal["ndjson", "parquet"] = "ndjson"
    """One JSON document a line, or Parquet with typed columns."""
    compression: Literal["none", "gzip", "zstd"] | None = None
    """Without it: none for ndjson, zstd for parquet."""
    envelope: Literal["change", "row"] = "change"
    """Every change with all that is known of it, or flat rows as the serverless pipeline delivers them."""
    date_column: str = "order_timestamp"
    """With `envelope: row`: `order_date` is the date (UTC) of this column, or else of the change."""
    naming: Literal["range", "firehose", "hive"] = "range"
    """How files are called: by table and range, as Firehose calls them, or in Hive partitions by the change's time."""
    stream_name: str | None = None
    """With `naming: firehose`: what stands for the delivery stream; without it, the pipeline's name."""
    partitions: dict[str, str] = Field(default={"year": "%Y", "month": "%m", "day": "%d", "hour": "%H"}, min_length=1)
    """With `naming: hive`: the partition columns, in order, each with its form made of %Y, %m, %d and %H (UTC)."""
    flush_interval_seconds: float = Field(default=10.0, gt=0)
    """At most this long until a committed change is in a complete file. Every flush makes new files."""
    flush_rows: int = Field(default=500_000, gt=0)
    """A flush comes earlier after so many rows."""
    file_rows: int = Field(default=1_000_000, gt=0)
    """A file has at most this many rows; a larger flush makes several."""
    buffer_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """What waits for its flush beyond this size waits on disk."""

    @model_validator(mode="after")
    def _partitions_can_be_made(self) -> Self:
        for name, form in self.partitions.items():
            if not re.fullmatch(r"[a-z_][a-z0-9_]*", name):
                raise ValueError(f"partitions: {name!r} is no column name; use lower-case letters, digits and _")
            if not _FORM.fullmatch(form) or "%" not in form:
                raise ValueError(f"partitions.{name}: make the form of %Y, %m, %d and %H, such as '%Y-%m-%d'")
        return self

    def build(self, context: BuildContext) -> Sink:
        """The sink, not yet opened."""
        from catchment.sinks.files.sink import FilesSink

        return FilesSink(
            self._store(context),
            pipeline=context.pipeline,
            format=self.format,
            compression=self.compression or ("none" if self.format == "ndjson" else "zstd"),
            file_rows=self.file_rows,
            buffer_bytes=self.buffer_bytes,
            naming=self._naming(context),
            date_column=self.date_column if self.envelope == "row" else None,
        )

    def check(self, context: BuildContext) -> list[Finding]:
        """Can the directory or prefix be written, and does it belong to no other pipeline? Leaves nothing behind."""
        return self._check_bucket(context) if is_address(self.path) else self._check_directory(context)

    def _store(self, context: BuildContext) -> Store:
        if is_address(self.path):
            from catchment.sinks.files.s3_store import S3Store

            scratch = f"files-{sha256(self.path.encode()).hexdigest()[:12]}"
            return S3Store(self.path, context.directory / ".catchment" / scratch)
        from catchment.sinks.files.store import LocalStore

        return LocalStore(context.directory / self.path)

    def _naming(self, context: BuildContext) -> Naming:
        from catchment.sinks.files.naming import FirehoseNames, HiveNames, RangeNames

        if self.naming == "firehose":
            return FirehoseNames(context.pipeline, self.stream_name or context.pipeline)
        return HiveNames(self.partitions) if self.naming == "hive" else RangeNames()

    def _check_directory(self, context: BuildContext) -> list[Finding]:
        from catchment.sinks.files.ranges import OWNER, owner_of

        directory = context.directory / self.path
        subject = f"sink {self.name}"
        above = directory
        while not above.exists():
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            return [error(subject, f"{above} is not a directory that this user may write.")]
        try:
            owner = self._store(context).get(OWNER)
            pipeline = context.pipeline if owner is None else owner_of(owner)
        except CatchmentError as refusal:
            return [error(subject, str(refusal))]
        if pipeline != context.pipeline:
            return [error(subject, f"{directory} belongs to pipeline {pipeline!r}; use a directory of its own.")]
        return [ok(subject, f"{directory} can be written.")]

    def _check_bucket(self, context: BuildContext) -> list[Finding]:
        from catchment.sinks.files.bucket import Bucket
        from catchment.sinks.files.ranges import OWNER, owner_of

        subject = f"sink {self.name}"
        try:
            bucket = Bucket(self.path)
        except CatchmentError as refusal:
            return [error(subject, str(refusal))]
        try:
            owner = bucket.get(OWNER)
            pipeline = context.pipeline if owner is None else owner_of(owner.data)
            if pipeline != context.pipeline:
                return [error(subject, f"{self.path} belongs to pipeline {pipeline!r}; use a prefix of its own.")]
            bucket.probe()
        except CatchmentError as refusal:
            return [error(subject, str(refusal))]
        finally:
            bucket.close()
        return [ok(subject, f"{self.path} can be written.")]
