"""What commands ask of a source from outside, whether its pipeline runs or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Removal:
    """What would be taken off a source. `carry_out` does it and says what was done, in the same words.

    steps: what it would do. notes: what a person should know before.
    """

    steps: list[str]
    notes: list[str]
    carry_out: Callable[[], list[str]]


@dataclass(frozen=True, slots=True)
class Retention:
    """What a source keeps for a pipeline, and for how long it still can.

    position: where the pipeline is held to be. lag_bytes: not acknowledged yet. kept_bytes: kept for us.
    bytes_per_second: written now, from a short sample. left_bytes: until it is lost; None without a limit.
    seconds_left: the same at the current rate; None when it would never be, or there is no limit.
    """

    state: str
    position: str | None = None
    lag_bytes: int | None = None
    kept_bytes: int | None = None
    bytes_per_second: float | None = None
    left_bytes: int | None = None
    seconds_left: float | None = None
    notes: list[str] = field(default_factory=list)
