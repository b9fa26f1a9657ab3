"""Addresses in S3, as people and catalogs write them: `s3://bucket/prefix/`."""

from __future__ import annotations

import re

from catchment.errors import ConfigError

# Spark and Hive write s3a and s3n for the same.
_SCHEME = r"s3[an]?://"
_ADDRESS = re.compile(rf"{_SCHEME}([^/]+)(?:/(.*))?", re.DOTALL)


def is_address(text: str) -> bool:
    """Is this an address in S3, though perhaps a wrong one, and no local path?"""
    return re.match(_SCHEME, text) is not None


def bucket_and_key(address: str) -> tuple[str, str]:
    """The bucket and the key, or prefix, as it stands there; "" without one. Raises ConfigError for what is none."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ConfigError(f"{address} is no address in S3. Write s3://bucket or s3://bucket/prefix/.")
    return found[1], found[2] or ""
