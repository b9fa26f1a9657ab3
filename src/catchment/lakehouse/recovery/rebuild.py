"""Bringing a silver table up again: resumed after a rollback, or made anew from bronze, while capture goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from catchment.errors import ConfigError, SinkRefused
from catchment.lakehouse.properties import BRONZE_SINCE, PINNED
from catchment.lakehouse.recovery.rollback import (
    Target,
    held_at,
    quarantine_at,
    reaches_back,
    silver_table,
    was_at_source,
)
from catchment.lakehouse.recovery.snapshot_listing import iso, moment
from catchment.lakehouse.recovery.tasks import Task
from catchment.lakehouse.silver.apart import bringing_up
from catchment.lakehouse.table import LakeTable
from catchment.lakehouse.writer import LakeWriter


def resume(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    """The work of `catchment resume`: what came since the rollback is merged from bronze, and merging goes on."""
    with writer.lock:
        silver = silver_table(writer, task.arguments["table"])
        if not silver.metadata.properties.get(PINNED):
            raise ConfigError(f"{silver.name} is not pinned: it is merged as changes come, there is nothing to resume.")
    with bringing_up(writer, silver.table.name()[-1]) as apart:
        apart.replay(task)
        rows = apart.put_in_place(task, {PINNED: ""}, f"{silver.name} was resumed by a command.")
    return {"table": silver.name, "rows": rows}


def rebuild(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    """The work of `catchment rebuild`: silver and quarantine anew from bronze, put in place in one commit.

    Where bronze was cut, from the oldest kept snapshot that bronze still follows. Raises `SinkRefused` when there is
    none, or while the table is pinned.
    """
    with writer.lock:
        silver = silver_table(writer, task.arguments["table"])
        name = silver.table.name()[-1]
        if silver.metadata.properties.get(PINNED):
            raise SinkRefused(
                f"{silver.name} is pinned by a rollback. `catchment resume PIPELINE {silver.name}` first; then rebuild."
            )
        bronze = writer.existing(("bronze", name))
        if bronze is None:
            raise SinkRefused(f"{silver.name} has no bronze table to be made from.")
        cut = bronze.metadata.properties.get(BRONZE_SINCE)
        start = _oldest(writer, bronze, silver) if cut is not None else None
    with bringing_up(writer, name, start) as apart:
        if start is None:
            apart.rebuild(task)
        else:
            apart.replay(task)
        rows = apart.put_in_place(task, {}, f"{silver.name} was made anew by a command.")
    base = start[silver.name].snapshot if start is not None else None
    return {
        "table": silver.name,
        "rows": rows,
        "from": "snapshot" if base is not None else "bronze",
        "snapshot": base.snapshot_id if base is not None else None,
        "snapshot_at": iso(moment(base.timestamp_ms)) if base is not None else None,
        "bronze_since": cut,
    }


def _oldest(writer: LakeWriter, bronze: LakeTable, silver: LakeTable) -> dict[str, Target]:
    """The oldest kept state of silver and quarantine after which bronze has every change."""
    refusals = []
    for snapshot in sorted(silver.metadata.snapshots, key=lambda one: one.sequence_number or 0):
        held = held_at(silver, snapshot)
        if held is None:
            continue
        target = Target(snapshot, held)
        if not was_at_source(bronze, silver, target) or not reaches_back(bronze, silver, target):
            continue
        try:
            quarantine = quarantine_at(writer, silver, target)
        except SinkRefused as refusal:
            refusals.append(refusal)
            continue
        if quarantine is None:
            return {silver.name: target}
        table, then = quarantine
        if then is not None:
            return {silver.name: target, table.name: then}
    raise SinkRefused(
        f"{silver.name} cannot be made anew: {bronze.name} was cut at {bronze.metadata.properties[BRONZE_SINCE]}, and "
        "no kept snapshot of silver is from a time after which bronze is whole. `catchment run --resnapshot` reads the "
        "source's tables again."
    ) from (refusals[0] if refusals else None)
