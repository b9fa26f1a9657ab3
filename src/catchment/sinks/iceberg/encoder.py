"""A thread that encodes data files beside the one that decodes changes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Task = Callable[[], None]

WAITING_TASKS = 2
"""How many row groups may wait: more would only be memory."""


class Encoder:
    """Runs tasks one after the other, in the order given, on its own thread.

    After a task failed no further task is run, and every call but `close` raises its error.
    """

    def __init__(self, name: str = "iceberg-encoder") -> None:
        self._name = name
        self._tasks: queue.Queue[Task | None] = queue.Queue(WAITING_TASKS)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def submit(self, task: Task) -> None:
        """Have a task run; blocks while enough of them wait (this is the back-pressure)."""
        self._raise()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def drain(self) -> None:
        """Wait until every task has run."""
        if self._thread is not None:
            self._tasks.join()
        self._raise()

    def close(self) -> None:
        """Stop the thread; tasks that have not begun are dropped."""
        if self._thread is None:
            return
        self._error = self._error or RuntimeError("the encoder is closed")
        self._tasks.put(None)
        self._thread.join()
        self._thread = None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                if task is None:
                    return
                if self._error is None:
                    task()
            except BaseException as error:  # noqa: BLE001 - it is raised on the sink's own thread
                self._error = error
            finally:
                # A task holds its rows: keeping it until the next one comes would keep them in memory.
                task = None
                self._tasks.task_done()
