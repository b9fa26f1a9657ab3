"""Changes as flat rows: a table's columns, and what happened, beside each other. As NDJSON these are clean records.

    {"orderid":"7421","product_name":"Laptop","quantity":3,"price":429.99,"order_timestamp":"2026-11-21 15:17:18.123",
     "event_type":"INSERT","event_time":"2026-11-21 15:17:18.000","event_id":"c9fb…","sequence_number":"1119…",
     "stream_label":"2026-11-21T12:00:00.000","order_date":"2026-11-21"}

The columns are those of `after`, or of `before` for a deleted row. What the source does not say is null: only
records of DynamoDB have an event id, a sequence number and a stream label. A row that was read from the table, and not
from its changes, has the event type UNKNOWN. Other than in `clean_record`, a column that a row does not have is null.

Numbers are all their digits, times `YYYY-MM-DD HH:MM:SS.mmm` in UTC, bytes base64. `_types`, `_attributes`, `_original`
(of times with microseconds) and `_unrepresentable` are as in `clean_record`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from catchment.formats.clean_record import FIELDS, RESERVED
from catchment.formats.dynamodb_json import pointer, quote
from catchment.formats.ndjson import joined_lines, text_literal
from catchment.schema import TableSchema

EVENT_TYPES = {"c": "INSERT", "u": "MODIFY", "d": "REMOVE", "r": "UNKNOWN"}

_ISO_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9:.]+Z?)?$"
_LABEL = r"/(?P<label>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+)/[^/]*$"
"""DynamoDB's label of a stream, before the shard in a lane's name."""
_JSON_TYPES = frozenset({"M", "L", "SS", "NS", "BS"})
_NOTED_TYPES = frozenset({"B", "SS", "NS", "BS"})


@dataclass(frozen=True, slots=True)
class FlatRows:
    """Makes flat rows. date_column: `order_date` is its date where a table has it, else the change's."""

    date_column: str

    def of(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of these changes, none of which is a truncation: columns, the six fields, notes."""
        after, before = records.column("after"), records.column("before")
        kept = after.is_valid()
        names = [field.name for field in after.type]
        values = [pc.if_else(kept, new, old) for new, old in zip(after.flatten(), before.flatten(), strict=True)]
        top = _at_top(names)
        columns = {name: column for name, column in zip(names, values, strict=True) if name in top}
        moved = {name: column for name, column in zip(names, values, strict=True) if name not in top}
        columns |= dict(zip(FIELDS, self._fields(records, dict(zip(names, values, strict=True))), strict=True))
        if moved:
            columns["_attributes"] = _struct(moved)
        columns["_unrepresentable"] = records.column("_unrepresentable")
        return pa.RecordBatch.from_pydict(columns)

    def _fields(self, records: pa.RecordBatch, values: dict[str, pa.Array]) -> list[pa.Array]:
        at = records.column("_committed_at").cast(pa.timestamp("us"))
        event = at.cast(pa.date32()).cast(pa.string())
        dated = _date(values.get(self.date_column))
        sequence = _text(records, "_sequence_number")
        label = pc.struct_field(pc.extract_regex(records.column("_lane"), _LABEL), "label")
        return [
            _event_types(records.column("_op")),
            at,
            _text(records, "_event_id"),
            sequence,
            label,
            event if dated is None else pc.coalesce(dated, event),
        ]


class FlatNdjsonEncoder:
    """Turns record batches of changes into lines of flat rows, in an embedded DuckDB; one thread calls it."""

    def __init__(self, rows: FlatRows) -> None:
        self._rows = rows
        self._connection = duckdb.connect(":memory:", config={"threads": 1})

    def encode(self, schema: TableSchema, records: pa.RecordBatch) -> memoryview:
        """The lines of these changes, each ended by a newline, as UTF-8."""
        if not records.num_rows:
            return memoryview(b"")
        rows = self._rows.of(records)
        numbered = pa.table({f"c{i}": _readable(column) for i, column in enumerate(rows.columns)})
        self._connection.register("flat", numbered)
        try:
            lines = self._connection.sql(_query(schema, rows.schema)).to_arrow_table().column(0).combine_chunks()
        finally:
            self._connection.unregister("flat")
        return joined_lines(lines)

    def close(self) -> None:
        """Let go of the embedded database."""
        self._connection.close()


def _at_top(names: list[str]) -> frozenset[str]:
    """The names that can stand beside ours: of those that differ in case only, the one in lower case, if any."""
    kept: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (name != name.lower(), name)):
        kept.setdefault(name.lower(), name)
    return frozenset(name for lower, name in kept.items() if lower not in RESERVED)


def _struct(columns: dict[str, pa.Array]) -> pa.StructArray:
    """The columns as one; null where all of them are."""
    empty = functools.reduce(pc.and_, [column.is_null() for column in columns.values()])
    return pa.StructArray.from_arrays(list(columns.values()), names=list(columns), mask=empty)


def _event_types(operations: pa.Array) -> pa.Array:
    found = pc.index_in(operations, pa.array(list(EVENT_TYPES)))
    return pa.array(list(EVENT_TYPES.values())).take(found)


def _text(records: pa.RecordBatch, name: str) -> pa.Array:
    if name in records.schema.names:
        return records.column(name).cast(pa.string())
    return pa.nulls(records.num_rows, pa.string())


def _date(values: pa.Array | None) -> pa.Array | None:
    """The dates of times, as text; of text, only where it is ISO 8601 in UTC."""
    if values is None:
        return None
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp("us")).cast(pa.date32(), safe=False).cast(pa.string())
    if pa.types.is_date32(values.type):
        return values.cast(pa.string())
    if not pa.types.is_string(values.type):
        return None
    iso = pc.match_substring_regex(values, _ISO_DATE)
    return pc.if_else(iso, pc.utf8_slice_codeunits(values, 0, 10), pa.scalar(None, pa.string()))


def _readable(values: pa.Array) -> pa.Array:
    if pa.types.is_struct(values.type):
        return _struct({f"c{i}": _readable(child) for i, child in enumerate(values.flatten())})
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp("us")).cast(pa.string())
    return values.cast(pa.string()) if pa.types.is_date32(values.type) else values


def _query(schema: TableSchema, rows: pa.Schema) -> str:
    sources = {column.name: column.source_type for column in schema.columns}
    parts = []
    for number, field in enumerate(rows):
        if not field.name.startswith("_") or field.name not in RESERVED:
            text = _json(f"c{number}", field, {} if field.name in FIELDS else sources)
            parts.append(f"{text_literal(quote(field.name) + ':')} || coalesce({text}, 'null')")
    members = " || ',' || ".join(parts)
    notes = _types(sources, rows) + _originals(rows)
    if "_attributes" in rows.names:
        number = rows.get_field_index("_attributes")
        text = _json(f"c{number}", rows.field(number), sources)
        notes.append(f"CASE WHEN c{number} IS NULL THEN '' ELSE ',\"_attributes\":' || {text} END")
    last = f"c{len(rows) - 1}"
    notes.append(
        f"CASE WHEN cardinality({last}) > 0 THEN ',\"_unrepresentable\":' || to_json({last})::VARCHAR ELSE '' END"
    )
    return f"SELECT '{{' || {members} || {' || '.join(notes)} || '}}' || chr(10) AS line FROM flat"


def _types(sources: dict[str, str], rows: pa.Schema) -> list[str]:
    """The member `_types`, of columns at top level whose JSON does not say their type."""
    return _note(
        "_types",
        [
            f"CASE WHEN c{number} IS NULL THEN '' ELSE "
            f"{text_literal(',' + quote(pointer('', field.name)) + ':' + quote(sources[field.name]))} END"
            for number, field in enumerate(rows)
            if sources.get(field.name) in _NOTED_TYPES and field.name not in RESERVED
        ],
    )


def _originals(rows: pa.Schema) -> list[str]:
    """The member `_original`, of times with more digits than Athena has: as DynamoDB would spell them."""
    return _note(
        "_original",
        [
            f"CASE WHEN c{number} IS NULL OR ends_with(c{number}, '000') THEN '' ELSE "
            f"{text_literal(',' + quote(field.name) + ':')} || to_json('{{\"S\":\"' || replace(c{number}, ' ', 'T') || "
            f"'{'Z' if field.type.tz else ''}\"}}')::VARCHAR END"
            for number, field in enumerate(rows)
            if pa.types.is_timestamp(field.type) and field.name not in RESERVED
        ],
    )


def _note(name: str, members: list[str]) -> list[str]:
    """A member of members that are there or not, each with a comma before it; not there when all of them are not."""
    if not members:
        return []
    joined = " || ".join(members)
    begin = text_literal(f",{quote(name)}:{{")
    return [f"CASE WHEN {joined} = '' THEN '' ELSE {begin} || substr({joined}, 2) || '}}' END"]


def _json(column: str, field: pa.Field, sources: dict[str, str]) -> str:
    """The SQL expression for a value's JSON text; NULL where it is null."""
    kind = field.type
    if pa.types.is_struct(kind):
        parts = [
            f"{text_literal(quote(child.name) + ':')} || coalesce({_json(f'{column}.c{i}', child, sources)}, 'null')"
            for i, child in enumerate(kind)
        ]
        return "'{' || " + " || ',' || ".join(parts) + " || '}'"
    if pa.types.is_decimal(kind):
        text = f"{column}::VARCHAR"
        return f"rtrim(rtrim({text}, '0'), '.')" if kind.scale > 0 else text
    if pa.types.is_floating(kind):
        finite = f"to_json({column})::VARCHAR" if kind.bit_width == 64 else f"{column}::VARCHAR"
        return f"CASE WHEN isfinite({column}) THEN {finite} ELSE '\"' || {column}::VARCHAR || '\"' END"
    if pa.types.is_binary(kind):
        return f"'\"' || to_base64({column}) || '\"'"
    if pa.types.is_timestamp(kind):
        return f"'\"' || {column}[:-4] || '\"'"
    if pa.types.is_date32(kind):
        return f"'\"' || {column} || '\"'"
    if pa.types.is_string(kind):
        return column if sources.get(field.name) in _JSON_TYPES else f"to_json({column})::VARCHAR"
    return f"{column}::VARCHAR"
