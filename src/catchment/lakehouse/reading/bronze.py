"""A table's data files as a relation of DuckDB, with the columns that the table has now, without deleted rows.

Old files lack columns that came later, also inside `before` and `after`; there they read as NULL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from catchment.lakehouse.sql import identifier, literal, literals

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.schema import Schema
    from pyiceberg.types import IcebergType

    from catchment.lakehouse.reading.moment import TableSnapshot


class Unreadable(Exception):
    """A table that DuckDB cannot be shown faithfully; the message says why and what reads it."""


def relation(table: TableSnapshot) -> str:
    """A SELECT of all rows of the table; `dead_rows` must be in DuckDB as `dead_rows_name` if there are any.

    Raises `Unreadable` rather than show wrong rows.
    """
    _refuse(table)
    if not table.files:
        return _empty(table.schema)
    columns = ", ".join(f"rows.{identifier(field.name)}" for field in table.schema.fields)
    files, template = _ordered(table)
    schema = "" if template else f", schema = {_schema_map(table.schema)}"
    read = f"read_parquet({literals(files)}, hive_partitioning = false{schema}) AS rows"
    if not table.dead:
        return f"SELECT {columns} FROM {read}"
    # A bitmap that is looked into row by row: as fast as a scan, and three times faster than a join with positions.
    return f"""
    SELECT {columns} FROM {read}
    LEFT JOIN {dead_rows_name(table)} AS dead ON rows.file_index = dead.file_index
    WHERE coalesce(get_bit(dead.bits, rows.file_row_number::INTEGER), 0) = 0"""


HIDDEN_SCHEMA = "_hidden"
"""Where that is which views are made of, such as bitmaps of dead rows."""


def dead_rows_name(table: TableSnapshot) -> str:
    """What `relation` calls the table of bitmaps."""
    return f"{HIDDEN_SCHEMA}.{identifier(str(table))}"


def dead_rows(table: TableSnapshot) -> pa.Table:
    """The bitmaps, by the place of their files in `relation`: `file_index` and `bits`, as bytes."""
    import pyarrow as pa

    files, _ = _ordered(table)
    found = [(index, table.dead[file]) for index, file in enumerate(files) if file in table.dead]
    indexes, bits = ([one[at] for one in found] for at in (0, 1))
    return pa.table({"file_index": pa.array(indexes, pa.uint64()), "bits": pa.array(bits, pa.large_binary())})


def _ordered(table: TableSnapshot) -> tuple[tuple[str, ...], bool]:
    """The files in the order in which DuckDB reads them, and whether it takes the columns from the first."""
    if len(table.schemas) == 1:
        return table.files, True
    template = _template(table)
    if template is None:
        return table.files, False
    return (template, *(file for file in table.files if file != template)), True


def duck_type(kind: IcebergType) -> str:
    """DuckDB's name of an Iceberg type."""
    from pyiceberg.types import DecimalType, FixedType, ListType, MapType, StructType

    if isinstance(kind, StructType):
        fields = ", ".join(f"{identifier(field.name)} {duck_type(field.field_type)}" for field in kind.fields)
        return f"STRUCT({fields})"
    if isinstance(kind, ListType):
        return f"{duck_type(kind.element_type)}[]"
    if isinstance(kind, MapType):
        return f"MAP({duck_type(kind.key_type)}, {duck_type(kind.value_type)})"
    if isinstance(kind, DecimalType):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if isinstance(kind, FixedType):
        return "BLOB"
    return _PRIMITIVES[str(kind)]


_PRIMITIVES = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
    "string": "VARCHAR",
    "uuid": "UUID",
    "binary": "BLOB",
}


_VIRTUAL = frozenset({"file_index", "file_row_number"})
"""Columns that DuckDB gives every Parquet file."""


def _refuse(table: TableSnapshot) -> None:
    if table.unreadable is not None:
        raise Unreadable(f"{table} {table.unreadable}")
    remote = next((file for file in table.files if not file.startswith("/")), None)
    if remote is not None:
        scheme = remote.partition(":")[0]
        raise Unreadable(f"{table} is stored at {scheme}:, which is not on this machine; read it with PyIceberg")
    taken = {field.name.lower() for field in table.schema.fields} & _VIRTUAL
    if table.dead and taken:
        raise Unreadable(
            f"{table} has deleted rows and a column {min(taken)}, which hides where a row is; read it with PyIceberg"
        )
    names: dict[int, str] = {}
    for schema in table.schemas:
        for at, name in schema._lazy_id_to_name.items():  # pyiceberg is pinned to its minor version
            if names.setdefault(at, name) != name:
                raise Unreadable(
                    f"{table}: column {names[at]} was renamed to {name} after rows were written, and files are "
                    "read by column name; read it with PyIceberg"
                )


def _empty(schema: Schema) -> str:
    columns = (f"CAST(NULL AS {duck_type(f.field_type)}) AS {identifier(f.name)}" for f in schema.fields)
    return f"SELECT {', '.join(columns)} WHERE false"


def _schema_map(schema: Schema) -> str:
    entries = (
        f"{literal(f.name)}: {{name: {literal(f.name)}, type: {literal(duck_type(f.field_type))}, default_value: NULL}}"
        for f in schema.fields
    )
    return f"MAP {{{', '.join(entries)}}}"


def _template(table: TableSnapshot) -> str | None:
    """A file with exactly the table's columns, to be read first: DuckDB takes the columns from there.

    DuckDB then reads single columns of `after` out of all files. Its `schema` parameter is right too but
    reads whole structs (5 times slower on a sum), and `union_by_name` opens every file at each query.
    The newest file nearly always has the newest columns.
    """
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    top = {field.name for field in table.schema.fields}
    if any({field.name for field in schema.fields} != top for schema in table.schemas):
        return None
    wanted = _shape(schema_to_pyarrow(table.schema, include_field_ids=False))
    return next((file for file in _candidates(table.files) if _file_shape(file) == wanted), None)


def _candidates(files: Sequence[str]) -> Iterator[str]:
    """A few files to look into, the newest first, then ever further back."""
    back = 1
    while back <= len(files):
        yield files[-back]
        back *= 2


@lru_cache(maxsize=4096)
def _file_shape(file: str) -> dict[str, object]:
    import pyarrow.parquet as pq

    return _shape(pq.read_schema(file))


def _shape(fields: pa.Schema | pa.StructType) -> dict[str, object]:
    return {field.name: _type_shape(field.type) for field in fields}


def _type_shape(kind: pa.DataType) -> object:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return _shape(kind)
    if pa.types.is_map(kind):
        return ("map", _type_shape(kind.key_type), _type_shape(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return ("list", _type_shape(kind.value_type))
    return str(kind).removeprefix("large_")
