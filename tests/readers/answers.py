"""The reader's side of `process.py`: runs in the readers' environment, which has nothing of ours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import pyarrow as pa


def serve(answer: Callable[[dict[str, Any]], pa.Table | None]) -> None:
    """Answer each line of standard input, in order, until there are no more."""
    # A JVM writes to file descriptor 1 as it likes: answers get a descriptor of their own.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            error = None
            try:
                rows = answer(request)
                if rows is not None:
                    _write(rows, request["target"])
            except Exception as reason:  # noqa: BLE001 - every reader has its own errors: the asking side has one
                error = f"{type(reason).__name__}: {reason}"
            answers.write(json.dumps({"error": error}) + "\n")
            answers.flush()


def _write(rows: pa.Table, target: str) -> None:
    with pa.OSFile(target, "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows)
