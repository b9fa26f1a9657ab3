"""DynamoDB into the lake: scan and stream, kills, streams that were lost, redaction."""

from __future__ import annotations

import json
import random
import time
from decimal import Decimal
from pathlib import Path

import pytest

from aws.account import AwsAccount
from aws.busy_aws import BusyAws
from catchment import config
from catchment.errors import PositionLost, SourceRefused
from catchment.sinks.files.reader import complete_ranges
from catchment.verify.report import Outcome
from catchment.verify.verification import Verification
from pipelines.gadget_table import (
    LAKE_NAME,
    STREAM_ON,
    TABLE,
    Writes,
    dynamodb_pipeline,
    expect_same,
    lake_rows,
    make_table,
    table_rows,
)
from pipelines.lake import capturing_beside, catch_up, expect_once, expect_verified, kill_at, query, run
from waiting import wait_for


def set_stream(aws: AwsAccount, specification: dict[str, object]) -> None:
    aws.client("dynamodb").update_table(TableName=TABLE, StreamSpecification=specification)


def test_silver_is_the_table_while_it_is_scanned_and_written_to(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, seed)
    writes.some(150)
    with capturing_beside(pipeline):
        with writes:
            wait_for(lambda: writes.writes > 600, what="600 writes")
        wait_for(lambda: (tmp_path / "lake").exists() and lake_rows(pipeline) == table_rows(aws), what="the last write")
    expect_same(aws, pipeline)
    expect_once(pipeline, [LAKE_NAME])


@pytest.mark.parametrize("name", ["decoded", "after_commit"])
def test_a_kill_at_a_failpoint_loses_and_doubles_nothing(aws: AwsAccount, tmp_path: Path, seed: int, name: str) -> None:
    _kills(aws, tmp_path, seed, [name], 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.timeout(900)
def test_many_kills_anywhere_lose_and_double_nothing(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    _kills(aws, tmp_path, seed, ["decoded", "data_file_written", "before_commit", "after_commit"], 25)


def _kills(aws: AwsAccount, directory: Path, seed: int, names: list[str], rounds: int) -> None:
    chance = random.Random(seed)
    make_table(aws)
    pipeline = dynamodb_pipeline(directory)
    writes = Writes(aws, seed)
    writes.some(100)
    with writes:
        for _ in range(rounds):
            kill_at(pipeline, f"{chance.choice(names)}:{chance.randint(1, 5)}")
    catch_up(pipeline)
    expect_same(aws, pipeline)
    expect_once(pipeline, [LAKE_NAME])


def test_a_stream_that_was_disabled_and_enabled_again_has_the_table_scanned_again(
    aws: AwsAccount, tmp_path: Path, seed: int
) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, seed)
    writes.some(100)
    catch_up(pipeline)
    writes.some(40)
    set_stream(aws, {"StreamEnabled": False})
    writes.some(60)
    set_stream(aws, STREAM_ON)
    writes.some(20)
    catch_up(pipeline)
    expect_same(aws, pipeline)
    # What the old stream still had was read before its table was scanned again.
    assert query(pipeline, f"SELECT count(*) FROM bronze.{LAKE_NAME} WHERE _op = 't'") == [(1,)]


def test_a_stream_that_is_replaced_while_it_is_read_is_noticed(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, seed)
    writes.some(50)
    catch_up(pipeline)
    with capturing_beside(pipeline):
        writes.some(5)
        wait_for(lambda: lake_rows(pipeline) == table_rows(aws), what="the pipeline")
        set_stream(aws, {"StreamEnabled": False})
        writes.some(30)
        set_stream(aws, STREAM_ON)
        writes.some(10)
        wait_for(lambda: lake_rows(pipeline) == table_rows(aws), what="the new stream")


def test_without_snapshots_a_lost_stream_is_a_lost_position(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path, "snapshot: never")
    catch_up(pipeline)
    writes = Writes(aws, seed)
    writes.some(30)
    catch_up(pipeline)
    set_stream(aws, {"StreamEnabled": False})
    set_stream(aws, STREAM_ON)
    with pytest.raises(PositionLost, match="--resnapshot"):
        catch_up(pipeline)


def test_a_table_without_a_stream_is_refused_with_the_command_that_mends_it(aws: AwsAccount, tmp_path: Path) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    set_stream(aws, {"StreamEnabled": False})
    with pytest.raises(SourceRefused, match="aws dynamodb update-table --table-name OrderTable"):
        catch_up(pipeline)
    set_stream(aws, {"StreamEnabled": True, "StreamViewType": "KEYS_ONLY"})
    with pytest.raises(SourceRefused, match="KEYS_ONLY"):
        catch_up(pipeline)


def test_a_resnapshot_forgets_what_the_lake_had(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, seed)
    writes.some(80)
    catch_up(pipeline)
    done = run("run", str(pipeline), "--resnapshot", "--until-caught-up")
    assert done.returncode == 0, done.stderr
    expect_same(aws, pipeline)
    assert query(pipeline, f"SELECT count(*) FROM bronze.{LAKE_NAME} WHERE _op = 't'") == [(1,)]


def test_hashed_attributes_are_nowhere_in_the_lake(aws: AwsAccount, tmp_path: Path) -> None:
    make_table(aws)
    client = aws.client("dynamodb")
    secret = "jane@example.com"
    for orderid, email in (("1", {"S": secret}), ("2", {"SS": [secret]}), ("3", {"M": {"to": {"S": secret}}})):
        client.put_item(TableName=TABLE, Item={"orderid": {"S": orderid}, "email": email})
    rest = 'transforms: [{type: hash, columns: ["*.email"], secret: "0123456789abcdef0123456789abcdef"}]'
    pipeline = dynamodb_pipeline(tmp_path, rest=rest)
    assert run("validate", str(pipeline)).returncode == 0
    catch_up(pipeline)
    client.put_item(TableName=TABLE, Item={"orderid": {"S": "2"}, "email": {"L": [{"S": secret}]}})
    client.delete_item(TableName=TABLE, Key={"orderid": {"S": "1"}})
    catch_up(pipeline)
    for layer in ("bronze", "silver"):
        rows = query(pipeline, f"SELECT * FROM {layer}.{LAKE_NAME}")
        assert rows
        assert secret not in repr(rows)


def test_a_write_is_an_event_within_a_second(aws: AwsAccount, tmp_path: Path) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, 1)
    writes.some(5)
    catch_up(pipeline)
    source = config.load(pipeline).source_config.build(config.load(pipeline).context)
    source.open(None)
    try:
        while source.next(0.5) is not None:
            pass

        def median() -> float:
            seconds = []
            for number in range(5):
                began = time.monotonic()
                aws.client("dynamodb").put_item(TableName=TABLE, Item={"orderid": {"S": f"new-{number}"}})
                while source.next(5.0) is None:
                    pass
                seconds.append(time.monotonic() - began)
                while source.next(0.3) is not None:
                    pass
            return sorted(seconds)[2]

        # A machine that is busy with other things may be slow once; a source that waits too long is slow each time.
        wait_for(lambda: median() < 1.0, what="a write's event within a second")
    finally:
        source.close()


