"""The thread that reads the WAL, as far as it needs no server."""

from __future__ import annotations

import threading

from catchment.sources.postgres.inbox import Inbox
from catchment.sources.postgres.wal import WalPlan, WalReader

MORE_THAN_A_PIPE_HOLDS = 70_000


def test_acknowledging_never_waits_for_a_reader_that_does_not_look() -> None:
    """In catch-up nobody empties the pipe that wakes the stream: hours of acknowledgements must fit all the same."""
    plan = WalPlan("", "", "slot", ("publication",), start=0, catch_up_bytes=1)
    reader = WalReader(plan, Inbox())

    def acknowledge_and_stop() -> None:
        for lsn in range(MORE_THAN_A_PIPE_HOLDS):
            reader.acknowledge(lsn)
        reader.stop()

    pipeline = threading.Thread(target=acknowledge_and_stop, daemon=True)
    pipeline.start()
    pipeline.join(timeout=20)
    assert not pipeline.is_alive(), "acknowledge() waits"
