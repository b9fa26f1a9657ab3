"""The store of the files sink in S3: a prefix of a bucket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from catchment.errors import SinkUnavailable
from catchment.sinks.files.bucket import PART_BYTES, Bucket, Stored
from catchment.sinks.files.lease import SECONDS, ObjectLease
from catchment.sinks.files.store import translated


class S3Store:
    """Every write says what it expects to find: nothing, or the version that was read before.

    scratch: a local directory for what goes up; one of its own where it is not said.
    lease_seconds: how long a holder of whom nothing is heard is waited for.
    """

    exclusive = False

    def __init__(self, url: str, scratch: Path | None = None, *, lease_seconds: float = SECONDS) -> None:
        self._bucket = Bucket(url)
        self._lease = ObjectLease(self._bucket, lease_seconds)
        self._there: dict[str, str] = {}
        self._held = False
        self.scratch = scratch or Path(tempfile.gettempdir()) / f"catchment-files-{self._lease.nonce}"
        self.place = self._bucket.url

    @property
    def writer(self) -> str:
        return f"{self._lease.epoch}-{self._lease.nonce}"

    def hold(self) -> None:
        self._lease.acquire()
        self._held = True
        with translated(self.scratch):
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir(parents=True)

    def release(self) -> None:
        if self._held:
            self._held = False
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._lease.release()
        self._bucket.close()

    def get(self, path: str) -> bytes | None:
        found = self._bucket.get(path)
        return None if found is None else found.data

    def read(self, path: str) -> Stored | None:
        return self._bucket.get(path)

    def replace(self, path: str, data: bytes, replaced: str | None) -> str | None:
        self._lease.check()
        return self._bucket.put(path, data, replaced)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self._lease.check()
        return self._bucket.put(path, data, None) is not None

    def adopt(self, paths: Iterable[str]) -> None:
        self._there = {}
        for path in paths:
            if (version := self._bucket.version(path)) is not None:
                self._there[path] = version
            # Of a killed process. Nobody else's: every name stands in an intent before its upload begins.
            self._bucket.abort_uploads(path)

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        self._lease.check()
        temporary = self.scratch / "object"
        try:
            with translated(temporary), temporary.open("w+b") as file:
                yield file
                size = file.tell()
                file.seek(0)
                self._put(path, file, size)
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, directory: str) -> list[str]:
        return self._bucket.list(directory)

    def delete(self, path: str) -> None:
        self._lease.check()
        self._bucket.delete(path)

    def _put(self, path: str, file: BinaryIO, size: int) -> None:
        self._lease.check()
        replaced = self._there.pop(path, None)
        encoding = "gzip" if path.endswith(".gz") else None
        put = self._bucket.put if size <= PART_BYTES else self._bucket.upload
        if put(path, file, replaced, encoding) is None:
            raise SinkUnavailable(
                f"{self._bucket.url}/{path} was written by another process meanwhile. Opening again shows by whom."
            )
