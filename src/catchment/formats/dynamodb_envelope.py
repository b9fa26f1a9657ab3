"""What DynamoDB's change records say around their images: which change, of which kind, when, and which image is which.

A record that does not say it goes to `WrongRows`.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.change import Operation
from catchment.formats.dynamodb_attributes import Ints, Mask, strings
from catchment.formats.dynamodb_records import Records
from catchment.formats.stream_record import INSERT, MODIFY, REMOVE, UNITS, PoisonRecord, epoch_microseconds
from catchment.schema import UTC_MICROSECONDS

SEQUENCE_BYTES = 20
"""Of a sequence number in a version: 48 digits."""

_LONGEST_SEQUENCE = 48
_OPERATIONS = {INSERT: Operation.INSERT, MODIFY: Operation.UPDATE, REMOVE: Operation.DELETE}


def sequence_version(generation: int, number: int) -> bytes:
    """The version of the change with this sequence number; 0 and 1 stand below all of a generation's changes."""
    return generation.to_bytes(4, "big") + number.to_bytes(SEQUENCE_BYTES, "big")


class WrongRows:
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


def operations(read: Records, wrong: WrongRows) -> pa.StringArray:
    """`_op` of each record; NULL where it does not say."""
    names, not_text = strings(read.event_name)
    encoded = names.dictionary_encode()
    letters = pa.array([_OPERATIONS.get(name) for name in encoded.dictionary.to_pylist()], pa.string())
    found = letters.take(encoded.indices)
    wrong.where(np.asarray(found.is_null()) | not_text, "eventName is not INSERT, MODIFY or REMOVE")
    return found


def images(read: Records, ops: pa.StringArray, wrong: WrongRows) -> tuple[pa.MapArray, pa.MapArray]:
    """The items after and before. Without an OldImage the key is all that is known of the item before."""
    is_insert = pc.fill_null(pc.equal(ops, Operation.INSERT.value), False)
    is_delete = pc.fill_null(pc.equal(ops, Operation.DELETE.value), False)
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


def _except(items: pa.MapArray, rows: pa.BooleanArray) -> pa.MapArray:
    """The images, but for these rows', which are NULL."""
    if not pc.and_(items.is_valid(), rows).true_count:
        return items
    return pc.if_else(rows, pa.scalar(None, items.type), items)


def moment(read: Records, generation: int, wrong: WrongRows) -> dict[str, pa.Array]:
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
    versions = _versions(generation, usable, np.where(numbered, 0, created_at))
    return {
        "_version": versions,
        "_committed_at": pa.array(created_at, pa.int64(), mask=~known).view(UTC_MICROSECONDS),
        "_sequence_number": number,
        "_event_id": event_id,
    }


def _created_at(texts: pa.StringArray, wrong: WrongRows) -> tuple[Ints, Mask]:
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
    return np.rint(np.where(usual, numbers, 0) * factors).astype(np.int64), usual


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
