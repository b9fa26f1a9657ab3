"""Work on a lake that a command has done: here, or by the process that runs the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catchment.config import PipelineConfig
    from catchment.lakehouse.recovery.tasks import PipelineLake


def lake_of(config: PipelineConfig) -> PipelineLake:
    """Where a pipeline's lake is. Raises ConfigError when the pipeline has none."""
    from catchment.errors import ConfigError
    from catchment.lakehouse.recovery.tasks import PipelineLake
    from catchment.sinks.iceberg.config import IcebergSinkConfig

    for sink in config.sink_configs:
        if isinstance(sink, IcebergSinkConfig):
            return PipelineLake(config.name, config.lakehouse, config.directory, sink.name, sink.snapshots_kept)
    raise ConfigError(f"Pipeline {config.name} has no iceberg sink, so it has no lake. Add one to `sinks`.")


def ask(config: PipelineConfig, kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Have it done, and show on stderr how far it is; the outcome."""
    import sys

    from catchment.lakehouse.recovery.tasks import perform

    return perform(lake_of(config), kind, arguments, tell=lambda note: print(note, file=sys.stderr))
