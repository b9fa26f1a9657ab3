"""Redaction: columns replaced by keyed hashes, before anything is written, spilled or logged."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from catchment.change import ChangeBatch
from catchment.schema import TableSchema
from catchment.transforms.config import HashConfig
from catchment.transforms.hashing import KeyedHash, canonical_text, date_text, timestamp_text

_ROWS = ("before", "after")


class HashColumns:
    """Hashes the covered columns in `before`, `after` and `_unrepresentable`; each distinct value once.

    A hashed column is text; NULL stays NULL; a key stays a key.
    """

    def __init__(self, config: HashConfig) -> None:
        self._config = config
        self._hash = KeyedHash(config.secret.get_secret_value())
        self._covered: dict[TableSchema, tuple[TableSchema, frozenset[str]]] = {}

    def schema(self, schema: TableSchema) -> TableSchema:
        return self._plan(schema)[0]

    def apply(self, batch: ChangeBatch) -> ChangeBatch:
        schema, covered = self._plan(batch.schema)
        texts = self._personal_texts(batch, covered)
        if not covered and not texts:
            return batch
        fields, arrays = [], []
        for field, array in zip(batch.records.schema, batch.records.columns, strict=True):
            if field.name in _ROWS:
                array = self._row(array, covered)
            elif field.name == "_unrepresentable" and texts:
                array = self._texts(array, texts)
            fields.append(field.with_type(array.type))
            arrays.append(array)
        records = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        return replace(batch, schema=schema, records=records)

    def _plan(self, schema: TableSchema) -> tuple[TableSchema, frozenset[str]]:
        plan = self._covered.get(schema)
        if plan is None:
            table = str(schema.table)
            covered = frozenset(c.name for c in schema.columns if self._config.covers(table, c.name))
            columns = tuple(replace(c, type=pa.string()) if c.name in covered else c for c in schema.columns)
            plan = self._covered[schema] = (replace(schema, columns=columns) if covered else schema, covered)
        return plan

    def _row(self, rows: pa.StructArray, covered: frozenset[str]) -> pa.StructArray:
        fields, values = [], []
        # flatten() and not field(): what lies under a NULL row is nobody's business and may be anything.
        for field, column in zip(rows.type, rows.flatten(), strict=True):
            if field.name in covered:
                column = self._hashed(column)
            fields.append(field.with_type(column.type))
            values.append(column)
        missing = rows.is_null() if rows.null_count else None
        return pa.StructArray.from_arrays(values, fields=fields, mask=missing)

    def _hashed(self, column: pa.Array) -> pa.Array:
        if column.null_count == len(column):
            return pa.nulls(len(column), pa.string())
        encoded = column.dictionary_encode()
        distinct = pa.array(self._hashes(encoded.dictionary), pa.string())
        return distinct.take(encoded.indices)

    def _hashes(self, distinct: pa.Array) -> list[str | None]:
        kind = distinct.type
        if pa.types.is_timestamp(kind):
            utc = kind.tz is not None
            micros = distinct.cast(pa.timestamp("us", kind.tz)).cast(pa.int64()).to_pylist()
            return [None if m is None else self._hash.of_text(timestamp_text(m, utc=utc)) for m in micros]
        if pa.types.is_date32(kind):
            days = distinct.cast(pa.int32()).to_pylist()
            return [None if d is None else self._hash.of_text(date_text(d)) for d in days]
        if pa.types.is_float32(kind):
            # By its own shortest digits, not by those of the double next to it.
            distinct = pa.array([float(str(value)) for value in distinct.to_numpy(zero_copy_only=False)], pa.float64())
        values = distinct.to_pylist()
        if pa.types.is_binary(kind):
            return [None if v is None else self._hash.of_bytes(v) for v in values]
        return [None if v is None else self._hash.of_text(canonical_text(v)) for v in values]

    def _personal_texts(self, batch: ChangeBatch, covered: frozenset[str]) -> list[str]:
        """The keys in `_unrepresentable` (`column`, `before.column`) whose texts are to be hashed.

        Not every key is a column's: DynamoDB's `Email` has none beside `email`, nor has the thousandth attribute.
        """
        maps = batch.records.column("_unrepresentable")
        if maps.null_count == len(maps):
            return []
        table, folded = str(batch.schema.table), {name.lower() for name in covered}

        def is_personal(key: str) -> bool:
            name = key.removeprefix("before.")
            return name.lower() in folded or any(self._config.covers(table, one) for one in (key, name))

        return [key for key in pc.unique(maps.keys).to_pylist() if is_personal(key)]

    def _texts(self, maps: pa.MapArray, names: list[str]) -> pa.MapArray:
        """`_unrepresentable` with the texts under these keys hashed."""
        if maps.offset:
            # Arrow cannot make a map of a slice's offsets and a mask: copy; such values are rare.
            maps = maps.take(pa.array(range(len(maps)), pa.int32()))
        keys, items = maps.keys, maps.items
        personal = pc.is_in(keys, value_set=pa.array(names, pa.string()))
        hashed = pc.if_else(personal, self._hashed(items), items)
        missing = maps.is_null() if maps.null_count else None
        return pa.MapArray.from_arrays(maps.offsets, keys, hashed, type=maps.type, mask=missing)
