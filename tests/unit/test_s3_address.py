"""Addresses in S3, as people and catalogs write them."""

from __future__ import annotations

import pytest

from catchment.errors import ConfigError
from catchment.s3_address import bucket_and_key, is_address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("s3://gadget-sales-data", ("gadget-sales-data", "")),
        ("s3://gadget-sales-data/", ("gadget-sales-data", "")),
        ("s3://gadget-sales-data/errors/", ("gadget-sales-data", "errors/")),
        ("s3a://lake/a//b", ("lake", "a//b")),
        ("s3n://Old_Bucket/a\nb", ("Old_Bucket", "a\nb")),
    ],
)
def test_bucket_and_key_are_as_they_were_written(address: str, expected: tuple[str, str]) -> None:
    assert is_address(address)
    assert bucket_and_key(address) == expected


@pytest.mark.parametrize("text", ["s3://", "s3:///x", "bucket/x", "s3:/bucket/x", "S3://bucket", "gs://bucket/x", ""])
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no address in S3\. Write s3://"):
        bucket_and_key(text)


@pytest.mark.parametrize("path", ["s3/x", "/s3://x", "./s3", "s3b://x", "file:///x"])
def test_a_local_path_is_no_address(path: str) -> None:
    assert not is_address(path)
