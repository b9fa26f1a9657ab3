"""pgoutput messages → Arrow, whole columns at a time. Pure: bytes in, events out, no I/O.

Format: PostgreSQL's manual, "Logical Replication Message Formats", protocol version 1. A block of messages
is one buffer; NumPy finds where every column of every row lies by walking the columns (not the rows), and
one Arrow `take` copies each column's values together. No Python object is made for a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from catchment.change import ChangeBatch
from catchment.errors import Fatal
from catchment.progress import Progress
from catchment.schema import UTC_MICROSECONDS, TableSchema
from catchment.sources.base import Event, SchemaChange, TransactionEnd
from catchment.sources.postgres.types import EPOCH_2000_US, LogicalType

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_PADDING = 64
"""Bytes after the last message, so that reading a length never leaves the buffer."""

_B, _C, _R, _I, _U, _D, _T = (ord(letter) for letter in "BCRIUDT")
_KEY, _OLD = ord("K"), ord("O")
_NULL, _UNCHANGED, _TEXT, _BINARY = (ord(letter) for letter in "nutb")

_OPERATION = np.zeros(256, np.uint8)
_OPERATION[[_I, _U, _D]] = np.frombuffer(b"cud", np.uint8)

_CHANGE = np.zeros(256, bool)
_CHANGE[[_I, _U, _D]] = True


def lsn_text(lsn: int) -> str:
    """An LSN as PostgreSQL writes it: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def position(lsn: int, ordinal: int = 0) -> bytes:
    """A position in a slot's lane: commit LSN and ordinal within the transaction, both big-endian."""
    return lsn.to_bytes(8, "big") + ordinal.to_bytes(8, "big")


def position_lsn(at: bytes) -> int:
    """The LSN of a position."""
    return int.from_bytes(at[:8], "big")


