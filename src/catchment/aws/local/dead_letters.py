"""Records that no target takes, by their place in the source: a durable file of one line each, without values."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from catchment.durable import make_durable


class DeadLetters:
    """One runner's file of dead letters."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, stream: str, shard: str, sequence_number: str, reason: str) -> None:
        """Keep one. It is durable when this returns; the record can be read again from the stream for 24 hours."""
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stream": stream,
            "shard": shard,
            "sequence_number": sequence_number,
            "reason": reason,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        make_durable(self.path.parent)
