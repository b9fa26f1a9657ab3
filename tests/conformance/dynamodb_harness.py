"""The two tables of the suite of sources in DynamoDB, and how their rows are written and read there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

from aws.account import AwsAccount
from catchment.component import BuildContext
from catchment.schema import TableId
from catchment.sources.base import Source
from catchment.sources.dynamodb.config import DynamoDbSourceConfig
from catchment.testing.sources import COLUMNS, Delete, Feature, Insert, RowChange, SourceHarness, Update

TYPES = {
    "items": {"id": "bigint", "name": "string", "amount": "decimal(12,2)", "note": "string"},
    "notes": {"id": "bigint", "body": "string"},
}


def typed(value: Any) -> dict[str, Any]:
    """A value as DynamoDB has it."""
    if value is None:
        return {"NULL": True}
    return {"S": value} if isinstance(value, str) else {"N": str(value)}


def untyped(value: Mapping[str, Any]) -> Any:
    """The inverse, for numbers and texts."""
    ((letter, content),) = value.items()
    return None if letter == "NULL" else content


def item(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as an item."""
    return {name: typed(value) for name, value in row.items()}


class DynamoDbHarness(SourceHarness):
    """Two tables with streams, in an account of their own."""

    lacks: ClassVar[Mapping[Feature, str]] = {
        Feature.TRANSACTIONS: "a stream says nothing of which changes were written together",
        Feature.TRUNCATE: "DynamoDB empties no table at once",
        Feature.KEY_UPDATES: "an item's key never changes",
        Feature.ROLLBACK: "what was written stays written",
        Feature.IDLE: "a stream has records of its own table only",
        Feature.CUT: "each call is a connection of its own; failing calls have tests of their own",
    }
    largest_batch = 1_000

    def __init__(self, aws: AwsAccount) -> None:
        self._aws = aws
        self.client = aws.client("dynamodb")
        for name in COLUMNS:
            self.client.create_table(
                TableName=name,
                KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "N"}],
                BillingMode="PAY_PER_REQUEST",
                StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
            )
            self.client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1})

    def source(self) -> Source:
        config = DynamoDbSourceConfig.model_validate(
            {"type": "dynamodb", "tables": list(COLUMNS), "columns": TYPES, "scan_segment_bytes": 1024}
        )
        return config.build(BuildContext("conformance", Path()))

    def table(self, name: str) -> TableId:
        return TableId("dynamodb", name)

    def commit(self, *changes: RowChange) -> None:
        for change in changes:
            match change:
                case Insert(table, row):
                    self.client.put_item(TableName=table, Item=item(row))
                case Update(table, id_, values):
                    self._update(table, id_, values)
                case Delete(table, id_):
                    self.client.delete_item(TableName=table, Key={"id": typed(id_)})
                case _:
                    raise NotImplementedError(change)

    def _update(self, table: str, id_: int, values: Mapping[str, Any]) -> None:
        places = {f":v{at}": typed(value) for at, value in enumerate(values.values())}
        self.client.update_item(
            TableName=table,
            Key={"id": typed(id_)},
            UpdateExpression="SET " + ", ".join(f"#n{at} = :v{at}" for at in range(len(values))),
            ExpressionAttributeNames={f"#n{at}": name for at, name in enumerate(values)},
            ExpressionAttributeValues=places,
        )

    def rows(self, table: str) -> Sequence[Mapping[str, Any]]:
        pages = self.client.get_paginator("scan").paginate(TableName=table)
        found = [one for page in pages for one in page["Items"]]
        rows: list[dict[str, Any]] = [
            {name: untyped(one[name]) if name in one else None for name in COLUMNS[table]} for one in found
        ]
        for row in rows:
            row["id"] = int(row["id"])
            if row.get("amount") is not None:
                row["amount"] = str(Decimal(row["amount"]).quantize(Decimal("0.01")))
        return sorted(rows, key=lambda row: int(row["id"]))

    def add_column(self, table: str, column: str) -> None:
        """Nothing to do: an attribute is there with its first value."""
