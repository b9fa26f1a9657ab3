"""Rollback, resume and rebuild of silver: any state that was can be had again, and the way back ends at the truth."""

from __future__ import annotations

import datetime
import os
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from catchment.errors import ConfigError, Reopen, SinkRefused
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig
from catchment.lakehouse.maintenance import service
from catchment.lakehouse.properties import BRONZE_SINCE, PINNED
from catchment.lakehouse.reading.connection import connect_lake
from catchment.lakehouse.recovery import tasks
from catchment.lakehouse.recovery.rollback import Target, held_at, was_at_source
from catchment.lakehouse.recovery.tasks import PipelineLake, perform
from catchment.lakehouse.silver import key_index
from catchment.lakehouse.silver.table import UNRESOLVED_PROPERTY
from catchment.lakehouse.table import Change, LakeTable
from catchment.progress import Progress
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from catchment.testing.lake import silver_differences
from pipelines.overtaking import SCHEMA, Overtaking, write
from pipelines.rest_catalog import rest_catalog
from seeds import first_seed

RULES = """\
tables:
  items:
    - {type: range, name: not_too_large, column: amount, max: 5, severity: quarantine}
"""
Rows = list[tuple[str, str]]


@dataclass
class Lake:
    """A lake that a sink fills from a made-up source, and what silver was at each of its snapshots."""

    directory: Path
    source: Overtaking
    rules: bool = False
    history: bool = False
    rest: str | None = None
    progress: Progress = field(default_factory=Progress)
    was: dict[int, Rows] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rules:
            (self.directory / "quality.yaml").write_text(RULES)
        where = CatalogConfig(type="rest", uri=self.rest) if self.rest else LakehouseConfig().catalog
        self.config = LakehouseConfig(
            catalog=where,
            quality=Path("quality.yaml") if self.rules else None,
            history=["items"] if self.history else [],
        )
        self.catalog = load_catalog(self.config.catalog, self.directory)

    def capture(self, actions: int, *, whole: bool = False) -> None:
        """Changes at the source, delivered and flushed in some order."""
        sink = IcebergSink(IcebergSinkConfig(), self.config, "test", self.directory)
        self.progress = sink.open() or Progress()
        with closing(sink):
            for _ in range(actions):
                for _ in range(self.source.chance.randint(1, 8)):
                    self.source.act()
                self._deliver(sink, all_of_it=False)
            if whole:
                self.source.finish()
                self._deliver(sink, all_of_it=True)

    def _deliver(self, sink: IcebergSink, *, all_of_it: bool) -> None:
        for batch, reached in self.source.deliver(self.progress):
            write(sink, batch, reached)
            self.progress = reached
            if not all_of_it and self.source.chance.random() < 0.3:
                break
        sink.flush()
        self.remember()

    def remember(self) -> None:
        if self.catalog.table_exists(("silver", "items")) and self.table().metadata.current_snapshot_id is not None:
            self.was[self.snapshot] = self.rows()

    @property
    def snapshot(self) -> int:
        current = self.table().metadata.current_snapshot_id
        assert current is not None
        return current

    def table(self, name: str = "items") -> LakeTable:
        return LakeTable.load(self.catalog, ("silver", name))

    @property
    def pinned(self) -> bool:
        return bool(self.table().metadata.properties.get(PINNED))

    def rows(self) -> Rows:
        """What plain PyIceberg reads: (table, row) of silver and its quarantine, sorted."""
        found = []
        for name in ("items", "items_quarantine"):
            if self.catalog.table_exists(("silver", name)):
                read = self.catalog.load_table(("silver", name)).scan().to_arrow().to_pylist()
                found += [(name, str({column: row[column] for column in sorted(row)})) for row in read]
        return sorted(found)

    def do(self, kind: str, **arguments: Any) -> dict[str, Any]:
        lake = PipelineLake("test", self.config, self.directory)
        return perform(lake, kind, {"table": "silver.items", **arguments})

    def do_while_it_runs(self, kind: str, **arguments: Any) -> dict[str, Any]:
        """The same, while a sink has the tables open: it is told, and gives up what it had in memory."""
        sink = IcebergSink(IcebergSinkConfig(), self.config, "test", self.directory)
        self.progress = sink.open() or Progress()
        with closing(sink):
            for _ in range(3):
                self.source.act()
            self._deliver(sink, all_of_it=True)
            done = self.do(kind, **arguments)
            with pytest.raises(Reopen):
                sink.flush()
        return done

    def expect_the_source(self, *, cut: bool = False) -> None:
        """Silver with quarantine is the source, and, unless bronze was cut, what `current` says."""
        names = [column.name for column in SCHEMA.columns]
        found = []
        for table in ("items", "items_quarantine"):
            if self.catalog.table_exists(("silver", table)):
                for row in self.catalog.load_table(("silver", table)).scan().to_arrow().to_pylist():
                    if row["born"] is not None:
                        row["born"] = (row["born"] - datetime.date(1970, 1, 1)).days
                    kept = {name: row[name] for name in names}
                    kept["_unrepresentable"] = dict(row["_unrepresentable"]) if row["_unrepresentable"] else None
                    found.append(kept)
        found.sort(key=lambda row: str([row[name] for name in SCHEMA.key]))
        assert found == self.source.expected()
        assert cut or not silver_differences(self.config, self.directory)["items"]

    def rollable(self) -> list[int]:
        """Snapshots that a rollback takes."""
        table, bronze = self.table(), LakeTable.load(self.catalog, ("bronze", "items"))
        return [
            one.snapshot_id
            for one in table.metadata.snapshots
            if one.snapshot_id in self.was
            and (held := held_at(table, one)) is not None
            and was_at_source(bronze, table, Target(one, held))
        ]


