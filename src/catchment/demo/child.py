"""Processes beside the demo's own, so that they do not disturb capture: JSON lines come back.

A child ends when its standard input does. So it ends when asked to, and also when its parent was killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from catchment.errors import CatchmentError, Fatal

STOP_SECONDS = 30.0


class Child:
    """`python -m module arguments`; `hear` gets each JSON object it prints, in a thread of ours."""

    def __init__(self, module: str, *arguments: str, hear: Callable[[dict[str, Any]], None]) -> None:
        self._module = module
        self._hear = hear
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `stop`
        # A session of its own: Ctrl-C reaches the parent alone, which ends everything in order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._failure: str | None = None
        self._listener = threading.Thread(target=self._listen, name=f"hear {module}", daemon=True)
        self._listener.start()

    @property
    def ended(self) -> bool:
        """Has it ended, of itself or otherwise, and said all it had to say?"""
        return not self._listener.is_alive()

    def stop(self) -> None:
        """Ask it to end and wait until it has. Raises `Fatal` with its own words when it failed."""
        if self._errors.closed:
            return
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        self._errors.close()
        if self._failure or self._process.returncode:
            reason = self._failure or (said[-1] if said else f"exit code {self._process.returncode}")
            raise Fatal(f"{self._module} failed: {reason}")

    def _listen(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - we asked for it
        for line in self._process.stdout:
            message = json.loads(line)
            if "failure" in message:
                self._failure = message["failure"]
            else:
                self._hear(message)


def tell(**message: Any) -> None:
    """In a child: say something to the parent."""
    print(json.dumps(message), flush=True)


def run_child(work: Callable[[threading.Event], None]) -> int:
    """In a child: do the work until it is done or the parent wants, or has come to, an end."""
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=watch, name="watch parent", daemon=True).start()
    try:
        work(stop)
    except CatchmentError as error:
        tell(failure=str(error))
        return 1
    except BrokenPipeError:
        return 1
    return 0
