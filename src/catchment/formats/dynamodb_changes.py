"""JSON change records of a DynamoDB table → batches of changes. Whole columns at a time; exact, or said so.

A table of DynamoDB has no schema but for its key: columns appear as attributes do. The first type that is seen of an
attribute stays its column's; a NULL, a value of another type, or one that the column's type does not hold, is NULL in
the column and stands in `_unrepresentable` as DynamoDB JSON (`{"NULL":true}`), under `price` or `before.price`. So
does a nested value whose clean JSON does not say all types in it (binary values, sets), and an attribute that has no
column: its name differs from a column's by case only, or there are `MOST_COLUMNS` already.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.change import ChangeBatch, Operation
from catchment.formats.dynamodb_attributes import LETTERS, NULL, Attributes, Ints, Mask, N, scattered, strings
from catchment.formats.dynamodb_columns import AttributeColumn, attribute_column, letter_is_fixed
from catchment.formats.dynamodb_records import RecordReader, Records, why_not
from catchment.formats.stream_record import INSERT, MODIFY, REMOVE, UNITS, PoisonRecord, epoch_microseconds
from catchment.schema import UTC_MICROSECONDS, Column, TableId, TableSchema
from catchment.sources.base import DeadLetter, SchemaChange

__all__ = ["SEQUENCE_BYTES", "ChangeDecoder", "Decoded", "sequence_version"]

Decoded = SchemaChange | ChangeBatch | DeadLetter

SEQUENCE_BYTES = 20
"""Of a sequence number in a version: 48 digits."""

MOST_COLUMNS = 1_000
"""Attributes that appear after so many have no column: of a table whose attributes' names are data."""

_FEW_NAMES = 32
_LONGEST_SEQUENCE = 48
_OPERATIONS = {INSERT: Operation.INSERT, MODIFY: Operation.UPDATE, REMOVE: Operation.DELETE}
_OURS = [pa.field("_sequence_number", pa.string()), pa.field("_event_id", pa.string())]