def seeds(rounds: int) -> list[int]:
    first = first_seed()
    print(f"replay with CATCHMENT_SEED={first}")
    return list(range(first, first + int(os.environ.get("CATCHMENT_ROUNDS", str(rounds)))))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path, Overtaking(7, chunks=3), rules=True)
    made.capture(4, whole=True)
    made.capture(4, whole=True)
    return made


@pytest.mark.parametrize("rules", [False, True], ids=["plain", "quarantine"])
def test_any_state_comes_back_stays_and_the_resumed_table_is_the_source(tmp_path: Path, rules: bool) -> None:
    for seed in seeds(2):
        directory = tmp_path / str(seed)
        directory.mkdir()
        lake = Lake(directory, Overtaking(seed, chunks=seed % 3), rules=rules)
        lake.capture(5, whole=seed % 2 == 0)
        while len(lake.rollable()) < 2:
            lake.capture(3, whole=True)
        for _ in range(3):
            chosen = lake.source.chance.choice(lake.rollable())
            lake.do("rollback", snapshot=chosen)
            assert lake.pinned
            assert lake.rows() == lake.was[chosen]
            if lake.source.chance.random() < 0.7:
                lake.capture(3, whole=True)
                assert lake.rows() == lake.was[chosen], "a pinned table was changed"
            if lake.source.chance.random() < 0.3:
                other = lake.source.chance.choice(lake.rollable())
                lake.do("rollback", snapshot=other)
                assert lake.rows() == lake.was[other]
            lake.do("resume")
            assert not lake.pinned
            lake.expect_the_source()
            lake.remember()
            lake.capture(3, whole=True)
            lake.expect_the_source()


def test_a_snapshot_that_has_no_rows_settles_what_overtook_it(tmp_path: Path) -> None:
    source = Overtaking(900992, chunks=2)
    lake = Lake(tmp_path, source)
    lake.capture(5, whole=True)
    assert not source.read
    assert lake.table().metadata.properties[UNRESOLVED_PROPERTY] == "false"
    lake.remember()
    assert lake.rollable()
    lake.expect_the_source()


