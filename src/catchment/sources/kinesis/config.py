"""The `source` section of pipeline.yaml for Kinesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from catchment.component import BuildContext, ComponentConfig
from catchment.finding import Finding
from catchment.sources.administration import Removal, Retention
from catchment.sources.attribute_types import AttributeTypes

if TYPE_CHECKING:
    from catchment.progress import Progress
    from catchment.sources.base import Source


class KinesisSourceConfig(ComponentConfig):
    """A Kinesis data stream of DynamoDB's change records, of one table or many, from a Pipe or from DynamoDB."""

    type: Literal["kinesis"]
    stream: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,128}$")
    """The data stream's name."""
    region: str | None = Field(default=None, min_length=1)
    """The region; AWS_REGION or the profile's when not given. Credentials come from AWS's own chain only."""
    format: Literal["dynamodb"] = "dynamodb"
    """What a record is: a change record of DynamoDB, as EventBridge Pipes or DynamoDB itself put it."""
    start: Literal["trim_horizon", "latest"] = "trim_horizon"
    """Where the first run begins: with the oldest record that the stream still has, or with what comes from now on."""
    column_types: AttributeTypes = Field(default={}, alias="columns")
    """Table → attribute → type: bigint, integer, decimal(p,s), double, string, boolean, timestamp, date, binary."""

    @property
    def ends(self) -> bool:
        """A stream has no end."""
        return False

    def build(self, context: BuildContext, *, ephemeral: bool = False, resnapshot: bool = False) -> Source:
        """A source that is not open yet."""
        from catchment.sources.kinesis.source import KinesisSource

        return KinesisSource(self, resnapshot=resnapshot)

    def check(self, context: BuildContext) -> list[Finding]:
        """Ask AWS whether the stream can be read. Raises `SourceUnavailable` when it does not answer."""
        from catchment.sources.kinesis.preflight import check

        return check(self)

    def columns(self, context: BuildContext) -> Mapping[str, Sequence[str]]:
        """The tables and attributes that are known before anything is read: those that are declared."""
        from catchment.sources.kinesis.preflight import columns

        return columns(self)

    def removal(self, context: BuildContext, table: str | None) -> Removal:
        """What taking the pipeline off the stream would do: nothing, it left nothing there."""
        from catchment.sources.kinesis.preflight import removal

        return removal(table)

    def retention(self, context: BuildContext) -> Retention:
        """What the stream keeps, whoever reads it."""
        from catchment.sources.kinesis.preflight import retention

        return retention(self)

    def acknowledged(self, context: BuildContext, held: Progress) -> Progress | None:
        """Kinesis keeps no position of its readers."""
        return None
