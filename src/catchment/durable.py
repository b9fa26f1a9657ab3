"""What survives a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def make_durable(path: Path) -> None:
    """Have a file's content, or a directory's entries, survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(written: Path, path: Path) -> None:
    """Put a file that was written beside in the place of another: after a power cut it is one of the two, whole.

    Raises OSError.
    """
    make_durable(written)
    written.replace(path)
    make_durable(path.parent)
