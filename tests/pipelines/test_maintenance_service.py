"""Maintenance beside a running pipeline, by its command, and on a catalog without transactions."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from catchment.cli.maintain import maintain as command
from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import load_catalog
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig, MaintenanceConfig
from catchment.lakehouse.maintenance import plan
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.lakehouse.maintenance.service import LOOKS, PATIENCE, MaintenanceService, _Load, _Log, _Pace
from catchment.lakehouse.maintenance.work import Kind, Work
from catchment.lakehouse.reading.connection import connect_lake
from catchment.lakehouse.recovery.tasks import PipelineLake, Stopped, perform
from catchment.lakehouse.writer import LakeWriter
from catchment.progress import Progress
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from catchment.testing.lake import silver_differences
from pipelines import maintained_writer as workload
from pipelines.overtaking import SIMPLE, write
from pipelines.rest_catalog import rest_catalog
from pipelines.test_silver import rows
from waiting import wait_for

SEED = 4


@pytest.fixture(autouse=True)
def few_files_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have no time for many flushes."""
    monkeypatch.setattr(plan, "FAN_IN_SMALLEST", 3)
    monkeypatch.setattr(plan, "FAN_IN", 3)
    monkeypatch.setattr(plan, "NOTICED_DEAD_ROWS", 10)


def lakehouse(*, enabled: bool, **options: Any) -> LakehouseConfig:
    maintenance = MaintenanceConfig(enabled=enabled, interval_seconds=0.05, budget_percent=100)
    return LakehouseConfig(maintenance=maintenance, **options)


def open_sink(directory: Path, config: LakehouseConfig) -> IcebergSink:
    sink = IcebergSink(IcebergSinkConfig(), config, "maintained", directory)
    sink.open()
    return sink


def deliver(sink: IcebergSink, flushes: int | None = None) -> None:
    """Write the workload, or so many batches of it, a flush each."""
    for number, (batch, reached) in enumerate(workload.source(SEED).deliver(Progress())):
        if number == flushes:
            return
        write(sink, batch, reached)
        sink.flush()


def data_files(config: LakehouseConfig, directory: Path) -> dict[str, int]:
    catalog = load_catalog(config.catalog, directory)
    try:
        found = {}
        for layer in ("bronze", "silver"):
            snapshot = catalog.load_table((layer, "items")).current_snapshot()
            assert snapshot is not None
            assert snapshot.summary is not None
            found[layer] = int(snapshot.summary["total-data-files"] or 0)
        return found
    finally:
        catalog.close()


def test_a_running_pipeline_maintains_its_tables(tmp_path: Path) -> None:
    config = lakehouse(enabled=True)
    sink = open_sink(tmp_path, config)
    try:
        deliver(sink)
        wait_for(lambda: max(data_files(config, tmp_path).values()) < 6, what="few files")
    finally:
        sink.close()
    with connect_lake(config, tmp_path) as connection:
        kept = connection.execute('SELECT "table", sum(files_before) FROM ops.maintenance GROUP BY ALL').fetchall()
    assert dict(kept)["bronze.items"] > 5
    assert silver_differences(config, tmp_path) == {"items": []}
    catalog = load_catalog(config.catalog, tmp_path)
    assert rows(catalog, SIMPLE) == workload.source(SEED).expected()
    catalog.close()


def test_the_command_asks_the_process_that_runs_the_pipeline(tmp_path: Path) -> None:
    config = lakehouse(enabled=False)
    sink = open_sink(tmp_path, config)
    deliver(sink, 12)
    assert max(data_files(config, tmp_path).values()) > 6
    lake = PipelineLake("maintained", config, tmp_path)
    due = perform(lake, "maintain", {"table": None, "dry_run": True})["due"]
    assert {one["table"] for one in due} == {"bronze.items", "silver.items"}
    assert max(data_files(config, tmp_path).values()) > 6
    notes: list[str] = []
    outcome = perform(lake, "maintain", {"table": "silver.items", "dry_run": False}, notes.append)
    assert {one["table"] for one in outcome["done"]} == {"silver.items"}
    assert outcome["tables"]["silver.items"]["files"] < 6 < data_files(config, tmp_path)["bronze"]
    # The sink goes on with what the maintenance thread left.
    more = list(workload.source(SEED).deliver(Progress()))[12:16]
    for batch, reached in more:
        write(sink, batch, reached)
        sink.flush()
    sink.close()
    assert silver_differences(config, tmp_path) == {"items": []}


