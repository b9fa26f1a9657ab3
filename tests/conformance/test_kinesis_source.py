"""The suite of sources on Kinesis: DynamoDB's changes, put into one stream as a Pipe puts them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from aws.account import AwsAccount
from catchment.component import BuildContext
from catchment.formats.stream_record import event_of
from catchment.sources.base import Source
from catchment.sources.kinesis.config import KinesisSourceConfig
from catchment.testing.sources import COLUMNS, Feature, RowChange, SourceConformance, SourceHarness
from conformance.dynamodb_harness import TYPES, DynamoDbHarness

STREAM = "changes"


class KinesisHarness(DynamoDbHarness):
    """The two tables in DynamoDB; what their streams have goes into one Kinesis stream after each write."""

    lacks: ClassVar[Mapping[Feature, str]] = {
        **DynamoDbHarness.lacks,
        Feature.SNAPSHOT: "a stream has no rows of before it",
        Feature.IDLE: "every table in the stream is captured",
    }

    def __init__(self, aws: AwsAccount) -> None:
        super().__init__(aws)
        self._kinesis = aws.client("kinesis")
        self._kinesis.create_stream(StreamName=STREAM, ShardCount=1)
        self._kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
        self._streams = aws.client("dynamodbstreams")
        self._iterators = dict(self._begin(name) for name in COLUMNS)

    def source(self) -> Source:
        config = KinesisSourceConfig.model_validate({"type": "kinesis", "stream": STREAM, "columns": TYPES})
        return config.build(BuildContext("conformance", Path()))

    def commit(self, *changes: RowChange) -> None:
        super().commit(*changes)
        self._pump()

    def _begin(self, table: str) -> tuple[str, str]:
        arn = self.client.describe_table(TableName=table)["Table"]["LatestStreamArn"]
        (shard,) = self._streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
        told = self._streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )
        return arn, str(told["ShardIterator"])

    def _pump(self) -> None:
        """What a Pipe does."""
        for arn in self._iterators:
            while True:
                answer: dict[str, Any] = self._streams.get_records(ShardIterator=self._iterators[arn])
                self._iterators[arn] = answer["NextShardIterator"]
                if not answer["Records"]:
                    break
                for record in answer["Records"]:
                    event = event_of(record, arn, "us-east-1")
                    key = event["dynamodb"]["Keys"]["id"]["N"]
                    self._kinesis.put_record(StreamName=STREAM, Data=json.dumps(event), PartitionKey=key)


class TestKinesis(SourceConformance):
    @pytest.fixture
    def harness(self, aws: AwsAccount) -> SourceHarness:
        return KinesisHarness(aws)


class TestKinesisWithHonestShards(SourceConformance):
    @pytest.fixture
    def harness(self, kinesis_local: AwsAccount) -> SourceHarness:
        return KinesisHarness(kinesis_local)