def test_a_rebuilt_table_is_the_source_whatever_it_was(lake: Lake) -> None:
    before = lake.rows()
    _damage(lake)
    assert lake.rows() != before
    done = lake.do("rebuild")
    assert done["from"] == "bronze"
    assert done["rows"] == len(before)
    lake.expect_the_source()
    lake.capture(3, whole=True)
    lake.expect_the_source()


def test_a_rebuild_judges_every_row_by_the_rules_of_now(lake: Lake) -> None:
    quarantined = [row for name, row in lake.rows() if name == "items_quarantine"]
    assert quarantined
    (lake.directory / "quality.yaml").write_text(RULES.replace("max: 5", "max: 100"))
    lake.do("rebuild")
    assert {name for name, _ in lake.rows()} == {"items"}
    lake.expect_the_source()
    (lake.directory / "quality.yaml").write_text(RULES)
    lake.do("rebuild")
    assert [row for name, row in lake.rows() if name == "items_quarantine"]
    lake.expect_the_source()
    lake.capture(3, whole=True)
    lake.expect_the_source()


def test_where_bronze_was_cut_a_rebuild_begins_with_a_snapshot_that_it_follows(lake: Lake) -> None:
    truth = lake.rows()
    # As if retention had taken away all that was committed in the first second of 1970.
    table = LakeTable.load(lake.catalog, ("bronze", "items"))
    lake.catalog.load_table(("bronze", "items")).transaction().set_properties(
        {BRONZE_SINCE: "1970-01-01T00:00:01+00:00"}
    ).commit_transaction()
    assert table.metadata.current_snapshot() is not None
    import catchment.lakehouse.recovery.rollback as rollback_module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollback_module, "CLOCK_MICROSECONDS", 0)
        done = lake.do("rebuild")
    assert done["from"] == "snapshot"
    assert done["bronze_since"] == "1970-01-01T00:00:01+00:00"
    assert lake.rows() == truth
    lake.capture(3, whole=True)
    lake.expect_the_source(cut=True)
    lake.catalog.load_table(("bronze", "items")).transaction().set_properties(
        {BRONZE_SINCE: "2100-01-01T00:00:00+00:00"}
    ).commit_transaction()
    with pytest.raises(SinkRefused, match="no kept snapshot of silver is from a time after which bronze is whole"):
        lake.do("rebuild")
    with pytest.raises(SinkRefused, match=r"was cut at 2100-01-01.* could not be resumed"):
        lake.do("rollback", snapshot=lake.rollable()[0])


def test_what_cannot_be_set_back_says_why(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="bronze is what was captured"):
        lake.do("rollback", table="bronze.items", snapshot=1)
    with pytest.raises(ConfigError, match="the next refresh would make it again"):
        lake.do("rollback", table="gold.sales", snapshot=1)
    with pytest.raises(ConfigError, match=r"There is no table silver.nothing in the lake"):
        lake.do("rollback", table="silver.nothing", snapshot=1)
    with pytest.raises(ConfigError, match=r"silver.items_quarantine is no silver table with current rows"):
        lake.do("rollback", table="silver.items_quarantine", snapshot=1)
    with pytest.raises(ConfigError, match=r"silver.items has no snapshot 1 any more, or never had"):
        lake.do("rollback", snapshot=1)
    with pytest.raises(ConfigError, match=r"No snapshot of silver.items from 2001-01-01"):
        lake.do("rollback", to="2001-01-01")
    with pytest.raises(ConfigError, match=r"silver.items is not pinned"):
        lake.do("resume")
    lake.do("rollback", table="public.items", snapshot=lake.rollable()[-2])
    with pytest.raises(SinkRefused, match="is pinned by a rollback"):
        lake.do("rebuild")


def test_a_state_from_before_the_first_copy_was_whole_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path, Overtaking(11, chunks=6))
    while not lake.was:
        lake.capture(1)
    assert lake.source.read or lake.source._unread
    unfinished = lake.snapshot
    lake.capture(2, whole=True)
    with pytest.raises(SinkRefused, match="the first copy of the source's table was not finished"):
        lake.do("rollback", snapshot=unfinished)
    assert not lake.pinned


