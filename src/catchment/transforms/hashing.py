"""Keyed hashes of values: pure Python, so that a Lambda can import it as it is.

HMAC-SHA256 in hex over the value's canonical text, so that PostgreSQL itself can say what a value became:
`encode(hmac(email, secret, 'sha256'), 'hex')` (pgcrypto). Bytes are hashed as they are.

The canonical text of a value that is no text: `true`/`false`; integers and decimals in plain digits with the
scale they have (`12.50`); floats in the shortest form that reads back as the same (Python's repr); dates
`2024-05-01`; timestamps `2024-05-01T12:00:00.000000`, with time zone in UTC and ending in `Z`.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal

_BLOCK = 64
_DAY_US = 86_400_000_000


class KeyedHash:
    """HMAC-SHA256 with one secret. The two padded key blocks are hashed once, not for each value."""

    def __init__(self, secret: str) -> None:
        key = secret.encode()
        if len(key) > _BLOCK:
            key = hashlib.sha256(key).digest()
        key = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def of_bytes(self, value: bytes) -> str:
        """64 hex digits."""
        inner = self._inner.copy()
        inner.update(value)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()

    def of_text(self, value: str) -> str:
        """64 hex digits of the text in UTF-8."""
        return self.of_bytes(value.encode())


def canonical_text(value: bool | int | float | Decimal | str) -> str:
    """What is hashed for a value that is neither text nor bytes nor a moment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    return value if isinstance(value, str) else repr(value)


def date_text(days: int) -> str:
    """ISO 8601 of days since 1970, also for years that Python's dates do not reach."""
    year, month, day = _civil(days)
    return f"{_year(year)}-{month:02}-{day:02}"


def timestamp_text(micros: int, *, utc: bool = False) -> str:
    """ISO 8601 of microseconds since 1970, also for years that Python's datetimes do not reach."""
    days, rest = divmod(micros, _DAY_US)
    seconds, fraction = divmod(rest, 1_000_000)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"
    return f"{date_text(days)}T{clock}{'Z' if utc else ''}"


def _year(year: int) -> str:
    # ISO 8601 wants a sign on years that do not have four digits; 0000 is 1 BC.
    return f"{year:04}" if 0 <= year <= 9999 else f"{year:+07}"


def _civil(days: int) -> tuple[int, int, int]:
    """Proleptic Gregorian year, month and day of days since 1970: Howard Hinnant's civil_from_days."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1
