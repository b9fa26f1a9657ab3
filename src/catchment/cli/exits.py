"""Exit codes: what a script can tell from how a command ended."""

from __future__ import annotations

from catchment.errors import CatchmentError, ConfigError, LeaseHeld, LeaseLost, Retriable

OK = 0
FATAL = 1
USAGE = 2
HELD = 3
UNAVAILABLE = 4
INTERRUPTED = 130

EXIT_CODES = {
    OK: "all went well",
    FATAL: "something has to be changed first, or a check failed",
    USAGE: "the command line or the pipeline file is wrong",
    HELD: "another process holds the pipeline",
    UNAVAILABLE: "the source or a sink cannot be reached",
    INTERRUPTED: "interrupted before it was done",
}


def exit_code(error: CatchmentError) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, (LeaseHeld, LeaseLost)):
        return HELD
    return UNAVAILABLE if isinstance(error, Retriable) else FATAL
