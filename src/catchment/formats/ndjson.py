"""Changes as lines of JSON, one change a line.

    {"op":"u","table":"public.orders","lane":"shop","position":"0000…01","version":"0000…01",
     "transaction":"734","committed_at":"2026-01-31T12:00:00.123456Z","schema_version":1,
     "unchanged":["note"],"unrepresentable":null,"before":null,"after":{"id":7,"amount":"19.90","note":null}}

Nothing is rounded: decimals are strings; integers are all their digits; floats are the shortest digits that
read back the same, and "NaN", "Infinity", "-Infinity" as strings. Positions are hex, binary values base64.
Dates and times are ISO 8601 (proleptic Gregorian; years beyond 9999 have more digits, 44 BC is -0043), with
`Z` where the column has a time zone. A column named in `unchanged` was not sent: its null says nothing.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from catchment.schema import TableId

ENVELOPE = (
    ("op", '"_op"'),
    ("lane", '"_lane"'),
    ("position", 'lower(hex("_position"))'),
    ("version", 'lower(hex("_version"))'),
    ("transaction", '"_transaction"'),
    ("committed_at", "replace(\"_committed_at\", ' ', 'T') || 'Z'"),
    ("schema_version", '"_schema_version"'),
    ("unchanged", '"_unchanged"'),
    ("unrepresentable", '"_unrepresentable"'),
)


class NdjsonEncoder:
    """Turns record batches of changes into lines. Column by column, in an embedded DuckDB; one thread calls it."""

    def __init__(self) -> None:
        # One thread: lines come out in the order of the rows, and capture keeps the other cores.
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        self._queries: dict[tuple[TableId, pa.DataType], str] = {}

    def encode(self, table: TableId, records: pa.RecordBatch) -> memoryview:
        """The lines of these changes, each ended by a newline, as UTF-8."""
        if not records.num_rows:
            return memoryview(b"")
        row: pa.StructType = records.schema.field("after").type
        query = self._queries.get((table, row))
        if query is None:
            query = self._queries.setdefault((table, row), _query(table, row))
        self._connection.register("changes", _flat(records))
        try:
            lines = self._connection.sql(query).to_arrow_table().column(0).combine_chunks()
        finally:
            self._connection.unregister("changes")
        return joined_lines(lines)

    def close(self) -> None:
        """Let go of the embedded database."""
        self._connection.close()

    def __enter__(self) -> NdjsonEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _flat(records: pa.RecordBatch) -> pa.Table:
    """The envelope, with `before` and `after` taken apart into numbered columns.

    Numbered, because DuckDB's names ignore case and a table may well have columns "id" and "ID".
    """
    columns: dict[str, pa.Array] = {}
    for field in records.schema:
        if field.name in ("before", "after"):
            values = records.column(field.name)
            columns[f"has_{field.name}"] = values.is_valid()
            for index, child in enumerate(values.flatten()):
                columns[f"{field.name}_{index}"] = _readable(child)
        elif field.name.startswith("_"):
            columns[field.name] = _readable(records.column(field.name))
    return pa.table(columns)


def _readable(values: pa.Array) -> pa.Array:
    """Dates and times as text: Arrow writes every year that it can hold, quicker than DuckDB does."""
    if pa.types.is_timestamp(values.type):
        return values.cast(pa.timestamp("us")).cast(pa.string())
    if pa.types.is_date32(values.type):
        return values.cast(pa.string())
    return values


def _query(table: TableId, row: pa.StructType) -> str:
    fields = [f"{text_literal(name)}, {expression}" for name, expression in ENVELOPE]
    fields.insert(1, f"'table', {text_literal(str(table))}")
    for side in ("before", "after"):
        values = ", ".join(
            f"{text_literal(row.field(i).name)}, {_value(f'{side}_{i}', row.field(i).type)}"
            for i in range(row.num_fields)
        )
        fields.append(f"'{side}', CASE WHEN has_{side} THEN json_object({values}) END")
    return f"SELECT json_object({', '.join(fields)})::VARCHAR || chr(10) AS line FROM changes"


def _value(column: str, kind: pa.DataType) -> str:
    """The SQL expression for a value of this column type in JSON."""
    if pa.types.is_decimal(kind):
        return f"{column}::VARCHAR"
    if pa.types.is_floating(kind):
        # float32 by way of its own text: as a double 0.1 would be 0.10000000149011612.
        finite = f"to_json({column})" if kind.bit_width == 64 else f"{column}::VARCHAR::JSON"
        return (
            f"CASE WHEN isfinite({column}) THEN {finite} WHEN isnan({column}) THEN '\"NaN\"'::JSON"
            f" WHEN {column} > 0 THEN '\"Infinity\"'::JSON WHEN {column} < 0 THEN '\"-Infinity\"'::JSON END"
        )
    if pa.types.is_binary(kind):
        return f"to_base64({column})"
    if pa.types.is_timestamp(kind):
        text = f"replace({column}, ' ', 'T')"
        return f"{text} || 'Z'" if kind.tz else text
    return column


def text_literal(text: str) -> str:
    """A string constant in SQL."""
    return "'" + text.replace("'", "''") + "'"


def joined_lines(lines: pa.StringArray) -> memoryview:
    """The bytes of all lines: they lie one after the other in the array's own buffer."""
    offsets = memoryview(lines.buffers()[1]).cast("i" if pa.types.is_string(lines.type) else "q")
    first, last = offsets[lines.offset], offsets[lines.offset + len(lines)]
    return memoryview(lines.buffers()[2])[first:last]
