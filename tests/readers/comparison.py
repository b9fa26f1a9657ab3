"""One table as each reader gives it, in one form, so that equal rows are equal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog

from catchment.lakehouse.config import LakehouseConfig
from catchment.lakehouse.reading.connection import connect_lake
from readers.scans import Scans
from readers.spark import Spark

READERS = ("our view", "iceberg_scan", "DuckDB by name", "Polars", "Polars by name", "Spark")
"""What is compared with PyIceberg."""


@dataclass(frozen=True)
class Shelf:
    """A lake on disk and in its catalog, and the address of `catchment serve`."""

    config: LakehouseConfig
    directory: Path
    catalog: Catalog
    uri: str

    def tables(self) -> list[str]:
        """Every table, as `namespace.table`."""
        return sorted(
            ".".join(at) for space in self.catalog.list_namespaces() for at in self.catalog.list_tables(space)
        )


def read(shelf: Shelf, table: str, reader: str, spark: Spark, scans: Scans) -> pa.Table:
    """All rows of a table, as one of READERS gives them."""
    namespace, _, name = table.partition(".")
    quoted = f'"{namespace}"."{name}"'
    location = shelf.catalog.load_table(table).metadata_location
    match reader:
        case "our view":
            with connect_lake(shelf.config, shelf.directory) as connection:
                return connection.execute(f"FROM {quoted}").to_arrow_table()
        case "iceberg_scan":
            return scans.iceberg_scan(location)
        case "DuckDB by name":
            scans.attach("shelf", shelf.uri)
            try:
                return scans.duckdb(f"FROM shelf.{quoted}")
            finally:
                scans.duckdb("DETACH shelf")
        case "Polars":
            return scans.polars(location)
        case "Polars by name":
            return scans.polars_by_name(table, shelf.uri)
        case "Spark":
            catalog = f"shelf_{shelf.uri.rpartition(':')[2]}"
            spark.attach(catalog, shelf.uri)
            return spark.sql(f"SELECT * FROM {catalog}.`{namespace}`.`{name}`")
    raise ValueError(reader)


def expect_equal(shelf: Shelf, table: str, reader: str, spark: Spark, scans: Scans) -> int:
    """The rows of a reader are PyIceberg's; how many there are."""
    expected = shelf.catalog.load_table(table).scan().to_arrow()
    wanted = plain(expected.schema)
    ours, theirs = rows(expected, wanted), rows(read(shelf, table, reader, spark, scans), wanted)
    missing, ghosts = ours - theirs, theirs - ours
    assert not missing and not ghosts, (
        f"{table} by {reader}: {missing.total()} of {ours.total()} rows are missing, {ghosts.total()} are too many; "
        f"{list(missing)[:1]} {list(ghosts)[:1]}"
    )
    return ours.total()


def plain(schema: pa.Schema) -> Mapping[str, pa.DataType]:
    """The types of columns, without the variants that differ by reader (large or not, metadata of fields)."""
    return {field.name: _plain(field.type) for field in schema}


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _plain(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return kind


def rows(table: pa.Table, wanted: Mapping[str, pa.DataType]) -> Counter[str]:
    """Each row as text in the wanted types, with how often it is there."""
    assert table.column_names == list(wanted), "the columns differ"
    columns = [_shaped(table.column(name).combine_chunks(), kind).to_pylist() for name, kind in wanted.items()]
    return Counter(repr(row) for row in zip(*columns, strict=True))


def _shaped(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    """A column in the type that it should have; fails where a value does not fit that exactly."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)
    if column.type == kind:
        return column
    if pa.types.is_map(kind) and not pa.types.is_map(column.type):
        return _as_map(column, kind)
    if pa.types.is_struct(kind):
        children = [_shaped(pc.struct_field(column, field.name), field.type) for field in kind]
        assert [field.name for field in column.type] == [field.name for field in kind]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=pc.is_null(column))
    return column.cast(kind)


def _as_map(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A map that came as a list of pairs."""
    column = column.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    pairs = column.values
    return pa.MapArray.from_arrays(
        column.offsets,
        pairs.field(0),
        pairs.field(1),
        type=kind,
        mask=pc.is_null(column) if column.null_count else None,
    )