@dataclass(frozen=True, slots=True)
class Block:
    """Some messages in one padded buffer. starts: where each begins; they need not be adjacent."""

    buffer: Bytes
    starts: Ints

    @classmethod
    def from_arrow(cls, messages: pa.BinaryArray) -> Block:
        """From a column of messages, as `pg_logical_slot_peek_binary_changes` gives them."""
        _, offsets_buffer, data = messages.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int32)[messages.offset : messages.offset + len(messages) + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        buffer = np.zeros(last - first + _PADDING, np.uint8)
        buffer[: last - first] = np.frombuffer(data or b"", np.uint8)[first:last]
        return cls(buffer, offsets[:-1].astype(np.int64) - first)

    @classmethod
    def from_stream(cls, payloads: Sequence[bytes | memoryview], header: int) -> Block:
        """From CopyData payloads, each a message behind `header` bytes."""
        data = b"".join([*payloads, bytes(_PADDING)])
        lengths = np.fromiter(map(len, payloads), np.int64, len(payloads))
        return cls(np.frombuffer(data, np.uint8), np.cumsum(lengths) - lengths + header)

    @property
    def nbytes(self) -> int:
        return int(self.buffer.nbytes)

    def big_endian(self, at: Ints, kind: str) -> Ints:
        """The integers of NumPy type `kind` that lie at these places."""
        width = np.dtype(kind).itemsize
        view = np.ndarray((len(self.buffer) - width + 1,), kind, self.buffer, strides=(1,))
        return view[at].astype(np.int64)


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column as a relation message describes it."""

    name: str
    type_oid: int
    typmod: int
    identity: bool


@dataclass(frozen=True, slots=True)
class RelationMessage:
    """A parsed relation message. identity: replica identity, `d`efault, `n`othing, `f`ull, `i`ndex."""

    oid: int
    namespace: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]

    @classmethod
    def parse(cls, message: bytes) -> RelationMessage:
        """Parse one message, its letter included."""
        oid = int.from_bytes(message[1:5], "big")
        namespace, at = _zero_terminated(message, 5)
        name, at = _zero_terminated(message, at)
        identity = chr(message[at])
        count = int.from_bytes(message[at + 1 : at + 3], "big")
        at += 3
        columns = []
        for _ in range(count):
            flags = message[at]
            column, at = _zero_terminated(message, at + 1)
            type_oid = int.from_bytes(message[at : at + 4], "big")
            typmod = int.from_bytes(message[at + 4 : at + 8], "big", signed=True)
            columns.append(RelationColumn(column, type_oid, typmod, bool(flags & 1)))
            at += 8
        return cls(oid, namespace or "pg_catalog", name, identity, tuple(columns))


def _zero_terminated(message: bytes, at: int) -> tuple[str, int]:
    end = message.index(0, at)
    return message[at:end].decode(), end + 1


@dataclass(frozen=True, slots=True)
class Relation:
    """What the decoder must know of a relation: the table's schema and how each column is read."""

    schema: TableSchema
    types: tuple[LogicalType, ...]


@dataclass(slots=True)
class _Transaction:
    """The transaction that the last block ended in, if any."""

    commit_lsn: int = 0
    committed_at: int = 0
    xid: int = 0
    ordinal: int = 0
    open: bool = False


@dataclass
class Decoder:
    """Turns blocks of one lane into events; remembers relations and the transaction a block ends in.

    resolve: called with a relation message that is new or changed; gives the table's schema, or None for
    a table that is not captured. Transactions that committed below `start` (a commit LSN) are dropped:
    they were read before.
    """

    lane: str
    resolve: Callable[[RelationMessage], Relation | None]
    start: int = 0
    progress: Progress = field(default_factory=Progress)
    _relations: dict[int, Relation | None] = field(default_factory=dict)
    _messages: dict[int, bytes] = field(default_factory=dict)
    _transaction: _Transaction = field(default_factory=_Transaction)

    @property
    def in_transaction(self) -> bool:
        """Has a transaction begun whose end has not been decoded?"""
        return self._transaction.open

    def decode(self, block: Block) -> Iterator[Event]:
        """The events of the block, in order. Raises Fatal on bytes that are not pgoutput."""
        letters = block.buffer[block.starts]
        begun = 0
        for at in np.flatnonzero((letters == _R) | (letters == _T)):
            index = int(at)
            if letters[index] == _R:
                message = self._relation_bytes(block, index)
                oid = int.from_bytes(message[1:5], "big")
                if self._messages.get(oid) == message:
                    continue
                if oid in self._messages:
                    yield from self._segment(block, letters, begun, index)
                    begun = index + 1
                yield from self._learn(oid, message)
            else:
                yield from self._segment(block, letters, begun, index)
                begun = index + 1
                yield from self._truncate(block, index)
        yield from self._segment(block, letters, begun, len(letters))

    def _relation_bytes(self, block: Block, index: int) -> bytes:
        start = int(block.starts[index])
        # A relation message does not say its length; the next message of the buffer bounds it.
        end = int(block.starts[index + 1]) if index + 1 < len(block.starts) else len(block.buffer)
        message = block.buffer[start:end].tobytes()
        return message[: _relation_length(message)]

    def _learn(self, oid: int, message: bytes) -> Iterator[Event]:
        relation = self.resolve(RelationMessage.parse(message))
        self._messages[oid] = message
        known = self._relations.get(oid)
        self._relations[oid] = relation
        if relation is not None and (known is None or known.schema != relation.schema):
            yield SchemaChange(relation.schema)

    def _segment(self, block: Block, letters: Bytes, begun: int, end: int) -> Iterator[Event]:
        """The events of messages [begun, end), between which no relation changes."""
        if begun == end:
            return
        starts, letters = block.starts[begun:end], letters[begun:end]
        commits = np.flatnonzero(letters == _C)
        numbers, transactions = self._number(block, starts, letters)
        closed = int(commits[-1]) + 1 if len(commits) else 0
        yield from self._changes(block, starts[:closed], letters[:closed], numbers[:closed], transactions)
        if closed:
            end_lsn = int(block.big_endian(starts[closed - 1 : closed] + 10, ">u8")[0])
            if end_lsn > self.start:
                self.progress = self.progress.join(Progress({self.lane: position(end_lsn)}))
                yield TransactionEnd(self.progress)
        yield from self._changes(block, starts[closed:], letters[closed:], numbers[closed:], transactions)

    def _number(self, block: Block, starts: Ints, letters: Bytes) -> tuple[npt.NDArray[np.void], _Transactions]:
        """For each message its transaction (index) and ordinal in it; remembers the one left open."""
        begins = starts[letters == _B]
        current = self._transaction
        transactions = _Transactions(
            commit_lsn=np.concatenate(([current.commit_lsn], block.big_endian(begins + 1, ">u8"))),
            committed_at=np.concatenate(([current.committed_at], block.big_endian(begins + 9, ">i8"))),
            xid=np.concatenate(([current.xid], block.big_endian(begins + 17, ">u4"))),
        )
        index = np.cumsum(letters == _B)
        counted = np.cumsum(_CHANGE[letters])
        before = np.concatenate(([-current.ordinal], counted[letters == _B]))
        numbers = np.empty(len(letters), dtype=[("transaction", np.int64), ("ordinal", np.int64)])
        numbers["transaction"], numbers["ordinal"] = index, counted - before[index]
        last = int(index[-1])
        ends = np.flatnonzero((letters == _C) | (letters == _B))
        still_open = bool(letters[ends[-1]] == _B) if len(ends) else current.open
        self._transaction = _Transaction(
            int(transactions.commit_lsn[last]),
            int(transactions.committed_at[last]),
            int(transactions.xid[last]),
            int(numbers["ordinal"][-1]),
            still_open,
        )
        return numbers, transactions

    def _changes(
        self,
        block: Block,
        starts: Ints,
        letters: Bytes,
        numbers: npt.NDArray[np.void],
        transactions: _Transactions,
    ) -> Iterator[Event]:
        rows = np.flatnonzero(_CHANGE[letters])
        if self.start and len(rows):
            rows = rows[transactions.commit_lsn[numbers["transaction"][rows]] >= self.start]
        if not len(rows):
            return
        oids = block.big_endian(starts[rows] + 1, ">u4")
        present = np.unique(oids)
        for oid in present:
            if int(oid) not in self._relations:
                raise Fatal(
                    f"The server sent a change of relation {int(oid)} without describing it first. "
                    "Please report this with the server's version."
                )
            relation = self._relations[int(oid)]
            if relation is None:
                continue
            mine = rows if len(present) == 1 else rows[oids == oid]
            envelope = _envelope(self.lane, letters[mine], numbers[mine], transactions, relation.schema.version)
            yield _rows(block, starts[mine], letters[mine], relation, self.lane, envelope)

    def _truncate(self, block: Block, index: int) -> Iterator[Event]:
        start = int(block.starts[index])
        count = int(block.big_endian(np.array([start + 1]), ">i4")[0])
        oids = block.big_endian(start + 6 + 4 * np.arange(count), ">u4")
        current = self._transaction
        for oid in oids:
            current.ordinal += 1
            relation = self._relations.get(int(oid))
            if relation is None or current.commit_lsn < self.start:
                continue
            transactions = _Transactions(
                np.array([current.commit_lsn]), np.array([current.committed_at]), np.array([current.xid])
            )
            number = np.zeros(1, dtype=[("transaction", np.int64), ("ordinal", np.int64)])
            number["ordinal"] = current.ordinal
            letters = np.array([_T], np.uint8)
            envelope = _envelope(self.lane, letters, number, transactions, relation.schema.version)
            row = relation.schema.row_type
            columns = [*envelope, _no_lists(1), _no_maps(1), pa.nulls(1, row), pa.nulls(1, row)]
            records = pa.RecordBatch.from_arrays(columns, schema=relation.schema.envelope)
            yield ChangeBatch(relation.schema, self.lane, records)


_OPERATION[_T] = ord("t")


def _relation_length(message: bytes) -> int:
    """Where a relation message ends."""
    at = message.index(0, message.index(0, 5) + 1) + 2
    count = int.from_bytes(message[at : at + 2], "big")
    at += 2
    for _ in range(count):
        at = message.index(0, at + 1) + 9
    return at


@dataclass(frozen=True, slots=True)
class _Transactions:
    """The transactions of a segment; the first is the one that was open before it."""

    commit_lsn: Ints
    committed_at: Ints
    xid: Ints


def _envelope(
    lane: str,
    letters: Bytes,
    numbers: npt.NDArray[np.void],
    transactions: _Transactions,
    version: int,
) -> list[pa.Array]:
    """The columns of a change from `_op` to `_schema_version`."""
    count = len(letters)
    of = numbers["transaction"]
    places = np.empty((count, 2), ">u8")
    places[:, 0], places[:, 1] = transactions.commit_lsn[of], numbers["ordinal"]
    positions = fixed_binary(places.view(np.uint8).reshape(count, 16))
    operations = pa.Array.from_buffers(
        pa.string(),
        count,
        [None, pa.py_buffer(np.arange(count + 1, dtype=np.int32)), pa.py_buffer(_OPERATION[letters])],
    )
    committed = transactions.committed_at[of] + EPOCH_2000_US
    first, last = int(of[0]), int(of[-1])
    if first == last:
        xids = pa.repeat(pa.scalar(str(int(transactions.xid[first]))), count)
    else:
        xids = pa.array(transactions.xid).cast(pa.string()).take(pa.array(of))
    return [
        operations,
        pa.repeat(pa.scalar(lane), count),
        positions,
        positions,
        xids,
        pa.array(committed).view(UTC_MICROSECONDS),
        pa.repeat(pa.scalar(version, pa.int32()), count),
    ]


def fixed_binary(rows: Bytes) -> pa.Array:
    """A binary array whose values are the rows of a matrix of bytes."""
    count, width = rows.shape
    offsets = np.arange(0, width * count + 1, width, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(rows)])


