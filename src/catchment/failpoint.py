"""Named places where a test may kill the process.

`CATCHMENT_FAILPOINT=before_commit:3` kills it with SIGKILL the third time it comes by `before_commit`.
Without the variable a failpoint costs one comparison.
"""

from __future__ import annotations

import os
import signal

NAMES = (
    "received",
    "decoded",
    "data_file_written",
    "delete_file_written",
    "before_commit",
    "after_commit",
    "before_exchange",
    "before_acknowledge",
)

_armed, _, _count = os.environ.get("CATCHMENT_FAILPOINT", "").partition(":")
_left = int(_count or 1)


def reach(name: str) -> None:
    """Come by the failpoint `name`."""
    if name == _armed:
        _hit()


def _hit() -> None:
    global _left
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