def test_verify_finds_the_lake_equal_also_when_it_is_behind(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, seed)
    writes.some(150)
    catch_up(pipeline)
    writes.some(60)
    # Nobody runs the pipeline: what the lake does not have yet is read beside it.
    done = run("verify", str(pipeline), "--deep")
    assert done.returncode == 0, done.stdout + done.stderr
    catch_up(pipeline)
    expect_verified(pipeline)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_verify_finds_the_lake_equal_while_the_pipeline_runs_and_writes_go_on(
    aws: AwsAccount, tmp_path: Path, seed: int
) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, seed)
    writes.some(150)
    catch_up(pipeline)
    with capturing_beside(pipeline), writes:
        wait_for(lambda: writes.writes > 400, what="writes")
        expect_verified(pipeline)


def test_verify_names_the_rows_that_differ(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    make_table(aws)
    rest = 'transforms: [{type: hash, columns: ["*.product_name"], secret: "%s"}]'
    pipeline = dynamodb_pipeline(tmp_path, rest=rest % ("a" * 32))
    writes = Writes(aws, seed)
    writes.some(40)
    catch_up(pipeline)
    # From here on the lake has a place in the stream: without one it would be brought up by all that the stream has.
    writes.some(5)
    catch_up(pipeline)
    expect_verified(pipeline)
    dynamodb_pipeline(tmp_path, rest=rest % ("b" * 32))
    verdict = Verification(config.load(pipeline), deep=True).run()
    (table,) = verdict.tables
    assert table.outcome is Outcome.DIFFERENT
    assert table.columns == {"product_name": len(table_rows(aws))}


def test_throttling_lost_answers_and_failures_of_aws_lose_nothing(
    aws: AwsAccount, busy_aws: BusyAws, tmp_path: Path, seed: int
) -> None:
    make_table(aws)
    writes = Writes(aws, seed)
    writes.some(100)
    busy_aws.fail("GetRecords", "LimitExceededException", share=0.2)
    busy_aws.fail("GetRecords", "ExpiredIteratorException", share=0.1)
    busy_aws.fail("GetRecords", "InternalServerError", status=500, share=0.05)
    busy_aws.fail("DescribeStream", "LimitExceededException", share=0.3)
    busy_aws.fail("Scan", "ProvisionedThroughputExceededException", share=0.3)
    busy_aws.lose_answers("GetRecords", share=0.05)
    busy_aws.hang_up("GetShardIterator", share=0.2)
    pipeline = dynamodb_pipeline(tmp_path)
    with capturing_beside(pipeline):
        with writes:
            wait_for(lambda: writes.writes > 400, what="writes")
        wait_for(lambda: (tmp_path / "lake").exists() and lake_rows(pipeline) == table_rows(aws), what="the last write")
    assert busy_aws.happened["GetRecords", "fails"] > 0
    expect_same(aws, pipeline)
    expect_once(pipeline, [LAKE_NAME])


def test_a_table_with_binary_keys_is_scanned_over_many_pages(aws: AwsAccount, tmp_path: Path) -> None:
    client = aws.client("dynamodb")
    client.create_table(
        TableName="Blobs",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}, {"AttributeName": "at", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "id", "AttributeType": "B"},
            {"AttributeName": "at", "AttributeType": "N"},
        ],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification=STREAM_ON,
    )
    keys = [(bytes([255, number]), number) for number in range(12)]
    for key, at in keys:
        body = {"B": key * 150_000}
        client.put_item(TableName="Blobs", Item={"id": {"B": key}, "at": {"N": str(at)}, "body": body})
    pipeline = dynamodb_pipeline(tmp_path)
    pipeline.write_text(pipeline.read_text().replace("[OrderTable]", "[Blobs]").replace("4096", "1000000000"))
    expected = [(key, at, key * 150_000) for key, at in keys]
    catch_up(pipeline)
    assert sorted(query(pipeline, 'SELECT id, "at", body FROM silver.dynamodb_Blobs')) == expected
    client.delete_item(TableName="Blobs", Key={"id": {"B": keys[0][0]}, "at": {"N": "0"}})
    catch_up(pipeline)
    assert sorted(query(pipeline, 'SELECT id, "at", body FROM silver.dynamodb_Blobs')) == expected[1:]