def _no_lists(count: int) -> pa.Array:
    return pa.nulls(count, pa.list_(pa.string()))


def _no_maps(count: int) -> pa.Array:
    return pa.nulls(count, pa.map_(pa.string(), pa.string()))


@dataclass(frozen=True, slots=True)
class Lost:
    """Values of one column that its type cannot hold: in which rows, and the server's texts of them.

    A value of the old row is `before.<column>`.
    """

    column: str
    rows: Ints
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Tuples:
    """Where the columns of some tuples lie. kinds is None for a column whose values are all text."""

    kinds: list[Bytes | None]
    starts: list[Ints]
    lengths: list[Ints]
    end: Ints


def _walk(block: Block, at: Ints, columns: int, table: TableSchema) -> _Tuples:
    """Walk all tuples at once, column by column. `at` points at their column counts."""
    counts = block.big_endian(at, ">i2")
    if not (counts == columns).all():
        raise Fatal(f"{table.table}: a row does not have the {columns} columns that its relation message announced.")
    place = at + 2
    kinds: list[Bytes | None] = []
    starts: list[Ints] = []
    lengths: list[Ints] = []
    for _ in range(columns):
        kind = block.buffer[place]
        length = block.big_endian(place + 1, ">i4")
        start = place + 5
        sent = (kind == _TEXT) | (kind == _BINARY)
        if sent.all():
            place = start + length
            kinds.append(None)
        else:
            # A value that was not sent is an empty piece where it would be: `_texts` needs ascending places.
            length = np.where(sent, length, 0)
            start = np.where(sent, start, place + 1)
            place = start + length
            kinds.append(kind)
        starts.append(start)
        lengths.append(length)
    return _Tuples(kinds, starts, lengths, place)


