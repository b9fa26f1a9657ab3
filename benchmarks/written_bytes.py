"""What a table's commits write: bytes of the files that are new in its directory, by what they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

DATA, DELETES, METADATA = "rows", "deletes", "metadata"


@contextmanager
def bytes_by_kind(table: Path) -> Iterator[dict[str, int]]:
    """Fills the dictionary with what was added to the table's directory within the block."""
    before = set(_files(table))
    added: dict[str, int] = {DATA: 0, DELETES: 0, METADATA: 0}
    yield added
    for file in _files(table):
        if file not in before:
            added[_kind(file)] += file.stat().st_size


def _files(table: Path) -> Iterator[Path]:
    return (file for file in table.rglob("*") if file.is_file())


def _kind(file: Path) -> str:
    if file.suffix != ".parquet":
        return METADATA
    return DELETES if pq.read_schema(file).names == ["file_path", "pos"] else DATA
