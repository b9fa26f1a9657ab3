"""The suite of sources on DynamoDB: scan and stream."""

from __future__ import annotations

import pytest

from aws.account import AwsAccount
from catchment.testing.sources import SourceConformance, SourceHarness
from conformance.dynamodb_harness import DynamoDbHarness


class TestDynamoDb(SourceConformance):
    @pytest.fixture
    def harness(self, aws: AwsAccount) -> SourceHarness:
        return DynamoDbHarness(aws)
