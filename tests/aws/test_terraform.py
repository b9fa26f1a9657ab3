"""The gadgets' infrastructure: valid, least-privileged, made on the stand-in; the pipeline runs on what was made.

MiniStack makes all of it. It forgets some of what it is told (tags, an alarm's period), so a second plan is not empty
there; and carries nothing through the pipe, so `catchment aws pipe` does. Made once for this file.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aws.account import AwsAccount, account_number, enter
from aws.terraform import MODULE, NoTerraformError, Terraform, find_terraform
from catchment.aws.bundle import bundle
from catchment.demo.gadgets_outcome import COLUMNS, scanned_orders
from catchment.demo.ministack import MiniStack
from waiting import wait_for

pytestmark = pytest.mark.timeout(1200)
"""Whichever test comes first waits for everything to be made: a minute on a quiet machine."""

READ_ONLY_WITHOUT_ARN: frozenset[str] = frozenset()
"""Actions that AWS allows on `*` only. There are none."""


@dataclass(frozen=True)
class Made:
    """What was applied: Terraform, the account it is in, what was made of it, and what was planned."""

    terraform: Terraform
    account: AwsAccount
    outputs: dict[str, Any]
    resources: dict[str, dict[str, Any]]
    planned: dict[str, dict[str, Any]]


def terraform_in(directory: Path, environ: dict[str, str]) -> Terraform:
    try:
        made = Terraform(directory, environ)
    except NoTerraformError as error:
        pytest.skip(str(error))
    made.run("init", "-input=false", "-no-color")
    return made


def applied(ministack: MiniStack, directory: Path, *more: str) -> Iterator[Made]:
    """Everything, in an account of its own, while it lasts."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        account = enter(monkeypatch, ministack.environ(account_number()))
        terraform = terraform_in(directory, account.environ)
        bundle(directory / "transform.zip")
        # Names of buckets are everybody's, on the stand-in as on AWS.
        bucket = f"gadget-sales-{account.number}"
        variables = (
            *(f"-var=lambda_zip={directory / 'transform.zip'}", f"-var=bucket_name={bucket}"),
            *("-var=stand_in=true", "-var=protect=false"),
        )
        terraform.run("plan", "-out=plan", "-input=false", "-no-color", *variables, *more)
        terraform.run("apply", "-input=false", "-no-color", "plan")
        yield Made(terraform, account, terraform.outputs(), terraform.resources(), terraform.resources("plan"))
        account.close()


