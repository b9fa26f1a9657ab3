"""A bucket and a prefix, as people write them: `s3://gadget-sales-data/errors/`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from catchment.aws.local.patience import patiently
from catchment.aws_errors import translated
from catchment.errors import CatchmentError, SinkRefused
from catchment.s3_address import bucket_and_key


class S3Place(NamedTuple):
    """Where objects lie."""

    bucket: str
    prefix: str

    @classmethod
    def of(cls, url: str) -> S3Place:
        """Raises `ConfigError` when it is no such URL."""
        return cls(*bucket_and_key(url))

    def objects(self, s3: Any, stop: threading.Event) -> Iterator[dict[str, Any]]:
        """All that lies there, as `Contents` of ListObjectsV2.

        Raises `SinkRefused` when there is no such bucket, or it may not be listed; `SinkUnavailable` when `stop` is set
        while S3 is away.
        """
        asked: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix}
        while True:
            page = patiently(lambda: s3.list_objects_v2(**asked), f"Listing the bucket {self.bucket}", stop)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def lines(self, s3: Any, key: str, stop: threading.Event) -> Iterator[bytes]:
        """The lines of one object, unzipped where it is gzip. Raises as `objects`, SourceRefused when it is cut off."""
        from catchment.glue.fetch import GZIP, unpacked

        def got() -> bytes:
            data: bytes = s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            return data

        body = patiently(got, f"GetObject from the bucket {self.bucket}", stop)
        yield from (unpacked(body, f"s3://{self.bucket}/{key}") if body.startswith(GZIP) else body).splitlines()

    def check(self, s3: Any) -> None:
        """Can it be listed? Raises `SinkRefused` when not, `SourceUnavailable` at once when S3 is away."""
        with translated(f"listing the bucket {self.bucket}", self._refusal):
            s3.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)

    def _refusal(self, code: str, message: str) -> CatchmentError | None:
        if code != "NoSuchBucket":
            return None
        return SinkRefused(f"There is no bucket {self.bucket}. Check its name, and AWS_ENDPOINT_URL.")
