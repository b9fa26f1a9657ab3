"""Rows' keys as numbers that sort and compare fast.

A single integer column is its own number: exact. Any other key becomes SipHash-1-3 with 128 bits
(Aumasson, Bernstein: "SipHash: a fast short-input PRF"), computed for all rows at once. It is keyed by a secret, so
that nobody can write rows whose keys collide; by chance, two of a billion keys do so once in 10^20 tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Words = npt.NDArray[np.uint64]

SEED_BYTES = 16


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of rows, in the order of the rows. check: the second half; None where the first is exact."""

    main: Words
    check: Words | None

    def __len__(self) -> int:
        return len(self.main)

    def take(self, rows: npt.NDArray[np.intp]) -> Keys:
        """The keys of these rows."""
        return Keys(self.main[rows], self.check[rows] if self.check is not None else None)

    def order(self) -> npt.NDArray[np.intp]:
        """What sorts the keys; equal ones stay in the order of their rows."""
        if self.check is None:
            return np.argsort(self.main, kind="stable")
        return np.lexsort((self.check, self.main))

    def differ(self, other: Keys) -> npt.NDArray[np.bool_]:
        """Row by row: is it another key there?"""
        different: npt.NDArray[np.bool_] = self.main != other.main
        if self.check is not None and other.check is not None:
            different |= self.check != other.check
        return different

    @staticmethod
    def join(parts: Sequence[Keys]) -> Keys:
        """One after the other."""
        if len(parts) == 1:
            return parts[0]
        checks = [part.check for part in parts if part.check is not None]
        return Keys(np.concatenate([part.main for part in parts]), np.concatenate(checks) if checks else None)


class KeyHash:
    """Turns a table's key columns into `Keys`. seed: the table's secret, `SEED_BYTES` long."""

    def __init__(self, types: Sequence[pa.DataType], seed: bytes) -> None:
        self.exact = len(types) == 1 and pa.types.is_integer(types[0])
        self.seed = seed
        self._k0, self._k1 = (np.uint64(int.from_bytes(seed[at : at + 8], "little")) for at in (0, 8))

    def of(self, columns: Sequence[pa.Array], texts: Sequence[pa.Array | None] = ()) -> Keys:
        """The keys of rows with these key columns.

        texts: by column, the value's text where the column's type cannot hold it (else NULL), or None. A NULL
        without a text is a key too, as for any other value.
        """
        if self.exact and not columns[0].null_count:
            return Keys(columns[0].cast(pa.int64()).to_numpy(zero_copy_only=False).view(np.uint64), None)
        if self.exact:
            # Only rows that no key tells apart (a truncate) have none; they are never looked for.
            filled = pc.fill_null(columns[0].cast(pa.int64()), 0)
            return Keys(filled.to_numpy(zero_copy_only=False).view(np.uint64), None)
        state = _Sip(len(columns[0]), self._k0, self._k1)
        for i, column in enumerate(columns):
            text = texts[i] if i < len(texts) else None
            self._absorb(state, column, text)
        return Keys(*state.finish())

    def _absorb(self, state: _Sip, column: pa.Array, text: pa.Array | None) -> None:
        valid = _validity(column)
        state.absorb(valid.astype(np.uint64))
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            _absorb_bytes(state, pc.fill_null(column, "").cast(pa.large_string()))
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            _absorb_bytes(state, pc.fill_null(column, b"").cast(pa.large_binary()))
        elif pa.types.is_decimal(kind):
            words = np.frombuffer(column.buffers()[1], np.uint64)[2 * column.offset :][: 2 * len(column)].reshape(-1, 2)
            for i in range(2):
                state.absorb(np.where(valid, words[:, i], np.uint64(0)))
        else:
            state.absorb(_word(column))
        # What a row's key is must not depend on the rows beside it: only where it is NULL does the text count.
        missing = np.flatnonzero(~valid)
        if text is not None and len(missing):
            texts = pc.fill_null(text.take(pa.array(missing)), "")
            _absorb_bytes(state, texts.cast(pa.large_string()), missing)