def sequence_version(generation: int, number: int) -> bytes:
    """The version of the change with this sequence number; 0 and 1 stand below all of a generation's changes."""
    return generation.to_bytes(4, "big") + number.to_bytes(SEQUENCE_BYTES, "big")


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
        self._key = dict(key)
        self._declared = dict(declared or {})
        self._reader = RecordReader()
        self._columns: dict[str, AttributeColumn] = {}
        self._folded: set[str] = set()
        self._announced: TableSchema | None = None
        for name, letter in key.items():
            self._add(name, letter)
            if letter not in self._columns[name].letters:
                raise ValueError(f"{table}: the key attribute {name} is {letter} and cannot be declared otherwise")
        for name in self._declared:
            self._add(name, "")
        for name, letter in (known or {}).items():
            self._add(name, letter)
        self.schema = self._new_schema()

    @property
    def known(self) -> dict[str, str]:
        """Attribute → the type that was seen first, of those columns where that matters."""
        return {
            name: column.letters[0]
            for name, column in self._columns.items()
            if name not in self._key and column.letters and not letter_is_fixed(self._declared.get(name))
        }

    def decode(self, records: Sequence[bytes], *, lane: str, positions: Sequence[bytes]) -> list[Decoded]:
        """The changes that these records say, in order.

        positions: each record's in its lane. A record that cannot be decoded becomes a `DeadLetter` in its place.
        """
        if not records:
            return []
        read = self._reader.records(records)
        wrong = Wrong(len(records))
        wrong.where(~read.is_json, "it has text that UTF-8 cannot hold (half of a surrogate pair)")
        operations = _operations(read, wrong)
        columns = self._moment(read, wrong)
        columns["_op"] = operations
        columns["_lane"] = pa.repeat(pa.scalar(lane), len(records))
        columns["_position"] = pa.array(positions, pa.binary())
        images = _images(read, operations, wrong)
        # Most reasons are older than what was found here.
        for row in wrong.reasons:
            wrong.reasons[row] = why_not(records[row]) or wrong.reasons[row]
        return self._batches(
            images,
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
        wrong = Wrong(count)
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
        none = _none_of(read)
        return self._batches(
            (read, none),
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
        images: tuple[pa.MapArray, pa.MapArray],
        columns: dict[str, pa.Array],
        positions: Sequence[bytes],
        wrong: Wrong,
        part: Callable[[int, int], list[Decoded]],
        *,
        chunk: str | None = None,
        snapshot: str | None = None,
    ) -> list[Decoded]:
        """The events of these rows.

        images: after and before. columns: the envelope, without what comes of the images. part: decodes some of the
        rows. They come apart where columns appear, so that a row's schema does not depend on what came after it.
        """
        count = len(positions)
        attributes = Attributes.of(images)
        for entry, reason in attributes.malformed.items():
            wrong.at(int(attributes.item[entry]) % count, reason)
        there = np.concatenate([np.asarray(image.is_valid()) for image in images])
        self._check_keys(attributes, there, wrong)
        usable = _Usable(attributes, ~wrong.rows)
        new = self._new_attributes(usable)
        if cuts := sorted({row for row, _, _ in new if row}):
            return [event for begin, end in pairwise([0, *cuts, count]) for event in part(begin, end)]
        self._learn(attributes, new)
        values, lost = self._values(usable)
        after, before = _struct(values, there, 0, count, self.schema), _struct(values, there, count, count, self.schema)
        columns |= {
            "_transaction": pa.nulls(count, pa.string()),
            "_schema_version": pa.repeat(pa.scalar(self.schema.version, pa.int32()), count),
            "_unchanged": pa.nulls(count, pa.list_(pa.string())),
            "_unrepresentable": usable.texts_by_row(lost),
            "before": before,
            "after": after,
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

    def _moment(self, read: Records, wrong: Wrong) -> dict[str, pa.Array]:
        """The columns that say which change it was, and when."""
        event_id, not_text = strings(read.event_id)
        wrong.where(not_text, "eventID is not text")
        number, not_text = strings(read.sequence_number)
        digits = pc.and_(pc.ascii_is_decimal(number), pc.less_equal(pc.binary_length(number), _LONGEST_SEQUENCE))
        digits = np.asarray(pc.fill_null(digits, True))
        wrong.where(not_text | ~digits, "dynamodb.SequenceNumber is not a number")
        created_at, known = _created_at(read.created_at, wrong)
        numbered = np.asarray(number.is_valid())
        wrong.where(~numbered & ~known, "there is neither a SequenceNumber nor an ApproximateCreationDateTime")
        usable = pc.if_else(pa.array(numbered & digits), number, "0")
        versions = _versions(self.generation, usable, np.where(numbered, 0, created_at))
        return {
            "_version": versions,
            "_committed_at": pa.array(created_at, pa.int64(), mask=~known).view(UTC_MICROSECONDS),
            "_sequence_number": number,
            "_event_id": event_id,
        }

    def _check_keys(self, attributes: Attributes, there: Mask, wrong: Wrong) -> None:
        """Every image has the whole key."""
        for name, letter in self._key.items():
            found = np.zeros(len(there), np.bool_)
            if name in attributes.names:
                mine = (attributes.name == attributes.names.index(name)) & (attributes.letters == LETTERS.index(letter))
                found[attributes.item[mine]] = True
            reason = f"the key attribute {name} is missing in an image, or is not {letter}"
            for item in np.flatnonzero(there & ~found).tolist():
                wrong.at(item % len(wrong.rows), reason)

    def _new_attributes(self, usable: _Usable) -> list[tuple[int, int, int]]:
        """Attributes without a column yet: row and entry of the first value that has a type, and the name."""
        attributes = usable.attributes
        found = []
        for code in (code for code, name in enumerate(attributes.names) if self._would_add(name)):
            entries = usable.of(code)
            entries = entries[attributes.letters[entries] != NULL]
            if len(entries):
                rows = usable.row(entries)
                found.append((int(rows.min()), int(entries[np.argmin(rows)]), code))
        return sorted(found)

    def _learn(self, attributes: Attributes, new: Sequence[tuple[int, int, int]]) -> None:
        """Columns for these attributes."""
        for _, entry, code in new:
            self._add(attributes.names[code], LETTERS[attributes.letters[entry]])
        if new:
            self.schema = self._new_schema()

    def _add(self, name: str, letter: str) -> None:
        if self._would_add(name):
            self._folded.add(name.lower())
            self._columns[name] = attribute_column(name, letter, self._declared.get(name))

    def _would_add(self, name: str) -> bool:
        """Is this a new column, or one that is declared as string and waits for its first value's type?"""
        if name in self._columns:
            return not self._columns[name].letters
        # Column names ignore case in the engines that read the lake.
        return bool(name) and name.lower() not in self._folded and len(self._columns) < MOST_COLUMNS

    def _new_schema(self) -> TableSchema:
        """The key first, the rest by name: the same columns make the same schema, whatever came first."""
        names = [*self._key, *sorted(name for name in self._columns if name not in self._key)]
        made = [self._columns[name] for name in names]
        columns = tuple(Column(one.name, one.type, one.source_type, one.name in self._key) for one in made)
        text = repr([(column.name, str(column.type), column.key) for column in columns])
        return TableSchema(self.table, columns, zlib.crc32(text.encode()) & 0x7FFFFFFF)

    def _values(self, usable: _Usable) -> tuple[dict[str, pa.Array], list[Ints]]:
        """Each column's values, an item each, and the entries whose value is not in its column."""
        attributes = usable.attributes
        values: dict[str, pa.Array] = {}
        lost: list[Ints] = []
        for code, name in enumerate(attributes.names):
            entries = usable.of(code)
            column = self._columns.get(name)
            if column is None:
                lost.append(entries)
                continue
            fits = np.isin(attributes.letters[entries], column.codes) & ~attributes.ambiguous[entries]
            if not fits.all():
                lost.append(entries[~fits])
                entries = entries[fits]
            at = attributes.item[entries]
            texts = scattered(attributes.contents(entries), at, usable.items)
            numbers = np.zeros(usable.items, np.bool_)
            numbers[at] = attributes.letters[entries] == N
            values[name], bad = column.read(texts, numbers)
            if bad is not None:
                lost.append(entries[bad[at]])
        return values, lost

    def _news(self) -> Iterator[SchemaChange]:
        if self._announced != self.schema:
            self._announced = self.schema
            yield SchemaChange(self.schema)


class Wrong:
    """Which rows cannot be decoded, and the first reason of each."""

    def __init__(self, count: int) -> None:
        self.rows: Mask = np.zeros(count, np.bool_)
        self.reasons: dict[int, str] = {}

    def at(self, row: int, reason: str) -> None:
        """This row, unless it is known."""
        self.rows[row] = True
        self.reasons.setdefault(row, reason)

    def where(self, rows: Mask, reason: str) -> None:
        """All of these rows."""
        for row in np.flatnonzero(rows).tolist():
            self.at(row, reason)


class _Usable:
    """The attributes of rows that can be decoded. Items are the rows' images after, then those before."""

    def __init__(self, attributes: Attributes, rows: Mask) -> None:
        self.attributes = attributes
        self.items = 2 * len(rows)
        self._rows = len(rows)
        self._all = bool(rows.all())
        self._is_usable = np.concatenate((rows, rows))

    def of(self, code: int) -> Ints:
        """The entries with this name, one an item: of a name that comes twice the last counts, as in Python."""
        entries = self._entries(code)
        items = self.attributes.item[entries]
        if not self._all:
            entries = entries[self._is_usable[items]]
            items = self.attributes.item[entries]
        last = np.append(items[1:] != items[:-1], True)[: len(items)]
        return entries if last.all() else entries[last]

    def _entries(self, code: int) -> Ints:
        if len(self.attributes.names) <= _FEW_NAMES:
            return np.flatnonzero(self.attributes.name == code)
        # Looking through all entries once a name would take the square of the attributes.
        order, begins = self._by_name
        return order[begins[code] : begins[code + 1]]

    @cached_property
    def _by_name(self) -> tuple[Ints, Ints]:
        """The entries by name, and where each name begins."""
        names = self.attributes.name
        order = np.argsort(names.astype(np.uint16) if len(self.attributes.names) < 1 << 16 else names, kind="stable")
        return order, np.searchsorted(names[order], np.arange(len(self.attributes.names) + 1))

    def row(self, entries: Ints) -> Ints:
        """The rows that these entries belong to."""
        return self.attributes.item[entries] % self._rows

    def texts_by_row(self, lost: Sequence[Ints]) -> pa.MapArray:
        """`_unrepresentable`: the DynamoDB JSON of these entries by name, for each row."""
        kind = pa.map_(pa.string(), pa.string())
        entries = np.sort(np.concatenate(lost)) if lost else np.zeros(0, np.int64)
        if not len(entries):
            return pa.nulls(self._rows, kind)
        rows = self.row(entries)
        texts = self.attributes.texts(entries)
        is_before = pa.array(self.attributes.item[entries] >= self._rows)
        names = pa.array(self.attributes.names, pa.string()).take(pa.array(self.attributes.name[entries]))
        names = pc.binary_join_element_wise(pc.if_else(is_before, "before.", ""), names, "")
        order = pa.array(np.argsort(rows, kind="stable"))
        counts = np.bincount(rows, minlength=self._rows)
        offsets = pa.array(np.concatenate(([0], np.cumsum(counts))).astype(np.int32))
        return pa.MapArray.from_arrays(offsets, names.take(order), texts.take(order), mask=pa.array(counts == 0))


def _operations(read: Records, wrong: Wrong) -> pa.StringArray:
    """`_op` of each record; NULL where it does not say."""
    names, not_text = strings(read.event_name)
    encoded = names.dictionary_encode()
    letters = pa.array([_OPERATIONS.get(name) for name in encoded.dictionary.to_pylist()], pa.string())
    operations = letters.take(encoded.indices)
    wrong.where(np.asarray(operations.is_null()) | not_text, "eventName is not INSERT, MODIFY or REMOVE")
    return operations


def _images(read: Records, operations: pa.StringArray, wrong: Wrong) -> tuple[pa.MapArray, pa.MapArray]:
    """The items after and before. Without an OldImage the key is all that is known of the item before."""
    is_insert = pc.fill_null(pc.equal(operations, Operation.INSERT.value), False)
    is_delete = pc.fill_null(pc.equal(operations, Operation.DELETE.value), False)
    after = _except(read.new_image, is_delete)
    reason = "it has no NewImage: the stream's view type must be NEW_IMAGE or NEW_AND_OLD_IMAGES"
    wrong.where(np.asarray(pc.and_(after.is_null(), pc.invert(is_delete))), reason)
    before = read.old_image
    lacking = pc.and_(before.is_null(), pc.invert(is_insert))
    if lacking.true_count:
        before = pc.if_else(lacking, read.keys, before)
    before = _except(before, is_insert)
    wrong.where(np.asarray(pc.and_(before.is_null(), pc.invert(is_insert))), "it has neither an OldImage nor Keys")
    return after, before


def _except(images: pa.MapArray, rows: pa.BooleanArray) -> pa.MapArray:
    """The images, but for these rows', which are NULL."""
    if not pc.and_(images.is_valid(), rows).true_count:
        return images
    return pc.if_else(rows, pa.scalar(None, images.type), images)


def _none_of(images: pa.MapArray) -> pa.MapArray:
    return pa.nulls(len(images), images.type)


def _struct(values: Mapping[str, pa.Array], there: Mask, begin: int, count: int, schema: TableSchema) -> pa.StructArray:
    """Rows [begin, begin + count) of the values; NULL where there is no image."""
    columns = [
        values[field.name].slice(begin, count) if field.name in values else pa.nulls(count, field.type)
        for field in schema.row_type
    ]
    missing = ~there[begin : begin + count]
    mask = pa.array(missing) if missing.any() else None
    return pa.StructArray.from_arrays(columns, fields=list(schema.row_type), mask=mask)


def _created_at(texts: pa.StringArray, wrong: Wrong) -> tuple[Ints, Mask]:
    """Microseconds since 1970 of ApproximateCreationDateTime, and where it is known."""
    known = np.asarray(texts.is_valid())
    micros, usual = _usual_times(texts)
    for row in np.flatnonzero(known & ~usual).tolist():
        try:
            micros[row] = epoch_microseconds(json.loads(texts[row].as_py()), "dynamodb.ApproximateCreationDateTime")
        except PoisonRecord as error:
            wrong.at(row, str(error))
    return micros, known


def _usual_times(texts: pa.StringArray) -> tuple[Ints, Mask]:
    """As `epoch_microseconds`, of those that a float holds well enough; and which these are."""
    try:
        numbers = pc.fill_null(pc.cast(texts, pa.float64()), -1.0).to_numpy()
    except pa.ArrowInvalid:
        return np.zeros(len(texts), np.int64), np.zeros(len(texts), np.bool_)
    point = pc.fill_null(pc.find_substring(texts, "."), -1).to_numpy()
    places = np.where(point < 0, 0, pc.fill_null(pc.binary_length(texts), 0).to_numpy() - point - 1)
    # A product below 2**53 is wrong by less than half a microsecond.
    seconds = (numbers >= 0) & (numbers < 2**53 / 1e6) & (places <= 6)
    finer = (numbers >= UNITS[0][0]) & (numbers < 2**53 / 1e3) & (point < 0)
    usual = seconds | finer & (numbers < UNITS[2][0])
    factors = np.select([numbers < below for below, _ in UNITS], [factor for _, factor in UNITS], 0)
    return np.rint(np.where(usual, numbers * factors, 0)).astype(np.int64), usual


def _versions(generation: int, numbers: pa.StringArray, otherwise: Ints) -> pa.BinaryArray:
    """`_version` by sequence number; where that is 0, by another number."""
    count = len(numbers)
    wide = pc.cast(numbers, pa.decimal256(76, 0))
    little_endian = np.frombuffer(wide.buffers()[1], np.uint8)[: 32 * count].reshape(count, 32)
    rows = np.zeros((count, 4 + SEQUENCE_BYTES), np.uint8)
    rows[:, :4] = np.frombuffer(generation.to_bytes(4, "big"), np.uint8)
    rows[:, 4:] = little_endian[:, SEQUENCE_BYTES - 1 :: -1]
    if otherwise.any():
        at = np.flatnonzero(otherwise)
        rows[at, -8:] = otherwise[at].astype(">i8").view(np.uint8).reshape(len(at), 8)
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(rows)])
