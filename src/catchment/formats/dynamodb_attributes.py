"""The attributes of many DynamoDB items as flat arrays: which item, which name, which type, which value.

A typed value arrives as compact JSON text (`{"S":"Laptop"}`). Nearly all of them are *plain*: a scalar whose text has
no escape, so that its value is a piece of the text, found by comparing eight bytes at either end. The others (nested
values, sets, escapes, malformed ones) are read one by one by `dynamodb_json`, which says what is right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.formats.dynamodb_json import MalformedValue, clean_value, dynamodb_text

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

LETTERS = ("", "S", "N", "B", "BOOL", "NULL", "M", "L", "SS", "NS", "BS")
"""DynamoDB's types; an entry's type is the index here. 0: malformed."""
S, N, B, BOOL, NULL = 1, 2, 3, 4, 5

_QUOTE, _BACKSLASH = ord('"'), ord("\\")
_SHORTEST = 8
"""Bytes of the shortest plain value, `{"S":""}`."""
_NUMBER = r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?$"
_BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text.ljust(8, b"\0"), "big"))


_SCALARS = ((S, _word(b'{"S":"')), (N, _word(b'{"N":"')), (B, _word(b'{"B":"')))
_SCALAR_MASK, _END_MASK, _END = _word(b"\xff" * 6), np.uint64(0xFFFF), np.uint64(int.from_bytes(b'"}', "big"))
_BOOL, _TRUE, _FALSE = _word(b'{"BOOL":'), _word(b'L":true}'), _word(b'":false}')
_NULL = _word(b'{"NULL":')


@dataclass(frozen=True, slots=True)
class OddValue:
    """A value that was read on its own.

    content: what `Attributes.contents` gives of it. source: what it was read of. ambiguous: its clean JSON does not say
    all types in it.
    """

    letter: int
    content: str
    source: str
    ambiguous: bool

    @property
    def text(self) -> str:
        """Its DynamoDB JSON, spelled in the one way."""
        return dynamodb_text(json.loads(self.source))


@dataclass(slots=True)
class Attributes:
    """One entry for each attribute of each item, in order.

    item, name: which item an entry belongs to, and which of `names` it has. letters: index into `LETTERS`.
    is_odd, odd: the entries that are not plain, and what they are. ambiguous: of these, whose clean JSON does not say
    all types in it. malformed: entry → reason, without its value; they are not among the odd ones.
    """

    item: Ints
    name: Ints
    names: list[str]
    letters: Bytes
    is_odd: Mask
    ambiguous: Mask
    odd: dict[int, OddValue]
    malformed: dict[int, str]
    _values: pa.Array
    _starts: Ints = field(repr=False)
    _ends: Ints = field(repr=False)

    @classmethod
    def of(cls, images: Iterable[pa.MapArray]) -> Attributes:
        """The attributes of these items, numbered through; a NULL item has none.

        images: maps from a name to the typed value's compact JSON text.
        """
        maps = list(images)
        lengths = np.concatenate([np.diff(one.offsets.to_numpy()) for one in maps])
        item = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        names = pa.concat_arrays([one.keys for one in maps]).dictionary_encode()
        values = pa.concat_arrays([one.items for one in maps])
        offsets = np.frombuffer(values.buffers()[1] or bytes(4), np.int32)[: len(values) + 1].astype(np.int64)
        made = cls(
            item,
            names.indices.to_numpy().astype(np.int64),
            names.dictionary.to_pylist(),
            np.zeros(len(values), np.uint8),
            np.zeros(len(values), np.bool_),
            np.zeros(len(values), np.bool_),
            {},
            {},
            values,
            offsets[:-1],
            offsets[1:],
        )
        if len(values):
            made._classify()
            made._read_odd()
        return made

    def counts(self, entry: int) -> bool:
        """Is it the last with its name in its item? Of a name that comes twice the last counts, as in Python."""
        end = int(np.searchsorted(self.item, self.item[entry], side="right"))
        return not np.any(self.name[entry + 1 : end] == self.name[entry])

    def contents(self, entries: Ints) -> pa.StringArray:
        """The values as text: of S and B the text itself, of the others their clean JSON. Not of NULL.

        entries: ascending.
        """
        is_bool = self.letters[entries] == BOOL
        starts, ends = self._starts[entries] + 6, self._ends[entries] - 2
        starts[is_bool] += 2
        ends[is_bool] += 1
        is_odd = self.is_odd[entries]
        if not is_odd.any():
            return _pieces(self._values, starts, ends)
        plain = _pieces(self._values, starts, np.where(is_odd, starts, ends))
        return pc.replace_with_mask(plain, pa.array(is_odd), self._said(entries[is_odd], "content"))

    def texts(self, entries: Ints) -> pa.StringArray:
        """The values' DynamoDB JSON, compact."""
        texts = self._values.take(pa.array(entries))
        is_odd = self.is_odd[entries]
        if not is_odd.any():
            return texts
        return pc.replace_with_mask(texts, pa.array(is_odd), self._said(entries[is_odd], "text"))

    def _said(self, odd: Ints, member: str) -> pa.StringArray:
        return pa.array([getattr(self.odd[entry], member) for entry in odd.tolist()], pa.string())

    def _classify(self) -> None:
        """Find the plain values; the letter of all others stays 0."""
        data = np.frombuffer(self._values.buffers()[2] or b"", np.uint8)
        lengths = self._ends - self._starts
        long_enough = lengths >= _SHORTEST
        if not long_enough.any():
            return
        # A short value's words are read elsewhere, and thrown away.
        somewhere = int(np.argmax(long_enough))
        first = _words(data, np.where(long_enough, self._starts, self._starts[somewhere]))
        last = _words(data, np.where(long_enough, self._ends, self._ends[somewhere]) - 8)
        prefix, ended = first & _SCALAR_MASK, (last & _END_MASK) == _END
        for letter, begin in _SCALARS:
            self.letters[(prefix == begin) & ended] = letter
        true = (lengths == 13) & (last == _TRUE)
        self.letters[(first == _BOOL) & (true | ((lengths == 14) & (last == _FALSE)))] = BOOL
        self.letters[(first == _NULL) & true] = NULL
        self.letters[~long_enough] = 0
        self._exclude_escapes(data)
        for letter, pattern in ((N, _NUMBER), (B, _BASE64)):
            entries = np.flatnonzero(self.letters == letter)
            if len(entries):
                usual = pc.match_substring_regex(self.contents(entries), pattern).to_numpy(zero_copy_only=False)
                self.letters[entries[~usual]] = 0

    def _exclude_escapes(self, data: Bytes) -> None:
        """A scalar with a backslash, or with more quotes than its own, is not plain."""
        whole = data[int(self._starts[0]) : int(self._ends[-1])]
        scalar = (self.letters >= S) & (self.letters <= B)
        quotes = whole == _QUOTE
        wanted = np.where(scalar, 4, 2)
        if int(np.count_nonzero(quotes)) != int(wanted.sum()):
            self.letters[scalar & (self._count(quotes) != wanted)] = 0
        backslashes = whole == _BACKSLASH
        if backslashes.any():
            self.letters[self._count(backslashes) > 0] = 0

    def _count(self, found: Mask) -> Ints:
        """How often something was found in each entry's text."""
        places = np.flatnonzero(found) + self._starts[0]
        counts: Ints = np.searchsorted(places, self._ends) - np.searchsorted(places, self._starts)
        return counts

    def _read_odd(self) -> None:
        odd = np.flatnonzero(self.letters == 0)
        if not len(odd):
            return
        known: dict[str | None, OddValue | str] = {}
        for entry, text in zip(odd.tolist(), self._values.take(pa.array(odd)).to_pylist(), strict=True):
            value = known.get(text)
            if value is None:
                value = known[text] = _odd_value(text)
            if isinstance(value, str):
                self.malformed[entry] = f"attribute {self.names[int(self.name[entry])]}{value}"
            else:
                self.letters[entry] = value.letter
                self.is_odd[entry] = True
                self.ambiguous[entry] = value.ambiguous
                self.odd[entry] = value


