"""A change's journey for people: a line a stage, and one for each place in it."""

from __future__ import annotations

from collections.abc import Sequence

from catchment.aws.journey import Journey, Sighting


def journey_lines(journey: Journey) -> Sequence[str]:
    """The lines."""
    lines = [f"Event {journey.event_id}"]
    waits = journey.waits()
    for stage in journey.stages:
        wait = f"  +{waits[stage.name]:.1f} s" if stage.name in waits else ""
        lines.append(f"\n{stage.name}  {stage.place}{wait}")
        lines += [f"  {_sighting(one)}" for one in stage.found]
        if stage.missing is not None:
            lines.append(f"  {'nothing' if stage.name == 'errors' else 'not found'}: {stage.missing}")
        if len(stage.found) > 1 and stage.name != "errors":
            lines.append(f"  {len(stage.found)} times: delivery is at least once; the latest version counts once")
    return lines


def _sighting(one: Sighting) -> str:
    at = "" if one.at is None else f"{one.at:%Y-%m-%d %H:%M:%S}.{one.at.microsecond // 1000:03}  "
    details = "  ".join(f"{name.replace('_', ' ')} {_word(value)}" for name, value in one.details.items())
    return f"{at}{one.where}  {details}".rstrip()


def _word(value: str | int | bool) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
