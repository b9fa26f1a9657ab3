"""The Iceberg table of a gold model, and the two ways in which a refresh lands in it.

A table is *replaced whole*, or gets *the rows of changed keys*: one data file with the new ones and one
position-delete file for those they replace, found by comparing with what is there. Nothing but the table itself
says what is there: a refresh by another process, or one that was killed, needs no care.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catchment.errors import ConfigError
from catchment.lakehouse.gold.model import Model, RefreshMode
from catchment.lakehouse.properties import KEY
from catchment.lakehouse.reading.moment import local_path
from catchment.lakehouse.sql import identifier, literals

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection
    from pyiceberg.catalog import Catalog

    from catchment.lakehouse.position_delete import Positions
    from catchment.lakehouse.table import LakeTable

SNAPSHOTS_KEPT = 30
"""A reader's view of a gold table works for so many refreshes that changed it; then its files go."""

ROWS_REPLACED = 100_000
"""`refresh: auto` replaces a table of fewer rows whole; measured, see docs/adr/0006."""

CHANGED_SHARE = 0.25
"""When more of a table's rows changed, or were dead, it is replaced whole in any case."""

FILES = 24
"""A table that has so many data or delete files is replaced whole: readers open each of them."""

DIGEST_PROPERTY = "catchment.digest"

_OURS = frozenset({"rowid", "_file", "file_row_number", "file", "pos"})
"""Columns that comparing adds; a model with one of its own is replaced whole."""


@dataclass(frozen=True, slots=True)
class Digest:
    """What a relation holds, in a text. rows: how many. `ordered` counts their order in, `unordered` does not."""

    rows: int
    ordered: str
    unordered: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The rows in which a model differs from its table, in the temporary table `difference`."""

    added: int
    dead: int


class GoldTable:
    """One model's table. Used by one thread; another process may write it too: then `land` raises `TableMoved`."""

    def __init__(self, catalog: Catalog, model: Model) -> None:
        self._catalog = catalog
        self._model = model
        self._table: LakeTable | None = None
        self._dead: dict[str, Positions] = {}

    @property
    def version(self) -> str | None:
        """The metadata file that this process left the table at; None before the first landing."""
        return self._table.metadata_location if self._table is not None else None

    def forget(self) -> None:
        """Read the table anew before landing the next time: it may be different from what is known."""
        self._table = None

    def land(self, connection: DuckDBPyConnection, relation: str, digest: Digest) -> bool:
        """Make the table's rows those of `relation`; False when they are already.

        relation: a table of the connection that has `rowid`, in types that Iceberg has. Raises `TableMoved` when
        another process landed the same model at this moment.
        """
        table = self._table or self._open(connection, relation)
        by_changes = self._by_changes(digest.rows)
        text = digest.unordered if by_changes else digest.ordered
        if table.metadata.properties.get(DIGEST_PROPERTY) == text:
            return False
        difference = self._difference(connection, relation, table) if by_changes else None
        if difference is None or self._is_large(table, difference, digest.rows):
            self._replace(connection, relation, table, text)
        else:
            self._change(connection, relation, table, text)
        return True

    def _open(self, connection: DuckDBPyConnection, relation: str) -> LakeTable:
        from catchment.lakehouse.commit import open_or_create

        at, schema = ("gold", self._model.name), connection.execute(f"FROM {relation} LIMIT 0").to_arrow_table().schema
        table = open_or_create(self._catalog, at, schema, {}, snapshots_kept=SNAPSHOTS_KEPT, owns_data=True)
        self._dead = _dead_rows(table)
        self._table = table
        return table

    def _properties(self, text: str) -> dict[str, str]:
        return {
            DIGEST_PROPERTY: text,
            KEY: json.dumps(self._model.key),
            "comment": self._model.description,
        }

    def _by_changes(self, rows: int) -> bool:
        mode = self._model.refresh
        if mode is RefreshMode.AUTO:
            return bool(self._model.key) and rows >= ROWS_REPLACED
        return mode is RefreshMode.CHANGES

    def _is_large(self, table: LakeTable, difference: Difference, rows: int) -> bool:
        dead = sum(len(positions) for positions in self._dead.values()) + difference.dead
        files = max(len(table.manifests.data()), len(table.manifests.deletes()))
        return difference.added + dead > CHANGED_SHARE * rows or files >= FILES

    def _difference(self, connection: DuckDBPyConnection, relation: str, table: LakeTable) -> Difference | None:
        """Compare with what is there, row for row of a key; None when that cannot be done: see each reason."""
        columns, files = _columns(connection, relation), _files(table)
        # Files are read back through DuckDB, which reaches local ones.
        if not files or not all(local_path(path).startswith("/") for path in files):
            return None
        if any(name.lower() in _OURS for name, _ in columns):
            return None
        if table.metadata.properties.get(KEY) != json.dumps(self._model.key):
            return None  # rows there may share a value of the new key
        there = (
            f"read_parquet({literals(map(local_path, files))}, filename = '_file', file_row_number = true, "
            "hive_partitioning = false)"
        )
        if _columns(connection, f"(SELECT * EXCLUDE (_file, file_row_number) FROM {there})") != columns:
            return None
        row = f"hash({', '.join(identifier(name) for name, _ in columns)}) AS _hash"
        key = ", ".join(f"{identifier(name)} AS _key{number}" for number, name in enumerate(self._model.key))
        same = " AND ".join(
            f"new._key{number} IS NOT DISTINCT FROM old._key{number}" for number in range(len(self._model.key))
        )
        self._show_dead(connection)
        # A join of whole rows takes twice the time and memory of one of keys and hashes.
        connection.execute(
            f"""CREATE OR REPLACE TEMPORARY TABLE difference AS
            SELECT new._row AS row, old._file AS file, old._pos AS pos
            FROM (SELECT {key}, {row}, rowid AS _row FROM {relation}) AS new
            FULL JOIN (
                SELECT {key}, {row}, _file, file_row_number AS _pos
                FROM {there} ANTI JOIN temp.dead ON file = _file AND pos = file_row_number
            ) AS old
            ON {same}
            WHERE new._row IS NULL OR old._file IS NULL OR new._hash <> old._hash"""
        )
        added, dead = connection.execute("SELECT count(row), count(file) FROM temp.difference").fetchall()[0]
        return Difference(added, dead)

    def _show_dead(self, connection: DuckDBPyConnection) -> None:
        import numpy as np
        import pyarrow as pa

        counts = [len(positions) for positions in self._dead.values()]
        files = pa.array([local_path(path) for path in self._dead], pa.string())
        positions = np.concatenate(list(self._dead.values())) if self._dead else np.empty(0, dtype=np.int64)
        rows = pa.table(
            {
                "file": files.take(pa.array(np.repeat(np.arange(len(counts)), counts))),
                "pos": pa.array(positions, pa.int64()),
            }
        )
        connection.register("dead_rows", rows)
        connection.execute("CREATE OR REPLACE TEMPORARY TABLE dead AS FROM dead_rows")
        connection.unregister("dead_rows")

    def _replace(self, connection: DuckDBPyConnection, relation: str, table: LakeTable, text: str) -> None:
        from catchment.lakehouse.commit import ROW_GROUP_ROWS, replace

        # DuckDB's table keeps the order in which the model gave its rows.
        rows = connection.execute(f"FROM {relation}").to_arrow_reader(ROW_GROUP_ROWS)
        replace(self._catalog, table, rows, self._properties(text))
        self._dead = {}

    def _change(self, connection: DuckDBPyConnection, relation: str, table: LakeTable, text: str) -> None:
        from catchment.lakehouse.commit import ROW_GROUP_ROWS, commit_alone, write_rows
        from catchment.lakehouse.position_delete import write_position_deletes
        from catchment.lakehouse.table import Change

        added = f"FROM {relation} WHERE rowid IN (SELECT row FROM temp.difference)"
        files = write_rows(table, table.metadata.schema(), connection.execute(added).to_arrow_reader(ROW_GROUP_ROWS))
        dead = _by_file(
            connection.execute("SELECT file, pos FROM temp.difference WHERE file IS NOT NULL").to_arrow_table(),
            _files(table),
        )
        try:
            deletes = [write_position_deletes(table.storage, table.new_data_location(), dead)] if dead else []
        except BaseException:
            table.delete_uncommitted([file.file_path for file in files])
            raise
        commit_alone(self._catalog, table.draft(Change(files, deletes, properties=self._properties(text))))
        self._dead = _merged(self._dead, dead)


