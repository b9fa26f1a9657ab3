"""The files sink, broken off at every step of its own: before and after each thing it asks of its store."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from catchment.change import Operation
from catchment.errors import SinkUnavailable
from catchment.progress import Progress
from catchment.sinks.base import Sink
from catchment.sinks.files.reader import complete_ranges
from catchment.sinks.files.sink import MOST_WAITS, FilesSink
from catchment.sinks.files.store import LocalStore, Store
from catchment.testing.changes import Change, RandomChanges, make_batch, read_changes, replay_seed
from catchment.testing.delivery import Delivery
from catchment.testing.scripted import Chunk, Quiet, Rows, ScriptedSystem, Transaction
from catchment.testing.sinks import ITEMS, NOTES, expect, insert, make_script
from conformance.breaking_store import BreakingStore
from conformance.files_harness import FilesHarness, read_parquet


class BreakingHarness(FilesHarness):
    """Small files, so that a range has several; the next sink breaks at `break_at`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "parquet", "none", file_rows=4)
        self.break_at: int | None = None
        self.store = BreakingStore(self.place())

    def place(self) -> Store:
        """The store, unbroken."""
        return LocalStore(self.directory)

    def sink(self) -> Sink:
        self.store = BreakingStore(self.place(), self.break_at)
        return FilesSink(self.store, pipeline="suite", file_rows=self._file_rows, format="parquet")


def run(
    harness: BreakingHarness, system: ScriptedSystem, *, flush_every: int, overlap: int = 0, group: int = 1
) -> bool:
    """Deliver the script; False when the store broke."""
    sink = harness.sink()
    try:
        one = Delivery(sink, system, overlap=overlap, group=group)
        events = 0
        while one.step() is not None:
            events += 1
            if events % flush_every == 0:
                one.flush()
        one.flush()
    except SinkUnavailable:
        return False
    finally:
        sink.close()
    return True


def expect_no_change_under_two_names(harness: FilesHarness) -> None:
    """Even to somebody who only lists the directories."""
    for schema in (ITEMS, NOTES):
        seen: Counter[tuple[str, bytes, bytes]] = Counter()
        for path in harness.directory.glob(f"{schema.table}/*"):
            rows = read_parquet(path, schema)
            seen.update((c.lane, c.position, c.version) for c in read_changes(schema.table, rows))
        assert [key for key, count in seen.items() if count > 1] == []


def expect_only_complete_files(harness: FilesHarness) -> None:
    """No file lies about that no record names, and no intent is left."""
    named = {data.path for one in complete_ranges(harness.directory) for data in one.objects}
    there = {str(p.relative_to(harness.directory)) for p in harness.directory.glob("public.*/*")}
    assert there == named
    assert not list(harness.directory.glob("_catchment/intents/*"))


def two_ranges(seed: int, slot: str = "a") -> ScriptedSystem:
    """A short script; flushed after every 8 events it makes two ranges with several objects."""
    items, notes = (RandomChanges(schema, random.Random(seed)) for schema in (ITEMS, NOTES))
    rows = [Rows(maker.schema, maker.changes(5)) for maker in (items, notes, items, notes)]
    first, second = f"{slot}/shard-0", f"{slot}/shard-1"
    return ScriptedSystem(
        _chunk(5, f"{slot}-1"), Transaction(first, *rows[:2]), Quiet(second), Transaction(second, *rows[2:])
    )


def expect_once_after_a_break(harness: BreakingHarness, seed: int, break_at: int) -> None:
    """Break off at this step, then run again."""
    system = two_ranges(seed)
    harness.break_at = break_at
    assert not run(harness, system, flush_every=8)
    expect_no_change_under_two_names(harness)
    harness.break_at = None
    # Flushes come at other places than before: the range that was begun must still end where it did.
    assert run(harness, system, flush_every=1 + break_at % 5, overlap=break_at % 3, group=1 + break_at % 2)
    expect(harness, system, across_lanes=False)
    expect_no_change_under_two_names(harness)


def test_broken_off_at_every_step_every_change_is_there_once(tmp_path: Path) -> None:
    seed = replay_seed()
    whole = BreakingHarness(tmp_path / "whole")
    assert run(whole, two_ranges(seed), flush_every=8)
    assert len(list(complete_ranges(whole.directory))) == 2
    for break_at in range(1, whole.store.steps + 1):
        harness = BreakingHarness(tmp_path / str(break_at))
        expect_once_after_a_break(harness, seed, break_at)
        expect_only_complete_files(harness)


