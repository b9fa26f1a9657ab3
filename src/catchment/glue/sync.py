"""A table in Glue kept up to what is in its place on S3: columns and partitions found as a crawler finds them.

Columns are added, and number types widened; nothing is dropped or narrowed. What a crawler would do to a column that is
there, make text of it because one value does not fit, is only said: views and questions rely on its type, and a value
that does not fit is NULL there, not lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from catchment.errors import SinkRefused, SourceUnavailable
from catchment.glue.column_types import ColumnType, struct, widened
from catchment.glue.fetch import unpacked
from catchment.glue.inference import Inferred, roomy
from catchment.glue.layout import S3Object, objects_below, partitions_of
from catchment.glue.partition_layout import PartitionLayout, Target, values_of
from catchment.glue.seen import Seen
from catchment.glue.session import Client, asking, client
from catchment.glue.table import (
    GlueTable,
    change,
    columns_of,
    described,
    ensure_database,
    external_json,
    find,
    input_of,
    table_of,
)

SAMPLED_OBJECTS = 100
_SAMPLED_BYTES = 4 * 1024 * 1024
_SAMPLED_LINES = 2_000
_PARTITIONS_AT_ONCE = 100
_WHOLE = frozenset({"tinyint", "smallint", "int", "bigint", "decimal", "float", "double"})


@dataclass
class Synced:
    """What a run saw and did."""

    database: str
    table: str
    objects: int = 0
    new_objects: int = 0
    sampled: int = 0
    partitions_added: int = 0
    changes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def sync(target: Target, *, dry_run: bool = False, anew: bool = False) -> Synced:
    """Bring Glue up to what is on S3. anew: look at objects again that an earlier run has seen.

    Raises SinkRefused when nothing says what the table's columns are, or as AWS answers.
    """
    glue, s3 = client("glue"), client("s3")
    done = Synced(target.database, target.table)
    if not dry_run:
        done.changes += ensure_database(glue, target.database)
    answer = find(glue, target.database, target.table)
    table = table_of(answer) if answer is not None else None
    seen = Seen.of(target) if table is not None and not anew else Seen.nothing(target)
    with asking(f"listing the objects of {target.database}.{target.table} in {target.location}"):
        objects = list(_objects(s3, target))
    new = [one for one in objects if seen.is_new(one)]
    done.objects, done.new_objects = len(objects), len(new)
    inferred = _sample(s3, new, done)
    layout = PartitionLayout.of(table, target, objects)
    _change_table(glue, target, inferred, layout, done, dry_run=dry_run)
    if layout.registers:
        _register(glue, target, layout, new, done, dry_run=dry_run)
    _note(inferred, layout, done)
    if not dry_run:
        seen.remember(objects)
    return done


def _objects(s3: Client, target: Target) -> Iterator[S3Object]:
    start = target.start
    for one in objects_below(s3, target.location):
        if not one.key[len(start) :].startswith(tuple(target.exclude)):
            yield one


def _sample(s3: Client, new: Sequence[S3Object], done: Synced) -> Inferred:
    """Look into the new objects, or evenly into some when there are many."""
    inferred = Inferred()
    step = max(len(new) / SAMPLED_OBJECTS, 1.0)
    chosen = [new[int(at * step)] for at in range(int(len(new) / step))] if new else []
    for one in chosen:
        with asking(f"looking into {one.location}"):
            try:
                answer = s3.get_object(Bucket=one.bucket, Key=one.key)
            except s3.exceptions.NoSuchKey:
                continue
            packed = one.key.endswith(".gz") or "gzip" in (answer.get("ContentEncoding") or "")
            whole = packed or one.size <= _SAMPLED_BYTES
            data: bytes = answer["Body"].read() if whole else answer["Body"].read(_SAMPLED_BYTES)
            answer["Body"].close()
        if packed and data.startswith(b"\x1f\x8b"):
            data = unpacked(data, one.location)
        lines = data.split(b"\n")
        inferred.read(lines[: -1 if not whole else len(lines)][:_SAMPLED_LINES])
        done.sampled += 1
    return inferred


def _change_table(
    glue: Client, target: Target, inferred: Inferred, layout: PartitionLayout, done: Synced, *, dry_run: bool
) -> None:
    found_columns = {name: kind for name, kind in inferred.columns.items() if name not in layout.keys}

    def edit(found: Mapping[str, Any] | None) -> tuple[dict[str, Any], list[str]]:
        done.notes.clear()
        if found is None and dry_run and target.declared:
            return {}, []  # it would have been made as it is declared
        if found is None:
            if not found_columns:
                raise SinkRefused(
                    f"Nothing says which columns {target.database}.{target.table} has: there are no objects with lines "
                    f"of JSON in {target.location}. Run this again when there are, or declare the columns (--tables)."
                )
            made = {name: roomy(kind) for name, kind in found_columns.items()}
            table = GlueTable(
                target.database,
                target.table,
                made,
                keys=layout.keys,
                location=target.location,
                parameters=layout.parameters,
            )
            names = ", ".join(f"{name} {kind}" for name, kind in made.items())
            return external_json(table), [f"table {target.database}.{target.table} made: {names}"]
        merged = input_of(found)
        storage = dict(merged["StorageDescriptor"])
        columns = storage.get("Columns") or []
        storage["Columns"], changes, notes = _columns_with(columns, found_columns, inferred, target)
        done.notes.extend(notes)
        merged["StorageDescriptor"] = storage
        merged["Parameters"], more = _parameters_with(merged.get("Parameters") or {}, layout)
        return merged, changes + more

    done.changes += change(glue, target.database, target.table, edit, dry_run=dry_run)


def _columns_with(
    columns: Sequence[Mapping[str, str]], found: Mapping[str, ColumnType], inferred: Inferred, target: Target
) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """The columns with what was found; what that changes, and what does not fit but stays."""
    result, changes, notes = [dict(column) for column in columns], [], []
    there = columns_of(columns)
    for column in result:
        name = column["Name"].lower()
        before = there[name]
        after = _without_text(before, found.get(name, before))
        if after != before and name not in target.declared:
            column["Type"] = str(roomy(after))
            changes.append(f"column {name} is {roomy(after)} now, was {before}")
        elif name in found and not inferred.fit(name, before):
            notes.append(f"column {name} stays {before}, though there are values that are {found[name]}: NULL where so")
    added = {name: roomy(kind) for name, kind in found.items() if name not in there}
    changes += [f"column {name} {kind} added" for name, kind in added.items()]
    return result + described(added), changes, notes


def _without_text(before: ColumnType, found: ColumnType) -> ColumnType:
    """The wider type, unless that would make text of what is none."""
    if before.name in _WHOLE and found.name in _WHOLE:
        return widened(before, found)
    if before.name == found.name == "struct":
        fields = dict(before.parts)
        for name, kind in found.parts:
            fields[name] = _without_text(fields[name], kind) if name in fields else kind
        return struct(fields)
    return before


def _parameters_with(parameters: Mapping[str, str], layout: PartitionLayout) -> tuple[dict[str, str], list[str]]:
    """A range of hours that begins no later than the first object's."""
    key = "projection.datehour.range"
    first, _, last = parameters.get(key, "").partition(",")
    is_hour = parameters.get("projection.datehour.format") == "yyyy/MM/dd/HH"
    if not is_hour or layout.first_hour is None or "NOW" in first.upper() or layout.first_hour >= first.strip():
        return dict(parameters), []
    changed = f"{layout.first_hour},{last.strip()}"
    return {**parameters, key: changed}, [f"partitions begin at {layout.first_hour} now, at {first.strip()} before"]


