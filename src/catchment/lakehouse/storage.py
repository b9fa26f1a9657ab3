"""Where table files are written: durable before anything points to them.

PyIceberg closes files and goes on; a power cut may then leave a pointer to an empty file. On a local disk
every file and its directory is fsynced here; an object store keeps what it has acknowledged.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from pyiceberg.io import FileIO, InputFile, OutputFile, OutputStream

from catchment.durable import make_durable
from catchment.errors import SinkUnavailable
from catchment.lakehouse.catalog import local_path
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn the operating system's refusal into `SinkUnavailable`, in words that say what was being written."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise SinkUnavailable(
            f"{what} could not be written: {reason}. Nothing is lost; capture goes on when there is room and access."
        ) from error


class Storage(Protocol):
    """Files of one table, by location."""

    def create(self, location: str) -> pa.NativeFile:
        """Open a new file for writing."""
        ...

    def finish(self, file: pa.NativeFile) -> None:
        """Close a file made by `create`; its content is durable when this returns (its name: `sync_directory`)."""
        ...

    def write(self, location: str, content: bytes) -> None:
        """Write a small file; durable after `sync`."""
        ...

    def sync(self, locations: Iterable[str]) -> None:
        """Make files and their directory entries durable."""
        ...

    def sync_directory(self, location: str) -> None:
        """Make the name of a file durable."""
        ...

    def delete(self, locations: Iterable[str]) -> None:
        """Delete what is there; what cannot be deleted is left, as an orphan that no table points to."""
        ...


def storage(io: FileIO, location: str) -> Storage:
    """The storage for a table at `location`."""
    return LocalStorage() if local_path(location) is not None else ObjectStorage(io)


class LocalStorage:
    """Files on this machine's disks."""

    def __init__(self) -> None:
        self._made: set[Path] = set()

    def create(self, location: str) -> pa.NativeFile:
        return pa.OSFile(str(self._place(location)), "wb")

    def finish(self, file: pa.NativeFile) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()

    def write(self, location: str, content: bytes) -> None:
        self._place(location).write_bytes(content)

    def sync(self, locations: Iterable[str]) -> None:
        paths = [_path(one) for one in locations]
        directories = sorted({path.parent for path in paths})
        if len(paths) < 4:
            for path in paths:
                make_durable(path)
        else:
            # Journals commit in groups: asking for several at once costs hardly more than asking for one.
            with ThreadPoolExecutor(4, thread_name_prefix="fsync") as pool:
                list(pool.map(make_durable, paths))
        for directory in directories:
            make_durable(directory)

    def sync_directory(self, location: str) -> None:
        make_durable(_path(location).parent)

    def delete(self, locations: Iterable[str]) -> None:
        for location in locations:
            try:
                _path(location).unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s could not be deleted (%s); nothing points to it.", location, error.strerror)

    def _place(self, location: str) -> Path:
        path = _path(location)
        if path.parent not in self._made:
            _make_durable_directory(path.parent)
            self._made.add(path.parent)
        return path


class ObjectStorage:
    """Files behind a PyIceberg FileIO: an object is there, whole, once it was closed."""

    def __init__(self, io: FileIO) -> None:
        self._io = io

    def create(self, location: str) -> pa.NativeFile:
        return pa.PythonFile(self._io.new_output(location).create(overwrite=True), mode="w")

    def finish(self, file: pa.NativeFile) -> None:
        file.close()

    def write(self, location: str, content: bytes) -> None:
        with self._io.new_output(location).create(overwrite=True) as stream:
            stream.write(content)

    def sync(self, locations: Iterable[str]) -> None:
        return

    def sync_directory(self, location: str) -> None:
        return

    def delete(self, locations: Iterable[str]) -> None:
        for location in locations:
            try:
                self._io.delete(location)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.warning("%s could not be deleted (%s); nothing points to it.", location, error)


class MemoryFile(OutputFile):
    """An output of PyIceberg's Avro writers that stays in memory: so that one place writes, and fsyncs."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._content: _Content | None = None

    def __len__(self) -> int:
        return len(self.content)

    @property
    def content(self) -> bytes:
        """What was written."""
        return self._content.data if self._content is not None else b""

    def exists(self) -> bool:
        return self._content is not None

    def to_input_file(self) -> InputFile:
        raise NotImplementedError(f"{self.location} is only written")

    def create(self, overwrite: bool = False) -> OutputStream:
        self._content = _Content()
        return self._content


class _Content:
    """The stream of a MemoryFile."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self.data = b""

    def write(self, b: bytes) -> int:
        self._parts.append(b)
        self._size += len(b)
        return len(b)

    def tell(self) -> int:
        return self._size

    def close(self) -> None:
        self.data = b"".join(self._parts)

    def __enter__(self) -> _Content:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _path(location: str) -> Path:
    path = local_path(location)
    if path is None:
        raise ValueError(f"{location} is not on this machine")
    return path


def _make_durable_directory(directory: Path) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        make_durable(one.parent)
