"""What a check of a component found, before anything runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """ok: as it should be. warning: works, with a consequence to know. error: capture would not work."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked, what was found, and the statements that would mend it."""

    subject: str
    severity: Severity
    message: str
    remedy: str | None = None

    def to_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return asdict(self)


def ok(subject: str, message: str) -> Finding:
    """Nothing to do."""
    return Finding(subject, Severity.OK, message)


def warning(subject: str, message: str, remedy: str | None = None) -> Finding:
    """It works, but somebody should know."""
    return Finding(subject, Severity.WARNING, message, remedy)


def error(subject: str, message: str, remedy: str | None = None) -> Finding:
    """It would not work."""
    return Finding(subject, Severity.ERROR, message, remedy)
