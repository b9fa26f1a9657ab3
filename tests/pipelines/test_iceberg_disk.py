"""A disk that takes no more: the sink says so, keeps what it has, and goes on once there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from catchment.progress import Progress
from pipelines import iceberg_writer as writer

LIMITED = """
import resource, signal, sys
from pathlib import Path
import iceberg_writer as writer
from catchment.errors import SinkUnavailable

sink = writer.open_sink(Path(sys.argv[1]), compression="none", row_group_rows=4)
start = writer.next_transaction(sink.open())
sink.schema_change(writer.BOTH)
# The kernel refuses to let a file grow beyond this: as a full disk does, in the middle of a write.
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    for n in range(start, start + 400):
        writer.write_transaction(sink, n)
    sink.flush()
except SinkUnavailable as error:
    print(error)
finally:
    sink.close()
"""


@pytest.mark.parametrize("limit", [20_000, 3_000, 500])
def test_a_file_that_cannot_be_written_loses_nothing(tmp_path: Path, limit: int) -> None:
    sink = writer.open_sink(tmp_path)
    sink.open()
    writer.write_transaction(sink, 0)
    writer.write_transaction(sink, 1)
    held = sink.flush()
    sink.close()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path), str(limit)],
        env={**os.environ, "PYTHONPATH": str(Path(writer.__file__).parent)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "could not be written" in done.stdout or "failed" in done.stdout, done.stdout
    assert "File too large" in done.stdout or "disk I/O error" in done.stdout, done.stdout
    assert done.stderr == ""
    assert writer.rows(tmp_path, "both") == writer.expected("both", 2)

    again = writer.open_sink(tmp_path)
    assert again.open() == held == Progress({writer.LANE: writer.position(2)})
    for n in range(2, 5):
        writer.write_transaction(again, n)
    again.flush()
    again.close()
    assert writer.rows(tmp_path, "both") == writer.expected("both", 5)