def _rows(
    block: Block, starts: Ints, letters: Bytes, relation: Relation, lane: str, envelope: list[pa.Array]
) -> ChangeBatch:
    """One batch of one relation's inserts, updates and deletes, in order."""
    schema = relation.schema
    count, width = len(starts), len(relation.types)
    markers = block.buffer[starts + 5]
    has_old = (markers == _KEY) | (markers == _OLD)
    has_new = letters != _D
    lost: list[Lost] = []
    old: _Tuples | None = None
    new_at = starts + 6
    if has_old.any():
        old = _walk(block, starts[has_old] + 6, width, schema)
        new_at[has_old] = old.end + 1
        before = _scatter(_struct(block, old, relation, has_old, "before.", lost), has_old)
    else:
        before = pa.nulls(count, schema.row_type)
    unchanged = _no_lists(count)
    if has_new.any():
        new = _walk(block, new_at[has_new], width, schema)
        missing = _missing(new)
        if missing is not None:
            if old is not None:
                missing = _fill(new, missing, old, has_old[has_new], (has_old & has_new)[has_old])
            unchanged = _scatter(_names(missing, schema), has_new)
        after = _scatter(_struct(block, new, relation, has_new, "", lost), has_new)
    else:
        after = pa.nulls(count, schema.row_type)
    columns = [*envelope, unchanged, unrepresentable(lost, count), before, after]
    return ChangeBatch(schema, lane, pa.RecordBatch.from_arrays(columns, schema=schema.envelope))


def _scatter(values: pa.Array, where: npt.NDArray[np.bool_]) -> pa.Array:
    """Spread values over the rows that have one; the others are NULL."""
    if where.all():
        return values
    places = pa.array(np.cumsum(where) - 1, mask=~where)
    return values.take(places)


def _missing(tuples: _Tuples) -> npt.NDArray[np.bool_] | None:
    """rows × columns: which values did the server not send (unchanged TOAST)? None when it sent all."""
    if not any(kind is not None and (kind == _UNCHANGED).any() for kind in tuples.kinds):
        return None
    count = len(tuples.end)
    none = np.zeros(count, bool)
    return np.stack([none if kind is None else kind == _UNCHANGED for kind in tuples.kinds], axis=1)


