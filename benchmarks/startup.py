"""How long the command line takes to answer, and that it loads nothing heavy for it."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.process import run
from benchmarks.sizes import Sizes
from benchmarks.subject import CATCHMENT
from catchment.demo.postgres import EmbeddedPostgres

HEAVY = ("numpy", "pyarrow", "duckdb", "pyiceberg", "psycopg", "sqlalchemy", "adbc_driver_postgresql", "faker")

_LOADED = f"""
import sys
try:
    {{statement}}
except SystemExit:
    pass
print("\\n" + ",".join(name for name in {HEAVY!r} if name in sys.modules), end="")
"""


def startup(server: EmbeddedPostgres, sizes: Sizes) -> Iterator[Figure]:
    """`catchment --help` and `import catchment`, the whole process."""
    commands: dict[str, tuple[list[str | Path], str]] = {
        "catchment --help": (
            [CATCHMENT, "--help"],
            "from catchment.cli import main; sys.argv = ['catchment', '--help']; main()",
        ),
        "import catchment": ([sys.executable, "-c", "import catchment"], "import catchment"),
    }
    bare = statistics.median(run([sys.executable, "-c", ""]).seconds for _ in range(sizes.starts))
    for name, (command, statement) in commands.items():
        run(command)
        seconds = statistics.median(run(command).seconds for _ in range(sizes.starts))
        loaded = run([sys.executable, "-c", _LOADED.format(statement=statement)]).stdout.rpartition("\n")[2]
        assert not loaded, f"{name} loads {loaded}"
        yield Figure(name, seconds, "s", less_than=0.3, beside={"Python alone s": bare})
