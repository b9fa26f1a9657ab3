"""The files sink in S3, broken off, killed, and overtaken by another writer. Nothing is lost, and nothing is twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from aws.account import AwsAccount
from aws.places import bucket_of
from catchment.errors import LeaseHeld, LeaseLost, SinkUnavailable
from catchment.sinks.files import ranges
from catchment.sinks.files.reader import complete_ranges
from catchment.sinks.files.s3_store import S3Store
from catchment.sinks.files.sink import FilesSink
from catchment.testing.changes import replay_seed
from catchment.testing.delivery import Delivery
from catchment.testing.scripted import Quiet, ScriptedSystem
from catchment.testing.sinks import ITEMS, expect, insert, make_script
from conformance.bucket_harness import BreakingBucketHarness, key_of, keys, new_prefix
from conformance.test_files_sink_crashes import (
    begin_and_break,
    expect_no_change_under_two_names,
    expect_once_after_a_break,
    expect_once_after_many_breaks,
    expect_only_complete_files,
    run,
    two_ranges,
)


@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 12))])
def test_broken_off_at_every_step_every_change_is_there_once(aws: AwsAccount, tmp_path: Path, part: int) -> None:
    """The parts together are all steps."""
    seed = replay_seed()
    whole = BreakingBucketHarness(aws, tmp_path)
    assert run(whole, two_ranges(seed), flush_every=8)
    for break_at in range(1 + part, whole.store.steps + 1, 12):
        harness = BreakingBucketHarness(aws, tmp_path)
        expect_once_after_a_break(harness, seed, break_at)
        expect_only_complete_objects(harness)


def expect_only_complete_objects(harness: BreakingBucketHarness) -> None:
    """As in a directory, but that a claim may be left."""
    for intent in harness.directory.glob("_catchment/intents/*"):
        assert b'"claim"' in intent.read_bytes()
        harness.aws.client("s3").delete_object(
            Bucket=bucket_of(harness.aws), Key=key_of(harness.url, f"_catchment/intents/{intent.name}")
        )
    expect_only_complete_files(harness)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_broken_off_again_and_again_every_change_is_there_once(aws: AwsAccount, tmp_path: Path) -> None:
    seed = replay_seed()
    harness = BreakingBucketHarness(aws, tmp_path)
    expect_once_after_many_breaks(harness, seed, random.Random(seed))
    expect_only_complete_objects(harness)


CHILD = """
import sys
from catchment.sinks.files.s3_store import S3Store
from catchment.sinks.files.sink import FilesSink
from catchment.testing.delivery import Delivery
from catchment.testing.scripted import ScriptedSystem
from catchment.testing.sinks import make_script

url, seed, flush_every = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sink = FilesSink(S3Store(url), pipeline="suite", format="parquet", file_rows=12)
one = Delivery(sink, ScriptedSystem(*make_script(seed, steps=6)), overlap=1)
events = 0
while one.step() is not None:
    events += 1
    if events % flush_every == 0:
        one.flush()