def _fill(
    new: _Tuples,
    missing: npt.NDArray[np.bool_],
    old: _Tuples,
    new_with_old: npt.NDArray[np.bool_],
    old_with_new: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Take an unchanged value from the old tuple where it was sent (replica identity FULL, key columns)."""
    missing = missing.copy()
    for column in range(missing.shape[1]):
        lacking = np.flatnonzero(missing[:, column] & new_with_old)
        if not len(lacking):
            continue
        beside = np.flatnonzero(old_with_new)[np.cumsum(new_with_old)[lacking] - 1]
        old_kind = old.kinds[column]
        sent = np.ones(len(beside), bool) if old_kind is None else old_kind[beside] == _TEXT
        rows, beside = lacking[sent], beside[sent]
        kind = new.kinds[column]
        if kind is not None:
            kind = kind.copy()
            kind[rows] = _TEXT
            new.kinds[column] = kind
        new.starts[column][rows] = old.starts[column][beside]
        new.lengths[column][rows] = old.lengths[column][beside]
        missing[rows, column] = False
    return missing


def _names(missing: npt.NDArray[np.bool_], schema: TableSchema) -> pa.Array:
    """Each row's unchanged columns by name; NULL where there is none."""
    names = pa.array([column.name for column in schema.columns], pa.string())
    _, columns = np.nonzero(missing)
    counts = missing.sum(axis=1)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(columns)), mask=pa.array(counts == 0))


def _struct(
    block: Block,
    tuples: _Tuples,
    relation: Relation,
    where: npt.NDArray[np.bool_],
    prefix: str,
    lost: list[Lost],
) -> pa.StructArray:
    """Rows as a struct of typed columns; adds to `lost` what a column's type could not hold."""
    columns = []
    for index, (kind, column) in enumerate(zip(relation.types, relation.schema.columns, strict=True)):
        texts = _texts(block, tuples, index, kind.suffix)
        values, bad = kind.from_text(texts)
        if bad is not None:
            full = texts if not kind.suffix else _texts(block, tuples, index, b"")
            at = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
            lost.append(Lost(prefix + column.name, np.flatnonzero(where)[at], full.take(pa.array(at)).to_pylist()))
        columns.append(values)
    return pa.StructArray.from_arrays(columns, fields=list(relation.schema.row_type))


def _texts(block: Block, tuples: _Tuples, index: int, suffix: bytes) -> pa.Array:
    """One column's texts, copied together: Arrow takes every second piece of an array over the buffer."""
    starts, lengths, kind = tuples.starts[index], tuples.lengths[index], tuples.kinds[index]
    sent = None if kind is None else kind == _TEXT
    if suffix and _all_end_in(block, starts, lengths, sent, suffix):
        lengths = lengths - len(suffix) if sent is None else np.where(sent, lengths - len(suffix), 0)
    count = len(starts)
    edges = np.empty(2 * count, np.int32)
    edges[0::2], edges[1::2] = starts, starts + lengths
    pieces = pa.Array.from_buffers(pa.binary(), 2 * count - 1, [None, pa.py_buffer(edges), pa.py_buffer(block.buffer)])
    taken = pieces.take(pa.array(np.arange(0, 2 * count, 2, dtype=np.int32)))
    _, offsets, data = taken.buffers()
    if sent is None or sent.all():
        return pa.Array.from_buffers(pa.string(), count, [None, offsets, data], 0, taken.offset)
    validity = pa.array(sent).buffers()[1]
    return pa.Array.from_buffers(pa.string(), count, [validity, offsets, data])


def _all_end_in(block: Block, starts: Ints, lengths: Ints, sent: npt.NDArray[np.bool_] | None, suffix: bytes) -> bool:
    ends = starts + lengths if sent is None else (starts + lengths)[sent]
    return all(bool((block.buffer[ends - len(suffix) + i] == letter).all()) for i, letter in enumerate(suffix))


def unrepresentable(lost: Sequence[Lost], count: int) -> pa.Array:
    """column → text for the rows that have such values; rare, so row by row."""
    if not lost:
        return _no_maps(count)
    kept: list[list[tuple[str, str]] | None] = [None] * count
    for one in lost:
        for row, text in zip(one.rows, one.texts, strict=True):
            kept[row] = [*(kept[row] or []), (one.column, text)]
    return pa.array(kept, pa.map_(pa.string(), pa.string()))