def _register(
    glue: Client, target: Target, layout: PartitionLayout, new: Sequence[S3Object], done: Synced, *, dry_run: bool
) -> None:
    """Tell Glue of the partitions of new objects."""
    found = find(glue, target.database, target.table)
    places: dict[tuple[str, ...], str] = {}
    for one in new:
        values = values_of(one.key[len(layout.start) :], tuple(layout.keys))
        if values is not None:
            places.setdefault(values, f"s3://{one.bucket}/{one.key.rpartition('/')[0]}/")
    with asking(f"registering partitions of {target.database}.{target.table}"):
        if found is not None:
            there = dict(partitions_of(glue, table_of(found)))
            places = {values: place for values, place in places.items() if values not in there}
        done.partitions_added = len(places)
        if places:
            done.changes.append(f"{len(places):,} partitions added")
        if dry_run or found is None:
            return
        for group in _groups(list(places.items())):
            answer = glue.batch_create_partition(
                DatabaseName=target.database,
                TableName=target.table,
                PartitionInputList=[
                    {"Values": list(values), "StorageDescriptor": {**found["StorageDescriptor"], "Location": place}}
                    for values, place in group
                ],
            )
            _check_taken(target, answer.get("Errors") or ())


def _check_taken(target: Target, errors: Sequence[Mapping[str, Any]]) -> None:
    """Raises SourceUnavailable for partitions that Glue answered were not made; what others made meanwhile is there."""
    codes = [one.get("ErrorDetail", {}).get("ErrorCode", "an error") for one in errors]
    codes = [code for code in codes if code != "AlreadyExistsException"]
    if codes:
        raise SourceUnavailable(
            f"{len(codes):,} partitions of {target.database}.{target.table} were not registered: Glue answers "
            f"{', '.join(sorted(set(codes)))}. Run this again: queries do not see their objects until then."
        )


def _groups(items: Sequence[tuple[tuple[str, ...], str]]) -> Iterator[Sequence[tuple[tuple[str, ...], str]]]:
    for at in range(0, len(items), _PARTITIONS_AT_ONCE):
        yield items[at : at + _PARTITIONS_AT_ONCE]


def _note(inferred: Inferred, layout: PartitionLayout, done: Synced) -> None:
    if inferred.malformed:
        done.notes.append(f"{inferred.malformed:,} of {inferred.lines:,} sampled lines are no JSON objects")
    for name, kinds in sorted(inferred.mixed.items()):
        done.notes.append(f"column {name} has values of several kinds ({', '.join(sorted(kinds))})")
    if inferred.unnamed:
        done.notes.append(f"{len(inferred.unnamed)} keys cannot be columns: commas, colons or brackets in their names")
    if layout.strays:
        done.notes.append(f"{layout.strays:,} objects lie in no partition and are not seen by queries")