def _word(column: pa.Array) -> Words:
    """Values of at most eight bytes as words; equal values of a narrow and of a wider type give equal ones."""
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_floating(kind):
        column = pc.add(column.cast(pa.float64()), 0.0).view(pa.int64())  # -0.0 is 0.0
    elif pa.types.is_date32(kind):
        column = column.view(pa.int32()).cast(pa.int64())
    elif pa.types.is_timestamp(kind):
        column = column.view(pa.int64())
    else:
        column = column.cast(pa.int64())
    filled = pc.fill_null(column, 0) if column.null_count else column
    words: Words = filled.to_numpy(zero_copy_only=False).view(np.uint64)
    return words


def _validity(column: pa.Array) -> npt.NDArray[np.bool_]:
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    valid: npt.NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _absorb_bytes(state: _Sip, column: pa.Array, among: npt.NDArray[np.intp] | None = None) -> None:
    """Texts, eight bytes a word, the last one padded with zeros; then their length. among: whose rows they are."""
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset :][: len(column) + 1]
    starts, lengths = offsets[:-1], np.diff(offsets)
    longest = int(lengths.max(initial=0))
    data = column.buffers()[2]
    end = int(offsets[-1]) if len(offsets) else 0
    padded = np.zeros(end + 16, np.uint8)
    if data is not None and end:
        padded[:end] = np.frombuffer(data, np.uint8)[:end]
    # The eight bytes from every place on, as one number each: a view, nothing is copied.
    words = np.ndarray(end + 8, "<u8", padded, 0, (1,))
    for at in range(0, longest, 8):
        rows = np.flatnonzero(lengths > at)
        left = np.minimum(lengths[rows] - at, 8).astype(np.uint64)
        word = words[starts[rows] + at] & (~np.uint64(0) >> (np.uint64(64) - left * np.uint64(8)))
        whole = among is None and len(rows) == len(lengths)
        state.absorb(word, None if whole else rows if among is None else among[rows])
    state.absorb(lengths.astype(np.uint64), among)


class _Sip:
    """SipHash-1-3's state of many rows."""

    def __init__(self, rows: int, k0: np.uint64, k1: np.uint64) -> None:
        start = (0x736F6D6570736575, 0x646F72616E646F6D ^ 0xEE, 0x6C7967656E657261, 0x7465646279746573)
        keys = (k0, k1, k0, k1)
        self._v = [np.full(rows, np.uint64(c) ^ k, np.uint64) for c, k in zip(start, keys, strict=True)]

    def absorb(self, word: Words, rows: npt.NDArray[np.intp] | None = None) -> None:
        """Take in one word of each row, or of these rows only."""
        v = self._v if rows is None else [one[rows] for one in self._v]
        v[3] ^= word
        _round(v)
        v[0] ^= word
        if rows is not None:
            for whole, part in zip(self._v, v, strict=True):
                whole[rows] = part

    def finish(self) -> tuple[Words, Words]:
        """Two words of each row."""
        v = self._v
        v[2] ^= np.uint64(0xEE)
        for _ in range(3):
            _round(v)
        first = v[0] ^ v[1] ^ v[2] ^ v[3]
        v[1] ^= np.uint64(0xDD)
        for _ in range(3):
            _round(v)
        return first, v[0] ^ v[1] ^ v[2] ^ v[3]


def _round(v: list[Words]) -> None:
    a, b, c, d = v
    a += b
    _rotate(b, 13)
    b ^= a
    _rotate(a, 32)
    c += d
    _rotate(d, 16)
    d ^= c
    a += d
    _rotate(d, 21)
    d ^= a
    c += b
    _rotate(b, 17)
    b ^= c
    _rotate(c, 32)


def _rotate(words: Words, bits: int) -> None:
    high = words << np.uint64(bits)
    words >>= np.uint64(64 - bits)
    words |= high
