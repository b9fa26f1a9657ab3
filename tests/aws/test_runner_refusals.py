"""What `catchment aws` says of a wrong bucket or a wrong environment: one sentence, before anything is done."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from aws.account import AwsAccount
from aws.orders import TABLE, make_table
from aws.places import STREAM, make_stream, put
from aws.test_query_database import Run
from aws.test_query_database import run as run
from catchment.aws.local.event_source_mapping import EventSourceMapping
from catchment.errors import ConfigError


@pytest.mark.parametrize(
    "command",
    [
        ("replay", "s3://no-such-bucket/errors/", "--stream", STREAM),
        ("reconcile", "s3://no-such-bucket/", "--stream", STREAM, "--table", TABLE),
        ("pipe", "--stream", STREAM, "--table", TABLE, "--reconcile", "s3://no-such-bucket/", "--idle-seconds", "1"),
    ],
)
def test_a_bucket_that_is_not_there_is_a_sentence(
    aws: AwsAccount, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_stream(aws, shards=1)
    make_table(aws)
    done = run("aws", *command)
    assert done.code == 1
    assert "There is no bucket no-such-bucket. Check its name" in done.err


def test_an_endpoint_that_is_dead_ends_a_replay_at_once(
    aws: AwsAccount, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    done = run("aws", "replay", "s3://a-bucket/errors/", "--stream", STREAM)
    assert done.code == 4
    assert "AWS did not answer while listing the bucket a-bucket" in done.err


def test_a_handler_without_its_environment_ends_the_mapping_and_no_record_is_passed_over(
    aws: AwsAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DELIVERY_STREAM", raising=False)
    make_stream(aws, shards=1)
    put(aws, b"{}")
    with pytest.raises(ConfigError, match=r"lacks DELIVERY_STREAM and ERROR_BUCKET\. Set it"):
        EventSourceMapping(STREAM, "catchment.aws.kinesis_transform:handler", tmp_path).run(
            threading.Event(), idle_seconds=5
        )
    saved = list(tmp_path.glob("mapping-*.json"))
    assert not saved or not json.loads(saved[0].read_text()).get("places")