def test_the_command_works_when_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(
        "name: maintained\nsource: {type: postgres, dsn: postgresql://127.0.0.1/none}\nsinks: [{type: iceberg}]\n"
    )
    sink = open_sink(tmp_path, lakehouse(enabled=False))
    deliver(sink, 12)
    sink.close()
    command(pipeline, dry_run=True)
    assert "silver.items: compaction is due" in capsys.readouterr().out
    command(pipeline, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert {one["kind"] for one in said["done"]} >= {"compaction"}
    assert said["tables"]["bronze.items"]["files"] < 6
    command(pipeline)
    assert "Nothing is due." in capsys.readouterr().out
    assert silver_differences(LakehouseConfig(), tmp_path) == {"items": []}
    # The key index knows the new files.
    sink = open_sink(tmp_path, lakehouse(enabled=False))
    for batch, reached in list(workload.source(SEED).deliver(Progress()))[12:]:
        write(sink, batch, reached)
        sink.flush()
    sink.close()
    assert silver_differences(LakehouseConfig(), tmp_path) == {"items": []}


def test_the_command_says_why_a_small_table_keeps_its_dead_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, usual in (("FAN_IN_SMALLEST", 32), ("FAN_IN", 32), ("NOTICED_DEAD_ROWS", 20_000)):
        monkeypatch.setattr(plan, name, usual)
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(
        "name: maintained\nsource: {type: postgres, dsn: postgresql://127.0.0.1/none}\nsinks: [{type: iceberg}]\n"
    )
    sink = open_sink(tmp_path, lakehouse(enabled=False))
    deliver(sink, 16)
    sink.close()
    command(pipeline)
    said = " ".join(capsys.readouterr().out.split())
    assert "Nothing is due." in said
    assert "silver.items keeps its dead rows until there are 20,000 of them and they are 12 % of its rows" in said
    assert "bronze.items keeps" not in said
    command(pipeline, as_json=True)
    assert json.loads(capsys.readouterr().out)["tables"]["silver.items"]["dead_rows"] > 0


def test_history_keeps_its_rows_and_their_order(tmp_path: Path) -> None:
    config = lakehouse(enabled=False, history=["items"])
    sink = open_sink(tmp_path, config)
    deliver(sink, 12)
    sink.close()

    def history() -> list[tuple[Any, ...]]:
        with connect_lake(config, tmp_path) as connection:
            return connection.execute("FROM silver.items_history ORDER BY ALL").fetchall()

    before = history()
    lake = PipelineLake("maintained", config, tmp_path)
    outcome = perform(lake, "maintain", {"table": "silver.items_versions", "dry_run": False})
    assert [one["kind"] for one in outcome["done"]] == ["compaction"]
    assert history() == before
    assert len(before) > 50


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = lakehouse(enabled=False)
    sink = open_sink(tmp_path, config)
    deliver(sink, 1)
    sink.close()
    with pytest.raises(Exception, match=r"no table nothing .* There are: bronze\.items, silver\.items"):
        perform(PipelineLake("maintained", config, tmp_path), "maintain", {"table": "nothing", "dry_run": False})


@pytest.fixture
def rest(tmp_path: Path) -> Iterator[LakehouseConfig]:
    with rest_catalog(tmp_path / "rest") as server:
        yield lakehouse(enabled=False, catalog=CatalogConfig(type="rest", uri=server.uri))


def test_tables_of_a_catalog_without_transactions_are_maintained(tmp_path: Path, rest: LakehouseConfig) -> None:
    sink = open_sink(tmp_path, rest)
    deliver(sink, 12)
    assert sink._writer is not None
    assert sink._layer is not None
    maintainer = Maintainer(sink._writer, rest.maintenance, sink._layer.keyed)
    done = []
    while (work := maintainer.step(lambda: None)) is not None:
        done.append(work)
    assert {one.table for one in done} == {"bronze.items", "silver.items"}
    for batch, reached in list(workload.source(SEED).deliver(Progress()))[12:16]:
        write(sink, batch, reached)
        sink.flush()
    sink.close()
    assert silver_differences(rest, tmp_path) == {"items": []}


def test_stopping_breaks_work_off_and_leaves_no_file(tmp_path: Path) -> None:
    config = lakehouse(enabled=False)
    sink = open_sink(tmp_path, config)
    deliver(sink, 12)
    sink.close()
    files = sorted(path for path in (tmp_path / "lake/warehouse").rglob("*") if path.is_file())
    writer = LakeWriter.open(config, "maintained", tmp_path)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise Stopped

    with pytest.raises(Stopped):
        Maintainer(writer, config.maintenance, lambda _: None).step(check)
    writer.close()
    assert sorted(path for path in (tmp_path / "lake/warehouse").rglob("*") if path.is_file()) == files


def test_a_failure_is_kept_and_capture_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lakehouse(enabled=False)
    sink = open_sink(tmp_path, config)
    deliver(sink, 16)
    assert sink._writer is not None

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a value of a row")

    monkeypatch.setattr(Maintainer, "_compaction", fail)
    enabled = lakehouse(enabled=True).maintenance
    service = MaintenanceService(sink._writer, enabled, lambda _: None)
    service.start()
    try:
        wait_for(lambda: service.status.error is not None, what="the failure")
        assert service.status.error == "ZeroDivisionError while the lake was maintained"
        monkeypatch.undo()
        monkeypatch.setattr(plan, "FAN_IN_SMALLEST", 3)
        wait_for(lambda: service.status.pieces > 0, what="maintenance after the failure")
        assert service.status.error is None
    finally:
        service.stop()
        sink.close()


def test_what_was_done_is_told_later_when_it_cannot_be_kept_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_sink(tmp_path, lakehouse(enabled=False))
    assert sink._writer is not None
    told = _Log(sink._writer)
    told.add(Work("bronze.items", Kind.COMPACTION, files_before=3, files_after=1))
    with monkeypatch.context() as broken, pytest.raises(SinkUnavailable):
        broken.setattr(sink._writer.ops, "record_maintenance", _refuse)
        told.tell(now=True)
    assert told.tell(now=True)
    assert not told.tell(now=True)
    assert sink._writer.ops.tables()["maintenance"].num_rows == 1
    sink.close()


def _refuse(*_: object) -> None:
    raise SinkUnavailable("the disk is full")


def test_work_gives_way_to_a_burst_of_changes_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Load, "busy", lambda _: True)
    sink = open_sink(tmp_path, lakehouse(enabled=False))
    deliver(sink, 16)
    assert sink._writer is not None
    interval = 0.4
    enabled = lakehouse(enabled=True).maintenance.model_copy(update={"interval_seconds": interval})
    service = MaintenanceService(sink._writer, enabled, lambda _: None)
    started = time.time()
    service.start()
    try:
        wait_for(lambda: service.status.pieces > 0, what="maintenance")
        assert service.status.last_at is not None
        assert service.status.last_at - started >= (1 + PATIENCE) * interval
    finally:
        service.stop()
        sink.close()


