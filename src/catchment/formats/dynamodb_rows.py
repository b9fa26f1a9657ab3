"""The attributes of many items as rows: the values of columns, and what is kept beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catchment.formats.dynamodb_attributes import LETTERS, NULL, Attributes, Ints, Mask, N, scattered
from catchment.formats.dynamodb_columns import AttributeColumn
from catchment.schema import TableSchema

_FEW_NAMES = 32


class ItemRows:
    """The attributes of rows that can be decoded. Items are the rows' images after, then those before."""

    def __init__(self, attributes: Attributes, rows: Mask) -> None:
        self.attributes = attributes
        self.items = 2 * len(rows)
        self._rows = len(rows)
        self._all = bool(rows.all())
        self._is_usable = np.concatenate((rows, rows))

    def row(self, entries: Ints) -> Ints:
        """The rows that these entries belong to."""
        return self.attributes.item[entries] % self._rows

    def of(self, code: int) -> Ints:
        """The entries with this name, one an item: of a name that comes twice the last counts, as in Python."""
        entries = self._entries(code)
        items = self.attributes.item[entries]
        if not self._all:
            entries = entries[self._is_usable[items]]
            items = self.attributes.item[entries]
        last = np.append(items[1:] != items[:-1], True)[: len(items)]
        return entries if last.all() else entries[last]

    def first_types(self, is_new: Callable[[str], bool]) -> list[tuple[int, str, str]]:
        """Of new attributes, in the order in which they come: row, name and type of the first value that has a type."""
        letters, found = self.attributes.letters, []
        for code in (code for code, name in enumerate(self.attributes.names) if is_new(name)):
            entries = self.of(code)
            entries = entries[letters[entries] != NULL]
            if len(entries):
                rows = self.row(entries)
                found.append((int(rows.min()), int(entries[np.argmin(rows)]), code))
        return [(row, self.attributes.names[code], LETTERS[letters[entry]]) for row, entry, code in sorted(found)]

    def values(self, columns: Mapping[str, AttributeColumn]) -> tuple[dict[str, pa.Array], list[Ints]]:
        """Each column's values, an item each, and the entries whose value is not in its column."""
        attributes = self.attributes
        values: dict[str, pa.Array] = {}
        lost: list[Ints] = []
        for code, name in enumerate(attributes.names):
            entries = self.of(code)
            column = columns.get(name)
            if column is None:
                lost.append(entries)
                continue
            fits = np.isin(attributes.letters[entries], column.codes) & ~attributes.ambiguous[entries]
            if not fits.all():
                lost.append(entries[~fits])
                entries = entries[fits]
            at = attributes.item[entries]
            texts = scattered(attributes.contents(entries), at, self.items)
            numbers = np.zeros(self.items, np.bool_)
            numbers[at] = attributes.letters[entries] == N
            values[name], bad = column.read(texts, numbers)
            if bad is not None:
                lost.append(entries[bad[at]])
        return values, lost

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


def struct(values: Mapping[str, pa.Array], there: Mask, begin: int, count: int, schema: TableSchema) -> pa.StructArray:
    """Rows [begin, begin + count) of the values; NULL where there is no image."""
    columns = [
        values[field.name].slice(begin, count) if field.name in values else pa.nulls(count, field.type)
        for field in schema.row_type
    ]
    missing = ~there[begin : begin + count]
    mask = pa.array(missing) if missing.any() else None
    return pa.StructArray.from_arrays(columns, fields=list(schema.row_type), mask=mask)
