"""Partition projection: partitions that Athena computes from a table's properties instead of asking Glue.

Source: "Set up partition projection" and "Supported types for partition projection" in Athena's documentation:
`projection.enabled`, `projection.<column>.type` (integer, enum, date, injected), `.range`, `.digits`, `.values`,
`.format`, `.interval`, `storage.location.template`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property

from catchment.errors import ConfigError

_PLACE = re.compile(r"\$\{([^}]+)\}")
_NOW = re.compile(r"NOW\s*(?:([+-])\s*(\d+)\s*([A-Z]+?)S?)?", re.IGNORECASE)
_UNITS = {"year": 365 * 86400, "month": 31 * 86400, "week": 604800, "day": 86400, "hour": 3600, "minute": 60}
_STEPS = {"HH": timedelta(hours=1), "dd": timedelta(days=1)}
_MOST_VALUES = 100_000
_JAVA = {"yyyy": ("%Y", r"\d{4}"), "MM": ("%m", r"\d\d"), "dd": ("%d", r"\d\d"), "HH": ("%H", r"\d\d")}


@dataclass(frozen=True)
class ProjectedColumn:
    """How one partition column's values look in a key (a regular expression), and which of them exist.

    A date may be several directories: `first` is how the first of them looks.
    """

    name: str
    pattern: str
    exists: Callable[[str], bool]
    every: Callable[[], list[str]] | None = None
    """All values that exist, in order, where they can be told and are not too many."""

    @property
    def first(self) -> str:
        return self.pattern.partition("/")[0]


@dataclass(frozen=True)
class Projection:
    """A table's projection: the template of its partitions' places, and its columns by name."""

    template: str
    columns: Mapping[str, ProjectedColumn]

    @property
    def prefix(self) -> str:
        """The fixed beginning of every place, up to the last slash."""
        return self.template.partition("${")[0].rpartition("/")[0] + "/"

    def values(self, location: str) -> dict[str, str] | None:
        """The partition that an object is in, its values as they are written; None when it is in none."""
        values = self.written(location)
        if values is None or not all(self.columns[name].exists(value) for name, value in values.items()):
            return None
        return values

    def written(self, location: str) -> dict[str, str] | None:
        """The values that stand in an object's place, in the declared ranges or not; None when it has another form."""
        found = self._pattern.match(location)
        return None if found is None else {name: found[f"p{at}"] for at, name in enumerate(self.columns)}

    def levels(self) -> list[str | None]:
        """What each directory behind `prefix` says: a column's name, or None for one to be matched as it is."""
        rest = self.template[len(self.prefix) :].strip("/")
        return [found[1] if (found := _PLACE.fullmatch(part)) else None for part in rest.split("/")]

    def may_begin(self, directory: str) -> bool:
        """Can a partition be below a directory of this name, the first behind `prefix`?"""
        first = self.template[len(self.prefix) :].partition("/")[0]
        found = _PLACE.fullmatch(first)
        if found is None:
            return "${" in first or first == directory
        return re.fullmatch(self.columns[found[1]].first, directory) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        numbers = {name: at for at, name in enumerate(self.columns)}
        text, seen = "", set()
        for at, part in enumerate(_PLACE.split(self.template.rstrip("/"))):
            if at % 2 == 0:
                text += re.escape(part)
            elif part in seen:
                text += f"(?P=p{numbers[part]})"
            else:
                seen.add(part)
                text += f"(?P<p{numbers[part]}>{self.columns[part].pattern})"
        return re.compile(text + "/")


def read(parameters: Mapping[str, str], keys: Sequence[str], location: str, now: datetime) -> Projection | None:
    """The projection that a table's parameters declare; None when it is not enabled. `location`: of the table.

    Raises ConfigError for a column without a projection, or of a kind that cannot be followed here.
    """
    if parameters.get("projection.enabled", "").lower() != "true":
        return None
    default = location.rstrip("/") + "".join(f"/{key}=${{{key}}}" for key in keys)
    template = parameters.get("storage.location.template", default)
    missing = set(keys) - set(_PLACE.findall(template))
    if missing:
        raise ConfigError(
            f"`storage.location.template` does not name the partition column {min(missing)}: add "
            f"${{{min(missing)}}} to it."
        )
    return Projection(template, {key: _column(key, parameters, now) for key in keys})


