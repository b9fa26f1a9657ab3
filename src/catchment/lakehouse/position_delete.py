"""Position-delete files: which rows of which data files are no longer there.

Iceberg spec, "Position Delete Files": two columns, `file_path` and `pos`, sorted by both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.typedef import Record

from catchment import failpoint
from catchment.lakehouse.file_schema import FIELD_ID
from catchment.lakehouse.storage import Storage, writing

FILE_PATH_ID, POS_ID = 2147483546, 2147483545
"""Field ids that the spec reserves."""

SCHEMA = pa.schema(
    [
        pa.field("file_path", pa.string(), nullable=False, metadata={FIELD_ID: str(FILE_PATH_ID)}),
        pa.field("pos", pa.int64(), nullable=False, metadata={FIELD_ID: str(POS_ID)}),
    ]
)

Positions = npt.NDArray[np.int64]


def write_position_deletes(storage: Storage, location: str, rows: Mapping[str, Positions]) -> DataFile:
    """Write one delete file; durable when this returns.

    rows: data file → positions of its dead rows, ascending, without repeats; at least one.
    """
    paths = sorted(path for path, positions in rows.items() if len(positions))
    table = _table(paths, [rows[path] for path in paths])
    with writing(f"The delete file {location}"):
        file = storage.create(location)
        with pq.ParquetWriter(
            file,
            SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=["file_path"],
            column_encoding={"pos": "DELTA_BINARY_PACKED"},
            store_schema=False,
        ) as writer:
            writer.write_table(table)
        size = int(file.tell())
        storage.finish(file)
        storage.sync_directory(location)
    failpoint.reach("delete_file_written")
    return _describe(location, size, table.num_rows, paths)


def _table(paths: Sequence[str], positions: Sequence[Positions]) -> pa.Table:
    counts = [len(one) for one in positions]
    names = pa.DictionaryArray.from_arrays(np.repeat(np.arange(len(paths), dtype=np.int32), counts), pa.array(paths))
    return pa.Table.from_arrays([names.cast(pa.string()), pa.array(np.concatenate(positions))], schema=SCHEMA)


def _describe(location: str, size: int, rows: int, paths: Sequence[str]) -> DataFile:
    return DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=location,
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=rows,
        file_size_in_bytes=size,
        column_sizes={},
        value_counts={},
        null_value_counts={},
        nan_value_counts={},
        # Equal bounds tell a reader that the file concerns one data file only.
        lower_bounds={FILE_PATH_ID: paths[0].encode()},
        upper_bounds={FILE_PATH_ID: paths[-1].encode()},
        key_metadata=None,
        split_offsets=None,
        equality_ids=None,
        sort_order_id=None,
        spec_id=0,
    )


def read_position_deletes(file: pa.NativeFile) -> dict[str, Positions]:
    """The inverse: data file → positions of its dead rows, ascending."""
    # Not `read_table`: what it does besides takes longer than reading a file as small as these.
    reader = pq.ParquetFile(file, read_dictionary=["file_path"])
    table = reader.read(columns=["file_path", "pos"], use_threads=False).combine_chunks()
    if not table.num_rows:
        return {}
    names = table.column("file_path").combine_chunks()
    names = names.dictionary_encode() if not pa.types.is_dictionary(names.type) else names
    if isinstance(names, pa.ChunkedArray):
        names = names.chunk(0)
    codes = names.indices.to_numpy(zero_copy_only=False)
    positions = table.column("pos").to_numpy()
    if not _ascending(codes, positions):
        order = np.lexsort((positions, codes))
        codes, positions = codes[order], positions[order]
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    ends = np.r_[starts[1:], len(codes)]
    paths = names.dictionary.to_pylist()
    found = {paths[codes[a]]: positions[a:b] for a, b in zip(starts, ends, strict=True)}
    return {path: rows if (rows[1:] > rows[:-1]).all() else np.unique(rows) for path, rows in found.items()}


def _ascending(codes: npt.NDArray[np.int32], positions: Positions) -> bool:
    """Are these sorted by both, as the spec asks of writers?"""
    after, before = codes[1:], codes[:-1]
    return bool(((after > before) | ((after == before) & (positions[1:] >= positions[:-1]))).all())
