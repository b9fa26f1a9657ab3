"""A reader in a process and an environment of its own: a request is a line of JSON, an answer is Arrow in a file."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

TESTS = Path(__file__).parent.parent


class ReaderError(Exception):
    """What a reader said instead of rows."""


class ReaderProcess:
    """A program that answers requests until its standard input ends: with this process, however that ends."""

    def __init__(self, python: Path, program: str, *arguments: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="catchment-reader-", ignore_cleanup_errors=True)
        self.directory = Path(self._directory.name)
        self._log = (self.directory / "log").open("wb")
        self._asked = 0
        self._process = subprocess.Popen(
            [str(python), "-m", f"readers.{program}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=self.directory,
            env=_environment(python),
        )

    def ask(self, **request: Any) -> pa.Table:
        """The rows of an answer; none for a request that has none. Raises `ReaderError` with the reader's words."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._asked += 1
        target = self.directory / f"{self._asked}.arrow"
        try:
            self._process.stdin.write(json.dumps({**request, "target": str(target)}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise ReaderError(f"The reader has ended ({self._process.wait(30)}): {self._last_words()}")
        if (error := json.loads(answer)["error"]) is not None:
            raise ReaderError(error)
        if not target.exists():
            return pa.table({})
        with target.open("rb") as file:
            rows = pa.ipc.open_file(file).read_all()
        target.unlink()
        return rows

    def close(self) -> None:
        """End it, and wait for that."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        self._directory.cleanup()

    def _last_words(self) -> str:
        self._log.flush()
        return (self.directory / "log").read_text(errors="replace")[-2000:]


def _environment(python: Path) -> dict[str, str]:
    """Ours, without what would change a reader: settings of somebody's own Spark, paths of our Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "PYSPARK_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(TESTS), "PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1"}
