"""The suite of sinks on the files sink in S3, and what S3 is asked for."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest

from aws.account import AwsAccount
from aws.places import bucket_of, make_bucket
from catchment.component import BuildContext
from catchment.errors import ConfigError, LeaseHeld, SinkRefused, SinkUnavailable
from catchment.finding import Severity
from catchment.sinks.files import bucket as bucket_module
from catchment.sinks.files import lease
from catchment.sinks.files.bucket import Bucket
from catchment.sinks.files.config import FilesSinkConfig
from catchment.sinks.files.naming import FirehoseNames, HiveNames
from catchment.sinks.files.reader import complete_ranges
from catchment.sinks.files.s3_store import S3Store
from catchment.sinks.files.sink import FilesSink
from catchment.testing.delivery import Delivery
from catchment.testing.scripted import ScriptedSystem
from catchment.testing.sinks import ITEMS, NOTES, SinkConformance, delivery, expect, insert
from conformance.bucket_harness import BreakingBucketHarness, BucketHarness, key_of, keys, new_prefix
from conformance.test_files_sink_crashes import begin_and_break
from waiting import wait_for

HARNESSES: Mapping[str, Callable[[AwsAccount, Path], BucketHarness]] = {
    "ndjson, gzip, firehose's names": lambda aws, path: BucketHarness(
        aws, path, "ndjson", "gzip", naming=FirehoseNames("suite", "gadget-sales")
    ),
    "parquet, files of 50 rows": lambda aws, path: BucketHarness(aws, path, "parquet", "zstd", file_rows=50),
}


class TestFilesSinkInS3(SinkConformance):
    @pytest.fixture(
        params=[pytest.param(name, marks=pytest.mark.slow if "parquet" in name else ()) for name in HARNESSES]
    )
    def harness(self, request: pytest.FixtureRequest, aws: AwsAccount, tmp_path: Path) -> BucketHarness:
        return HARNESSES[request.param](aws, tmp_path / "copy")


def test_ranges_in_s3_are_read_as_those_of_a_directory(aws: AwsAccount, tmp_path: Path) -> None:
    harness = BucketHarness(aws, tmp_path, "ndjson", "none")
    system = ScriptedSystem(insert("lane", ITEMS, 1, 2))
    with delivery(harness, system) as one:
        one.all().flush()
    (only,) = complete_ranges(harness.url)
    assert [(one.path, one.rows) for one in only.objects] == [("public.items/000000000001-0001.ndjson", 2)]


def test_gzip_says_so_as_firehose_does(aws: AwsAccount, tmp_path: Path) -> None:
    harness = BucketHarness(aws, tmp_path, "ndjson", "gzip")
    with delivery(harness, ScriptedSystem(insert("lane", ITEMS, 1))) as one:
        one.all().flush()
    (path,) = [path for path in keys(aws, harness.url) if path.endswith(".gz")]
    found = aws.client("s3").get_object(Bucket=bucket_of(aws), Key=key_of(harness.url, path))
    assert found["ContentEncoding"] == "gzip"
    assert gzip.decompress(found["Body"].read()).count(b"\n") == 1


def test_a_large_object_goes_up_in_parts_and_only_once(
    aws: AwsAccount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 * 1024 * 1024)
    bucket = Bucket(new_prefix(aws))
    data = os.urandom(12 * 1024 * 1024)
    version = bucket.upload("large", io.BytesIO(data), None)
    assert version is not None
    assert version.endswith('-3"')
    assert bucket.upload("large", io.BytesIO(b"other"), None) is None, "there is one already"
    found = bucket.get("large")
    assert found is not None
    assert found.data == data
    assert bucket.upload("large", io.BytesIO(b"other"), version) is not None
    bucket.close()


def test_uploads_that_nobody_completed_are_let_go_of_when_the_sink_opens(aws: AwsAccount, tmp_path: Path) -> None:
    """Its own only: another tool may be uploading into the same bucket."""
    harness = BreakingBucketHarness(aws, tmp_path)
    begin_and_break(harness, ScriptedSystem(insert("lane", ITEMS, 1)))
    s3, key = aws.client("s3"), key_of(harness.url, "public.items/000000000001-0001.parquet")
    s3.create_multipart_upload(Bucket=bucket_of(aws), Key=key)
    others = {
        s3.create_multipart_upload(Bucket=bucket_of(aws), Key=other)["UploadId"]
        for other in (key + "-other", key_of(harness.url, "elsewhere"))
    }
    sink = harness.sink()
    sink.open()
    sink.close()
    left = {one["UploadId"] for one in s3.list_multipart_uploads(Bucket=bucket_of(aws)).get("Uploads", ())}
    assert left == others


def test_an_answer_that_got_lost_is_found_out(aws: AwsAccount) -> None:
    """S3 stored the object, the answer was lost, and the request that is sent again is refused."""
    bucket = Bucket(new_prefix(aws))
    lose_first_answer(bucket)
    assert bucket.put("_catchment/done/1", b"mine", None) is not None
    assert bucket.put("_catchment/done/1", b"other", None) is None
    found = bucket.get("_catchment/done/1")
    assert found is not None
    assert found.data == b"mine"
    lose_first_answer(bucket)
    assert bucket.put("_catchment/done/1", b"newer", found.version) is not None
    assert bucket.put("_catchment/done/1", b"other", found.version) is None
    bucket.close()


def test_a_store_that_heeds_no_conditions_is_refused(aws: AwsAccount, tmp_path: Path) -> None:
    def forget(params: dict[str, Any], **_: object) -> None:
        params["headers"].pop("If-None-Match", None)
        params["headers"].pop("If-Match", None)

    store = S3Store(new_prefix(aws))
    store._bucket._client.meta.events.register("before-call.s3.PutObject", forget)
    sink = FilesSink(store, pipeline="shop")
    with pytest.raises(SinkRefused, match="has no conditional writes"):
        sink.open()
    sink.close()


def lose_first_answer(bucket: Bucket) -> None:
    """The next PUT is carried out; botocore then sees a 503 and sends it again."""
    lost: list[bool] = []

    def lose(response_dict: dict[str, Any], **_: object) -> None:
        if not lost:
            lost.append(True)
            response_dict |= {"status_code": 503, "body": b""}

    bucket._client.meta.events.register("before-parse.s3.PutObject", lose)


def test_a_bucket_that_is_not_there_is_refused_in_one_sentence(aws: AwsAccount, tmp_path: Path) -> None:
    sink = FilesSink(S3Store("s3://no-such-bucket-anywhere/x"), pipeline="shop")
    with pytest.raises(SinkRefused, match=r"There is no bucket no-such-bucket-anywhere. Create it"):
        sink.open()
    sink.close()
    config = FilesSinkConfig(type="files", path="s3://no-such-bucket-anywhere/x")
    (finding,) = config.check(BuildContext("shop", tmp_path))
    assert finding.severity is Severity.ERROR
    assert "There is no bucket" in finding.message


def test_an_endpoint_that_does_not_answer_is_waited_for(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        sink = FilesSink(S3Store("s3://some-bucket/x"), pipeline="shop")
    with pytest.raises(SinkUnavailable, match="Nothing is lost"):
        sink.open()
    sink.close()


def test_missing_credentials_are_refused_in_one_sentence(
    aws: AwsAccount, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(boto3, "DEFAULT_SESSION", None)
        sink = FilesSink(S3Store("s3://some-bucket/x"), pipeline="shop")
        with pytest.raises(SinkRefused, match="Set up credentials"):
            sink.open()
        sink.close()


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://UPPER/x", "s3://a/b"])
def test_what_is_no_address_is_said_before_anything_starts(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no address in S3"):
        FilesSinkConfig(type="files", path=url).build(BuildContext("shop", tmp_path))


def test_a_check_leaves_nothing_behind(aws: AwsAccount, tmp_path: Path) -> None:
    url = new_prefix(aws)
    config = FilesSinkConfig(type="files", path=url)
    assert [one.severity for one in config.check(BuildContext("shop", tmp_path))] == [Severity.OK]
    assert keys(aws, url) == []
    sink = config.build(BuildContext("shop", tmp_path))
    sink.open()
    sink.close()
    (finding,) = config.check(BuildContext("other", tmp_path))
    assert finding.severity is Severity.ERROR
    assert "belongs to pipeline 'shop'" in finding.message
    assert not list((tmp_path / ".catchment").iterdir()), "what went up is not kept here"


def test_hive_partitions_hold_the_rows_of_their_hour(aws: AwsAccount, tmp_path: Path) -> None:
    harness = BucketHarness(aws, tmp_path, "ndjson", "none", naming=HiveNames({"dt": "%Y-%m-%d", "hour": "%H"}))
    system = ScriptedSystem(insert("lane", ITEMS, 1, 2), insert("lane", NOTES, 3))
    with delivery(harness, system) as one:
        one.all().flush()
    assert [path for path in keys(aws, harness.url) if "dt=" in path] == [
        "public.items/dt=2023-11-14/hour=22/000000000001-0001.ndjson",
        "public.notes/dt=2023-11-14/hour=22/000000000001-0001.ndjson",
    ]
    expect(harness, system)


HOLDER = """
import sys, time
from catchment.sinks.files.s3_store import S3Store
store = S3Store(sys.argv[1], lease_seconds=float(sys.argv[2]))
store.hold()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_on_this_machine_is_replaced_at_once(aws: AwsAccount) -> None:
    url = new_prefix(aws)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, "600"],
        env=aws.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        second = S3Store(url)
        with pytest.raises(LeaseHeld, match=rf"Process {child.pid} on .* writes to {url}"):
            second.hold()
        second.release()
        child.kill()
    third = S3Store(url)
    third.hold()
    third.release()


