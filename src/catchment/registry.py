"""Which component stands behind a `type:` in pipeline.yaml; loaded when it is used, not before.

Components of others are entry points of the group `catchment.components`, named `source.<type>`,
`transform.<type>` or `sink.<type>`, that point to a config model::

    [project.entry-points."catchment.components"]
    "sink.paper" = "paper_sink.config:PaperSinkConfig"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from catchment.component import BuildContext, ComponentConfig
from catchment.errors import ConfigError
from catchment.finding import Finding
from catchment.sources.administration import Removal, Retention

if TYPE_CHECKING:
    from catchment.progress import Progress
    from catchment.sinks.base import Sink
    from catchment.sources.base import Source
    from catchment.transforms.base import Transform

ENTRY_POINTS = "catchment.components"

SECTIONS: Mapping[str, str] = {"source": "source", "transforms": "transform", "sinks": "sink"}
"""Section of pipeline.yaml → the kind of what stands in it."""

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "source": {
        "postgres": "catchment.sources.postgres.config:PostgresSourceConfig",
        "dynamodb": "catchment.sources.dynamodb.config:DynamoDbSourceConfig",
        "kinesis": "catchment.sources.kinesis.config:KinesisSourceConfig",
    },
    "transform": {"hash": "catchment.transforms.config:HashConfig"},
    "sink": {
        "iceberg": "catchment.sinks.iceberg.config:IcebergSinkConfig",
        "files": "catchment.sinks.files.config:FilesSinkConfig",
    },
}


class SourceConfig(Protocol):
    """What the configuration of a source offers."""

    @property
    def type(self) -> str: ...

    @property
    def ends(self) -> bool:
        """Does the source come to an end by itself, so that a run is over when it has caught up?"""
        ...

    def build(self, context: BuildContext, *, ephemeral: bool = False, resnapshot: bool = False) -> Source:
        """A new, unopened source.

        ephemeral: leave nothing behind at the system (a dry run). resnapshot: read everything again, and tell
        the sinks to forget what they have.
        """
        ...

    def check(self, context: BuildContext) -> list[Finding]:
        """Is the source ready for capture? Raises `Retriable` when it cannot be asked."""
        ...

    def columns(self, context: BuildContext) -> Mapping[str, Sequence[str]]:
        """The captured tables and their columns, as they are now."""
        ...

    def removal(self, context: BuildContext, table: str | None) -> Removal:
        """What taking the pipeline, or one table of it, off the source would do."""
        ...

    def retention(self, context: BuildContext) -> Retention:
        """What the source keeps for the pipeline now. Raises `Retriable` when it cannot be asked."""
        ...

    def acknowledged(self, context: BuildContext, held: Progress) -> Progress | None:
        """What the source was told is durable, in the lane of `held` that it would resume; None when it keeps nothing.

        Raises `Retriable` when it cannot be asked.
        """
        ...


class TransformConfig(Protocol):
    """What the configuration of a transform offers."""

    @property
    def type(self) -> str: ...

    def build(self, context: BuildContext) -> Transform:
        """A new transform."""
        ...

    def check_columns(self, columns: Mapping[str, Sequence[str]]) -> list[Finding]:
        """Does it fit these tables?"""
        ...


class SinkConfig(Protocol):
    """What the configuration of a sink offers."""

    @property
    def type(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def flush_interval_seconds(self) -> float: ...

    @property
    def flush_rows(self) -> int: ...

    def build(self, context: BuildContext) -> Sink:
        """A new, unopened sink."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A sink's configuration that can say whether its target is ready."""

    def check(self, context: BuildContext) -> list[Finding]:
        """Is the target reachable and writable? Leaves nothing behind."""
        ...


def types(kind: str) -> list[str]:
    """All types there are of a kind: source, transform or sink."""
    return sorted({*BUILT_IN[kind], *_registered(kind)})


def config_class(kind: str, type_: str) -> type[ComponentConfig] | None:
    """The config model of a type; None when there is no such type.

    Raises `ConfigError` when it exists and cannot be imported.
    """
    target = BUILT_IN[kind].get(type_) or _registered(kind).get(type_)
    return None if target is None else _load(kind, type_, target)


def _registered(kind: str) -> dict[str, str]:
    # Reading every installed package's metadata takes longer than all else: only for types we do not know.
    from importlib.metadata import entry_points

    prefix = f"{kind}."
    return {
        point.name.removeprefix(prefix): point.value
        for point in entry_points(group=ENTRY_POINTS)
        if point.name.startswith(prefix)
    }


def _load(kind: str, type_: str, target: str) -> type[ComponentConfig]:
    module, _, name = target.partition(":")
    try:
        loaded = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The {kind} type `{type_}` is registered as {target}, which cannot be imported: {error}. "
            "Install or mend the package it comes from."
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, ComponentConfig)):
        raise ConfigError(
            f"The {kind} type `{type_}` is registered as {target}, which is no ComponentConfig; "
            "ask the author of that package."
        )
    return loaded
