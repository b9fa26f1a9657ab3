"""How a pipeline is, gathered from outside: its own last report, the lake, and the source.

Each part stands for itself: a source that is down, or a pipeline that never ran, leaves the others readable.
"""

from __future__ import annotations

import time
from contextlib import closing, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from catchment.config import PipelineConfig
from catchment.errors import CatchmentError, ConfigError
from catchment.lakehouse.catalog import catalog_errors, load_catalog
from catchment.lakehouse.lease import holder
from catchment.lakehouse.ops import OpsStore
from catchment.lakehouse.properties import TABLE
from catchment.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyiceberg.catalog import Catalog

    from catchment.telemetry import Report

RECENT_SECONDS = 10.0
"""A report that is younger comes from a process that still runs, if not on this machine."""


def gather(config: PipelineConfig) -> dict[str, Any]:
    """Everything as one JSON document; docs/commands.md says what each key means."""
    store = OpsStore.existing(config.lakehouse, config.directory)
    report = store.latest_report(config.name) if store is not None else None
    progress = store.progress(config.name) if store is not None else {}
    letters = store.dead_letters(config.name) if store is not None else 0
    stopped = _gold_stopped(config, store)
    if store is not None:
        store.close()
    running = holder(config.name, config.directory)
    in_lake, lake = _lake(config) if store is not None else ({}, {"available": True, "tables": {}})
    return {
        "pipeline": config.name,
        "environment": config.environment,
        "running": running is not None or _recent(report),
        "process": running,
        **_activity(report),
        "tables": _tables(in_lake, report),
        "sinks": _sinks(config, report, progress),
        "lake": lake,
        "gold_stopped": stopped,
        "dead_letters": letters,
        "source": _source(config),
    }


def _gold_stopped(config: PipelineConfig, store: OpsStore | None) -> dict[str, str]:
    """The quality rules that keep gold from being refreshed, and what was found of each."""
    if store is None or config.lakehouse.quality is None:
        return {}
    from catchment.quality.config import Severity
    from catchment.quality.results import last_gate
    from catchment.quality.rules import load_rules

    try:
        rules = load_rules(config.directory / config.lakehouse.quality)
    except ConfigError:
        return {}  # told by `validate`, and when the pipeline starts
    # What was said last may be about a rule that is no more, or no longer stops gold.
    stopping = {(rule.table, rule.name) for rule in rules if rule.severity is Severity.FAIL}
    told = last_gate(store, config.name)
    return {f"{table}.{rule}": said for (table, rule), said in told.items() if (table, rule) in stopping}


def _recent(report: Report | None) -> bool:
    return report is not None and report.state == "running" and time.time() - report.at < RECENT_SECONDS


def _activity(report: Report | None) -> dict[str, Any]:
    if report is None:
        return {"state": "never run", "reported_at": None, "mode": None, "notes": []}
    return {
        "state": report.state,
        "reported_at": _iso(report.at),
        "mode": report.mode,
        "lag_bytes": report.lag_bytes,
        "lag_ms": report.lag_ms,
        "restarts": report.restarts,
        "last_error": report.last_error,
        "notes": list(report.notes),
        "snapshots": {name: asdict(one) for name, one in report.snapshots.items()},
    }


def _tables(in_lake: dict[str, dict[str, Any]], report: Report | None) -> dict[str, Any]:
    tables = dict(in_lake)
    for name, one in (report.tables if report is not None else {}).items():
        tables.setdefault(name, {}).update(
            changes=one.changes,
            durable_changes=one.durable_changes,
            changes_per_second=one.changes_per_second,
            last_source_commit_at=_iso(one.last_committed_at),
            freshness_ms=one.freshness_ms,
        )
    return dict(sorted(tables.items()))


def _lake(config: PipelineConfig) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The bronze tables; whether the catalog could be asked, and how healthy the lake's tables are."""
    try:
        with (
            catalog_errors("The catalog cannot be read"),
            closing(load_catalog(config.lakehouse.catalog, config.directory)) as catalog,
        ):
            return _lake_tables(catalog), {"available": True, "tables": _health(catalog)}
    except CatchmentError as refused:
        return {}, {"available": False, "error": str(refused), "tables": {}}


def _health(catalog: Catalog) -> dict[str, dict[str, Any]]:
    from pyiceberg.exceptions import NoSuchNamespaceError

    from catchment.lakehouse.table_health import health

    found = {}
    for layer in ("bronze", "silver"):
        with suppress(NoSuchNamespaceError):
            for identifier in sorted(catalog.list_tables(layer)):
                one = health(catalog.load_table(identifier))
                times = {name: _iso(getattr(one, name)) for name in ("readable_since", "maintained_at")}
                found[".".join(identifier)] = {**asdict(one), **times}
    return found


def _lake_tables(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Rows and last commit of each bronze table, from its metadata alone."""
    from pyiceberg.exceptions import NoSuchNamespaceError

    try:
        identifiers = catalog.list_tables("bronze")
    except NoSuchNamespaceError:
        return {}
    tables = {}
    for identifier in identifiers:
        table = catalog.load_table(identifier)
        snapshot = table.current_snapshot()
        summary = snapshot.summary if snapshot is not None else None
        tables[table.properties.get(TABLE, ".".join(identifier))] = {
            "bronze": ".".join(identifier),
            "rows": int((summary.get("total-records") if summary is not None else None) or 0),
            "last_commit_at": _iso(snapshot.timestamp_ms / 1000) if snapshot is not None else None,
        }
    return tables


def _sinks(config: PipelineConfig, report: Report | None, progress: Mapping[str, Progress]) -> dict[str, Any]:
    sinks = {}
    for sink in config.sink_configs:
        reported = report.sinks.get(sink.name) if report is not None else None
        held = progress.get(sink.name)
        if held is None and reported is not None and reported.progress is not None:
            # A sink that keeps its progress itself: as of the last report.
            held = Progress.from_json(reported.progress)
        sinks[sink.name] = {
            "type": sink.type,
            "positions": {lane: at.hex() for lane, at in held.positions.items()} if held is not None else {},
            "flushes": reported.flushes if reported is not None else 0,
            "last_flush_at": _iso(reported.last_flush_at) if reported is not None else None,
            "flush_seconds": reported.flush_seconds if reported is not None else None,
        }
    return sinks


def _source(config: PipelineConfig) -> dict[str, Any]:
    try:
        return {"available": True, **asdict(config.source_config.retention(config.context))}
    except CatchmentError as refused:
        return {"available": False, "error": str(refused)}


def _iso(epoch_seconds: float | None) -> str | None:
    if epoch_seconds is None:
        return None
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_seconds))
    return f"{whole}.{int(epoch_seconds % 1 * 1000):03}Z"