one.flush()
sink.close()
"""


@pytest.mark.parametrize(
    "failpoint",
    ["before_commit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("data_file_written", "after_commit"))],
)
def test_killed_at_a_failpoint_every_change_is_there_once(aws: AwsAccount, tmp_path: Path, failpoint: str) -> None:
    seed = replay_seed() % 2**31
    system = ScriptedSystem(*make_script(seed, steps=6))
    harness = BreakingBucketHarness(aws, tmp_path)
    for count, flush_every in ((1, 6), (2, 11), (4, 5)):
        killed = _child(aws, harness.url, seed, flush_every, f"{failpoint}:{count}")
        assert killed in (0, -signal.SIGKILL)
        assert count > 1 or killed == -signal.SIGKILL
        expect_no_change_under_two_names(harness)
    assert _child(aws, harness.url, seed, 4, "") == 0
    expect(harness, system, across_lanes=False)
    expect_only_complete_objects(harness)


def _child(aws: AwsAccount, url: str, seed: int, flush_every: int, failpoint: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", CHILD, url, str(seed), str(flush_every)],
        env=aws.environ | {"CATCHMENT_FAILPOINT": failpoint},
        check=False,
        timeout=120,
    ).returncode


class LateStore(S3Store):
    """A writer that believes its lease: it was suspended, and another has taken over meanwhile."""

    def hold(self) -> None:
        super().hold()
        self._lease._released.set()  # no beat any more
        self._lease.check = lambda: None  # type: ignore[method-assign]


def overtaken(url: str, **options: float) -> S3Store:
    """A store for a writer that takes over, whoever holds the lease."""
    store = S3Store(url)
    store._lease.acquire = lambda: None  # type: ignore[method-assign]
    return store


def sink_on(store: S3Store) -> FilesSink:
    return FilesSink(store, pipeline="suite", format="parquet", file_rows=4)


@contextmanager
def late_writer(url: str, system: ScriptedSystem, rows: int) -> Iterator[Delivery]:
    sink = sink_on(LateStore(url))
    one = Delivery(sink, system)
    for _ in range(rows):
        one.step()
    try:
        yield one
    finally:
        sink.close()


def test_a_late_writer_that_has_begun_nothing_begins_nothing(aws: AwsAccount, tmp_path: Path) -> None:
    harness = BreakingBucketHarness(aws, tmp_path)
    system = ScriptedSystem(*(insert("lane", ITEMS, n) for n in range(1, 6)))
    with late_writer(harness.url, system, 6) as late:
        successor = Delivery(sink_on(overtaken(harness.url)), system)
        with pytest.raises(LeaseLost, match="Another process writes to s3://"):
            late.flush()
        assert not [path for path in keys(aws, harness.url) if path.startswith("public.")]
        successor.all().flush()
        successor.close()
    expect(harness, system)
    expect_only_complete_objects(harness)


@pytest.mark.parametrize("kept", ["begun", "objects written"])
def test_a_late_writer_in_the_middle_of_a_range_does_not_commit_it(
    aws: AwsAccount, tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor cuts the range again, to the same names; then the late one goes on."""
    harness = BreakingBucketHarness(aws, tmp_path)
    system = ScriptedSystem(*(insert("lane", ITEMS, *range(4 * n, 4 * n + 4)) for n in range(4)))

    def overtake() -> None:
        successor = Delivery(sink_on(overtaken(harness.url)), system)
        successor.all().flush()
        successor.close()

    with late_writer(harness.url, system, 6) as late:
        store = late.sink._store  # type: ignore[attr-defined]
        create, put_if_absent = store.create, store.put_if_absent

        @contextmanager
        def overtaken_before_an_object(path: str) -> Iterator[BinaryIO]:
            if kept == "begun" and not overtook:
                overtook.append(True)
                overtake()
            with create(path) as file:
                yield file

        def overtaken_before_the_commit(path: str, data: bytes) -> bool:
            if kept != "begun" and b'"done"' in data:
                overtake()
            return bool(put_if_absent(path, data))

        overtook: list[bool] = []
        store.create, store.put_if_absent = overtaken_before_an_object, overtaken_before_the_commit
        refusal, words = {
            "begun": (SinkUnavailable, "was written by another process meanwhile"),
            "objects written": (LeaseLost, "Another process writes to s3://"),
        }[kept]
        with pytest.raises(refusal, match=words):
            late.flush()
    expect(harness, system)
    expect_no_change_under_two_names(harness)
    expect_only_complete_objects(harness)


def test_a_late_writer_does_not_set_progress_back(aws: AwsAccount, tmp_path: Path) -> None:
    url = new_prefix(aws)
    system = ScriptedSystem(Quiet("lane"), Quiet("lane"))
    with late_writer(url, system, 1) as late:
        successor = Delivery(sink_on(overtaken(url)), system)
        held = successor.all().flush()
        successor.close()
        with pytest.raises(LeaseLost):
            late.flush()
    third = sink_on(overtaken(url))
    assert third.open() == held
    third.close()


def test_the_range_of_a_late_writer_whose_commit_was_first_is_kept(aws: AwsAccount, tmp_path: Path) -> None:
    """It had committed and was suspended before its record for readers: the successor writes that."""
    harness = BreakingBucketHarness(aws, tmp_path)
    system = ScriptedSystem(insert("lane", ITEMS, 1, 2, 3, 4, 5))
    with late_writer(harness.url, system, 3) as late:
        store = late.sink._store  # type: ignore[attr-defined]
        put_if_absent = store.put_if_absent

        def overtaken_before_the_record(path: str, data: bytes) -> bool:
            if "/done/" in path:
                successor = Delivery(sink_on(overtaken(harness.url)), system)
                assert successor.held == system.head()
                successor.close()
            return bool(put_if_absent(path, data))

        store.put_if_absent = overtaken_before_the_record
        assert late.flush() == system.head()
    assert len(list(complete_ranges(harness.url))) == 1
    expect(harness, system)