def test_a_stopped_process_on_this_machine_is_replaced_once_its_time_is_over(aws: AwsAccount) -> None:
    url = new_prefix(aws)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, "1.5"],
        env=aws.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "held\n"
            child.send_signal(signal.SIGSTOP)
            successor = S3Store(url)
            beats: list[float] = []

            def takes_over() -> bool:
                found = aws.client("s3").get_object(Bucket=bucket_of(aws), Key=key_of(url, lease.PATH))
                beats.append(json.loads(found["Body"].read())["at"])
                try:
                    successor.hold()
                except LeaseHeld:
                    return False
                return True

            wait_for(takes_over, "the successor holds the lease")
            assert lease._clock() - beats[-1] >= 1.5, "all of its time is over, not one beat"
            successor.release()
        finally:
            child.kill()


def test_a_whole_bucket_may_be_the_place(aws: AwsAccount) -> None:
    url = f"s3://{make_bucket(aws)}"
    sink = FilesSink(S3Store(url), pipeline="shop", naming=FirehoseNames("shop", "gadget-sales"))
    with_rows = Delivery(sink, ScriptedSystem(insert("lane", ITEMS, 1))).all()
    with_rows.flush()
    with_rows.close()
    (only,) = complete_ranges(url)
    assert only.objects[0].path.startswith("2023/11/14/22/gadget-sales-1-2023-11-14-22-13-")
