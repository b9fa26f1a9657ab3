"""Where a change was found, stage by stage, and how long it was on its way. A journey names places, never a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Sighting:
    """One place where the change was found. at: when it came there; None when nothing says."""

    where: str
    at: datetime | None = None
    details: Mapping[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. found: in the order in which it came there; more than one: repeated. missing: why there is none."""

    name: str
    place: str
    found: tuple[Sighting, ...]
    missing: str | None = None

    @property
    def at(self) -> datetime | None:
        """When the change came there first."""
        return min((one.at for one in self.found if one.at is not None), default=None)


@dataclass(frozen=True, slots=True)
class Journey:
    """The stages that were looked at, in their order."""

    event_id: str
    stages: tuple[Stage, ...]

    @property
    def found(self) -> bool:
        return any(stage.found for stage in self.stages)

    def waits(self) -> dict[str, float]:
        """Stage → seconds since the stage before it whose time is known. DynamoDB's times are whole seconds."""
        waits: dict[str, float] = {}
        before: datetime | None = None
        for stage in self.stages:
            if stage.at is not None:
                if before is not None:
                    waits[stage.name] = (stage.at - before).total_seconds()
                before = stage.at
        return waits

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        waits = self.waits()
        return {
            "event_id": self.event_id,
            "found": self.found,
            "stages": [
                {
                    "stage": stage.name,
                    "place": stage.place,
                    "at": _iso(stage.at),
                    "seconds_since_the_stage_before": waits.get(stage.name),
                    "found": [{"where": one.where, "at": _iso(one.at), **one.details} for one in stage.found],
                    "missing": stage.missing,
                }
                for stage in self.stages
            ],
        }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
