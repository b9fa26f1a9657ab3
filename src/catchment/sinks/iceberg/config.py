"""The `iceberg` sink in pipeline.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from catchment.component import BuildContext, ComponentConfig
from catchment.errors import ConfigError
from catchment.finding import Finding

if TYPE_CHECKING:
    from catchment.sinks.base import Sink


class IcebergSinkConfig(ComponentConfig):
    """Lands every change in the lake's bronze tables."""

    type: Literal["iceberg"] = "iceberg"
    name: str = "iceberg"
    """Under which name its progress is kept."""
    flush_interval_seconds: float = Field(default=1.0, gt=0)
    """Changes are visible after about so long."""
    flush_rows: int = Field(default=100_000, gt=0)
    """…or as soon as so many rows wait."""
    snapshots_kept: int = Field(default=100, ge=1)
    """How many commits of a table can be read as they were; older ones are expired with each commit."""
    compression: Literal["zstd", "snappy", "lz4", "gzip", "none"] = "zstd"
    """Of the data files."""
    compression_level: int | None = 1
    """Of zstd and gzip. A higher level costs time, and saves little."""
    row_group_rows: int = Field(default=65_536, ge=1)
    """Rows in a row group at most; so many rows of a table are held in memory before they are written."""
    target_file_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """A data file that has grown to this size is closed, and another begun."""

    def build(self, context: BuildContext) -> Sink:
        """The sink, not yet opened."""
        from catchment.sinks.iceberg.sink import IcebergSink

        if context.lakehouse is None:
            raise ConfigError("The iceberg sink needs a `lakehouse` section. Add one, with a `catalog`.")
        return IcebergSink(self, context.lakehouse, context.pipeline, context.directory)

    def check(self, context: BuildContext) -> list[Finding]:
        """Does the catalog answer, and can the warehouse be written? Leaves nothing behind."""
        from catchment.lakehouse.preflight import check_lake

        return check_lake(context.lakehouse, context.directory, context.pipeline) if context.lakehouse else []
