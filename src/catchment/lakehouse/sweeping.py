"""Files that no snapshot needs any more, deleted beside commits: nobody waits for a file to go.

A killed process leaves what it had not come to; maintenance finds those as orphans.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from catchment.lakehouse.storage import Storage
from catchment.telemetry import LOGGER

log = logging.getLogger(LOGGER)

Sweep = Callable[[Storage, Sequence[str]], None]


def sweep_now(storage: Storage, locations: Sequence[str]) -> None:
    """Delete them before this returns."""
    storage.delete(locations)


class Sweeper:
    """Deletes what it is given in a thread of its own, in order. `close` waits until all of it is gone."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[Storage, Sequence[str]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def sweep(self, storage: Storage, locations: Sequence[str]) -> None:
        """Delete these soon. Used under the writer's lock, or by one thread."""
        if not locations:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="catchment-sweeper", daemon=True)
            self._thread.start()
        self._queue.put((storage, locations))

    def close(self) -> None:
        """Wait until all is deleted. May be called again."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (given := self._queue.get()) is not None:
            storage, locations = given
            try:
                storage.delete(locations)
            except Exception as error:  # an object store's own errors: what stays is an orphan, and harms nobody
                # Its message may come from anywhere and hold anything; the type does not.
                reason = type(error).__name__
                log.warning("%d files could not be deleted (%s); nothing points to them.", len(locations), reason)
                log.debug("Deleting failed", exc_info=True)
