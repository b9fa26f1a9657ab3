"""What a peer is to the benchmark: a name, a way to install it, a command that reads the backlog and tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.process import Cost, run
from benchmarks.server import SCRATCH, Database


@dataclass(frozen=True, slots=True)
class Task:
    """What a peer has to read. expected: all changes that wait, the last one included."""

    base: Database
    slot: str
    expected: int
    directory: Path

    @classmethod
    def make(cls, base: Database, slot: str, expected: int) -> Task:
        """With an empty directory for what the peer writes."""
        directory = SCRATCH / "peers" / slot
        directory.mkdir(parents=True, exist_ok=True)
        return cls(base, slot, expected, directory)

    @property
    def port(self) -> int:
        """The server's port on 127.0.0.1."""
        port = urlsplit(self.base.dsn).port
        assert port is not None
        return port


@dataclass(frozen=True, slots=True)
class Peer:
    """command: installs what it needs (CannotInstallError when it cannot), and says how to run it.

    The program prints one JSON object: `changes`, `seconds` from the first change to the last one done with,
    and `startup_seconds` before that.
    """

    name: str
    slot: str
    command: Callable[[Task], Sequence[str | Path]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a peer did."""

    changes_per_second: float
    startup_seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(peer: Peer, task: Task) -> Outcome:
    """Run it. Raises `RuntimeError` with its last words when it fails or does not see every change."""
    cost: Cost = run(peer.command(task), cwd=task.directory)
    said = json.loads(cost.stdout.strip().splitlines()[-1])
    if said["changes"] != task.expected:
        raise RuntimeError(f"{peer.name} saw {said['changes']} changes instead of {task.expected}")
    return Outcome(said["changes"] / said["seconds"], said["startup_seconds"], cost.cpu_seconds, cost.peak_bytes)


def debezium_properties(task: Task) -> dict[str, str]:
    """A connector that reads the waiting changes only, with batches as large as helps it."""
    return {
        "name": task.slot,
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "offset.storage": "org.apache.kafka.connect.storage.MemoryOffsetBackingStore",
        "offset.flush.interval.ms": "1000",
        "topic.prefix": "peer",
        "database.hostname": "127.0.0.1",
        "database.port": str(task.port),
        "database.user": "postgres",
        "database.password": "trusted",
        "database.dbname": task.base.name,
        "plugin.name": "pgoutput",
        "slot.name": task.slot,
        "publication.name": "orders",
        "publication.autocreate.mode": "disabled",
        "table.include.list": "public.orders",
        "snapshot.mode": "no_data",
        "max.batch.size": "20480",
        "max.queue.size": "65536",
        "poll.interval.ms": "50",
        # Without the schema in every message: what people who care for speed choose.
        "converter.schemas.enable": "false",
        "key.converter.schemas.enable": "false",
        "value.converter.schemas.enable": "false",
        "tombstones.on.delete": "false",
    }
