"""How far back, and how densely, a table can be read as it was."""

from __future__ import annotations

from pyiceberg.table.snapshots import Snapshot

from catchment.lakehouse.snapshots_kept import HOUR_MS, SnapshotsKept

MINUTE_MS = 60_000


def snapshots(count: int, step_ms: int) -> list[Snapshot]:
    """One every `step_ms`, from the beginning of an hour."""
    return [
        Snapshot.model_validate(
            {
                "snapshot-id": n,
                "sequence-number": n,
                "timestamp-ms": 1_000 * HOUR_MS + n * step_ms,
                "manifest-list": "",
                "schema-id": 0,
            }
        )
        for n in range(count)
    ]


def kept(policy: SnapshotsKept, ours: list[Snapshot], now_ms: int | None = None) -> list[int]:
    gone = {one.snapshot_id for one in policy.expired(ours, now_ms or ours[-1].timestamp_ms)}
    return [one.snapshot_id for one in ours if one.snapshot_id not in gone]


def test_without_hours_the_last_ones_are_kept_whatever_their_age() -> None:
    ours = snapshots(10, HOUR_MS)
    assert kept(SnapshotsKept(3), ours, ours[-1].timestamp_ms + 1_000 * HOUR_MS) == [7, 8, 9]
    assert kept(SnapshotsKept(20), ours) == list(range(10))


def test_before_the_last_ones_the_first_of_each_hour_is_kept() -> None:
    ours = snapshots(200, MINUTE_MS)
    assert kept(SnapshotsKept(5, hours=24), ours) == [0, 60, 120, 180, 195, 196, 197, 198, 199]


def test_applied_commit_by_commit_the_same_ones_are_kept() -> None:
    policy, ours = SnapshotsKept(5, hours=2), snapshots(400, MINUTE_MS)
    held: list[Snapshot] = []
    for one in ours:
        held.append(one)
        gone = policy.expired(held, one.timestamp_ms)
        held = [other for other in held if other not in gone]
    assert [one.snapshot_id for one in held] == kept(policy, ours) == [240, 300, 360, 395, 396, 397, 398, 399]


def test_nothing_older_than_the_hours_is_kept_but_the_current_one() -> None:
    ours = snapshots(10, MINUTE_MS)
    late = ours[-1].timestamp_ms + 3 * HOUR_MS
    assert kept(SnapshotsKept(5, hours=1), ours, late) == [9]
