"""Firehose's names of objects: prefix expressions and the rest of the key.

Source: AWS's "Custom prefixes for Amazon S3 objects" and "Amazon S3 object name format".
"""

from __future__ import annotations

import re
import secrets
import string
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from catchment.errors import ConfigError

BY_HOUR = "!{timestamp:yyyy/MM/dd/HH/}"
"""What stands where nothing is said, and after a prefix that holds no expression."""

_EXPRESSION = re.compile(r"!\{([A-Za-z]+):([^}]*)\}")
_PATTERN_PART = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+")
_RANDOM_LETTERS = string.ascii_letters + string.digits
_RANDOM_LENGTH = 11

_FIELDS: Mapping[str, Callable[[datetime, int], str]] = {
    "y": lambda t, n: f"{t.year % 100:02d}" if n == 2 else f"{t.year:0{n}d}",
    "u": lambda t, n: f"{t.year % 100:02d}" if n == 2 else f"{t.year:0{n}d}",
    "M": lambda t, n: f"{t.month:0{n}d}" if n < 3 else _word(f"{t:%B}", n),
    "d": lambda t, n: f"{t.day:0{n}d}",
    "D": lambda t, n: f"{t.timetuple().tm_yday:0{n}d}",
    "E": lambda t, n: _word(f"{t:%A}", n),
    "e": lambda t, n: f"{t.isoweekday() % 7 + 1:0{n}d}",
    "a": lambda t, n: f"{t:%p}",
    "H": lambda t, n: f"{t.hour:0{n}d}",
    "k": lambda t, n: f"{t.hour or 24:0{n}d}",
    "h": lambda t, n: f"{t.hour % 12 or 12:0{n}d}",
    "K": lambda t, n: f"{t.hour % 12:0{n}d}",
    "m": lambda t, n: f"{t.minute:0{n}d}",
    "s": lambda t, n: f"{t.second:0{n}d}",
    "S": lambda t, n: f"{t.microsecond:06d}000"[:n],
    "A": lambda t, n: f"{_of_day(t) // 1000:0{n}d}",
    "Z": lambda t, n: f"{t:%z}",
    "X": lambda t, n: "Z" if not t.utcoffset() else _offset(t, n),
}
"""The letters of Java's DateTimeFormatter that make sense in a key: value and number of letters to text."""


def _word(name: str, letters: int) -> str:
    return {4: name, 5: name[0]}.get(letters, name[:3])


def _of_day(t: datetime) -> int:
    return ((t.hour * 60 + t.minute) * 60 + t.second) * 1_000_000 + t.microsecond


def _offset(t: datetime, letters: int) -> str:
    text = f"{t:%z}"
    return {1: text[:3], 2: text}.get(letters, f"{text[:3]}:{text[3:]}")


def formatted(pattern: str, instant: datetime) -> str:
    """`instant` by a pattern of Java's DateTimeFormatter. Raises `ConfigError` for a letter it does not know."""
    result, end = [], 0
    for part in _PATTERN_PART.finditer(pattern):
        if part.start() != end:
            break
        end = part.end()
        if part[1] is not None:
            result.append(part[1].replace("''", "'") or "'")
        elif part[2] is None:
            result.append(part[0])
        elif part[2] in _FIELDS:
            result.append(_FIELDS[part[2]](instant, len(part[0])))
        else:
            raise ConfigError(
                f"The timestamp pattern {pattern} has the letter {part[2]}, which is not known here. "
                f"Known are {' '.join(_FIELDS)}; put other words between single quotes."
            )
    if end != len(pattern):
        raise ConfigError(f"The timestamp pattern {pattern} has a quote that does not end. Close it.")
    return "".join(result)


class UnknownPartition(LookupError):
    """A record's Lambda gave no value for a key that the prefix names."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix with expressions; made once, checked, then evaluated for each object.

    text: as configured; with no expression at all in it, `yyyy/MM/dd/HH/` follows literally, without a slash between.
    """

    text: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        rest = _EXPRESSION.sub("", self.text)
        if "!{" in rest:
            raise ConfigError(f"The prefix {self.text} has an expression that is not `!{{namespace:value}}`. Mend it.")
        for namespace, value in _EXPRESSION.findall(self.text):
            _check(self.text, namespace, value)
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ConfigError(f"There is no time zone {self.zone}. Give a name such as Europe/Berlin.") from None

    @property
    def has_expressions(self) -> bool:
        """Is there anything to evaluate in it?"""
        return _EXPRESSION.search(self.text) is not None

    @property
    def names_error_type(self) -> bool:
        """Does it say where the kind of an error stands?"""
        return "!{firehose:error-output-type}" in self.text

    @property
    def partition_keys(self) -> tuple[str, ...]:
        """The keys that a Lambda has to give for each record, in the prefix's order."""
        return tuple(value for space, value in _EXPRESSION.findall(self.text) if space == "partitionKeyFromLambda")

    def evaluate(
        self, instant: datetime, *, partition: Mapping[str, str] | None = None, error_type: str | None = None
    ) -> str:
        """The prefix of an object whose oldest record arrived at `instant`."""
        local = instant.astimezone(ZoneInfo(self.zone))

        def value(match: re.Match[str]) -> str:
            namespace, name = match[1], match[2]
            if namespace == "timestamp":
                return formatted(name, local)
            if namespace == "partitionKeyFromLambda":
                if partition is None or name not in partition:
                    raise UnknownPartition(name)
                return partition[name]
            return (error_type or "") if name == "error-output-type" else random_string()

        text = self.text if self.has_expressions else self.text + BY_HOUR
        return _EXPRESSION.sub(value, text)


def _check(text: str, namespace: str, value: str) -> None:
    if namespace == "timestamp":
        formatted(value, datetime(2026, 1, 1, tzinfo=UTC))
    elif namespace == "firehose":
        if value not in ("error-output-type", "random-string"):
            raise ConfigError(
                f"The prefix {text} asks for firehose:{value}; there are only error-output-type and random-string."
            )
    elif namespace == "partitionKeyFromQuery":
        raise ConfigError(
            f"The prefix {text} asks for partitionKeyFromQuery (inline parsing with jq), which only AWS has. "
            "Let the Lambda give the key and use partitionKeyFromLambda."
        )
    elif namespace != "partitionKeyFromLambda":
        raise ConfigError(
            f"The prefix {text} has the namespace {namespace}; "
            "there are timestamp, firehose and partitionKeyFromLambda."
        )


def error_prefix(configured: str | None, zone: str = "UTC") -> Prefix:
    """The prefix of failed records: when no expression is in it, kind of error and hour are added."""
    text = configured or ""
    if _EXPRESSION.search(text) is None:
        text += "!{firehose:error-output-type}/" + BY_HOUR
    return Prefix(text, zone)


def random_string() -> str:
    """Eleven letters and digits, as `!{firehose:random-string}` gives."""
    return "".join(secrets.choice(_RANDOM_LETTERS) for _ in range(_RANDOM_LENGTH))


def object_name(stream: str, version: str, instant: datetime, extension: str = "") -> str:
    """What follows the prefix: `<stream>-<version>-yyyy-MM-dd-HH-mm-ss-<uuid><extension>`, UTC."""
    return f"{stream}-{version}-{instant.astimezone(UTC):%Y-%m-%d-%H-%M-%S}-{uuid.uuid4()}{extension}"