def expect_once_after_many_breaks(harness: BreakingHarness, seed: int, rng: random.Random) -> None:
    """Break off anywhere, eight times, then run to the end."""
    system = ScriptedSystem(*make_script(seed, steps=15))
    for _ in range(8):
        harness.break_at = rng.randrange(1, 60)
        flush_every, overlap, group = rng.randrange(1, 12), rng.randrange(3), rng.randrange(1, 4)
        run(harness, system, flush_every=flush_every, overlap=overlap, group=group)
        expect_no_change_under_two_names(harness)
    harness.break_at = None
    assert run(harness, system, flush_every=7)
    expect(harness, system, across_lanes=False)


def test_broken_off_again_and_again_every_change_is_there_once(tmp_path: Path) -> None:
    seed = replay_seed()
    rng = random.Random(seed)
    for round_ in range(6):
        harness = BreakingHarness(tmp_path / str(round_))
        expect_once_after_many_breaks(harness, seed + round_, rng)
        expect_only_complete_files(harness)


def begin_and_break(harness: BreakingHarness, system: ScriptedSystem) -> None:
    """Flush the whole script as one range, and break with its objects written and its record not."""
    sink = harness.sink()
    one = Delivery(sink, system)
    one.all()
    harness.store.refuses_records = True
    with pytest.raises(SinkUnavailable):
        one.flush()
    sink.close()
    assert list(harness.directory.glob("_catchment/intents/*"))
    assert list(harness.directory.glob("public.*/*"))
    assert list(complete_ranges(harness.directory)) == []


def test_a_batch_that_reaches_over_the_end_of_a_begun_range_is_divided_there(tmp_path: Path) -> None:
    """A source that catches up joins transactions: their rows come in one batch, with one boundary."""
    harness = BreakingHarness(tmp_path)
    system = ScriptedSystem(*(insert("lane", ITEMS, n) for n in (1, 2, 3)))
    begin_and_break(harness, system)
    end = system.head()
    system.append(*(insert("lane", ITEMS, n) for n in (4, 5)))
    rows = [c for entry in system.entries() for p in entry.parts for c in read_changes(ITEMS.table, p.records)]  # type: ignore[union-attr]
    batch = make_batch(ITEMS, "lane", [_as_written(c) for c in rows])

    sink = harness.sink()
    assert sink.open() is None
    sink.schema_change(ITEMS)
    sink.write(batch)
    sink.advance(system.head())
    assert sink.flush() == system.head()
    sink.close()
    first, second = complete_ranges(harness.directory)
    assert (first.end, second.start, second.end) == (end, end, system.head())
    assert [sum(data.rows for data in one.objects) for one in (first, second)] == [3, 2]
    expect(harness, system)
    expect_only_complete_files(harness)


def _as_written(change: Change) -> Change:
    return Change(
        change.op,
        after={c.name: (change.after or {})[c.name] for c in ITEMS.columns},
        position=change.position,
        version=change.version,
        transaction=change.transaction,
        committed_at=change.committed_at,
    )


def test_before_the_end_of_a_begun_range_a_flush_returns_what_was_held(tmp_path: Path) -> None:
    harness = BreakingHarness(tmp_path)
    system = ScriptedSystem(insert("lane", ITEMS, 1), insert("lane", ITEMS, 2), Quiet("other"))
    begin_and_break(harness, system)
    sink = harness.sink()
    one = Delivery(sink, system)
    for _ in range(3):
        one.step()
    assert one.flush() is None
    expect_no_change_under_two_names(harness)
    assert list(complete_ranges(harness.directory)) == []
    one.all()
    assert one.flush() == system.head()
    sink.close()
    assert len(list(complete_ranges(harness.directory))) == 1
    expect(harness, system)


def test_a_range_that_was_begun_is_cut_again_to_the_same_names(tmp_path: Path) -> None:
    harness = BreakingHarness(tmp_path)
    seed = replay_seed()
    system = ScriptedSystem(*make_script(seed, steps=12))
    begin_and_break(harness, system)
    (intent,) = tmp_path.glob("_catchment/intents/*")
    said = json.loads(intent.read_text())
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.glob("public.*/*")} == set(said["objects"])
    system.append(*make_script(seed + 1, steps=5)[4:])
    assert run(harness, system, flush_every=3, overlap=2, group=3)
    first = next(complete_ranges(tmp_path))
    assert [data.path for data in first.objects] == said["objects"]
    assert first.end is not None
    assert json.loads(first.end.to_json()) == said["to"]


