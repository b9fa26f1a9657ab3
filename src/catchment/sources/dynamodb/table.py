"""What DynamoDB says of a table: its key, its size, and its stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catchment.aws_errors import translated
from catchment.errors import CatchmentError, SourceRefused
from catchment.schema import TableId

NAMESPACE = "dynamodb"
VIEW_TYPES = ("NEW_AND_OLD_IMAGES", "NEW_IMAGE")
"""Those with the item as it is after a change."""


@dataclass(frozen=True, slots=True)
class DynamoDbTable:
    """A table. key: attribute → S, N or B, the hash key first. label: of the newest stream; enabled: is it on?

    size_bytes, items: DynamoDB's own estimates, up to six hours old.
    """

    name: str
    arn: str
    status: str
    key: Mapping[str, str]
    size_bytes: int
    items: int
    label: str | None
    enabled: bool
    view_type: str | None

    @property
    def id(self) -> TableId:
        return TableId(NAMESPACE, self.name)

    def stream_arn(self, label: str) -> str:
        """The ARN of the stream with this label."""
        return f"{self.arn}/stream/{label}"

    def obstacle(self) -> tuple[str, str] | None:
        """Why the table's changes cannot be read, and the command that mends it; None when they can."""
        if self.enabled and self.view_type in VIEW_TYPES:
            return None
        enable = (
            f"aws dynamodb update-table --table-name {self.name} "
            "--stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES"
        )
        if not self.enabled:
            return f"Table {self.name} has no stream.", enable
        disable = f"aws dynamodb update-table --table-name {self.name} --stream-specification StreamEnabled=false"
        return (
            f"The stream of table {self.name} has {self.view_type}, without the items as they are after a change.",
            f"{disable}\n{enable}",
        )

    def require_stream(self) -> None:
        """Raises SourceRefused when the table's changes cannot be read."""
        if (found := self.obstacle()) is not None:
            why, remedy = found
            raise SourceRefused(f"{why} Mend it by: {remedy.replace(chr(10), ' ; ')}")


def describe_table(client: Any, name: str) -> DynamoDbTable:
    """Ask DynamoDB. Raises SourceRefused when there is no such table, `SourceUnavailable` without an answer."""

    def known(code: str, message: str) -> CatchmentError | None:
        if code != "ResourceNotFoundException":
            return None
        return SourceRefused(
            f"There is no table {name} in region {client.meta.region_name} of this account. Check `source.tables` and "
            "`source.region`, and whose credentials these are (aws sts get-caller-identity)."
        )

    with translated(f"describing table {name}", known):
        told = client.describe_table(TableName=name)["Table"]
    letters = {one["AttributeName"]: one["AttributeType"] for one in told["AttributeDefinitions"]}
    schema = sorted(told["KeySchema"], key=lambda one: one["KeyType"] != "HASH")
    stream = told.get("StreamSpecification") or {}
    return DynamoDbTable(
        name=told["TableName"],
        arn=told["TableArn"],
        status=told["TableStatus"],
        key={one["AttributeName"]: letters[one["AttributeName"]] for one in schema},
        size_bytes=int(told.get("TableSizeBytes", 0)),
        items=int(told.get("ItemCount", 0)),
        label=told.get("LatestStreamLabel") or None,
        enabled=bool(stream.get("StreamEnabled")),
        view_type=stream.get("StreamViewType"),
    )