def test_a_time_takes_the_last_commit_before_it(lake: Lake) -> None:
    table = lake.table()
    chosen = next(one for one in table.metadata.snapshots if one.snapshot_id == lake.rollable()[-2])
    at = datetime.datetime.fromtimestamp(chosen.timestamp_ms / 1000, datetime.UTC)
    done = lake.do("rollback", to=at.isoformat())
    assert done["snapshot"] == chosen.snapshot_id
    assert lake.rows() == lake.was[chosen.snapshot_id]


def _damage(lake: Lake) -> None:
    """Take the newest data file out of silver, as no writer of ours would."""
    with closing(PipelineLake("test", lake.config, lake.directory).open_writer()) as writer:
        table = writer.existing(("silver", "items"))
        assert table is not None
        gone = {entry.data_file.file_path for entry in table.manifests.data()[1:]}
        properties = dict(table.metadata.properties)
        writer.commit([table.draft(Change(removed=gone, drops=True, properties=properties))])


def test_history_goes_on_over_a_rollback_as_if_there_had_been_none(tmp_path: Path) -> None:
    """What came while the table was pinned is in it after resuming; what is in it twice is shown once."""
    for seed in seeds(2):
        told = []
        for rolled_back in (False, True):
            directory = tmp_path / f"{seed}-{rolled_back}"
            directory.mkdir()
            lake = Lake(directory, Overtaking(seed, chunks=0), history=True)
            lake.capture(4, whole=True)
            if rolled_back:
                lake.do("rollback", snapshot=lake.rollable()[1])
            lake.capture(3, whole=True)
            if rolled_back:
                lake.do("resume")
            lake.capture(2, whole=True)
            lake.expect_the_source()
            with connect_lake(lake.config, directory) as shown:
                found = shown.execute("SELECT * FROM silver.items_history ORDER BY ALL").fetchall()
                assert found
                told.append(found)
        assert told[0] == told[1]


def test_it_is_the_same_with_a_catalog_that_commits_one_table_at_a_time(tmp_path: Path) -> None:
    with rest_catalog(tmp_path / "rest") as server:
        lake = Lake(tmp_path, Overtaking(21, chunks=2), rules=True, rest=server.uri)
        lake.capture(3, whole=True)
        while len(lake.rollable()) < 3:
            lake.capture(3, whole=True)
        chosen = lake.rollable()[1]
        lake.do("rollback", snapshot=chosen)
        assert lake.rows() == lake.was[chosen]
        lake.capture(3, whole=True)
        assert lake.rows() == lake.was[chosen]
        lake.do("resume")
        lake.expect_the_source()
        lake.do("rebuild")
        lake.expect_the_source()
        lake.capture(2, whole=True)
        lake.expect_the_source()


def test_a_running_sink_forgets_where_rows_were_before_the_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that had died live again: an index that had left them out would let their keys be there twice."""
    # Dead rows leave the index when its runs are merged: here at every change.
    monkeypatch.setattr(key_index, "FAN_OUT", 2)
    # Twelve commands: none of them waits long for the other process's next look.
    monkeypatch.setattr(service, "REQUEST_SECONDS", 0.02)
    monkeypatch.setattr(tasks, "POLL_SECONDS", 0.02)
    for seed in seeds(2):
        directory = tmp_path / str(seed)
        directory.mkdir()
        lake = Lake(directory, Overtaking(seed, chunks=0), rules=seed % 2 == 0)
        lake.capture(8, whole=True)
        for _ in range(2):
            lake.do_while_it_runs("rollback", snapshot=lake.rollable()[2])
            lake.do_while_it_runs("resume")
            lake.expect_the_source()
            lake.capture(4, whole=True)
            lake.expect_the_source()
            lake.do_while_it_runs("rebuild")
            lake.capture(2, whole=True)
            lake.expect_the_source()