def test_a_source_that_comes_back_by_another_road_leaves_nothing_of_the_range_that_was_begun(
    tmp_path: Path,
) -> None:
    """Nothing was durable, so the source began anew: other lanes, other chunks, and perhaps other rows."""
    seed = replay_seed()
    whole = BreakingHarness(tmp_path / "whole")
    assert run(whole, two_ranges(seed), flush_every=8)
    tried = 0
    for break_at in range(1, whole.store.steps):
        harness = BreakingHarness(tmp_path / str(break_at))
        harness.break_at = break_at
        assert not run(harness, two_ranges(seed), flush_every=8)
        if list(complete_ranges(harness.directory)) or any(
            b'"done"' in path.read_bytes() for path in harness.directory.glob("_catchment/intents/*")
        ):
            break
        tried += 1
        other = two_ranges(seed + 1, slot="b")
        harness.break_at = 9 + break_at % 20  # and again in the middle of clearing up
        run(harness, other, flush_every=1 + break_at % 5)
        expect_no_change_under_two_names(harness)
        harness.break_at = None
        assert run(harness, other, flush_every=1 + break_at % 7)
        expect(harness, other, across_lanes=False)
        expect_only_complete_files(harness)
    assert tried > 10


def test_a_range_that_an_earlier_version_began_is_cut_again(tmp_path: Path) -> None:
    """Version 0.1 knew neither moments nor writers, and committed by the record for readers alone."""
    harness = BreakingHarness(tmp_path)
    system = ScriptedSystem(insert("lane", ITEMS, *range(6)))
    begin_and_break(harness, system)
    (intent,) = tmp_path.glob("_catchment/intents/*")
    said = json.loads(intent.read_text())
    intent.write_text(json.dumps({name: said[name] for name in ("range", "attempt", "from", "to", "objects")}))
    assert run(harness, system, flush_every=1)
    (only,) = complete_ranges(tmp_path)
    assert [data.path for data in only.objects] == said["objects"]
    expect(harness, system)
    expect_only_complete_files(harness)


def test_an_idle_source_that_began_anew_is_not_held_back(tmp_path: Path) -> None:
    harness = BreakingHarness(tmp_path)
    begin_and_break(harness, ScriptedSystem(insert("old/slot", ITEMS, 1)))
    anew = ScriptedSystem(Quiet("new/slot"))
    assert run(harness, anew, flush_every=1)
    sink = harness.sink()
    assert sink.open() == anew.head()
    sink.close()
    expect_only_complete_files(harness)


def test_a_lane_that_never_comes_back_does_not_hold_the_others_back_for_ever(tmp_path: Path) -> None:
    harness = BreakingHarness(tmp_path)
    begin_and_break(harness, ScriptedSystem(insert("here", ITEMS, 1), insert("gone", ITEMS, 2)))
    left = ScriptedSystem(insert("here", ITEMS, 1), *(insert("here", NOTES, n) for n in range(MOST_WAITS + 2)))
    assert run(harness, left, flush_every=1)
    expect(harness, left)
    expect_only_complete_files(harness)


@pytest.mark.parametrize("rows_between", [None, 1, 11])
@pytest.mark.parametrize("rows_again", [0, 2, 4, 11])
def test_a_chunk_read_again_with_other_rows_leaves_no_file_of_an_earlier_reading(
    tmp_path: Path, rows_again: int, rows_between: int | None
) -> None:
    """After a crash a chunk is read from a new snapshot: it may have more rows, fewer, or other tables'."""
    harness = BreakingHarness(tmp_path)
    begin_and_break(harness, ScriptedSystem(_chunk(6), _other_chunk(2)))
    if rows_between is not None:
        begin_and_break(harness, ScriptedSystem(_chunk(rows_between), _other_chunk(8)))
    steps = [_chunk(rows_again)] if rows_again else []
    again = ScriptedSystem(*steps, _other_chunk(9), insert("lane", ITEMS, 100))
    final = Progress({}, {str(ITEMS.table): frozenset({"*"}), str(NOTES.table): frozenset({"*"})})
    sink = harness.sink()
    one = Delivery(sink, again)
    one.all()
    # What the source says of an empty chunk: nothing but that it is finished.
    sink.advance(final.join(again.head()))
    one.flush(acknowledge=False)
    sink.close()
    expect(harness, again)
    expect_only_complete_files(harness)
    assert not (tmp_path / "_catchment" / "scratch").exists()


