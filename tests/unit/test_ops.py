"""The operations data: what a pipeline knows of itself, from whichever process asks."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

import pytest

from catchment.errors import LeaseLost
from catchment.lakehouse import ops
from catchment.lakehouse.config import CatalogConfig, LakehouseConfig
from catchment.lakehouse.ops import OpsReporter, OpsStore
from catchment.progress import Progress
from catchment.sources.base import DeadLetter
from catchment.telemetry import Report, SinkReport, TableReport

LAKE = LakehouseConfig()


def report(at: float) -> Report:
    return Report(at=at, state="running", tables={"public.t": TableReport(changes=1)}, sinks={"iceberg": SinkReport()})


def test_the_latest_report_is_read_by_another_process(tmp_path: Path) -> None:
    store, reader = OpsStore.open(LAKE, tmp_path), OpsStore.open(LAKE, tmp_path)
    assert reader.latest_report("shop") is None
    reporter = OpsReporter(store, "shop")
    for at in (1.0, 2.0):
        reporter.report(report(at))
    OpsReporter(store, "other").report(report(3.0))
    assert reader.latest_report("shop") == report(2.0)
    store.close()
    reader.close()


def test_only_the_last_reports_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "REPORTS_KEPT", 20)
    store = OpsStore.open(LAKE, tmp_path)
    reporter = OpsReporter(store, "shop")
    for at in range(200):
        reporter.report(report(float(at)))
    kept = store.tables()["metrics"].column("reported_at").to_pylist()
    assert kept[-1] == 199.0
    assert 20 <= len(kept) <= 80
    assert store.latest_report("shop") == report(199.0)
    store.close()


def test_a_report_that_cannot_be_kept_is_told_of_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = OpsStore.open(LAKE, tmp_path)
    reporter = OpsReporter(store, "shop")
    blocker = sqlite3.connect(tmp_path / "lake/catalog.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with caplog.at_level(logging.WARNING):
        reporter.report(report(1.0))
        reporter.report(report(2.0))
    assert [record.message for record in caplog.records] == [
        "shop: reports cannot be kept now (database is locked). Capture goes on."
    ]
    blocker.execute("ROLLBACK")
    blocker.close()
    reporter.report(report(3.0))
    assert store.latest_report("shop") == report(3.0)
    store.close()


def test_a_new_epoch_ends_the_one_before(tmp_path: Path) -> None:
    store = OpsStore.open(LAKE, tmp_path)
    first = store.next_epoch("shop", "one")
    second = store.next_epoch("shop", "two")
    assert second == first + 1
    assert store.next_epoch("other", "three") == 1
    with store.writing() as connection:
        store.check_epoch(connection, "shop", second)
        with pytest.raises(LeaseLost, match="took pipeline shop over"):
            store.check_epoch(connection, "shop", first)
    store.close()


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    """Each counts up from what it has read: without the lock at BEGIN some would be refused, or lost."""
    stores = [OpsStore.open(LAKE, tmp_path) for _ in range(4)]

    def count(store: OpsStore) -> None:
        for _ in range(25):
            store.next_epoch("shop", "somebody")

    threads = [threading.Thread(target=count, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].next_epoch("shop", "the last") == 101
    for store in stores:
        store.close()


def test_progress_is_kept_in_the_callers_transaction(tmp_path: Path) -> None:
    store = OpsStore.open(LAKE, tmp_path)
    progress = Progress({"slot": b"\x01\x02"}, {"public.t": frozenset({"0-10"})})
    with store.writing() as connection:
        store.keep_progress(connection, "shop", "iceberg", progress, 3)
    with pytest.raises(RuntimeError, match="on purpose"), store.writing() as connection:
        store.keep_progress(connection, "shop", "iceberg", Progress({"slot": b"\xff"}), 3)
        raise RuntimeError("on purpose")
    assert store.progress("shop") == {"iceberg": progress}
    assert store.progress("other") == {}
    store.close()


def test_a_dead_letter_that_comes_again_is_kept_once(tmp_path: Path) -> None:
    store = OpsStore.open(LAKE, tmp_path)
    letters = [DeadLetter("public.t", "slot", bytes([at]), "year beyond 9999") for at in (1, 2)]
    store.set_aside("shop", letters)
    store.set_aside("shop", letters[1:])
    store.set_aside("other", letters[1:])
    kept = [row for row in store.tables()["dead_letters"].to_pylist() if row["pipeline"] == "shop"]
    assert [(row["table"], row["position"], row["reason"]) for row in kept] == [
        ("public.t", "01", "year beyond 9999"),
        ("public.t", "02", "year beyond 9999"),
    ]
    assert (store.dead_letters("shop"), store.dead_letters("other"), store.dead_letters("none")) == (2, 1, 0)
    store.close()


def test_a_flood_of_dead_letters_is_kept_each_once(tmp_path: Path) -> None:
    store = OpsStore.open(LAKE, tmp_path)
    letters = [DeadLetter("public.t", f"shard-{at % 2}", (at // 2).to_bytes(4, "big"), "no JSON") for at in range(1200)]
    store.set_aside("shop", [*letters[:700], *letters[:700]])
    store.set_aside("shop", letters)
    assert store.dead_letters("shop") == 1200
    kept = {(row["lane"], row["position"]) for row in store.tables()["dead_letters"].to_pylist()}
    assert kept == {(one.lane, one.position.hex()) for one in letters}
    store.close()


def test_without_a_sql_catalog_the_data_is_beside_the_pipeline(tmp_path: Path) -> None:
    store = OpsStore.open(LakehouseConfig(catalog=CatalogConfig(type="rest", uri="http://127.0.0.1:1")), tmp_path)
    assert set(store.tables()) >= {"progress", "lease", "metrics", "schema_versions", "dead_letters", "requests"}
    assert (tmp_path / ".catchment/ops.db").exists()
    store.close()