def test_a_sink_that_is_added_gets_the_table_from_a_scan_of_its_own(aws: AwsAccount, tmp_path: Path, seed: int) -> None:
    make_table(aws)
    pipeline = dynamodb_pipeline(tmp_path)
    writes = Writes(aws, seed)
    writes.some(80)
    catch_up(pipeline)
    writes.some(20)
    catch_up(pipeline)
    one = "sinks: [{type: iceberg, flush_interval_seconds: 0.1}]"
    two = "sinks: [{type: iceberg, flush_interval_seconds: 0.1}, {type: files, path: out, flush_interval_seconds: 0.1}]"
    pipeline.write_text(pipeline.read_text().replace(one, two))
    writes.some(20)
    catch_up(pipeline)
    expect_same(aws, pipeline)
    expect_once(pipeline, [LAKE_NAME])
    latest: dict[str, tuple[str, bool]] = {}
    for objects in complete_ranges(tmp_path / "out", after=0):
        for data in objects.objects:
            for line in (tmp_path / "out" / data.path).read_bytes().splitlines():
                change = json.loads(line)
                orderid = (change["after"] or change["before"])["orderid"]
                here = (change["version"], change["op"] != "d")
                latest[orderid] = max(latest.get(orderid, ("", False)), here)
    assert {orderid for orderid, (_, there) in latest.items() if there} == {row[0] for row in table_rows(aws)}


def test_a_sink_that_is_added_has_the_columns_types_that_the_others_have(aws: AwsAccount, tmp_path: Path) -> None:
    make_table(aws)
    client = aws.client("dynamodb")
    client.put_item(TableName=TABLE, Item={"orderid": {"S": "1"}, "grade": {"N": "7"}})
    pipeline = dynamodb_pipeline(tmp_path)
    catch_up(pipeline)
    # What is scanned for the sink that is added has the attribute with another type, and no longer with its first.
    client.put_item(TableName=TABLE, Item={"orderid": {"S": "1"}, "grade": {"S": "good"}})
    catch_up(pipeline)
    one = "sinks: [{type: iceberg, flush_interval_seconds: 0.1}]"
    two = "sinks: [{type: iceberg, flush_interval_seconds: 0.1}, {type: files, path: out, flush_interval_seconds: 0.1}]"
    pipeline.write_text(pipeline.read_text().replace(one, two))
    catch_up(pipeline)
    client.put_item(TableName=TABLE, Item={"orderid": {"S": "2"}, "grade": {"N": "9"}})
    catch_up(pipeline)
    for name, grade in (("1", None), ("2", Decimal(9))):
        assert query(pipeline, f"SELECT grade FROM silver.{LAKE_NAME} WHERE orderid = '{name}'") == [(grade,)]
    grades = {
        change["after"]["orderid"]: change["after"]["grade"]
        for objects in complete_ranges(tmp_path / "out", after=0)
        for data in objects.objects
        for change in map(json.loads, (tmp_path / "out" / data.path).read_bytes().splitlines())
    }
    assert (grades["1"], float(grades["2"])) == (None, 9.0)