def _odd_value(text: str | None) -> OddValue | str:
    """The value, or what is wrong with it."""
    text = text or "null"
    types: dict[str, str] = {}
    try:
        value = json.loads(text)
        clean = clean_value(value, "", types)
    except MalformedValue as error:
        return str(error).removeprefix("attribute ").removeprefix("/" if not error.path else "")
    except (ValueError, RecursionError):
        return ": nested too deeply"
    ((letter, content),) = value.items()
    types.pop("", None)
    return OddValue(LETTERS.index(letter), content if letter in ("S", "B") else clean, text, bool(types))


def _words(data: Bytes, at: Ints) -> npt.NDArray[np.uint64]:
    """The eight bytes that begin at each of these places, big-endian."""
    view = np.ndarray((len(data) - 7,), ">u8", data, strides=(1,))
    words: npt.NDArray[np.uint64] = view[at].astype(np.uint64)
    return words


def _pieces(values: pa.Array, starts: Ints, ends: Ints) -> pa.StringArray:
    """Pieces of an array's data, copied together: Arrow takes every second piece of an array over the buffer."""
    count = len(starts)
    if not count:
        return pa.array([], pa.string())
    edges = np.empty(2 * count, np.int32)
    edges[0::2], edges[1::2] = starts, ends
    pieces = pa.Array.from_buffers(pa.string(), 2 * count - 1, [None, pa.py_buffer(edges), values.buffers()[2]])
    return pieces.take(pa.array(np.arange(0, 2 * count, 2, dtype=np.int32)))


def strings(texts: pa.Array) -> tuple[pa.StringArray, Mask]:
    """JSON strings → what they say; and where a text is something else. NULL stays NULL."""
    valid = np.asarray(texts.is_valid())
    at = np.flatnonzero(valid)
    wrong = np.zeros(len(texts), np.bool_)
    if not len(at):
        return texts.cast(pa.string()), wrong
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
    starts, ends = offsets[:-1][at].astype(np.int64), offsets[1:][at].astype(np.int64)
    quoted = data[starts] == _QUOTE
    wrong[at[~quoted]] = True
    at, starts, ends = at[quoted], starts[quoted], ends[quoted]
    if np.any(data[int(offsets[0]) : int(offsets[-1])] == _BACKSLASH):
        said = [None if text is None or text[0] != '"' else json.loads(text) for text in texts.to_pylist()]
        return pa.array(said, pa.string()), wrong
    return scattered(_pieces(texts, starts + 1, ends - 1), at, len(texts)), wrong


def scattered(values: pa.Array, at: Ints, count: int) -> pa.Array:
    """`count` values of which those at these places are given; the others are NULL."""
    if len(at) == count:
        return values
    places = np.zeros(count, np.int64)
    places[at] = np.arange(len(at))
    missing = np.ones(count, np.bool_)
    missing[at] = False
    return values.take(pa.array(places, mask=missing))
