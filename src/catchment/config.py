"""pipeline.yaml → typed models → a built pipeline. The only place that assembles one.

`load` reads the file, `PipelineConfig` is what it says, `PipelineConfig.build` makes it run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    field_validator,
)
from pydantic_core import PydanticCustomError

from catchment import document, registry
from catchment.component import BuildContext, ComponentConfig
from catchment.config_errors import WRONG_TYPE, explain
from catchment.errors import ConfigError
from catchment.lakehouse.config import LakehouseConfig

if TYPE_CHECKING:
    from catchment.pipeline import Pipeline, SinkPlan
    from catchment.sinks.counting import Counts
    from catchment.sources.base import Source
    from catchment.telemetry import Reporter
    from catchment.transforms.base import Chain

LONGEST_NAME = 45
"""Slots are named after pipelines, and PostgreSQL cuts longer names off."""


def _component(kind: str) -> Callable[[Any], Any]:
    """Validates a section by the model that its `type` names."""

    def validate(value: Any) -> Any:
        if isinstance(value, ComponentConfig):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("component", f"a {kind} is a mapping with a `type`")
        type_ = value.get("type")
        if type_ is None:
            raise PydanticCustomError(WRONG_TYPE, f"missing; there are: {', '.join(registry.types(kind))}")
        model = registry.config_class(kind, str(type_))
        if model is None:
            raise PydanticCustomError(
                WRONG_TYPE, f"there is no {kind} of type `{type_}`; there are: {', '.join(registry.types(kind))}"
            )
        return model.model_validate(value)

    return validate


SourceSection = Annotated[SerializeAsAny[ComponentConfig], BeforeValidator(_component("source"))]
TransformSection = Annotated[SerializeAsAny[ComponentConfig], BeforeValidator(_component("transform"))]
SinkSection = Annotated[SerializeAsAny[ComponentConfig], BeforeValidator(_component("sink"))]


class TelemetryConfig(ComponentConfig):
    """How a running pipeline tells of itself."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least severe messages that are written to stderr."""
    report_interval_seconds: float = Field(default=1.0, ge=0.1)
    """How often the state is written to ops.metrics, for `status` and dashboards."""


