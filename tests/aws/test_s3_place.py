"""Objects of a bucket read as lines."""

from __future__ import annotations

import gzip
import threading

import pytest

from aws.account import AwsAccount
from catchment.aws.local.s3_place import S3Place
from catchment.errors import SourceRefused

PLACE = S3Place("lines", "here/")


@pytest.mark.parametrize("key", ["here/a", "here/a.gz"])
@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("zipped", [False, True])
def test_lines_are_the_same_whether_zipped_or_only_said_to_be(
    aws: AwsAccount, key: str, encoding: str, zipped: bool
) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="lines")
    body = b'{"id": 1}\n{"id": 2}\n'
    s3.put_object(Bucket="lines", Key=key, Body=gzip.compress(body) if zipped else body, ContentEncoding=encoding)
    assert list(PLACE.lines(s3, key, threading.Event())) == [b'{"id": 1}', b'{"id": 2}']


def test_an_object_that_is_cut_off_is_named(aws: AwsAccount) -> None:
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="lines")
    s3.put_object(Bucket="lines", Key="here/cut.gz", Body=gzip.compress(b'{"id": 1}\n' * 100)[:-12])
    with pytest.raises(SourceRefused, match=r"s3://lines/here/cut\.gz"):
        list(PLACE.lines(s3, "here/cut.gz", threading.Event()))
