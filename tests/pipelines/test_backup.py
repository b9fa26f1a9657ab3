"""Backup and restore of the embedded catalog: nothing lost, nothing twice, and nothing done that was not said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from catchment.errors import ConfigError, LeaseHeld, LeaseLost, SinkRefused, SinkUnavailable
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.recovery import catalog_swap
from catchment.lakehouse.recovery.backup import back_up, opened
from catchment.lakehouse.recovery.restore import Mode, Restore, restoring
from catchment.progress import Progress
from catchment.testing.lake import silver_differences
from pipelines import iceberg_writer as writer
from pipelines.lake import run
from waiting import wait_for

TRANSACTIONS = 40
LAKE = LakehouseConfig()
PIPELINE = """\
name: writer
source: {type: postgres, dsn: postgresql://127.0.0.1:1/nowhere}
sinks: [{type: iceberg}]
"""


def write(directory: Path, transactions: int, failpoint: str = "") -> int:
    """Write until there are so many transactions, in a process of its own where it is to be killed; its exit code."""
    if not failpoint:
        writer.main(directory, transactions, None)
        return 0
    done = subprocess.run(
        [sys.executable, writer.__file__, str(directory), str(transactions)],
        env={**os.environ, "CATCHMENT_FAILPOINT": failpoint},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def made(directory: Path) -> Path:
    file = directory / "catalog.backup"
    back_up(LAKE, directory, writer.PIPELINE, file)
    return file


def lose_catalog(directory: Path) -> None:
    for file in (directory / "lake").glob("catalog.db*"):
        file.unlink()


def restored(directory: Path, file: Path, mode: Mode | None = None) -> Restore:
    with restoring(LAKE, directory, writer.PIPELINE, file) as plan:
        chosen = mode or plan.usual_mode
        assert plan.refusal(chosen) is None
        assert chosen is not None
        plan.carry_out(chosen, plan.progress(chosen))
        return plan


def held(directory: Path) -> Progress:
    with closing(OpsStore.open(LAKE, directory)) as ops:
        return ops.progress(writer.PIPELINE)["iceberg"]


def expect_everything_once(directory: Path, transactions: int = TRANSACTIONS) -> None:
    for name in ("odd", "even", "both"):
        assert writer.rows(directory, name) == writer.expected(name, transactions), name


def test_a_backup_made_while_a_run_writes_is_one_state_of_the_lake(tmp_path: Path) -> None:
    # Killed inside of a commit it would leave files of what is in no backup: here it is killed after one.
    process = subprocess.Popen(
        [sys.executable, writer.__file__, str(tmp_path), "600"],
        env={**os.environ, "CATCHMENT_FAILPOINT": "after_commit:30"},
    )
    try:
        catalog = tmp_path / "lake/catalog.db"
        wait_for(lambda: catalog.exists() and len(list(tmp_path.glob("lake/warehouse/bronze/both/data/*"))) > 3)
        for _ in range(5):
            made(tmp_path)
        process.wait(200)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    file = made(tmp_path)
    with opened(file) as (manifest, database):
        assert manifest.pipeline == writer.PIPELINE
        assert set(manifest.tables) >= {"bronze.both", "bronze.even", "bronze.odd"}
        assert database.stat().st_size == manifest.bytes
    # It is the whole truth of the moment: put back, the lake goes on where the progress says.
    lose_catalog(tmp_path)
    restored(tmp_path, file)
    done = writer.next_transaction(held(tmp_path))
    assert done > 0
    assert writer.rows(tmp_path, "both") == writer.expected("both", done)


def test_a_backup_that_is_cut_off_or_changed_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    content = file.read_bytes()
    broken = tmp_path / "broken"
    for damaged in (
        content[:-100],
        content[:300],
        content[: len(content) // 2] + b"xyz" + content[len(content) // 2 + 3 :],
        b"",
        b"something else",
    ):
        broken.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"is not a whole backup|is damaged"), opened(broken):
            pass
    with pytest.raises(ConfigError, match="There is no file"), opened(tmp_path / "nothing"):
        pass


def test_only_an_embedded_catalog_can_be_backed_up(tmp_path: Path) -> None:
    rest = LakehouseConfig(catalog=CatalogConfig(type="rest", uri="http://127.0.0.1:1"))
    with pytest.raises(ConfigError, match=r"type rest\) is not a SQLite file"):
        back_up(rest, tmp_path, "writer", tmp_path / "file")
    with pytest.raises(ConfigError, match="There is no catalog"):
        back_up(LAKE, tmp_path, "writer", tmp_path / "file")


def test_nothing_is_restored_while_the_pipeline_runs(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    sink = writer.open_sink(tmp_path)
    sink.open()
    with pytest.raises(LeaseHeld), restoring(LAKE, tmp_path, writer.PIPELINE, file):
        pass
    sink.close()


def test_a_lost_catalog_comes_back_when_nothing_moved_since(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file, before = made(tmp_path), held(tmp_path)
    lose_catalog(tmp_path)
    restored(tmp_path, file)
    assert held(tmp_path) == before
    write(tmp_path, TRANSACTIONS)
    expect_everything_once(tmp_path)


def test_a_lake_that_moved_on_is_left_alone_until_somebody_decides(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    write(tmp_path, 12)
    with restoring(LAKE, tmp_path, writer.PIPELINE, file) as plan:
        assert plan.usual_mode is None
        assert "The lake moved on after the backup was made (" in str(plan.refusal(None))
        assert "--as-it-was" in str(plan.refusal(None))
    assert writer.next_transaction(held(tmp_path)) == 12


def test_as_it_was_sets_tables_and_progress_back_together_and_keeps_the_replaced_catalog(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    write(tmp_path, 12)
    restored(tmp_path, file, Mode.AS_IT_WAS)
    assert writer.next_transaction(held(tmp_path)) == 6
    expect_everything_once(tmp_path, 6)
    (aside,) = (tmp_path / "lake").glob("catalog.db.replaced-*")
    # The replaced one is a catalog like any other.
    lose = tmp_path / "lake/catalog.db"
    shutil.copyfile(aside, lose)
    expect_everything_once(tmp_path, 12)


def test_a_state_whose_snapshots_have_expired_is_not_offered(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    write(tmp_path, 60)
    with restoring(LAKE, tmp_path, writer.PIPELINE, file) as plan:
        refused = str(plan.refusal(Mode.AS_IT_WAS))
        assert "is not whole any more: " in refused
        assert " tables miss files, bronze.both (file://" in refused
        assert "its snapshots have expired" in str(plan.refusal(None))
        with pytest.raises(SinkRefused, match="not whole any more"):
            plan.carry_out(Mode.AS_IT_WAS, plan.progress(Mode.AS_IT_WAS))
    assert writer.next_transaction(held(tmp_path)) == 60


@pytest.mark.parametrize(
    ("failpoint", "times"), [("data_file_written", 3), ("before_commit", 1), ("before_commit", 4), ("after_commit", 3)]
)
def test_a_catalog_lost_in_a_crash_is_found_again_in_the_warehouse(tmp_path: Path, failpoint: str, times: int) -> None:
    write(tmp_path, 4)
    file = made(tmp_path)
    assert write(tmp_path, TRANSACTIONS, f"{failpoint}:{times}") == -signal.SIGKILL
    truth = held(tmp_path)
    lose_catalog(tmp_path)
    plan = restored(tmp_path, file, Mode.NEWEST)
    # The last commit may have been broken off when all of its files were there: then it counts.
    assert held(tmp_path).covers(truth)
    assert all(one.whole for one in plan.outlook)
    assert writer.rows(tmp_path, "both") == writer.expected("both", writer.next_transaction(held(tmp_path)))
    write(tmp_path, TRANSACTIONS)
    expect_everything_once(tmp_path)


@pytest.mark.parametrize("lacks", ["both", "odd"])
def test_a_commit_of_which_some_tables_have_no_files_never_was(tmp_path: Path, lacks: str) -> None:
    """As if the process had been killed between the metadata of one table and of the next."""
    write(tmp_path, 4)
    file = made(tmp_path)
    assert write(tmp_path, TRANSACTIONS, "before_commit:3") == -signal.SIGKILL
    truth = held(tmp_path)
    newest = max((tmp_path / f"lake/warehouse/bronze/{lacks}/metadata").glob("*.metadata.json"))
    newest.unlink()
    lose_catalog(tmp_path)
    restored(tmp_path, file, Mode.NEWEST)
    assert held(tmp_path) == truth
    write(tmp_path, TRANSACTIONS)
    expect_everything_once(tmp_path)


def test_tables_made_after_the_backup_are_found_as_well(tmp_path: Path) -> None:
    with closing(OpsStore.open(LAKE, tmp_path)) as ops:
        ops.next_epoch(writer.PIPELINE, "nobody")
    sink = writer.open_sink(tmp_path)
    sink.open()
    sink.close()
    file = made(tmp_path)
    write(tmp_path, 12)
    truth = held(tmp_path)
    lose_catalog(tmp_path)
    restored(tmp_path, file, Mode.NEWEST)
    assert held(tmp_path) == truth
    write(tmp_path, TRANSACTIONS)
    expect_everything_once(tmp_path)


def test_a_table_whose_last_state_is_damaged_is_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    write(tmp_path, 12)
    lose_catalog(tmp_path)
    data = max((tmp_path / "lake/warehouse/bronze/both/data").iterdir(), key=lambda one: one.stat().st_mtime_ns)
    data.unlink()
    with restoring(LAKE, tmp_path, writer.PIPELINE, file) as plan:
        refused = str(plan.refusal(Mode.NEWEST))
        assert f"The last state of 1 table is not whole: bronze.both (misses file://{data})" in refused
    assert not (tmp_path / "lake/catalog.db").exists()


def test_a_damaged_silver_table_is_left_out_and_made_anew(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    write(tmp_path, 12)
    lose_catalog(tmp_path)
    data = max((tmp_path / "lake/warehouse/silver/both/data").iterdir(), key=lambda one: one.stat().st_mtime_ns)
    data.unlink()
    plan = restored(tmp_path, file, Mode.NEWEST)
    assert plan.left_out(Mode.NEWEST) == [("silver", "both")]
    write(tmp_path, TRANSACTIONS)
    expect_everything_once(tmp_path)
    assert silver_differences(LAKE, tmp_path)["both"] == []


def test_a_writer_from_before_the_restore_cannot_commit_any_more(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    with closing(OpsStore.open(LAKE, tmp_path)) as ops:
        late = ops.next_epoch(writer.PIPELINE, "a machine that sleeps")
    for catalog_is_lost in (False, True):
        if catalog_is_lost:
            lose_catalog(tmp_path)
        restored(tmp_path, file)
        with closing(OpsStore.open(LAKE, tmp_path)) as ops, ops.writing() as connection:
            for epoch in range(1, late + 1):
                with pytest.raises(LeaseLost):
                    ops.check_epoch(connection, writer.PIPELINE, epoch)


def test_a_catalog_that_somebody_reads_is_not_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_swap, "PATIENCE_SECONDS", 0.1)
    write(tmp_path, 6)
    file = made(tmp_path)
    with closing(sqlite3.connect(tmp_path / "lake/catalog.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM iceberg_tables").fetchone()
        with pytest.raises(SinkUnavailable, match=r"has the catalog .* open"):
            restored(tmp_path, file)
    expect_everything_once(tmp_path, 6)
    restored(tmp_path, file)


def test_a_damaged_catalog_is_replaced_and_kept_with_its_log(tmp_path: Path) -> None:
    write(tmp_path, 6)
    file = made(tmp_path)
    catalog = tmp_path / "lake/catalog.db"
    lose_catalog(tmp_path)
    catalog.write_bytes(b"not a database at all, but long enough to look at" * 100)
    (tmp_path / "lake/catalog.db-wal").write_bytes(b"a log of something else")
    restored(tmp_path, file)
    expect_everything_once(tmp_path, 6)
    assert len(list((tmp_path / "lake").glob("catalog.db.replaced-*"))) == 2


def test_people_are_told_what_is_and_what_would_be(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    write(tmp_path, 6)
    pipeline, file = str(tmp_path / "pipeline.yaml"), str(tmp_path / "catalog.backup")
    done = run("backup", pipeline, file)
    assert done.returncode == 0, done.stderr
    assert "catalog.backup: the catalog of " in done.stdout
    write(tmp_path, 12)
    undecided = run("restore", pipeline, file, "--json")
    assert undecided.returncode == 1
    assert "Choose: `--newest`" in undecided.stderr
    assert not json.loads(undecided.stdout)["restored"]
    would = run("restore", pipeline, file, "--as-it-was", "--dry-run")
    assert would.returncode == 0, would.stderr
    assert "would be put in place, as the backup has it" in would.stdout
    assert "Whether the source was told more than the lake holds is not known" in would.stderr
    assert writer.next_transaction(held(tmp_path)) == 12
    did = run("restore", pipeline, file, "--newest", "--json")
    assert did.returncode == 0, did.stderr
    document = json.loads(did.stdout)
    assert document["mode"] == "newest"
    assert document["progress"][0]["positions"] == {writer.LANE: writer.position(12).hex()}
    expect_everything_once(tmp_path, 12)
