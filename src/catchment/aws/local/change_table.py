"""A DynamoDB table whose changes are carried on: its key and its newest stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.errors import ConfigError, SourceRefused

VIEWS = ("NEW_AND_OLD_IMAGES", "NEW_IMAGE")


@dataclass(frozen=True, slots=True)
class ChangeTable:
    """What DescribeTable says now. stream_arn: of the newest stream, also when it is disabled."""

    name: str
    arn: str
    region: str
    stream_arn: str
    enabled: bool
    view: str | None
    keys: tuple[str, ...]
    description: Mapping[str, Any]

    @classmethod
    def described(cls, name: str, client: Any = None) -> ChangeTable:
        """Ask. Raises `ConfigError` without such a table, `SourceRefused` when it never had a stream of images."""
        client = client or aws_client("dynamodb", None)

        def missing(code: str, message: str) -> ConfigError | None:
            if code != "ResourceNotFoundException":
                return None
            return ConfigError(f"There is no DynamoDB table {name} in this account and region. Create it first.")

        with translated(f"describing the table {name}", missing):
            table = client.describe_table(TableName=name)["Table"]
        stream = table.get("StreamSpecification") or {}
        enabled, view = bool(stream.get("StreamEnabled")), stream.get("StreamViewType")
        if "LatestStreamArn" not in table or (enabled and view not in VIEWS):
            raise SourceRefused(
                f"The table {name} has no stream with new images. Enable one: aws dynamodb update-table --table-name "
                f"{name} --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES"
            )
        arn = table["TableArn"]
        keys = tuple(one["AttributeName"] for one in table["KeySchema"])
        return cls(name, arn, arn.split(":")[3], table["LatestStreamArn"], enabled, view, keys, table)

    @property
    def label(self) -> str:
        """The label of the newest stream."""
        return self.stream_arn.rpartition("/")[2]
