"""A bucket and a prefix, as people write them: `s3://gadget-sales-data/errors/`."""

from __future__ import annotations

from typing import NamedTuple

from catchment.errors import ConfigError


class S3Place(NamedTuple):
    """Where objects lie."""

    bucket: str
    prefix: str

    @classmethod
    def of(cls, url: str) -> S3Place:
        """Raises `ConfigError` when it is no such URL."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise ConfigError(f"{url} is no place in S3. Write it as s3://bucket/prefix/.")
        return cls(bucket, prefix)
