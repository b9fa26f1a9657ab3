"""A process that writes changes of one table to bronze and silver, maintains them meanwhile, and can be killed.

    python maintained_writer.py DIRECTORY SEED [beside]

All follows from the seed, so that a process that begins anew goes on after what the lake holds. Maintenance has its
turn after each flush; with `beside` it never rests, on a thread of its own.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from catchment.lakehouse.config import LakehouseConfig, MaintenanceConfig
from catchment.lakehouse.maintenance import plan
from catchment.lakehouse.maintenance.maintainer import Maintainer
from catchment.progress import Progress
from catchment.sinks.iceberg.config import IcebergSinkConfig
from catchment.sinks.iceberg.sink import IcebergSink
from pipelines.overtaking import SIMPLE, Overtaking, write

CHANGES = 260
LAKEHOUSE = LakehouseConfig(maintenance=MaintenanceConfig(enabled=False, target_file_bytes=64 * 1024))


def source(seed: int) -> Overtaking:
    """The whole workload."""
    made = Overtaking(seed, SIMPLE, chunks=0, keys=60)
    for _ in range(CHANGES):
        made.act()
    return made


def many_small_pieces() -> None:
    """Let a few files and a few dead rows be enough for maintenance to have something to do all the time."""
    plan.FAN_IN = plan.FAN_IN_SMALLEST = 3
    plan.NOTICED_DEAD_ROWS = 10


def open_sink(directory: Path) -> tuple[IcebergSink, Progress]:
    """The sink, and what it holds."""
    sink = IcebergSink(IcebergSinkConfig(snapshots_kept=10), LAKEHOUSE, "maintained", directory)
    return sink, sink.open() or Progress()


def main(directory: Path, seed: int, *, beside: bool) -> None:
    """Write what the lake does not hold yet."""
    many_small_pieces()
    sink, held = open_sink(directory)
    assert sink._writer is not None
    assert sink._layer is not None
    maintainer = Maintainer(sink._writer, LAKEHOUSE.maintenance, sink._layer.keyed)
    done = threading.Event()

    def go_on() -> None:
        while not done.is_set():
            maintainer.step(lambda: None)

    thread = threading.Thread(target=go_on)
    if beside:
        thread.start()
    try:
        for batch, reached in source(seed).deliver(Progress()):
            if held.covers(reached):
                continue
            write(sink, batch, reached)
            sink.flush()
            if not beside:
                maintainer.step(lambda: None)
    finally:
        done.set()
        if beside:
            thread.join()
        sink.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), beside=len(sys.argv) > 3)
