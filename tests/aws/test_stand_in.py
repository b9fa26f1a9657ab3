"""What we rely on from MiniStack, pinned: its next version either keeps this or says so here.

A test marked `lacks` states what AWS does and MiniStack does not. It fails on the day that MiniStack learns it: then
the mark goes, and what plays that part here (`catchment.aws.local`, kinesis-local) may go with it.
"""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aws.account import AwsAccount
from waiting import wait_for

TABLE = "OrderTable"
STREAM = "gadget-sales-stream"
BUCKET = "gadget-sales-data"
ROLE = "arn:aws:iam::000000000001:role/gadget-sales"


def lacks(what: str) -> pytest.MarkDecorator:
    """MiniStack 1.5.33 does not do this; strict, so that we hear when it does."""
    return pytest.mark.xfail(strict=True, reason=f"MiniStack lacks {what}", raises=(AssertionError, KeyError))


def refusal(call: Callable[..., Any], **arguments: Any) -> str:
    """The error code that a call ends with."""
    from botocore.exceptions import ClientError

    with pytest.raises(ClientError) as error:
        call(**arguments)
    return str(error.value.response["Error"]["Code"])


# -- DynamoDB and its streams ----------------------------------------------------------------------


def order_table(aws: AwsAccount, view: str = "NEW_AND_OLD_IMAGES") -> Any:
    dynamodb = aws.client("dynamodb")
    dynamodb.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "orderid", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "orderid", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": view},
    )
    wait_for(lambda: dynamodb.describe_table(TableName=TABLE)["Table"]["TableStatus"] == "ACTIVE")
    return dynamodb


def order(key: str, **attributes: Any) -> dict[str, Any]:
    return {"orderid": {"S": key}, **attributes}


def stream_arn(aws: AwsAccount) -> str:
    return str(aws.client("dynamodb").describe_table(TableName=TABLE)["Table"]["LatestStreamArn"])


def shards(aws: AwsAccount, arn: str) -> list[dict[str, Any]]:
    described = aws.client("dynamodbstreams").describe_stream(StreamArn=arn)["StreamDescription"]
    found: list[dict[str, Any]] = described["Shards"]
    return found


def changes(aws: AwsAccount, arn: str | None = None, kind: str = "TRIM_HORIZON", **at: Any) -> list[dict[str, Any]]:
    """What is in the table's stream from there on."""
    streams, arn = aws.client("dynamodbstreams"), arn or stream_arn(aws)
    (shard,) = shards(aws, arn)
    found: list[dict[str, Any]] = []
    iterator: str | None = streams.get_shard_iterator(
        StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType=kind, **at
    )["ShardIterator"]
    while iterator:
        answer = streams.get_records(ShardIterator=iterator)
        found += answer["Records"]
        if not answer["Records"]:
            break
        iterator = answer.get("NextShardIterator")
    return found


@pytest.mark.parametrize(
    ("view", "images"),
    [
        ("NEW_AND_OLD_IMAGES", {"NewImage", "OldImage"}),
        ("NEW_IMAGE", {"NewImage"}),
        ("OLD_IMAGE", {"OldImage"}),
        ("KEYS_ONLY", set()),
    ],
)
def test_a_stream_has_the_images_of_its_view_type(aws: AwsAccount, view: str, images: set[str]) -> None:
    dynamodb = order_table(aws, view)
    first, second = order("7421", quantity={"N": "3"}), order("7421", quantity={"N": "4"})
    dynamodb.put_item(TableName=TABLE, Item=first)
    dynamodb.put_item(TableName=TABLE, Item=second)
    dynamodb.delete_item(TableName=TABLE, Key=order("7421"))
    found = changes(aws)
    assert [one["eventName"] for one in found] == ["INSERT", "MODIFY", "REMOVE"]
    expected = [{"NewImage": first}, {"NewImage": second, "OldImage": first}, {"OldImage": second}]
    for one, both in zip(found, expected, strict=True):
        record = one["dynamodb"]
        assert {name: record[name] for name in ("NewImage", "OldImage") if name in record} == {
            name: image for name, image in both.items() if name in images
        }
        assert record["Keys"] == order("7421")
        assert record["StreamViewType"] == view


