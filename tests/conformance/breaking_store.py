"""A store of the files sink that breaks where it is told to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from catchment.errors import SinkUnavailable
from catchment.sinks.files.store import Store


class BreakingStore:
    """Breaks at its n-th operation: before it, in the middle of an object, or after it. `steps` counts them.

    refuses_records: it breaks before every commit.
    """

    def __init__(self, store: Store, break_at: int | None = None) -> None:
        self._store = store
        self._break_at = break_at
        self.steps = 0
        self.refuses_records = False
        self.scratch, self.place, self.exclusive = store.scratch, store.place, store.exclusive

    @property
    def writer(self) -> str:
        return self._store.writer

    def step(self, data: bytes = b"") -> None:
        self.steps += 1
        if self.steps == self._break_at or (b'"done"' in data and self.refuses_records):
            raise SinkUnavailable("The store broke here, as it was told to.")

    def hold(self) -> None:
        self._store.hold()

    def release(self) -> None:
        self._store.release()

    def get(self, path: str) -> bytes | None:
        self.step()
        return self._store.get(path)

    def read(self, path: str) -> tuple[bytes, str] | None:
        self.step()
        return self._store.read(path)

    def replace(self, path: str, data: bytes, replaced: str | None) -> str | None:
        self.step()
        done = self._store.replace(path, data, replaced)
        self.step()
        return done

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self.step(data)
        done = self._store.put_if_absent(path, data)
        self.step()
        return done

    def adopt(self, paths: Iterable[str]) -> None:
        self.step()
        self._store.adopt(paths)

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        self.step()
        with self._store.create(path) as file:
            yield file
            self.step()
        self.step()

    def list(self, directory: str) -> list[str]:
        return self._store.list(directory)

    def delete(self, path: str) -> None:
        self.step()
        self._store.delete(path)
        self.step()
