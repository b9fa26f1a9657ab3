"""Where random tests begin: anywhere, or at `CATCHMENT_SEED`, which replays what a failure printed."""

from __future__ import annotations

import os
import random


def first_seed() -> int:
    """The seed of this run. A test prints the one that it used."""
    return int(os.environ.get("CATCHMENT_SEED", random.randrange(2**30)))
