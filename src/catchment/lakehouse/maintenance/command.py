"""`maintain` as a request: all that is due, at once, by whoever holds the pipeline's lease."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from catchment.errors import ConfigError
from catchment.lakehouse.data_file import ParquetSettings
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.lakehouse.maintenance.table_files import TableFiles
from catchment.lakehouse.properties import TABLE, key_of
from catchment.lakehouse.recovery.tasks import Task
from catchment.lakehouse.silver.keyed_table import KeyedTable
from catchment.lakehouse.table import LakeTable
from catchment.lakehouse.writer import FindKeyed, LakeWriter
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)


def maintain(writer: LakeWriter, task: Task) -> dict[str, Any]:
    """Do all that is due, or only say what is. Arguments: `table` (a name, or None), `dry_run`."""
    only = _named(writer, task.arguments.get("table"))
    with _keyed_tables(writer) as find_keyed:
        maintainer = Maintainer(writer, writer.lakehouse.maintenance, find_keyed)
        if task.arguments.get("dry_run"):
            due = [piece.to_dict() for piece in maintainer.due(only)]
            return {"dry_run": True, "due": due, **_state(maintainer)}
        done = []
        while (work := maintainer.step(task.check, only)) is not None:
            log.info("Maintenance: %s", work)
            writer.ops.record_maintenance(writer.pipeline, [work.to_row()])
            done.append(work.to_dict())
            task.tell(str(work))
        return {"dry_run": False, "done": done, **_state(maintainer)}


def _state(maintainer: Maintainer) -> dict[str, Any]:
    tables = {name: _described(files) for name, files in sorted(maintainer.tables().items())}
    return {"tables": tables, "waiting_files": maintainer.waiting()}


def _described(files: TableFiles) -> dict[str, int]:
    return {
        "files": len(files.data),
        "bytes": files.size,
        "rows": files.rows,
        "dead_rows": files.dead,
        "delete_files": len(files.deletes),
    }


def _named(writer: LakeWriter, wanted: str | None) -> set[str] | None:
    """The tables that a person means: by their name in the lake, with or without layer, or by the source's."""
    if wanted is None:
        return None
    tables = writer.tables()
    found = {one.name for one in tables if wanted in _names(one)}
    if not found:
        there = ", ".join(one.name for one in tables) or "none"
        raise ConfigError(f"There is no table {wanted} in the lake of {writer.pipeline}. There are: {there}.")
    return found


def _names(table: LakeTable) -> tuple[str, ...]:
    return table.name, table.table.name()[-1], table.metadata.properties.get(TABLE, "")


@contextmanager
def _keyed_tables(writer: LakeWriter) -> Iterator[FindKeyed]:
    """Keyed tables: those that are open for merging, or, where nothing merges, opened for as long as this takes."""
    if writer.find_keyed is not None:
        yield writer.find_keyed
        return
    opened: dict[str, KeyedTable] = {}

    def find(table: LakeTable) -> KeyedTable | None:
        key = key_of(table.metadata.properties)
        if key and table.name not in opened:
            target = writer.lakehouse.maintenance.target_file_bytes
            with writer.lock:
                opened[table.name] = KeyedTable(table, key, writer.directory, ParquetSettings(), target)
        return opened.get(table.name)

    try:
        yield find
    finally:
        for one in opened.values():
            one.close()