def digest(connection: DuckDBPyConnection, relation: str, model: Model) -> Digest:
    """A relation's digest: equal ones have equal columns, rows, key and description."""
    import hashlib

    columns = _columns(connection, relation)
    row = ", ".join(identifier(name) for name, _ in columns)
    query = f"SELECT count(*), sum(hash(rowid, {row})::HUGEINT), sum(hash({row})::HUGEINT) FROM {relation}"
    rows, *totals = connection.execute(query).fetchall()[0]

    def text(total: object) -> str:
        document = json.dumps([columns, rows, str(total), model.key, model.description])
        return hashlib.sha256(document.encode()).hexdigest()

    ordered, unordered = map(text, totals)
    return Digest(int(rows), ordered, unordered)


def check_key(connection: DuckDBPyConnection, relation: str, model: Model) -> None:
    """Raise ConfigError when two rows have the same key."""
    if not model.key:
        return
    key = ", ".join(identifier(column) for column in model.key)
    query = f"SELECT count(*) FROM (FROM {relation} SELECT {key} GROUP BY ALL HAVING count(*) > 1)"
    repeated = connection.execute(query).fetchall()[0][0]
    if repeated:
        raise ConfigError(
            f"{model.file.name}: {repeated} values of its key ({', '.join(model.key)}) have several rows. Correct "
            "the query, or the `key` header."
        )


def _columns(connection: DuckDBPyConnection, relation: str) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, *_ in connection.execute(f"DESCRIBE FROM {relation}").fetchall()]


def _files(table: LakeTable) -> list[str]:
    return [entry.data_file.file_path for entry in table.manifests.data()]


def _dead_rows(table: LakeTable) -> dict[str, Positions]:
    from catchment.lakehouse.position_delete import read_position_deletes

    dead: dict[str, Positions] = {}
    for entry in table.manifests.deletes():
        with table.table.io.new_input(entry.data_file.file_path).open() as file:
            dead = _merged(dead, read_position_deletes(file))
    live = set(_files(table))
    return {path: positions for path, positions in dead.items() if path in live}


def _merged(first: Mapping[str, Positions], second: Mapping[str, Positions]) -> dict[str, Positions]:
    import numpy as np

    merged = dict(first)
    for path, positions in second.items():
        merged[path] = np.union1d(merged[path], positions) if path in merged else positions
    return merged


def _by_file(rows: pa.Table, files: Sequence[str]) -> dict[str, Positions]:
    """Rows of (local file, position) as the commit names them: location → positions, ascending."""
    import numpy as np

    locations = {local_path(location): location for location in files}
    names = rows.column("file").combine_chunks().dictionary_encode()
    codes, positions = names.indices.to_numpy(zero_copy_only=False), rows.column("pos").to_numpy()
    return {
        locations[name]: np.sort(positions[codes == code]).astype(np.int64)
        for code, name in enumerate(names.dictionary.to_pylist())
    }
