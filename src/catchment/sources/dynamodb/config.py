"""The `source` section of pipeline.yaml for DynamoDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints

from catchment.component import BuildContext, ComponentConfig
from catchment.finding import Finding
from catchment.sources.administration import Removal, Retention
from catchment.sources.attribute_types import AttributeTypes

if TYPE_CHECKING:
    from catchment.progress import Progress
    from catchment.sources.base import Source
    from catchment.sources.verification import SourceVerification

TableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{3,255}$")]


class DynamoDbSourceConfig(ComponentConfig):
    """Tables of DynamoDB: their items by a scan, then their changes by DynamoDB Streams."""

    type: Literal["dynamodb"]
    tables: list[TableName] = Field(min_length=1)
    """The tables. Each needs a stream with NEW_AND_OLD_IMAGES, or NEW_IMAGE."""
    region: str | None = Field(default=None, min_length=1)
    """The region; AWS_REGION or the profile's when not given. Credentials come from AWS's own chain only."""
    column_types: AttributeTypes = Field(default={}, alias="columns")
    """Table → attribute → type: bigint, integer, decimal(p,s), double, string, boolean, timestamp, date, binary."""
    snapshot: Literal["initial", "never"] = "initial"
    """initial: scan the tables, then read their changes. never: only changes from now on."""
    scan_workers: int = Field(default=2, ge=1, le=32)
    """How many segments of a table are scanned at the same time."""
    scan_segment_bytes: int = Field(default=64 << 20, ge=1024)
    """How much of a table one segment is to have, by DynamoDB's own (late) estimate of its size."""
    stream_check_interval_seconds: float = Field(default=30.0, gt=0)
    """How often to look whether a table's stream is another one: one that was disabled and enabled again."""

    @property
    def ends(self) -> bool:
        """A stream has no end."""
        return False

    def build(self, context: BuildContext, *, ephemeral: bool = False, resnapshot: bool = False) -> Source:
        """A source that is not open yet."""
        from catchment.sources.dynamodb.source import DynamoDbSource

        return DynamoDbSource(self, resnapshot=resnapshot)

    def check(self, context: BuildContext) -> list[Finding]:
        """Ask AWS whether capture would work. Raises `SourceUnavailable` when it does not answer."""
        from catchment.sources.dynamodb.preflight import check

        return check(self)

    def columns(self, context: BuildContext) -> Mapping[str, Sequence[str]]:
        """The tables and the attributes that are known before anything is read: of the key, declared, of some items."""
        from catchment.sources.dynamodb.preflight import columns

        return columns(self)

    def removal(self, context: BuildContext, table: str | None) -> Removal:
        """What taking the pipeline off DynamoDB would do: nothing, it left nothing there."""
        from catchment.sources.dynamodb.preflight import removal

        return removal(self, table)

    def retention(self, context: BuildContext) -> Retention:
        """What the streams keep: 24 hours, whoever reads them."""
        from catchment.sources.dynamodb.preflight import retention

        return retention(self)

    def acknowledged(self, context: BuildContext, held: Progress) -> Progress | None:
        """DynamoDB keeps no position of its readers."""
        return None

    def verification(self, context: BuildContext) -> SourceVerification:
        """The tables at the tip of their streams, for comparing them with the lake."""
        from catchment.sources.dynamodb.verification import DynamoDbVerification

        return DynamoDbVerification(self)
