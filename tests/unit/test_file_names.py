"""What objects of the files sink are called: the same for the same rows, however they came."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pyarrow as pa
import pytest
from pydantic import ValidationError

from catchment.schema import UTC_MICROSECONDS, TableId
from catchment.sinks.files.config import FilesSinkConfig
from catchment.sinks.files.naming import FirehoseNames, Group, HiveNames, Naming, Place, RangeNames
from catchment.testing.changes import replay_seed

TABLE = TableId("dynamodb", "OrderTable")
HOUR = 3_600_000_000
AT = 1_795_277_838_123_456  # 2026-11-21 16:17:18.123456 UTC
HIVE = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H"}


def rows(times: Sequence[int | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"n": range(len(times)), "_committed_at": pa.array(times, UTC_MICROSECONDS)})


def split(naming: Naming, *batches: pa.RecordBatch) -> dict[Group, list[int]]:
    found: dict[Group, list[int]] = {}
    for batch in batches:
        for group, part in naming.split(TABLE, batch):
            found.setdefault(group, []).extend(part.column("n").to_pylist())
    return found


def test_a_range_and_a_part_make_a_name() -> None:
    place = Place(Group(TABLE), 7, 2, AT)
    assert RangeNames().path(place) == "dynamodb.OrderTable/000000000007-0002"


def test_firehose_calls_an_object_by_its_oldest_change_and_a_uuid_that_comes_again() -> None:
    names = FirehoseNames("gadgets", "gadget-sales-delivery")
    path = names.path(Place(Group(TABLE), 7, 1, AT))
    assert path.startswith("2026/11/21/16/gadget-sales-delivery-1-2026-11-21-16-17-18-")
    assert path == FirehoseNames("gadgets", "gadget-sales-delivery").path(Place(Group(TABLE), 7, 1, AT))
    others = {
        names.path(Place(Group(TABLE), 7, 2, AT)),
        names.path(Place(Group(TABLE), 8, 1, AT)),
        names.path(Place(Group(TableId("dynamodb", "Other")), 7, 1, AT)),
        FirehoseNames("other", "gadget-sales-delivery").path(Place(Group(TABLE), 7, 1, AT)),
    }
    assert len(others | {path}) == 5


def test_a_hive_partition_has_the_rows_of_its_hour_in_their_order() -> None:
    naming = HiveNames(HIVE)
    found = split(naming, rows([AT, AT + HOUR, AT + 1, AT + 2 * HOUR, AT + HOUR]))
    assert {naming.path(Place(group, 7, 1, AT)): numbers for group, numbers in found.items()} == {
        "dynamodb.OrderTable/year=2026/month=11/day=21/hour=16/000000000007-0001": [0, 2],
        "dynamodb.OrderTable/year=2026/month=11/day=21/hour=17/000000000007-0001": [1, 4],
        "dynamodb.OrderTable/year=2026/month=11/day=21/hour=18/000000000007-0001": [3],
    }


def test_partitions_may_be_days() -> None:
    naming = HiveNames({"dt": "%Y-%m-%d"})
    found = split(naming, rows([AT, AT + HOUR, AT + 24 * HOUR]))
    assert [group.partition for group in found] == ["dt=2026-11-21", "dt=2026-11-22"]
    assert list(found.values()) == [[0, 1], [2]]


def test_a_change_without_a_time_stands_at_the_moment_of_the_range_under_a_name_of_its_own() -> None:
    naming = HiveNames({"dt": "%Y-%m-%d"})
    found = split(naming, rows([None, AT, None]))
    assert {naming.path(Place(group, 1, 1, AT)): numbers for group, numbers in found.items()} == {
        "dynamodb.OrderTable/dt=2026-11-21/000000000001-0001-untimed": [0, 2],
        "dynamodb.OrderTable/dt=2026-11-21/000000000001-0001": [1],
    }


def test_how_rows_came_in_batches_changes_nothing() -> None:
    rng = random.Random(replay_seed())
    naming = HiveNames(HIVE)
    times = [rng.choice([None, AT + rng.randrange(-3, 4) * HOUR + rng.randrange(HOUR)]) for _ in range(200)]
    whole = rows(times)
    cuts = sorted(rng.sample(range(1, 200), 7))
    parts = [whole.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, 200], strict=True)]
    assert split(naming, *parts) == split(naming, whole)


@pytest.mark.parametrize(
    "partitions", [{}, {"Day": "%d"}, {"minute": "%M"}, {"dt": "no form"}, {"dt": "%Y/%m"}, {"a/b": "%Y"}]
)
def test_partitions_that_cannot_be_made_are_refused(partitions: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        FilesSinkConfig(type="files", path="out", naming="hive", partitions=partitions)