def _column(name: str, parameters: Mapping[str, str], now: datetime) -> ProjectedColumn:
    def told(what: str, default: str | None = None) -> str:
        found = parameters.get(f"projection.{name}.{what}", default)
        if found is None:
            raise ConfigError(f"`projection.{name}.{what}` is missing: projection is enabled, so each column needs it.")
        return found

    kind = told("type").lower()
    if kind == "integer":
        low, high = (int(one) for one in told("range").split(","))
        digits = int(told("digits", "0"))
        pattern = rf"\d{{{digits}}}" if digits else r"0|-?[1-9]\d*"
        return ProjectedColumn(name, pattern, lambda value: low <= int(value) <= high)
    if kind == "enum":
        values = [one.strip() for one in told("values").split(",")]
        return ProjectedColumn(name, "|".join(map(re.escape, values)), lambda value: value in values)
    if kind == "date":
        return _date(name, told("format"), told("range"), now)
    if kind == "injected":
        return ProjectedColumn(name, "[^/]+", lambda _: True)
    raise ConfigError(f"`projection.{name}.type` is {kind!r}. Known are integer, enum, date and injected.")


def _date(name: str, java: str, span: str, now: datetime) -> ProjectedColumn:
    form, pattern = "", ""
    for part in re.split(r"(yyyy|MM|dd|HH)", java):
        known = _JAVA.get(part)
        if known is None and re.search("[A-Za-z]", part.replace("'", "")):
            raise ConfigError(f"`projection.{name}.format` is {java}. Known here are yyyy, MM, dd and HH.")
        form += known[0] if known else part.replace("'", "")
        pattern += known[1] if known else re.escape(part.replace("'", ""))
    low, high = (_moment(one.strip(), form, now) for one in span.split(","))

    def exists(value: str) -> bool:
        try:
            return low <= datetime.strptime(value, form).replace(tzinfo=UTC) <= high
        except ValueError:
            return False

    step = next((step for part, step in _STEPS.items() if part in java), None)

    def every() -> list[str]:
        values: list[str] = []
        at = low
        while step is not None and at <= high and len(values) <= _MOST_VALUES:
            values.append(at.strftime(form))
            at += step
        return values

    return ProjectedColumn(name, pattern, exists, every if step is not None else None)


def _moment(text: str, form: str, now: datetime) -> datetime:
    found = _NOW.fullmatch(text)
    if found is None:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    sign, count, unit = found.groups()
    if unit is None:
        return now
    seconds = int(count) * _UNITS[unit.lower()]
    return now + timedelta(seconds=seconds if sign == "+" else -seconds)


def yesterday(now: datetime) -> datetime:
    """Where a new table's hours begin: an object lies in the hour of its oldest record, which may be yesterday's."""
    return (now - timedelta(days=1)).replace(hour=0)


def firehose_datehour(location: str, first_hour: datetime) -> tuple[dict[str, str], dict[str, str]]:
    """Partition columns and parameters for Firehose's own layout, `yyyy/MM/dd/HH/`: one column `datehour`.

    One column of type date can end at NOW. With year, month, day and hour as whole numbers Athena would have to look
    for every hour of every year in their ranges, at one listing each, whenever a query does not say which.
    """
    place = f"{location.rstrip('/')}/${{datehour}}/"
    projected = {
        "type": "date",
        "format": "yyyy/MM/dd/HH",
        "range": f"{first_hour:%Y/%m/%d/%H},NOW",
        "interval": "1",
        "interval.unit": "HOURS",
    }
    parameters = {f"projection.datehour.{key}": value for key, value in projected.items()}
    return {"datehour": "string"}, {
        "projection.enabled": "true",
        **parameters,
        "storage.location.template": place,
    }