def test_claims_do_not_pile_up_while_nothing_is_written(aws: AwsAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MOST_CLAIMS", 4)
    url = new_prefix(aws)
    for _ in range(11):
        sink = sink_on(S3Store(url))
        assert sink.open() is None
        sink.close()
    assert len([path for path in keys(aws, url) if "/intents/" in path]) <= 4
    assert all(not one.objects for one in complete_ranges(url))


WRITER = """
import sys
from catchment.errors import LeaseHeld, LeaseLost
from catchment.sinks.files import lease
from catchment.sinks.files.s3_store import S3Store
from catchment.sinks.files.sink import FilesSink
from catchment.testing.delivery import Delivery
from catchment.testing.scripted import ScriptedSystem
from catchment.testing.sinks import ITEMS, insert

# Two machines: nobody sees whether the other process lives.
lease._process = lambda pid: None
url, system = sys.argv[1], ScriptedSystem(*(insert("lane", ITEMS, n) for n in range(1, 21)))
try:
    one = Delivery(FilesSink(S3Store(url, lease_seconds=5), pipeline="suite", format="parquet"), system)
    print("held", flush=True)
    while one.step() is not None:
        one.flush()
        print("flushed", flush=True)
        sys.stdin.readline()
    one.flush()
    one.close()
except (LeaseHeld, LeaseLost) as refusal:
    sys.exit(type(refusal).__name__)
"""


def _writer(aws: AwsAccount, url: str) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", WRITER, url], env=aws.environ, text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def test_of_two_processes_one_writes_and_a_suspended_one_that_wakes_up_stops(aws: AwsAccount, tmp_path: Path) -> None:
    """As on two machines: the second waits for beats, sees them, and gives way; then none come, and it takes over."""
    harness = BreakingBucketHarness(aws, tmp_path)
    with _writer(aws, harness.url) as first:
        try:
            _read(first, "held")
            for _ in range(6):
                _read(first, "flushed")
                _go_on(first)
            with _writer(aws, harness.url) as second:
                assert second.wait(60) == 1
                assert second.stderr is not None
                assert "LeaseHeld" in second.stderr.read()
            os.kill(first.pid, signal.SIGSTOP)
            with _writer(aws, harness.url) as third:
                _read(third, "held")
                _read(third, "flushed")
                os.kill(first.pid, signal.SIGCONT)
                for _ in range(40):
                    _go_on(first)
                assert first.wait(60) == 1
                assert first.stderr is not None
                assert "LeaseLost" in first.stderr.read()
                for _ in range(40):
                    _go_on(third)
                third.communicate(timeout=60)
                assert third.returncode == 0
        finally:
            first.kill()
    expect(harness, ScriptedSystem(*(insert("lane", ITEMS, n) for n in range(1, 21))), ITEMS)


def _read(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    said = process.stdout.readline()
    assert said == f"{word}\n", process.stderr.read() if process.stderr and process.poll() is not None else said


def _go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
    except BrokenPipeError:
        return  # it has ended


def test_a_lease_that_could_not_be_let_go_of_is_taken_again_at_once(
    aws: AwsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is gone when a sink closes; the pipeline opens it again in the same process."""
    url = new_prefix(aws)
    first = S3Store(url)
    first.hold()

    def unreachable(*_: object) -> None:
        raise SinkUnavailable("No network.")

    with monkeypatch.context() as patch:
        patch.setattr(first._bucket, "put", unreachable)
        first.release()
    second = S3Store(url)
    second.hold()
    third = S3Store(url)
    with pytest.raises(LeaseHeld):
        third.hold()
    third.release()
    second.release()


def test_a_beat_whose_answer_was_never_heard_does_not_lose_the_lease(
    aws: AwsAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stored, so that the next one finds another version than it knows."""
    store = S3Store(new_prefix(aws), lease_seconds=0.3)
    put, heard = store._bucket.put, threading.Event()
    beats: list[str | None] = []

    def deaf_at_first(path: str, data: bytes, replaced: str | None) -> str | None:
        version = put(path, data, replaced)
        if threading.current_thread().name == "s3-lease":
            beats.append(version)
            if len(beats) == 1:
                raise SinkUnavailable("The answer was not heard.")
            if len(beats) == 4:
                heard.set()
        return version

    monkeypatch.setattr(store._bucket, "put", deaf_at_first)
    store.hold()
    try:
        assert heard.wait(60)
        store.replace("x", b"", None)
    finally:
        store.release()
    assert beats[1] is None, "the second beat was refused"


def test_what_a_source_reads_anew_leaves_nothing_of_the_range_that_was_begun(aws: AwsAccount, tmp_path: Path) -> None:
    harness = BreakingBucketHarness(aws, tmp_path)
    begin_and_break(harness, ScriptedSystem(insert("old/slot", ITEMS, 1)))
    anew = ScriptedSystem(insert("new/slot", ITEMS, 1))
    assert run(harness, anew, flush_every=1)
    expect(harness, anew)
    expect_only_complete_objects(harness)
