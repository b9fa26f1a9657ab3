"""Runs in pydbzengine's environment: PROPERTIES CHANGES LAKE → JSON. Its own Iceberg handler, SQLite catalog."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydbzengine import DebeziumJsonEngine  # type: ignore[import-not-found]
from pydbzengine.handlers.iceberg import IcebergChangeHandler  # type: ignore[import-not-found]
from pyiceberg.catalog import load_catalog


class Counting(IcebergChangeHandler):  # type: ignore[misc]
    """The handler as it is; notes when batches come and when the last one is committed."""

    expected = 0
    changes = 0
    first_at = 0.0
    last_at = 0.0
    done = threading.Event()

    def handleJsonBatch(self, records: list[Any]) -> None:  # noqa: N802 - its name
        """Count around what it does."""
        self.first_at = self.first_at or time.perf_counter()
        super().handleJsonBatch(records)
        self.changes += len(records)
        if self.changes >= self.expected:
            self.last_at = time.perf_counter()
            self.done.set()


def main() -> None:
    """Consume until all changes are in Iceberg."""
    properties, expected, lake = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), Path(sys.argv[3])
    shutil.rmtree(lake, ignore_errors=True)
    lake.mkdir(parents=True)
    catalog = load_catalog("peer", type="sql", uri=f"sqlite:///{lake}/catalog.db", warehouse=f"file://{lake}")
    catalog.create_namespace("bronze")
    handler = Counting(catalog=catalog, destination_namespace=("bronze",))
    handler.expected = expected
    start = time.perf_counter()
    engine = DebeziumJsonEngine(properties=properties, handler=handler)

    def consume() -> None:
        try:
            engine.run()
        finally:
            handler.done.set()

    threading.Thread(target=consume, daemon=True).start()
    handler.done.wait()
    if not handler.last_at:
        sys.exit(f"the engine ended after {handler.changes} changes")
    said = {
        "changes": handler.changes,
        "seconds": handler.last_at - handler.first_at,
        "startup_seconds": handler.first_at - start,
    }
    print(json.dumps(said), flush=True)
    # The JVM's own threads would keep the process for a while; everything is committed.
    os._exit(0)


if __name__ == "__main__":
    main()
