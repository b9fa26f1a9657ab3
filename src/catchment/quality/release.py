"""Letting rows out of quarantine as they are: somebody has looked at them, and they may break the rule.

A released row is in silver, with the rules it breaks in `_quality`, until a change of it is judged anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from catchment.errors import ConfigError, SinkRefused
from catchment.lakehouse.column_versions import places_of, source_key
from catchment.lakehouse.properties import PINNED
from catchment.lakehouse.recovery.rollback import silver_table
from catchment.lakehouse.recovery.tasks import Task
from catchment.lakehouse.silver.apart import bringing_up

if TYPE_CHECKING:
    from catchment.lakehouse.silver.table import SilverTable
    from catchment.lakehouse.writer import LakeWriter

_BETWEEN = "\x1f"


def release(writer: LakeWriter, task: Task) -> Mapping[str, Any]:
    """The work of `catchment quality --release`. Arguments: `table`; `keys`, texts as `--key` has them, None for all.

    Raises ConfigError for a table without quarantine or keys of another shape, `SinkRefused` while it is pinned.
    """
    with writer.lock:
        silver = silver_table(writer, task.arguments["table"])
        name = silver.table.name()[-1]
        if silver.metadata.properties.get(PINNED):
            raise SinkRefused(
                f"{silver.name} is pinned by a rollback. `catchment resume PIPELINE {silver.name}` first; then release."
            )
        if writer.existing(("silver", f"{name}_quarantine")) is None:
            raise ConfigError(f"{silver.name} has no quarantine: no rule of severity `quarantine` was ever about it.")
    given = task.arguments.get("keys")
    with bringing_up(writer, name) as apart:
        wanted = None if given is None else [wanted_key(one, apart.silver.source_key) for one in given]
        found = let_out(apart.silver, wanted)
        if found:
            apart.put_in_place(task, {}, f"Rows of {silver.name} were released by a command.")
    return {
        "table": silver.name,
        "released": len(found),
        "not_in_quarantine": [one for one, key in zip(given or (), wanted or (), strict=True) if key not in found],
    }


def let_out(silver: SilverTable, wanted: Sequence[str] | None) -> set[str]:
    """Move rows from the quarantine to the main table, all or those of these keys; the keys of those that moved."""
    quarantine = silver.quarantine
    if quarantine is None:
        return set()
    chosen = None if wanted is None else pa.array(wanted, pa.string())
    moved: set[str] = set()
    for part in quarantine.live_batches():
        texts = _texts(part, silver.key)
        rows = part if chosen is None else part.filter(pc.is_in(texts, value_set=chosen))
        if not rows.num_rows:
            continue
        keys = quarantine.keys_of(rows)
        places = quarantine.find(keys)
        fitted = silver.main.fit(rows.schema, 1).apply(_one(rows))
        silver.main.append(fitted, keys)
        quarantine.kill(places)
        moved.update(_texts(rows, silver.key).to_pylist())
    for table in silver.tables:
        table.advance()
    return moved


def wanted_key(text: str, key: Sequence[str]) -> str:
    """A key as a person gives it: the value; of several columns `41,2`, or a JSON list where values hold commas."""
    if len(key) == 1:
        return text
    parts = _listed(text) if text.startswith("[") else text.split(",")
    if len(parts) != len(key):
        raise ConfigError(f"A key of this table has {len(key)} columns ({', '.join(key)}): --key a,b")
    return _BETWEEN.join(parts)


def _listed(text: str) -> list[str]:
    """What a JSON list holds; nothing when it is none."""
    try:
        return [str(part) for part in json.loads(text)]
    except ValueError:
        return []


def _texts(rows: pa.Table, key: Sequence[str]) -> pa.ChunkedArray:
    columns = []
    for name in source_key(key):
        # After a change of its type the newest column has the value.
        held = [pc.cast(rows.column(one), pa.string()) for one in places_of(name, key)]
        columns.append(pc.coalesce(*held))
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, _BETWEEN)


def _one(rows: pa.Table) -> pa.RecordBatch:
    (batch,) = rows.combine_chunks().to_batches()
    return batch