def test_how_busy_the_process_is_counts_over_several_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    at, worked = 0.0, 0.0
    monkeypatch.setattr("catchment.lakehouse.maintenance.service.time.monotonic", lambda: at)
    monkeypatch.setattr("catchment.lakehouse.maintenance.service.time.process_time", lambda: worked)
    load = _Load()

    def look(cores: float) -> bool:
        nonlocal at, worked
        at, worked = at + 0.5, worked + 0.5 * cores
        return load.busy()

    assert [look(cores) for cores in (1.2, 0.0, 0.0)] == [True, True, False]
    assert [look(0.05) for _ in range(LOOKS)][-1] is False
    assert [look(cores) for cores in (1.3, 0.9, 0.0, 0.0)] == [False, True, True, True]


def test_work_rests_for_the_share_of_time_that_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    stopping = threading.Event()
    monkeypatch.setattr(stopping, "wait", lambda seconds: rests.append(seconds))
    pace = _Pace(20.0, stopping)
    worked = 0.0
    monkeypatch.setattr("catchment.lakehouse.maintenance.service.time.thread_time", lambda: worked)
    for strain, rest in ((1.0, 4.0), (2.0, 1.5), (9.0, 2 / 3)):
        pace.begin(strain)
        worked += 1.0
        pace.check()
        assert rests.pop() == pytest.approx(rest)
    pace.begin(1.0)
    worked += 0.1
    pace.check()
    assert rests == []
    stopping.set()
    with pytest.raises(Stopped):
        pace.check()
