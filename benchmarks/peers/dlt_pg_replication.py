"""dlt's way: replication messages decoded with `pypgoutput`, one dict a row, merged by a dlt pipeline.

dlt's `pg_replication` verified source is not on PyPI (`dlt init` copies it from GitHub). `consume_dlt.py`
is the smallest loop with the same steps, written anew: psycopg2's replication cursor, pypgoutput's decoders,
whole transactions in batches of at least 1,000 rows, hints per table, write disposition merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.environments import HERE, python_environment
from benchmarks.peers.peer import Peer, Task

REQUIREMENTS = ("dlt[duckdb]==1.31.0", "psycopg2-binary==2.9.13", "pydantic==1.10.27")
# Its own requirement psycopg2 would be compiled; the binary wheel is the same module.
WITHOUT_DEPENDENCIES = ("pypgoutput==0.0.3",)


def _command(task: Task) -> Sequence[str | Path]:
    python = python_environment("dlt", REQUIREMENTS, without_dependencies=WITHOUT_DEPENDENCIES)
    where = f"host=127.0.0.1 port={task.port} user=postgres dbname={task.base.name}"
    return [python, HERE / "consume_dlt.py", where, task.slot, str(task.expected), task.directory]


PEER = Peer("dlt 1.31, a loop like its pg_replication, merged into DuckDB", "dlt", _command)