def test_a_put_that_changes_nothing_is_no_change(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    for _ in range(2):
        dynamodb.put_item(TableName=TABLE, Item=order("7421", quantity={"N": "3"}))
    dynamodb.delete_item(TableName=TABLE, Key=order("0000"))
    assert [one["eventName"] for one in changes(aws)] == ["INSERT"]


def test_changes_are_in_order_each_with_its_id_and_time(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    before = time.time()
    for number in range(30):
        dynamodb.put_item(TableName=TABLE, Item=order(str(number % 3), quantity={"N": str(number)}))
    found = changes(aws)
    assert [one["dynamodb"]["NewImage"]["quantity"]["N"] for one in found] == [str(number) for number in range(30)]
    numbers = [int(one["dynamodb"]["SequenceNumber"]) for one in found]
    assert numbers == sorted(set(numbers))
    assert all(len(one["dynamodb"]["SequenceNumber"]) >= 21 for one in found)
    assert len({one["eventID"] for one in found}) == 30
    for one in found:
        assert before - 2 < one["dynamodb"]["ApproximateCreationDateTime"].timestamp() < time.time() + 2
        assert one["awsRegion"] == "us-east-1"
        assert one["eventSource"] == "aws:dynamodb"


def test_reading_goes_on_at_and_after_a_sequence_number(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    for number in range(5):
        dynamodb.put_item(TableName=TABLE, Item=order(str(number)))
    numbers = [one["dynamodb"]["SequenceNumber"] for one in changes(aws)]
    at = changes(aws, kind="AT_SEQUENCE_NUMBER", SequenceNumber=numbers[2])
    after = changes(aws, kind="AFTER_SEQUENCE_NUMBER", SequenceNumber=numbers[2])
    assert [one["dynamodb"]["SequenceNumber"] for one in at] == numbers[2:]
    assert [one["dynamodb"]["SequenceNumber"] for one in after] == numbers[3:]
    assert changes(aws, kind="LATEST") == []


def test_every_type_comes_through_a_stream_as_it_was(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    values = {
        "s": {"S": "ünï\u0000\U0001f600"},
        "n": {"N": "12345678901234567890123456789012345678"},
        "small": {"N": "-0.00000000000000000000000000000000000001"},
        "b": {"B": b"\x00\xff"},
        "flag": {"BOOL": False},
        "nothing": {"NULL": True},
        "map": {"M": {"list": {"L": [{"N": "1"}, {"M": {}}, {"B": b"x"}]}}},
        "ss": {"SS": ["a", "b"]},
        "ns": {"NS": ["1", "2.5"]},
        "bs": {"BS": [b"\x01", b"\x02"]},
        "empty": {"S": ""},
    }
    dynamodb.put_item(TableName=TABLE, Item=order("7421", **values))
    (found,) = changes(aws)
    image = found["dynamodb"]["NewImage"]
    for letters in ("ss", "ns", "bs"):
        ((kind, members),) = image[letters].items()
        image[letters] = {kind: sorted(members)}
    assert image == order("7421", **values)


def test_a_number_of_39_digits_is_refused(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    item = order("7421", n={"N": "1" * 39})
    assert refusal(dynamodb.put_item, TableName=TABLE, Item=item) == "ValidationException"


def test_a_stream_switched_off_and_on_is_another_one_with_a_later_label(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    dynamodb.put_item(TableName=TABLE, Item=order("1"))
    first = stream_arn(aws)
    dynamodb.update_table(TableName=TABLE, StreamSpecification={"StreamEnabled": False})
    wait_for(lambda: dynamodb.describe_table(TableName=TABLE)["Table"]["TableStatus"] == "ACTIVE")
    dynamodb.put_item(TableName=TABLE, Item=order("2"))
    dynamodb.update_table(
        TableName=TABLE, StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    )
    wait_for(lambda: dynamodb.describe_table(TableName=TABLE)["Table"]["TableStatus"] == "ACTIVE")
    dynamodb.put_item(TableName=TABLE, Item=order("3"))
    second = stream_arn(aws)
    assert first.rpartition("/")[2] < second.rpartition("/")[2]
    assert [one["dynamodb"]["Keys"]["orderid"]["S"] for one in changes(aws, second)] == ["3"]
    # The one before can still be read, to its end.
    assert [one["dynamodb"]["Keys"]["orderid"]["S"] for one in changes(aws, first)] == ["1"]
    (before,) = shards(aws, first)
    assert "EndingSequenceNumber" in before["SequenceNumberRange"]
    (now,) = shards(aws, second)
    assert "EndingSequenceNumber" not in now["SequenceNumberRange"]


def test_an_ended_shard_has_no_next_iterator_and_an_open_one_always_has(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    dynamodb.put_item(TableName=TABLE, Item=order("1"))
    arn = stream_arn(aws)
    streams = aws.client("dynamodbstreams")
    (shard,) = shards(aws, arn)
    where = {"StreamArn": arn, "ShardId": shard["ShardId"]}
    at = streams.get_shard_iterator(**where, ShardIteratorType="TRIM_HORIZON")["ShardIterator"]
    for count in (1, 0, 0):
        answer = streams.get_records(ShardIterator=at)
        assert len(answer["Records"]) == count
        at = answer["NextShardIterator"]
    dynamodb.update_table(TableName=TABLE, StreamSpecification={"StreamEnabled": False})
    answer = streams.get_records(ShardIterator=at)
    while "NextShardIterator" in answer and answer["Records"]:
        answer = streams.get_records(ShardIterator=answer["NextShardIterator"])
    assert "NextShardIterator" not in answer
    children = streams.describe_stream(StreamArn=arn, ShardFilter={"Type": "CHILD_SHARDS", "ShardId": shard["ShardId"]})
    assert children["StreamDescription"]["Shards"] == []


def test_a_batch_of_writes_has_each_key_once_and_25_at_most(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    twice = [{"PutRequest": {"Item": order("1")}}, {"DeleteRequest": {"Key": order("1")}}]
    assert refusal(dynamodb.batch_write_item, RequestItems={TABLE: twice}) == "ValidationException"
    many = [{"PutRequest": {"Item": order(str(number))}} for number in range(26)]
    assert refusal(dynamodb.batch_write_item, RequestItems={TABLE: many}) == "ValidationException"
    assert dynamodb.batch_write_item(RequestItems={TABLE: many[:25]}).get("UnprocessedItems", {}) == {}
    assert len(changes(aws)) == 25


def test_a_conditional_write_has_one_winner(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)

    def claim(number: int) -> bool:
        from botocore.exceptions import ClientError

        try:
            dynamodb.put_item(
                TableName=TABLE,
                Item=order("7421", quantity={"N": str(number)}),
                ConditionExpression="attribute_not_exists(orderid)",
            )
        except ClientError as error:
            assert error.response["Error"]["Code"] == "ConditionalCheckFailedException"
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(16))) == 1


def test_a_scan_comes_in_pages_and_in_segments(aws: AwsAccount) -> None:
    dynamodb = order_table(aws)
    for start in range(0, 100, 25):
        puts = [{"PutRequest": {"Item": order(str(number))}} for number in range(start, start + 25)]
        dynamodb.batch_write_item(RequestItems={TABLE: puts})
    pages = list(dynamodb.get_paginator("scan").paginate(TableName=TABLE, Limit=30))
    assert [page["Count"] for page in pages][:3] == [30, 30, 30]
    segments = [
        {item["orderid"]["S"] for item in dynamodb.scan(TableName=TABLE, Segment=n, TotalSegments=3)["Items"]}
        for n in range(3)
    ]
    assert set.union(*segments) == {str(number) for number in range(100)}
    assert sum(map(len, segments)) == 100


# -- Kinesis ---------------------------------------------------------------------------------------


def sales_stream(aws: AwsAccount, shards: int = 1) -> Any:
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName=STREAM, ShardCount=shards)
    wait_for(
        lambda: (
            kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"
        )
    )
    return kinesis


def records(kinesis: Any, shard: str, kind: str = "TRIM_HORIZON", **at: Any) -> list[dict[str, Any]]:
    iterator = kinesis.get_shard_iterator(StreamName=STREAM, ShardId=shard, ShardIteratorType=kind, **at)
    answer = kinesis.get_records(ShardIterator=iterator["ShardIterator"])
    found: list[dict[str, Any]] = answer["Records"]
    return found


def test_what_is_put_into_kinesis_is_read_in_order_from_the_shard_of_its_key(aws: AwsAccount) -> None:
    kinesis = sales_stream(aws, 2)
    put = kinesis.put_records(
        StreamName=STREAM,
        Records=[{"Data": b"%d" % number, "PartitionKey": str(number % 10)} for number in range(100)],
    )
    assert put["FailedRecordCount"] == 0
    shards = [shard["ShardId"] for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]]
    found = {shard: records(kinesis, shard) for shard in shards}
    assert sum(map(len, found.values())) == 100
    for number, one in enumerate(put["Records"]):
        assert any(
            record["SequenceNumber"] == one["SequenceNumber"] and record["Data"] == b"%d" % number
            for record in found[one["ShardId"]]
        )
    for of_shard in found.values():
        assert of_shard, "one shard has nothing"
        numbers = [int(record["SequenceNumber"]) for record in of_shard]
        assert numbers == sorted(set(numbers))
        assert [int(record["Data"]) for record in of_shard] == sorted(int(record["Data"]) for record in of_shard)


def test_reading_kinesis_goes_on_after_a_sequence_number_and_at_a_time(aws: AwsAccount) -> None:
    kinesis = sales_stream(aws)
    (shard,) = [shard["ShardId"] for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]]
    first = kinesis.put_record(StreamName=STREAM, Data=b"first", PartitionKey="1")
    (arrived,) = [record["ApproximateArrivalTimestamp"] for record in records(kinesis, shard)]
    middle = arrived + timedelta(milliseconds=10)
    wait_for(lambda: datetime.now(UTC) > middle)
    kinesis.put_record(StreamName=STREAM, Data=b"second", PartitionKey="1")
    after = records(kinesis, shard, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=first["SequenceNumber"])
    assert [record["Data"] for record in after] == [b"second"]
    assert [record["Data"] for record in records(kinesis, shard, "AT_TIMESTAMP", Timestamp=middle)] == [b"second"]
    assert records(kinesis, shard, "LATEST") == []


def test_kinesis_refuses_what_is_too_much(aws: AwsAccount) -> None:
    kinesis = sales_stream(aws)
    one = {"Data": b"x", "PartitionKey": "1"}
    assert refusal(kinesis.put_records, StreamName=STREAM, Records=[one] * 501) in (
        *("ValidationException", "InvalidArgumentException"),
    )
    big = b"x" * (2**20 + 1)
    assert refusal(kinesis.put_record, StreamName=STREAM, Data=big, PartitionKey="1") in (
        *("ValidationException", "InvalidArgumentException"),
    )


@lacks("shards that outlive their split: the parent and its records vanish (kinesis-local has them)")
def test_a_split_shard_keeps_its_records(aws: AwsAccount) -> None:
    kinesis = sales_stream(aws)
    (shard,) = kinesis.list_shards(StreamName=STREAM)["Shards"]
    kinesis.put_record(StreamName=STREAM, Data=b"before", PartitionKey="1")
    kinesis.split_shard(StreamName=STREAM, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(2**127))
    wait_for(lambda: len(kinesis.list_shards(StreamName=STREAM)["Shards"]) > 1)
    assert shard["ShardId"] in [one["ShardId"] for one in kinesis.list_shards(StreamName=STREAM)["Shards"]]
    assert [record["Data"] for record in records(kinesis, shard["ShardId"])] == [b"before"]


# -- EventBridge Pipes -----------------------------------------------------------------------------


@lacks("the way from a DynamoDB stream to Kinesis: such a pipe carries nothing (aws.local.pipe does)")
def test_a_pipe_carries_changes_to_kinesis(aws: AwsAccount) -> None:
    dynamodb, kinesis = order_table(aws), sales_stream(aws)
    target = kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]["StreamARN"]
    aws.client("pipes").create_pipe(
        Name="gadget-sales",
        RoleArn=ROLE,
        Source=stream_arn(aws),
        SourceParameters={"DynamoDBStreamParameters": {"StartingPosition": "TRIM_HORIZON", "BatchSize": 10}},
        Target=target,
        TargetParameters={"KinesisStreamParameters": {"PartitionKey": "$.dynamodb.Keys.orderid.S"}},
        DesiredState="RUNNING",
    )
    wait_for(lambda: aws.client("pipes").describe_pipe(Name="gadget-sales")["CurrentState"] == "RUNNING")
    dynamodb.put_item(TableName=TABLE, Item=order("7421"))
    (shard,) = [shard["ShardId"] for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]]
    wait_for(lambda: records(kinesis, shard), seconds=3)


# -- S3 --------------------------------------------------------------------------------------------


def bucket(aws: AwsAccount) -> Any:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket=BUCKET)
    return s3