class PipelineConfig(ComponentConfig):
    """A whole pipeline.yaml: one source, transforms in order, one or more sinks, and the lake."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=LONGEST_NAME)
    """What the pipeline is called: lower-case letters, digits, `_` and `-`."""
    environment: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_-]*$")
    """Which of several it is: dev, test, prod. Shown by `status`, in every line of `run`, and where `remove` asks."""
    source: SourceSection
    """What is captured."""
    transforms: list[TransformSection] = Field(default=[])
    """What happens to changes before anything is written, in order."""
    lakehouse: LakehouseConfig = LakehouseConfig()
    """Where the lake is."""
    sinks: list[SinkSection] = Field(min_length=1)
    """Where changes go."""
    telemetry: TelemetryConfig = TelemetryConfig()
    """How the pipeline tells of itself."""

    _directory: Path = PrivateAttr(default_factory=Path.cwd)

    @field_validator("sinks")
    @classmethod
    def _names_are_unique(cls, sinks: list[ComponentConfig]) -> list[ComponentConfig]:
        names = [sink.name for sink in cast("list[registry.SinkConfig]", sinks)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two sinks are named {', '.join(twice)}: give each its own `name:`, their progress is kept by it"
            )
        return sinks

    @property
    def directory(self) -> Path:
        """Where the file is: relative paths in it begin there."""
        return self._directory

    @property
    def title(self) -> str:
        """What people are shown: the name, and which of several it is."""
        return f"{self.name} ({self.environment})" if self.environment else self.name

    @property
    def context(self) -> BuildContext:
        """What components may know of the file."""
        return BuildContext(self.name, self._directory, self.lakehouse)

    @property
    def source_config(self) -> registry.SourceConfig:
        """The source's section as what every source's section is."""
        return cast("registry.SourceConfig", self.source)

    @property
    def transform_configs(self) -> list[registry.TransformConfig]:
        """The transforms' sections, in order."""
        return cast("list[registry.TransformConfig]", list(self.transforms))

    @property
    def sink_configs(self) -> list[registry.SinkConfig]:
        """The sinks' sections."""
        return cast("list[registry.SinkConfig]", list(self.sinks))

    def build(self, reporters: Sequence[Reporter] = (), *, resnapshot: bool = False) -> Pipeline:
        """A pipeline that is ready to run; beside it, reports are kept in `ops.metrics` and gold is refreshed.

        resnapshot: begin anew with a new slot, and read every table again. Raises ConfigError for gold models
        and quality rules that are wrong.
        """
        self._check_rules()
        from catchment.beside import GoldBeside, KeptLetters, KeptReports
        from catchment.pipeline import Pipeline

        reports = KeptReports(self.name, self.lakehouse, self.directory)
        letters = KeptLetters(self.name, self.lakehouse, self.directory)
        return Pipeline(
            self.name,
            open_source=self._sources(resnapshot),
            sinks={sink.name: _plan(sink, self.context) for sink in self.sink_configs},
            transform=self.chain(),
            reporters=[reports, *reporters],
            report_interval_seconds=self.telemetry.report_interval_seconds,
            ends=self.source_config.ends,
            beside=[
                partial(closing, reports),
                partial(closing, letters),
                GoldBeside(self.lakehouse, self.directory, self.name),
            ],
            set_aside=letters,
        )

    def build_dry(self, counts: Counts, reporters: Sequence[Reporter] = ()) -> Pipeline:
        """A pipeline that reads and transforms for real, lands and acknowledges nothing, and counts.

        It begins where the lake is, and leaves nothing behind at the source.
        """
        from catchment.lakehouse.ops import OpsStore
        from catchment.pipeline import Pipeline, SinkPlan
        from catchment.progress import Progress, resume_point
        from catchment.sinks.counting import CountingSink

        progress: Mapping[str, Progress] = {}
        if (store := OpsStore.existing(self.lakehouse, self.directory)) is not None:
            progress = store.progress(self.name)
            store.close()
        held = resume_point(progress.get(sink.name) for sink in self.sink_configs)
        return Pipeline(
            self.name,
            open_source=partial(self.source_config.build, self.context, ephemeral=True),
            sinks={"dry run": SinkPlan(partial(CountingSink, counts, held))},
            transform=self.chain(),
            reporters=reporters,
            acknowledge=False,
            set_aside=lambda letters: None,
        )

    def _check_rules(self) -> None:
        """Rules are read by whoever judges; what is wrong with them is said before anything starts."""
        if self.lakehouse.quality is not None:
            from catchment.quality.rules import load_rules

            load_rules(self._directory / self.lakehouse.quality)

    def _sources(self, resnapshot: bool) -> Callable[[], Source]:
        build, context = self.source_config.build, self.context
        if not resnapshot:
            return partial(build, context)
        from catchment.sources.resnapshot import Resnapshots

        return Resnapshots(partial(build, context, resnapshot=True), partial(build, context))

    def chain(self) -> Chain:
        """The transforms, one after the other."""
        from catchment.transforms.base import Chain

        return Chain([transform.build(self.context) for transform in self.transform_configs])


def _plan(sink: registry.SinkConfig, context: BuildContext) -> SinkPlan:
    from catchment.pipeline import FlushPolicy, SinkPlan

    return SinkPlan(partial(sink.build, context), FlushPolicy(sink.flush_interval_seconds, sink.flush_rows))


def load(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> PipelineConfig:
    """Read a pipeline.yaml.

    Variables come from `environ` (os.environ unless given) and from a `.env` beside the file. Raises
    ConfigError that names file and line of everything that is wrong.
    """
    file = Path(path)
    read = document.read(file, os.environ if environ is None else environ)
    try:
        config = PipelineConfig.model_validate(read.values)
    except ValidationError as error:
        raise ConfigError(explain(error, read, PipelineConfig)) from None
    config._directory = file.resolve().parent
    return config
