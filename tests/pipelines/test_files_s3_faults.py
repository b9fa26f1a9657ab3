"""The files sink through a bad day of S3: throttled, failing, hanging up before and after it did what it was asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from aws.account import AwsAccount
from aws.busy_aws import BusyAws
from catchment.errors import SinkUnavailable
from catchment.sinks.files import bucket
from catchment.testing.changes import replay_seed
from catchment.testing.delivery import Delivery
from catchment.testing.scripted import ScriptedSystem
from catchment.testing.sinks import expect, make_script
from conformance.bucket_harness import BreakingBucketHarness
from conformance.test_files_sink_crashes import expect_no_change_under_two_names
from conformance.test_files_sink_s3_crashes import expect_only_complete_objects

ATTEMPTS = 60


def deliver(harness: BreakingBucketHarness, system: ScriptedSystem) -> int:
    """As the pipeline does: after a failure everything is opened again. How often that was."""
    for attempt in range(ATTEMPTS):
        sink = harness.sink()
        try:
            one = Delivery(sink, system, overlap=attempt % 3)
            events = 0
            while one.step() is not None:
                events += 1
                if events % 9 == 0:
                    one.flush()
            one.flush()
        except SinkUnavailable:
            continue
        finally:
            sink.close()
        return attempt
    raise AssertionError(f"not delivered in {ATTEMPTS} attempts")


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True], ids=["whole objects", "in parts"])
def test_every_change_is_there_once(
    aws: AwsAccount, busy_aws: BusyAws, tmp_path: Path, parts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "TRIES", 2)  # fewer repetitions by boto3: more is left to us
    if parts:
        monkeypatch.setattr(bucket, "PART_BYTES", 2048)
    harness = BreakingBucketHarness(aws, tmp_path)
    system = ScriptedSystem(*make_script(replay_seed(), steps=8))
    for operation in ("PutObject", "DeleteObject", "UploadPart", "CompleteMultipartUpload"):
        busy_aws.lose_answers(f"S3.{operation}", share=0.1)
        busy_aws.hang_up(f"S3.{operation}", share=0.05)
    for operation in ("PutObject", "GetObject", "HeadObject", "ListObjectsV2", "CreateMultipartUpload"):
        busy_aws.fail(f"S3.{operation}", "SlowDown", share=0.05, status=503)
    failures = deliver(harness, system)
    lost = sum(count for (_, kind), count in busy_aws.happened.items() if kind == "lost")
    busy_aws.calm()
    assert lost > 2
    assert failures > 0, "boto3 mended all of it: nothing was left for the sink"
    expect(harness, system, across_lanes=False)
    expect_no_change_under_two_names(harness)
    expect_only_complete_objects(harness)


def test_a_commit_whose_answer_was_lost_for_good_is_found_by_the_next_opening(
    aws: AwsAccount, busy_aws: BusyAws, tmp_path: Path
) -> None:
    harness = BreakingBucketHarness(aws, tmp_path)
    system = ScriptedSystem(*make_script(replay_seed(), steps=3))
    sink = harness.sink()
    one = Delivery(sink, system).all()
    harness.store.refuses_records = False
    put = harness.store.put_if_absent

    def lost_from_the_commit_on(path: str, data: bytes) -> bool:
        if b'"done"' in data:
            busy_aws.lose_answers("S3.PutObject")
            busy_aws.fail("S3.HeadObject", "SlowDown", status=503)
        return put(path, data)

    harness.store.put_if_absent = lost_from_the_commit_on  # type: ignore[method-assign]
    with pytest.raises(SinkUnavailable):
        one.flush()
    busy_aws.calm()
    sink.close()
    again = harness.sink()
    assert again.open() == system.head()
    again.close()
    expect(harness, system)
    expect_only_complete_objects(harness)