def race(writers: int, put: Callable[[int], Any]) -> list[str]:
    """Codes of those who lost; all start at the same time."""
    from botocore.exceptions import ClientError

    start = threading.Barrier(writers)

    def one(number: int) -> str | None:
        start.wait()
        try:
            put(number)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return None

    with ThreadPoolExecutor(writers) as pool:
        return [code for code in pool.map(one, range(writers)) if code is not None]


def test_of_many_who_create_an_object_one_does(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    lost = race(12, lambda n: s3.put_object(Bucket=BUCKET, Key="intent", Body=b"%d" % n, IfNoneMatch="*"))
    assert len(lost) == 11
    assert set(lost) <= {"PreconditionFailed", "ConditionalRequestConflict"}


def test_of_many_who_replace_an_object_one_does(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    tag = s3.put_object(Bucket=BUCKET, Key="intent", Body=b"before")["ETag"]
    lost = race(12, lambda n: s3.put_object(Bucket=BUCKET, Key="intent", Body=b"%d" % n, IfMatch=tag))
    assert len(lost) == 11
    assert set(lost) <= {"PreconditionFailed", "ConditionalRequestConflict"}
    assert refusal(s3.put_object, Bucket=BUCKET, Key="absent", Body=b"", IfMatch=tag) in (
        *("NoSuchKey", "PreconditionFailed"),
    )


def test_a_multipart_upload_is_seen_whole_or_not_at_all_and_only_where_nothing_was(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    parts = [b"a" * 5 * 2**20, b"b"]
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="big")["UploadId"]
    tags = [
        s3.upload_part(Bucket=BUCKET, Key="big", UploadId=upload, PartNumber=number, Body=body)["ETag"]
        for number, body in enumerate(parts, start=1)
    ]
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
    complete = {
        "Bucket": BUCKET,
        "Key": "big",
        "UploadId": upload,
        "MultipartUpload": {"Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(tags, start=1)]},
        "IfNoneMatch": "*",
    }
    s3.put_object(Bucket=BUCKET, Key="big", Body=b"somebody was quicker")
    assert refusal(s3.complete_multipart_upload, **complete) == "PreconditionFailed"
    s3.delete_object(Bucket=BUCKET, Key="big")
    s3.complete_multipart_upload(**complete)
    assert s3.get_object(Bucket=BUCKET, Key="big")["Body"].read() == b"".join(parts)


def test_an_unfinished_upload_can_be_found_and_given_up(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="left/behind")["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key="left/behind", UploadId=upload, PartNumber=1, Body=b"x")
    (found,) = s3.list_multipart_uploads(Bucket=BUCKET, Prefix="left/")["Uploads"]
    assert (found["Key"], found["UploadId"]) == ("left/behind", upload)
    s3.abort_multipart_upload(Bucket=BUCKET, Key="left/behind", UploadId=upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_keys_are_listed_in_order_by_prefix_and_in_pages(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    keys = [f"2026/11/21/{hour:02}/part-{number}" for hour in range(3) for number in range(5)]
    for key in reversed(keys):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix="2026/11/21/", PaginationConfig={"PageSize": 4}
    )
    assert [one["Key"] for page in pages for one in page["Contents"]] == keys
    after = s3.list_objects_v2(Bucket=BUCKET, StartAfter=keys[7])
    assert [one["Key"] for one in after["Contents"]] == keys[8:]
    folders = s3.list_objects_v2(Bucket=BUCKET, Prefix="2026/11/21/", Delimiter="/")
    assert [one["Prefix"] for one in folders["CommonPrefixes"]] == [f"2026/11/21/{hour:02}/" for hour in range(3)]


def test_an_objects_bytes_encoding_and_metadata_come_back(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    s3.put_object(Bucket=BUCKET, Key="a b/ü=1", Body=b"\x1f\x8b\x00", ContentEncoding="gzip", Metadata={"lane": "one"})
    got = s3.get_object(Bucket=BUCKET, Key="a b/ü=1")
    assert (got["Body"].read(), got["ContentEncoding"], got["Metadata"]) == (b"\x1f\x8b\x00", "gzip", {"lane": "one"})
    assert s3.get_object(Bucket=BUCKET, Key="a b/ü=1", Range="bytes=1-1")["Body"].read() == b"\x8b"


# -- Glue ------------------------------------------------------------------------------------------


def catalog(aws: AwsAccount, **table: Any) -> Any:
    glue = aws.client("glue")
    glue.create_database(DatabaseInput={"Name": "gadgets_sales_db"})
    glue.create_table(DatabaseName="gadgets_sales_db", TableInput=table_input(**table))
    return glue


def table_input(**more: Any) -> dict[str, Any]:
    return {
        "Name": "sales_data_table",
        "TableType": "EXTERNAL_TABLE",
        "PartitionKeys": [{"Name": "day", "Type": "string"}],
        "Parameters": {"classification": "json"},
        "StorageDescriptor": {
            "Location": f"s3://{BUCKET}/sales/",
            "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
            "SerdeInfo": {"SerializationLibrary": "org.openx.data.jsonserde.JsonSerDe"},
            "Columns": [
                {"Name": "orderid", "Type": "string"},
                {"Name": "product_name", "Type": "string"},
                {"Name": "quantity", "Type": "int"},
                {"Name": "payment_method", "Type": "string"},
            ],
        },
        **more,
    }


def test_a_glue_table_comes_back_as_it_was_put(aws: AwsAccount) -> None:
    glue = catalog(aws, Parameters={"classification": "json", "projection.enabled": "true"})
    found = glue.get_table(DatabaseName="gadgets_sales_db", Name="sales_data_table")["Table"]
    put = table_input(Parameters={"classification": "json", "projection.enabled": "true"})
    for name in ("TableType", "PartitionKeys", "Parameters"):
        assert found[name] == put[name]
    for name, value in put["StorageDescriptor"].items():
        assert found["StorageDescriptor"][name] == value


def test_two_who_change_a_glue_table_from_the_same_version_do_not_both_win(aws: AwsAccount) -> None:
    glue = catalog(aws)
    version = glue.get_table(DatabaseName="gadgets_sales_db", Name="sales_data_table")["Table"]["VersionId"]
    change = {"DatabaseName": "gadgets_sales_db", "TableInput": table_input(), "VersionId": version}
    lost = race(8, lambda _: glue.update_table(**change))
    assert lost == ["ConcurrentModificationException"] * 7


def test_glue_partitions_are_made_listed_and_told_apart(aws: AwsAccount) -> None:
    glue = catalog(aws)
    where = {"DatabaseName": "gadgets_sales_db", "TableName": "sales_data_table"}
    days = [f"2026-11-{day:02}" for day in range(1, 21)]
    put = [
        {"Values": [day], "StorageDescriptor": {**table_input()["StorageDescriptor"], "Location": f"s3://b/{day}/"}}
        for day in days
    ]
    assert not glue.batch_create_partition(**where, PartitionInputList=put).get("Errors")
    pages = glue.get_paginator("get_partitions").paginate(**where, PaginationConfig={"PageSize": 7})
    assert sorted(one["Values"][0] for page in pages for one in page["Partitions"]) == days
    again = glue.batch_create_partition(**where, PartitionInputList=put[:1])["Errors"]
    assert [one["ErrorDetail"]["ErrorCode"] for one in again] == ["AlreadyExistsException"]


@lacks("GetPartitions' Expression: all partitions are returned")
def test_glue_chooses_partitions_by_expression(aws: AwsAccount) -> None:
    glue = catalog(aws)
    where = {"DatabaseName": "gadgets_sales_db", "TableName": "sales_data_table"}
    put = [
        {"Values": [day], "StorageDescriptor": table_input()["StorageDescriptor"]}
        for day in ("2026-11-20", "2026-11-21")
    ]
    glue.batch_create_partition(**where, PartitionInputList=put)
    some = glue.get_partitions(**where, Expression="day >= '2026-11-21'")["Partitions"]
    assert [one["Values"] for one in some] == [["2026-11-21"]]


@lacks("replacing a table whole: UpdateTable keeps what its input leaves out")
def test_a_glue_tables_update_replaces_it_whole(aws: AwsAccount) -> None:
    glue = catalog(aws, Description="sales")
    glue.update_table(DatabaseName="gadgets_sales_db", TableInput=table_input())
    assert "Description" not in glue.get_table(DatabaseName="gadgets_sales_db", Name="sales_data_table")["Table"]


def test_a_glue_view_keeps_its_text(aws: AwsAccount) -> None:
    view = {"TableType": "VIRTUAL_VIEW", "ViewOriginalText": "/* Presto View: eyJ9 */", "PartitionKeys": []}
    glue = catalog(aws, **view)
    found = glue.get_table(DatabaseName="gadgets_sales_db", Name="sales_data_table")["Table"]
    assert {name: found[name] for name in view} == view


# -- Lambda ----------------------------------------------------------------------------------------

HANDLER = """
import os

def handler(event, context):
    if event.get("fail"):
        raise ValueError("asked to")
    return {"said": event["say"], "setting": os.environ["SETTING"], "left": context.get_remaining_time_in_millis() > 0}
"""


def function(aws: AwsAccount, source: str = HANDLER) -> Any:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("transform.py", source)
    functions = aws.client("lambda")
    functions.create_function(
        FunctionName="gadget-sales-transform",
        Runtime="python3.12",
        Role=ROLE,
        Handler="transform.handler",
        Code={"ZipFile": packed.getvalue()},
        Timeout=300,
        Environment={"Variables": {"SETTING": "on"}},
    )
    return functions


def test_a_function_from_a_zip_is_run_and_its_errors_are_told(aws: AwsAccount) -> None:
    functions = function(aws)
    answer = functions.invoke(FunctionName="gadget-sales-transform", Payload=json.dumps({"say": "ü"}))
    assert json.loads(answer["Payload"].read()) == {"said": "ü", "setting": "on", "left": True}
    assert "FunctionError" not in answer
    answer = functions.invoke(FunctionName="gadget-sales-transform", Payload=json.dumps({"fail": True}))
    assert answer["FunctionError"] in ("Unhandled", "Handled")
    assert json.loads(answer["Payload"].read())["errorMessage"].startswith("asked to")


# -- Athena ----------------------------------------------------------------------------------------


def ask(aws: AwsAccount, sql: str) -> tuple[str, list[list[str | None]]]:
    """A query's final state and its rows, the header among them."""
    athena = aws.client("athena")
    query = athena.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": "gadgets_sales_db"},
        ResultConfiguration={"OutputLocation": f"s3://{BUCKET}/answers/"},
    )["QueryExecutionId"]
    ends = ("SUCCEEDED", "FAILED", "CANCELLED")

    def state() -> str:
        return str(athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"]["State"])

    wait_for(lambda: state() in ends, "the end of the query")
    if (state_at_end := state()) != "SUCCEEDED":
        return state_at_end, []
    rows = athena.get_query_results(QueryExecutionId=query)["ResultSet"]["Rows"]
    return state_at_end, [[cell.get("VarCharValue") for cell in row["Data"]] for row in rows]


def test_athena_counts_what_lies_in_json_objects(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    catalog(aws, PartitionKeys=[])
    lines = [
        {"orderid": "1", "product_name": "Laptop", "quantity": 3, "payment_method": "UPI"},
        {"orderid": "2", "product_name": "Laptop", "quantity": 4, "payment_method": "Wallet"},
        {"orderid": "3", "product_name": "Phone", "quantity": 1, "payment_method": None},
    ]
    s3.put_object(Bucket=BUCKET, Key="sales/a", Body="\n".join(map(json.dumps, lines)).encode())
    state, rows = ask(
        aws,
        "SELECT product_name, SUM(quantity) AS total_units FROM sales_data_table"
        " GROUP BY product_name ORDER BY product_name",
    )
    assert (state, rows) == ("SUCCEEDED", [["product_name", "total_units"], ["Laptop", "7"], ["Phone", "1"]])


def test_athena_fails_on_nonsense_and_on_absent_tables(aws: AwsAccount) -> None:
    bucket(aws)
    catalog(aws)
    assert ask(aws, "SELEKT 1")[0] == "FAILED"
    assert ask(aws, "SELECT * FROM absent")[0] == "FAILED"


# -- Firehose --------------------------------------------------------------------------------------


def delivery(aws: AwsAccount, **destination: Any) -> Any:
    firehose = aws.client("firehose")
    firehose.create_delivery_stream(
        DeliveryStreamName="gadget-sales-delivery",
        DeliveryStreamType="DirectPut",
        ExtendedS3DestinationConfiguration={
            "RoleARN": ROLE,
            "BucketARN": f"arn:aws:s3:::{BUCKET}",
            "BufferingHints": {"SizeInMBs": 1, "IntervalInSeconds": 1},
            **destination,
        },
    )
    wait_for(
        lambda: (
            firehose.describe_delivery_stream(DeliveryStreamName="gadget-sales-delivery")["DeliveryStreamDescription"][
                "DeliveryStreamStatus"
            ]
            == "ACTIVE"
        )
    )
    return firehose


def test_a_delivery_streams_settings_come_back(aws: AwsAccount) -> None:
    bucket(aws)
    firehose = delivery(
        aws,
        Prefix="sales/day=!{timestamp:yyyy-MM-dd}/",
        ErrorOutputPrefix="errors/!{firehose:error-output-type}/",
        CompressionFormat="GZIP",
        ProcessingConfiguration={
            "Enabled": True,
            "Processors": [{"Type": "Lambda", "Parameters": [{"ParameterName": "LambdaArn", "ParameterValue": "x"}]}],
        },
    )
    found = firehose.describe_delivery_stream(DeliveryStreamName="gadget-sales-delivery")["DeliveryStreamDescription"]
    (destination,) = found["Destinations"]
    settings = destination["ExtendedS3DestinationDescription"]
    assert settings["Prefix"] == "sales/day=!{timestamp:yyyy-MM-dd}/"
    assert settings["ErrorOutputPrefix"] == "errors/!{firehose:error-output-type}/"
    assert settings["CompressionFormat"] == "GZIP"
    assert settings["BufferingHints"] == {"SizeInMBs": 1, "IntervalInSeconds": 1}
    assert settings["ProcessingConfiguration"]["Enabled"] is True
    assert found["VersionId"] == "1"


def test_firehose_refuses_what_is_too_much(aws: AwsAccount) -> None:
    bucket(aws)
    firehose = delivery(aws)
    name = "gadget-sales-delivery"
    assert refusal(firehose.put_record_batch, DeliveryStreamName=name, Records=[{"Data": b"x"}] * 501) in (
        *("ValidationException", "InvalidArgumentException"),
    )
    big = {"Data": b"x" * (1000 * 1024 + 1)}
    assert refusal(firehose.put_record, DeliveryStreamName=name, Record=big) in (
        *("ValidationException", "InvalidArgumentException"),
    )


@lacks("Firehose's buffer: each record is an object of its own (aws.local.firehose buffers)")
def test_firehose_gathers_records_into_one_object(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    firehose = delivery(aws)
    firehose.put_record_batch(
        DeliveryStreamName="gadget-sales-delivery", Records=[{"Data": b"%d\n" % number} for number in range(5)]
    )
    keys = wait_for(lambda: [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])])
    assert s3.get_object(Bucket=BUCKET, Key=keys[0])["Body"].read() == b"0\n1\n2\n3\n4\n"


@lacks("Firehose's error output: what a function gives up is lost (aws.local.firehose keeps it)")
def test_firehose_keeps_what_its_function_gives_up(aws: AwsAccount) -> None:
    s3 = bucket(aws)
    gives_up = """
def handler(event, context):
    return {"records": [{"recordId": r["recordId"], "result": "ProcessingFailed", "data": r["data"]}
                        for r in event["records"]]}
"""
    functions = function(aws, gives_up)
    arn = functions.get_function(FunctionName="gadget-sales-transform")["Configuration"]["FunctionArn"]
    firehose = delivery(
        aws,
        ErrorOutputPrefix="errors/",
        ProcessingConfiguration={
            "Enabled": True,
            "Processors": [{"Type": "Lambda", "Parameters": [{"ParameterName": "LambdaArn", "ParameterValue": arn}]}],
        },
    )
    firehose.put_record(DeliveryStreamName="gadget-sales-delivery", Record={"Data": b"x"})
    wait_for(lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix="errors/").get("Contents"), seconds=3)
