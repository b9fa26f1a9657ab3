"""What a files sink has completed, for whoever reads the directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from catchment.s3_address import is_address
from catchment.sinks.files.ranges import Range, read_range
from catchment.sinks.files.s3_store import S3Store
from catchment.sinks.files.store import LocalStore, Store


def complete_ranges(directory: Path | str, after: int = 0) -> Iterator[Range]:
    """The complete ranges of a directory, or of `s3://bucket/prefix`, from number `after` + 1 on, in order.

    Remember the last one's number and come again for what is new:

    >>> for one in complete_ranges(Path("out"), after=last_number):
    ...     for data in one.objects:
    ...         print(data.table, Path("out") / data.path, data.rows)
    """
    store: Store = S3Store(str(directory)) if is_address(str(directory)) else LocalStore(Path(directory))
    try:
        while (one := read_range(store, after + 1)) is not None:
            yield one
            after = one.number
    finally:
        store.release()
