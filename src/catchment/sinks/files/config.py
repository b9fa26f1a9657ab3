"""The `files` sink's section of pipeline.yaml."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from catchment.component import BuildContext, ComponentConfig
from catchment.finding import Finding, error, ok

if TYPE_CHECKING:
    from catchment.sinks.base import Sink


class FilesSinkConfig(ComponentConfig):
    """Changes as files in a directory, each exactly once: NDJSON (a line a change) or Parquet.

    A file whose name stands in a record under `_catchment/done/` is complete and never changes.
    """

    type: Literal["files"]
    name: str = "files"
    """What reports and the command line call this sink."""
    path: Path
    """The directory, relative to pipeline.yaml. It belongs to one pipeline alone."""
    format: Literal["ndjson", "parquet"] = "ndjson"
    """One JSON document a line, or Parquet with typed columns."""
    compression: Literal["none", "gzip", "zstd"] | None = None
    """Without it: none for ndjson, zstd for parquet."""
    flush_interval_seconds: float = Field(default=10.0, gt=0)
    """At most this long until a committed change is in a complete file. Every flush makes new files."""
    flush_rows: int = Field(default=500_000, gt=0)
    """A flush comes earlier after so many rows."""
    file_rows: int = Field(default=1_000_000, gt=0)
    """A file has at most this many rows; a larger flush makes several."""
    buffer_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """What waits for its flush beyond this size waits on disk, under `_catchment/`."""

    def build(self, context: BuildContext) -> Sink:
        """The sink, not yet opened."""
        from catchment.sinks.files.sink import FilesSink
        from catchment.sinks.files.store import LocalStore

        return FilesSink(
            LocalStore(context.directory / self.path),
            pipeline=context.pipeline,
            format=self.format,
            compression=self.compression or ("none" if self.format == "ndjson" else "zstd"),
            file_rows=self.file_rows,
            buffer_bytes=self.buffer_bytes,
        )

    def check(self, context: BuildContext) -> list[Finding]:
        """Can the directory be written, and does it belong to no other pipeline? Leaves nothing behind."""
        directory = context.directory / self.path
        subject = f"sink {self.name}"
        above = directory
        while not above.exists():
            above = above.parent
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            return [error(subject, f"{above} is not a directory that this user may write.")]
        owner = directory / "_catchment" / "owner.json"
        if owner.exists():
            pipeline = json.loads(owner.read_text()).get("pipeline")
            if pipeline != context.pipeline:
                return [error(subject, f"{directory} belongs to pipeline {pipeline!r}; use a directory of its own.")]
        return [ok(subject, f"{directory} can be written.")]
