"""Progress is a lattice: what sinks both hold, what either has handled, and who covers whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catchment.progress import ALL_CHUNKS, RETIRED, Progress, minimum, resume_point

LANES = st.sampled_from(["slot", "shard-0", "shard-1"])
TABLES = st.sampled_from(["public.orders", "public.users"])
POSITIONS = st.one_of(st.binary(min_size=1, max_size=3), st.integers(0, 9).map(lambda n: b"%040d" % n))
CHUNKS = st.one_of(st.just(ALL_CHUNKS), st.frozensets(st.sampled_from("abcd"), min_size=1, max_size=3))
FACTS = st.frozensets(st.sampled_from(["price=N", "price=S", "size=N"]), min_size=1, max_size=3)
PROGRESS = st.builds(
    Progress,
    st.dictionaries(LANES, POSITIONS, max_size=3),
    st.dictionaries(TABLES, CHUNKS, max_size=2),
    st.dictionaries(TABLES, FACTS, max_size=2),
)


@given(PROGRESS)
def test_joining_or_meeting_oneself_changes_nothing(a: Progress) -> None:
    assert a.join(a) == a
    assert a.meet(a) == a


@given(PROGRESS, PROGRESS)
def test_the_order_of_two_does_not_matter(a: Progress, b: Progress) -> None:
    assert a.join(b) == b.join(a)
    assert a.meet(b) == b.meet(a)


@given(PROGRESS, PROGRESS, PROGRESS)
def test_the_grouping_of_three_does_not_matter(a: Progress, b: Progress, c: Progress) -> None:
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.meet(b).meet(c) == a.meet(b.meet(c))


@given(PROGRESS, PROGRESS)
def test_join_and_meet_absorb_each_other(a: Progress, b: Progress) -> None:
    assert a.join(a.meet(b)) == a
    assert a.meet(a.join(b)) == a


@given(PROGRESS, PROGRESS, PROGRESS)
def test_join_and_meet_distribute(a: Progress, b: Progress, c: Progress) -> None:
    assert a.meet(b.join(c)) == a.meet(b).join(a.meet(c))


@given(PROGRESS, PROGRESS)
def test_covering_is_the_order_of_the_lattice(a: Progress, b: Progress) -> None:
    assert a.covers(b) == (a.join(b) == a)
    assert a.covers(b) == (a.meet(b) == b)
    assert a.join(b).covers(a)
    assert a.covers(a.meet(b))


@given(PROGRESS, PROGRESS)
def test_covering_each_other_is_being_equal(a: Progress, b: Progress) -> None:
    assert (a.covers(b) and b.covers(a)) == (a == b)


@given(PROGRESS, PROGRESS, PROGRESS)
def test_the_meet_is_the_greatest_that_both_cover(a: Progress, b: Progress, c: Progress) -> None:
    assert (a.covers(c) and b.covers(c)) == a.meet(b).covers(c)
    assert (c.covers(a) and c.covers(b)) == c.covers(a.join(b))


@given(PROGRESS)
def test_nothing_is_covered_by_everything(a: Progress) -> None:
    assert a.covers(Progress())
    assert a.join(Progress()) == a
    assert a.meet(Progress()) == Progress()


@given(PROGRESS)
def test_json_brings_it_back_on_one_line(a: Progress) -> None:
    text = a.to_json()
    assert Progress.from_json(text) == a
    assert "\n" not in text


@given(PROGRESS)
def test_json_is_the_same_whatever_order_lanes_were_added_in(a: Progress) -> None:
    other = Progress(
        dict(reversed(list(a.positions.items()))),
        dict(reversed(list(a.chunks.items()))),
        dict(reversed(list(a.facts.items()))),
    )
    assert other.to_json() == a.to_json()


@given(st.lists(PROGRESS, min_size=1, max_size=4))
def test_the_minimum_is_covered_by_every_sink(held: list[Progress]) -> None:
    least = minimum(held)
    assert least is not None
    assert all(one.covers(least) for one in held)


@given(st.lists(PROGRESS, max_size=3), st.integers(0, 3))
def test_a_sink_that_holds_nothing_makes_the_minimum_nothing(held: list[Progress], at: int) -> None:
    assert minimum([*held[:at], None, *held[at:]]) is None


def test_the_minimum_over_no_sinks_is_nothing() -> None:
    assert minimum([]) is None


def test_all_chunks_cover_chunks_of_any_name() -> None:
    done = Progress({}, {"public.orders": ALL_CHUNKS})
    assert done.covers(Progress({}, {"public.orders": frozenset({"anything"})}))
    assert not Progress({}, {"public.orders": frozenset({"a"})}).covers(done)
    assert not done.covers(Progress({}, {"public.users": frozenset({"a"})}))


def test_a_sink_that_is_added_needs_all_snapshots_and_is_told_all_facts() -> None:
    chunks = {"public.a#columns": frozenset({"x=N"}), "public.b": ALL_CHUNKS}
    ahead = Progress({"lane": b"2"}, chunks, {"public.a#columns": frozenset({"x=N"})})
    behind = Progress({"lane": b"1"}, chunks)
    assert resume_point([ahead, None, behind]) == Progress({"lane": b"1"}, {}, ahead.facts)
    assert resume_point([ahead, behind]) == Progress({"lane": b"1"}, chunks, ahead.facts)
    assert resume_point([None, None]) is None


def test_progress_that_was_kept_before_there_were_facts_is_read() -> None:
    text = '{"chunks": {"public.a": ["*"]}, "positions": {"lane": "01"}}'
    assert Progress.from_json(text) == Progress({"lane": b"\x01"}, {"public.a": ALL_CHUNKS})
    assert Progress.from_json(text).to_json() == text


@pytest.mark.parametrize("text", ["", "{}", '{"positions": {}}', '{"positions": {"a": "zz"}, "chunks": {}}', "[1]"])
def test_what_is_no_progress_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Progress.from_json(text)


def test_the_brief_form_says_which_snapshots_are_finished_and_which_begun() -> None:
    facts = {"t": frozenset({"price=N"})}
    whole = Progress({"slot": b"\x01"}, {"t": ALL_CHUNKS, "u": frozenset({"0-10"})}, facts)
    assert whole.brief() == Progress({"slot": b"\x01"}, {"t": ALL_CHUNKS, "u": frozenset()}, facts)
    assert Progress.from_json(whole.brief().to_json()) == whole.brief()


@given(PROGRESS, LANES)
def test_a_retired_lane_is_forgotten_once_it_is_kept_and_for_good(a: Progress, lane: str) -> None:
    said = Progress({**a.positions, lane: RETIRED}, a.chunks, a.facts)
    kept = Progress.from_json(a.join(said).to_json())
    assert lane not in kept.positions
    assert kept.covers(said)
    assert {**a.positions, lane: b""} == {**kept.positions, lane: b""}
    # A sink that goes on from what it kept does not bring it back, whatever the source repeats.
    assert Progress.from_json(kept.join(said).to_json()) == kept
    assert said.covers(a)


@given(PROGRESS, PROGRESS, LANES)
def test_a_lane_that_one_sink_has_retired_is_no_longer_resumed(a: Progress, b: Progress, lane: str) -> None:
    kept = Progress.from_json(a.join(Progress({lane: RETIRED})).to_json())
    assert lane not in kept.meet(b).positions
