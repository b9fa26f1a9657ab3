"""What the gadgets' pipeline consists of in an AWS account, by the names of the example: made where it is not there.

`python -m catchment.demo.gadget_places` makes it on a stand-in, to run each part by hand; on AWS Terraform does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from catchment.demo.order_table import OrderTable
from catchment.errors import CatchmentError, ConfigError, SinkUnavailable

if TYPE_CHECKING:
    from catchment.aws.local.delivery_stream import DeliveryStreamConfig

TABLE = "OrderTable"
STREAM = "gadget-sales-stream"
DELIVERY = "gadget-sales-delivery"
BUCKET = "gadget-sales-data"
DATABASE = "gadgets_sales_db"
ERRORS = "errors/"
HANDLER = "catchment.aws.firehose_transform:handler"
PARTITION_KEY = "$.dynamodb.Keys.orderid.S"

BUFFER_SECONDS = 0.5
"""Of the demo's Firehose. AWS's shortest useful one is some seconds: each buffer becomes an object."""
STREAM_SECONDS = 60.0


@contextmanager
def aws_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within it this process and its children are in that account, and know of no other."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name in variables}
    for name in before:
        del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
        os.environ.update(before)


def make_table() -> OrderTable:
    """The table of orders, with its stream."""
    table = OrderTable(TABLE)
    table.create()
    return table


def make_delivery(bucket: str = BUCKET) -> None:
    """The Kinesis stream, the bucket, and the Glue database over it."""
    from catchment.aws_client import aws_client
    from catchment.glue.gadgets import ensure_gadgets

    kinesis, s3 = aws_client("kinesis"), aws_client("s3")
    with suppress(kinesis.exceptions.ResourceInUseException):
        kinesis.create_stream(StreamName=STREAM, ShardCount=1)
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=bucket)
    ensure_gadgets(f"s3://{bucket}/", database=DATABASE, first_hour=datetime.now(UTC))
    deadline = time.monotonic() + STREAM_SECONDS
    while _status(kinesis) != "ACTIVE":
        if time.monotonic() > deadline:
            raise SinkUnavailable(f"The Kinesis stream {STREAM} is not ready after {STREAM_SECONDS:.0f} s. Try again.")
        time.sleep(0.1)


def delivery_stream(bucket: str = BUCKET) -> DeliveryStreamConfig:
    """The Firehose, as `infra/terraform/gadgets` has it but for its buffers, which are short here."""
    from catchment.aws.local.delivery_stream import DeliveryStreamConfig

    return DeliveryStreamConfig(
        name=DELIVERY,
        bucket=bucket,
        stream=STREAM,
        prefix="!{timestamp:yyyy}/!{timestamp:MM}/!{timestamp:dd}/!{timestamp:HH}/",
        error_prefix=ERRORS + "!{firehose:error-output-type}/!{timestamp:yyyy}/!{timestamp:MM}/!{timestamp:dd}/",
        buffer_seconds=BUFFER_SECONDS,
        compression="GZIP",
        function=HANDLER,
    )


def _status(kinesis: Any) -> str:
    return str(kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamStatus"])


def main() -> int:
    """Make all of it on the stand-in that AWS_ENDPOINT_URL names."""
    try:
        if not os.environ.get("AWS_ENDPOINT_URL"):
            raise ConfigError(
                "AWS_ENDPOINT_URL is not set: this is for a stand-in (`catchment aws stand-in`). On AWS use "
                "infra/terraform/gadgets."
            )
        make_table()
        make_delivery()
    except CatchmentError as error:
        print(f"catchment: {error}", file=sys.stderr)
        return 1
    print(f"Table {TABLE}, stream {STREAM}, bucket {BUCKET} and database {DATABASE} are there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