@pytest.fixture(scope="module")
def made(ministack: MiniStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    yield from applied(ministack, tmp_path_factory.mktemp("terraform"))


@pytest.fixture
def made_for_kinesis(ministack: MiniStack, tmp_path: Path) -> Iterator[Made]:
    yield from applied(ministack, tmp_path, "-var=invoked_by=kinesis")


def test_the_sources_are_formatted() -> None:
    try:
        program = find_terraform()
    except NoTerraformError as error:
        pytest.skip(str(error))
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    done = subprocess.run(
        [program, "fmt", "-check", "-diff"], cwd=MODULE, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_it_is_valid_and_refuses_what_breaks_a_promise_before_anything_is_made(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    terraform = terraform_in(tmp_path, environ | {"AWS_REGION": "us-east-1"})
    terraform.run("validate", "-no-color")
    bundle(tmp_path / "transform.zip")
    slow = terraform.run(
        "plan",
        "-input=false",
        "-no-color",
        f"-var=lambda_zip={tmp_path / 'transform.zip'}",
        "-var=delivery_window_seconds=60",
        check=False,
    )
    assert slow.returncode != 0
    assert "must stay below 55" in " ".join(slow.stderr.split())


def test_kinesis_may_invoke_the_function_instead(tmp_path: Path, ministack: MiniStack) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    terraform = terraform_in(tmp_path, environ | ministack.environ(account_number()))
    bundle(tmp_path / "transform.zip")
    variables = (f"-var=lambda_zip={tmp_path / 'transform.zip'}", "-var=invoked_by=kinesis")
    terraform.run("plan", "-out=plan", "-input=false", "-no-color", *variables)
    planned = terraform.resources("plan")
    mapping = planned["aws_lambda_event_source_mapping.changes[0]"]
    assert mapping["function_response_types"] == ["ReportBatchItemFailures"]
    assert mapping["starting_position"] == "TRIM_HORIZON"
    delivery = planned["aws_kinesis_firehose_delivery_stream.sales"]
    assert delivery["kinesis_source_configuration"] == []
    assert delivery["extended_s3_configuration"][0]["processing_configuration"] == [
        {"enabled": False, "processors": []}
    ]
    (environment,) = planned["aws_lambda_function.transform"]["environment"]
    assert set(environment["variables"]) == {"DELIVERY_STREAM", "ERROR_BUCKET", "ERROR_PREFIX", "TIMESTAMP_ATTRIBUTES"}


@pytest.mark.slow
def test_what_kinesis_gives_the_function_is_delivered_and_poison_is_set_aside(made_for_kinesis: Made) -> None:
    """The stand-in's own mapping and Firehose carry it: an object a record, which only AWS gathers."""
    kinesis, s3 = made_for_kinesis.account.client("kinesis"), made_for_kinesis.account.client("s3")
    order = {"orderid": "7421", "product_name": "Laptop", "quantity": 3, "price": 429.99}
    for data in (json.dumps(order).encode(), b"no change record"):
        kinesis.put_record(StreamName=made_for_kinesis.outputs["stream_name"], Data=data, PartitionKey="7421")

    def keys() -> list[str]:
        return [one["Key"] for one in s3.list_objects_v2(Bucket=made_for_kinesis.outputs["bucket"]).get("Contents", [])]

    wait_for(lambda: len(keys()) >= 2, what="both records")
    poison, clean = sorted(keys(), key=lambda key: not key.startswith("errors/processing-failed/"))
    assert poison.startswith("errors/processing-failed/")
    assert clean.startswith("2")
    line = s3.get_object(Bucket=made_for_kinesis.outputs["bucket"], Key=clean)["Body"].read()
    assert json.loads(gzip.decompress(line) if line[:2] == b"\x1f\x8b" else line)["orderid"] == "7421"


def test_every_variable_and_output_is_described() -> None:
    for name in ("variables.tf", "outputs.tf"):
        text = (MODULE / name).read_text()
        assert text.count("description") == text.count('variable "') + text.count('output "'), name
    readme = (MODULE / "README.md").read_text()
    for line in (MODULE / "variables.tf").read_text().splitlines():
        if line.startswith("variable"):
            assert f"`{line.split(chr(34))[1]}`" in readme


def test_what_is_made_has_the_names_of_the_example(made: Made) -> None:
    expected = {
        "table_name": "OrderTable",
        "stream_name": "gadget-sales-stream",
        "delivery_name": "gadget-sales-delivery",
        "function_name": "gadget-sales-transform",
        "database": "gadgets_sales_db",
    }
    assert {name: made.outputs[name] for name in expected} == expected
    assert made.outputs["latency_seconds"] < 55


def test_the_table_has_a_stream_with_both_images(made: Made) -> None:
    table = made.account.client("dynamodb").describe_table(TableName="OrderTable")["Table"]
    assert table["StreamSpecification"] == {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    assert table["LatestStreamArn"] == made.outputs["table_stream_arn"]


def test_the_pipe_goes_from_the_stream_to_kinesis_by_order(made: Made) -> None:
    pipe = made.resources["aws_pipes_pipe.changes"]
    assert pipe["source"] == made.outputs["table_stream_arn"]
    assert pipe["target"].endswith(f"stream/{made.outputs['stream_name']}")
    # The stand-in forgets a pipe's parameters, so they are looked up in the plan.
    planned = made.planned["aws_pipes_pipe.changes"]
    (target,) = planned["target_parameters"]
    assert target["kinesis_stream_parameters"] == [{"partition_key": "$.dynamodb.Keys.orderid.S"}]
    (source,) = planned["source_parameters"]
    (read,) = source["dynamodb_stream_parameters"]
    assert read["starting_position"] == "TRIM_HORIZON"
    assert read["on_partial_batch_item_failure"] == "AUTOMATIC_BISECT"
    assert len(read["dead_letter_config"]) == 1


def test_firehose_transforms_and_buckets_are_private(made: Made) -> None:
    (delivery,) = made.account.client("firehose").describe_delivery_stream(DeliveryStreamName="gadget-sales-delivery")[
        "DeliveryStreamDescription"
    ]["Destinations"]
    told = delivery["ExtendedS3DestinationDescription"]
    assert told["ProcessingConfiguration"]["Enabled"] is True
    assert told["CompressionFormat"] == "GZIP"
    assert told["ErrorOutputPrefix"].startswith("errors/!{firehose:error-output-type}/")
    s3 = made.account.client("s3")
    for bucket in (made.outputs["bucket"], f"{made.outputs['bucket']}-query-results"):
        assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
        (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"


def test_the_error_prefix_is_kept_shortly_and_closed_to_everybody_who_is_not_named(made: Made) -> None:
    s3, bucket = made.account.client("s3"), made.outputs["bucket"]
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert rules["errors-are-kept-shortly"]["Filter"]["Prefix"] == "errors/"
    assert rules["errors-are-kept-shortly"]["Expiration"]["Days"] <= 14
    policy = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])
    (closed,) = [one for one in policy["Statement"] if one["Sid"] == "ErrorsForFew"]
    assert (closed["Effect"], closed["Principal"]) == ("Deny", "*")
    assert closed["Resource"] == f"arn:aws:s3:::{bucket}/errors/*"
    assert list(closed["Condition"]) == ["ArnNotLike"]


def test_no_role_may_do_anything_to_everything(made: Made) -> None:
    policies = {
        address: one["policy"]
        for address, one in made.resources.items()
        if address.startswith("aws_iam_") and "policy" in one
    }
    assert len(policies) >= 6
    for address, text in policies.items():
        for statement in json.loads(text)["Statement"]:
            actions, resources = _many(statement["Action"]), _many(statement["Resource"])
            assert not [one for one in actions if "*" in one], address
            assert "*" not in resources or set(actions) <= READ_ONLY_WITHOUT_ARN, address


def _many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def test_the_catalog_is_what_catalog_sync_would_make(made: Made) -> None:
    from catchment.glue.gadgets import ORDERS_SQL, ensure_gadgets

    assert ensure_gadgets(f"s3://{made.outputs['bucket']}/", dry_run=True) == []
    assert (MODULE / "gadget_sales.sql").read_text().strip() == ORDERS_SQL


def test_the_two_questions_are_named_queries(made: Made) -> None:
    athena = made.account.client("athena")
    ids = athena.list_named_queries(WorkGroup=made.outputs["workgroup"])["NamedQueryIds"]
    texts = {one["QueryString"] for one in athena.batch_get_named_query(NamedQueryIds=ids)["NamedQueries"]}
    assert texts == {
        "SELECT * FROM gadgets_sales_db.sales_data_table WHERE payment_method = 'UPI' ORDER BY order_timestamp DESC",
        "SELECT product_name, SUM(quantity) AS total_units FROM gadget_sales "
        "WHERE date = CURRENT_DATE GROUP BY product_name",
    }


def test_the_pipeline_runs_on_what_was_made_and_nothing_is_lost(made: Made, tmp_path: Path) -> None:
    """Orders, pipe, Firehose with the function that was made, and the query: each as a person starts it."""
    names = made.outputs
    state = ("--state", str(tmp_path), "--idle-seconds", "1.5")
    generated = catchment(
        made,
        "generate",
        "gadgets",
        "--table",
        names["table_name"],
        "--rate",
        "40",
        "--seconds",
        "3",
        "--quiet",
        "--json",
    )
    piped = catchment(
        made, "aws", "pipe", "--table", names["table_name"], "--stream", names["stream_name"], *state, "--json"
    )
    writes = json.loads(generated)["writes"]
    assert json.loads(piped.splitlines()[-1])["put"] == writes > 0
    made.account.client("kinesis").put_record(
        StreamName=names["stream_name"], Data=b"no change record", PartitionKey="poison"
    )
    delivered = catchment(
        made,
        *("aws", "firehose", "--from-firehose", names["delivery_name"], *state, "--json"),
        *("--buffer-seconds", "1", "--function-buffer-seconds", "0"),
    )
    counts = json.loads(delivered.splitlines()[-1])
    assert (counts["put"], counts["failed"]) == (writes, 1)
    objects = made.account.client("s3").list_objects_v2(Bucket=names["bucket"])["Contents"]
    failed = [one["Key"] for one in objects if one["Key"].startswith("errors/")]
    assert len(failed) == 1
    assert failed[0].startswith("errors/processing-failed/2")
    asked = f"SELECT {', '.join(COLUMNS)} FROM gadget_sales"
    rows = json.loads(catchment(made, "query", "--database", names["database"], asked, "--json"))["rows"]
    table = scanned_orders(names["table_name"])
    assert {row["orderid"]: (row["quantity"], row["status"]) for row in rows} == {
        key: (order[2], order[6]) for key, order in table.items()
    }
    assert len(rows) == len(table)


def catchment(made: Made, *arguments: str) -> str:
    """What the command says on stdout."""
    program = str(Path(sys.executable).with_name("catchment"))
    done = subprocess.run(
        [program, *arguments], env=made.account.environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