def _chunk(rows: int, name: str = "a") -> Chunk:
    changes = [Change(Operation.READ, after={**_empty_item(), "id": n}) for n in range(rows)]
    return Chunk("lane", name, Rows(ITEMS, changes), last=True)


def _other_chunk(rows: int) -> Chunk:
    changes = [Change(Operation.READ, after={"id": n, "body": None}) for n in range(rows)]
    return Chunk("lane", "a", Rows(NOTES, changes), last=True)


def _empty_item() -> dict[str, object]:
    return {c.name: None for c in ITEMS.columns}


CHILD = """
import sys
from pathlib import Path
from catchment.sinks.files.sink import MOST_WAITS, FilesSink
from catchment.sinks.files.store import LocalStore, Store
from catchment.testing.delivery import Delivery
from catchment.testing.scripted import ScriptedSystem
from catchment.testing.sinks import make_script

directory, seed, flush_every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sink = FilesSink(LocalStore(directory), pipeline="suite", format="parquet", file_rows=4)
one = Delivery(sink, ScriptedSystem(*make_script(seed, steps=12)), overlap=1)
events = 0
while one.step() is not None:
    events += 1
    if events % flush_every == 0:
        one.flush()
one.flush()
sink.close()
"""


@pytest.mark.parametrize("failpoint", ["data_file_written", "before_commit", "after_commit"])
def test_killed_at_a_failpoint_every_change_is_there_once(tmp_path: Path, failpoint: str) -> None:
    seed = replay_seed() % 2**31
    system = ScriptedSystem(*make_script(seed, steps=12))
    harness = BreakingHarness(tmp_path)
    for count, flush_every in ((1, 6), (2, 11), (4, 5)):
        killed = _child(tmp_path, seed, flush_every, f"{failpoint}:{count}")
        assert killed in (0, -signal.SIGKILL)
        assert count > 1 or killed == -signal.SIGKILL
        expect_no_change_under_two_names(harness)
    assert _child(tmp_path, seed, 4, "") == 0
    expect(harness, system, across_lanes=False)
    expect_only_complete_files(harness)


def _child(directory: Path, seed: int, flush_every: int, failpoint: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(directory), str(seed), str(flush_every)],
        env={"CATCHMENT_FAILPOINT": failpoint},
        check=False,
        timeout=120,
    ).returncode


STEP = re.compile(r"(?P<call>openat|fsync|rename)\((?P<arguments>.*)\)\s+= (?P<result>\d+)")


def steps_in(trace: str, directory: Path) -> Iterator[tuple[str, str]]:
    """What was done under the directory: ("fsync", path), ("rename", path of the new name)."""
    paths: dict[str, str] = {}
    for line in trace.splitlines():
        found = STEP.search(line)
        if found is None:
            continue
        quoted = [name.removeprefix(f"{directory}/") for name in re.findall(r'"([^"]*)"', found["arguments"])]
        if found["call"] == "openat":
            paths[found["result"]] = quoted[0]
        elif found["call"] == "fsync":
            yield "fsync", paths[found["arguments"]]
        else:
            yield "rename", quoted[-1]
            yield "from", quoted[0]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_everything_is_synced_before_the_next_step_builds_on_it(tmp_path: Path) -> None:
    """Intent, objects, record: each is fsynced, renamed, and its directory fsynced, before the next begins."""
    trace, out = tmp_path / "trace", tmp_path / "out"
    command = ["strace", "-f", "-qq", "-s", "1000", "-e", "trace=openat,fsync,rename", "-o", str(trace)]
    child = [sys.executable, "-c", CHILD, str(out), "7", "1000000"]
    subprocess.run([*command, *child], check=True, timeout=120)
    steps = list(steps_in(trace.read_text(), out))
    renames = [index for index, (call, _) in enumerate(steps) if call == "rename"]
    kinds, since = [], 0
    for index in renames:
        target, temporary = steps[index][1], steps[index + 1][1]
        assert ("fsync", temporary) in steps[since:index], f"{target} was named before its content was safe"
        parent = str(Path(target).parent)
        assert steps[index + 2] == ("fsync", parent), f"{target} was built on before its name was safe"
        since = index
        kinds.append("data" if target.startswith("public.") else parent)
    assert kinds[0] == "_catchment", "the owner comes first"
    assert kinds[1] == "_catchment/intents"
    assert set(kinds[2:-2]) == {"data"}
    assert kinds[-2] == "_catchment/intents", "the commit comes after all of them"
    assert kinds[-1] == "_catchment/done"
