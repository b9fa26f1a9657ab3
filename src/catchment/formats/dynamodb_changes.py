"""JSON change records of a DynamoDB table → batches of changes. Whole columns at a time; exact, or said so.

A table of DynamoDB has no schema but for its key: columns appear as attributes do. The first type that is seen of an
attribute stays its column's; a NULL, a value of another type, or one that the column's type does not hold, is NULL in
the column and stands in `_unrepresentable` as DynamoDB JSON (`{"NULL":true}`), under `price` or `before.price`. So
does a nested value whose clean JSON does not say all types in it (binary values, sets), and an attribute that has no
column: its name differs from a column's by case only, or there are `MOST_COLUMNS` already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from catchment.change import ChangeBatch, Operation
from catchment.formats.dynamodb_attributes import LETTERS, Attributes, Mask
from catchment.formats.dynamodb_envelope import WrongRows, images, moment, operations, sequence_version
from catchment.formats.dynamodb_records import RecordReader, why_not
from catchment.formats.dynamodb_rows import ItemRows, struct
from catchment.formats.dynamodb_schema import GrowingSchema
from catchment.schema import UTC_MICROSECONDS, TableId, TableSchema
from catchment.sources.base import DeadLetter, SchemaChange

__all__ = ["ChangeDecoder", "Decoded", "sequence_version"]

Decoded = SchemaChange | ChangeBatch | DeadLetter

_OURS = [pa.field("_sequence_number", pa.string()), pa.field("_event_id", pa.string())]


class ChangeDecoder:
    """JSON change records of one DynamoDB table → batches of changes, in the table's schema.

    table, key: the table and its key attributes with their types (S, N, B), the hash key first.
    declared: attribute → the type that its column has whatever comes. known: attribute → the type that was seen first,
    in an earlier run. generation: how often the table was read anew; stands before the sequence number in `_version`.

    `schema` and `known` grow as attributes appear; `SchemaChange` comes before the first batch of a schema, so also
    before the first of all. A schema's version is a fingerprint of its columns: the same in every replay. One thread
    calls it.
    """

    def __init__(
        self,
        table: TableId,
        key: Mapping[str, str],
        *,
        declared: Mapping[str, pa.DataType] | None = None,
        known: Mapping[str, str] | None = None,
        generation: int = 0,
    ) -> None:
        self.table = table
        self.generation = generation
        self._growing = GrowingSchema(table, key, declared or {}, known or {})
        self._reader = RecordReader()
        self._announced: TableSchema | None = None

    @property
    def schema(self) -> TableSchema:
        """As of what was decoded."""
        return self._growing.schema

    @property
    def known(self) -> dict[str, str]:
        """Attribute → the type that was seen first, of those columns where that matters. To be kept."""
        return self._growing.known

    def decode(self, records: Sequence[bytes], *, lane: str, positions: Sequence[bytes]) -> list[Decoded]:
        """The changes that these records say, in order.

        positions: each record's in its lane. A record that cannot be decoded becomes a `DeadLetter` in its place.
        """
        if not records:
            return []
        read = self._reader.records(records)
        wrong = WrongRows(len(records))
        wrong.where(~read.is_json, "it has text that UTF-8 cannot hold (half of a surrogate pair)")
        ops = operations(read, wrong)
        columns = moment(read, self.generation, wrong)
        columns["_op"] = ops
        columns["_lane"] = pa.repeat(pa.scalar(lane), len(records))
        columns["_position"] = pa.array(positions, pa.binary())
        sides = images(read, ops, wrong)
        # Most reasons are older than what was found here.
        for row in wrong.reasons:
            wrong.reasons[row] = why_not(records[row]) or wrong.reasons[row]
        return self._batches(
            sides,
            columns,
            positions,
            wrong,
            lambda begin, end: self.decode(records[begin:end], lane=lane, positions=positions[begin:end]),
        )

    def scan(
        self,
        items: Sequence[bytes],
        *,
        lane: str,
        chunk: str,
        snapshot: str | None = None,
        ordinal: int = 0,
        read_at: int | None = None,
    ) -> list[Decoded]:
        """Items of a Scan, as DynamoDB JSON (`{"orderid":{"S":"7421"}}`), as rows that were read (`r`).

        lane: the chunk's own. ordinal: how many items of this chunk came before; a row's position counts them. read_at:
        when they were read, epoch microseconds. Any change of this generation stands above them.
        """
        if not items:
            return []
        count = len(items)
        read = self._reader.items(items)
        wrong = WrongRows(count)
        for row in np.flatnonzero(np.asarray(read.is_null())).tolist():
            wrong.at(row, "the item is not a JSON object")
        positions = [sequence_version(self.generation, at) for at in range(ordinal + 1, ordinal + count + 1)]
        columns = {
            "_op": pa.repeat(pa.scalar(Operation.READ.value), count),
            "_lane": pa.repeat(pa.scalar(lane), count),
            "_position": pa.array(positions, pa.binary()),
            "_version": pa.repeat(pa.scalar(sequence_version(self.generation, 1), pa.binary()), count),
            "_committed_at": pa.repeat(pa.scalar(read_at, pa.int64()), count).view(UTC_MICROSECONDS),
            "_sequence_number": pa.nulls(count, pa.string()),
            "_event_id": pa.nulls(count, pa.string()),
        }
        return self._batches(
            (read, pa.nulls(count, read.type)),
            columns,
            positions,
            wrong,
            lambda begin, end: self.scan(
                items[begin:end], lane=lane, chunk=chunk, snapshot=snapshot, ordinal=ordinal + begin, read_at=read_at
            ),
            chunk=chunk,
            snapshot=snapshot,
        )

    def truncate(self, *, lane: str, chunk: str, snapshot: str | None = None) -> list[Decoded]:
        """What the lake has of this table is older than this generation: a `t` row, below all of its rows."""
        below = sequence_version(self.generation, 0)
        schema = pa.schema([*self.schema.envelope, *_OURS])
        row = {
            "_op": Operation.TRUNCATE.value,
            "_lane": lane,
            "_position": below,
            "_version": below,
            "_schema_version": self.schema.version,
        }
        batch = pa.RecordBatch.from_pylist([row], schema)
        return [*self._news(), ChangeBatch(self.schema, lane, batch, chunk, snapshot)]

    def _batches(
        self,
        sides: tuple[pa.MapArray, pa.MapArray],
        columns: dict[str, pa.Array],
        positions: Sequence[bytes],
        wrong: WrongRows,
        part: Callable[[int, int], list[Decoded]],
        *,
        chunk: str | None = None,
        snapshot: str | None = None,
    ) -> list[Decoded]:
        """The events of these rows.

        sides: the items after and before. columns: the envelope, without what comes of the items. part: decodes some
        of the rows. They come apart where columns appear: a row's schema does not depend on what came after it.
        """
        count = len(positions)
        attributes = Attributes.of(sides)
        for entry, reason in attributes.malformed.items():
            if attributes.counts(entry):
                wrong.at(int(attributes.item[entry]) % count, reason)
        there = np.concatenate([np.asarray(image.is_valid()) for image in sides])
        self._check_keys(attributes, there, wrong)
        rows = ItemRows(attributes, ~wrong.rows)
        new = rows.first_types(self._growing.would_add)
        if cuts := sorted({row for row, _, _ in new if row}):
            return [event for begin, end in pairwise([0, *cuts, count]) for event in part(begin, end)]
        self._growing.add({name: letter for _, name, letter in new})
        values, lost = rows.values(self._growing.columns)
        columns |= {
            "_transaction": pa.nulls(count, pa.string()),
            "_schema_version": pa.repeat(pa.scalar(self.schema.version, pa.int32()), count),
            "_unchanged": pa.nulls(count, pa.list_(pa.string())),
            "_unrepresentable": rows.texts_by_row(lost),
            "before": struct(values, there, count, count, self.schema),
            "after": struct(values, there, 0, count, self.schema),
        }
        schema = pa.schema([*self.schema.envelope, *_OURS])
        batch = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
        lane = batch.column("_lane")[0].as_py()
        events: list[Decoded] = [] if wrong.rows.all() else [*self._news()]
        begun = 0
        for row in [*np.flatnonzero(wrong.rows).tolist(), count]:
            if row > begun:
                events.append(ChangeBatch(self.schema, lane, batch.slice(begun, row - begun), chunk, snapshot))
            if row < count:
                events.append(DeadLetter(str(self.table), lane, positions[row], wrong.reasons[row]))
            begun = row + 1
        return events

    def _check_keys(self, attributes: Attributes, there: Mask, wrong: WrongRows) -> None:
        """Every image has the whole key."""
        for name, letter in self._growing.key.items():
            found = np.zeros(len(there), np.bool_)
            if name in attributes.names:
                mine = (attributes.name == attributes.names.index(name)) & (attributes.letters == LETTERS.index(letter))
                found[attributes.item[mine]] = True
            reason = f"the key attribute {name} is missing in an image, or is not {letter}"
            for item in np.flatnonzero(there & ~found).tolist():
                wrong.at(item % len(wrong.rows), reason)

    def _news(self) -> Iterator[SchemaChange]:
        if self._announced != self.schema:
            self._announced = self.schema
            yield SchemaChange(self.schema)
