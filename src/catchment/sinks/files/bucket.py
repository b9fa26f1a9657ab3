"""A prefix of an S3 bucket, written to by conditional requests only: what an answer that got lost did is found out."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

from catchment.aws_client import aws_client
from catchment.aws_errors import error_code
from catchment.errors import ConfigError, SinkRefused, SinkUnavailable
from catchment.s3_address import bucket_and_key

PART_BYTES = 32 * 1024 * 1024
"""A larger object goes up in parts of this size: S3 takes at most 10,000 of them, so that 320 GB is the limit."""
TRIES = 4
"""So often boto3 makes a call before its failure is ours."""
WRITTEN_BY = "catchment-write"
"""The metadata key under which an object says which request wrote it."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9]")
_LATER = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException"}
    | {"RequestLimitExceeded", "TooManyRequestsException", "ConditionalRequestConflict", "OperationAborted"}
    | {"NoSuchUpload", "BadDigest", "IncompleteBody"}
)
_CREDENTIALS = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
)
_ELSEWHERE = frozenset(
    {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_PERMISSIONS = (
    "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on its objects, s3:ListBucket and "
    "s3:ListBucketMultipartUploads on the bucket"
)


class Stored(NamedTuple):
    """An object as it was read. version: its ETag."""

    data: bytes
    version: str


class Bucket:
    """Objects by path under `s3://bucket/prefix`. Credentials and region come from the standard AWS chain.

    Raises `SinkUnavailable` when S3 cannot be reached, throttles or fails, `SinkRefused` when somebody has to change
    something, `ConfigError` for what is no S3 address.
    """

    def __init__(self, url: str) -> None:
        self.name, key = bucket_and_key(url)
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{url} is no address in S3: a bucket is called by 3 to 63 of a-z, 0-9, dot and hyphen.")
        prefix = key.strip("/")
        self.url = f"s3://{self.name}/{prefix}".rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = aws_client("s3", attempts=TRIES)

    def get(self, path: str) -> Stored | None:
        """The object; None when there is none."""
        with self._translated("read", path):
            try:
                found = self._client.get_object(Bucket=self.name, Key=self._prefix + path)
                return Stored(found["Body"].read(), found["ETag"])
            except self._client.exceptions.NoSuchKey:
                return None

    def version(self, path: str) -> str | None:
        """The object's ETag; None when there is none."""
        head = self._head(path)
        return None if head is None else str(head["ETag"])

    def put(self, path: str, data: bytes | BinaryIO, replaced: str | None, encoding: str | None = None) -> str | None:
        """Store an object, and say its version; None, and nothing done, when another was there.

        replaced: the version it takes the place of; None when there must be none yet. encoding: Content-Encoding.
        """
        request = uuid.uuid4().hex
        options: dict[str, Any] = {"Metadata": {WRITTEN_BY: request}, **_condition(replaced)}
        if encoding:
            options["ContentEncoding"] = encoding
        with self._translated("write", path):
            try:
                done = self._client.put_object(Bucket=self.name, Key=self._prefix + path, Body=data, **options)
                return str(done["ETag"])
            except self._client.exceptions.ClientError as error:
                if not _is_conflict(error, replaced):
                    raise
        return self._mine(path, request)

    def upload(self, path: str, file: BinaryIO, replaced: str | None, encoding: str | None = None) -> str | None:
        """The same for a large file, in parts: the object is there when all of them are."""
        request = uuid.uuid4().hex
        where = {"Bucket": self.name, "Key": self._prefix + path}
        options = {"ContentEncoding": encoding} if encoding else {}
        with self._translated("write", path):
            begun = self._client.create_multipart_upload(**where, Metadata={WRITTEN_BY: request}, **options)
            where["UploadId"] = begun["UploadId"]
            try:
                parts = [
                    {"PartNumber": n, "ETag": self._client.upload_part(**where, PartNumber=n, Body=data)["ETag"]}
                    for n, data in enumerate(iter(lambda: file.read(PART_BYTES), b""), 1)
                ]
                done = self._client.complete_multipart_upload(
                    **where, MultipartUpload={"Parts": parts}, **_condition(replaced)
                )
                return str(done["ETag"])
            except self._client.exceptions.ClientError as error:
                # When the answer to a completed upload was lost, the second request finds no upload or our own object.
                if not _is_conflict(error, replaced) and error_code(error) != "NoSuchUpload":
                    raise
        return self._mine(path, request)

    def list(self, directory: str) -> list[str]:
        """The names of the objects in a directory, sorted; not those of directories in it."""
        prefix = f"{self._prefix}{directory}/"
        with self._translated("list", directory):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.name, Prefix=prefix, Delimiter="/"
            )
            return sorted(one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", ()))

    def delete(self, path: str) -> None:
        """Remove the object, if it is there."""
        with self._translated("delete", path):
            self._client.delete_object(Bucket=self.name, Key=self._prefix + path)

    def abort_uploads(self, path: str) -> None:
        """Let go of the parts of this object's uploads that nobody completed: they cost, and nobody sees them."""
        key = self._prefix + path
        with self._translated("list the uploads of", path):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=key)
            for one in [upload for page in pages for upload in page.get("Uploads", ()) if upload["Key"] == key]:
                with suppress(self._client.exceptions.NoSuchUpload):
                    self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=one["UploadId"])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def probe(self) -> None:
        """Is all allowed that the sink does, and do conditions hold here? Leaves nothing behind."""
        path = f"_catchment/check-{uuid.uuid4().hex}"
        self.list("_catchment")
        first = self.put(path, b"", None)
        try:
            if first is None or self.put(path, b"", None) is not None:
                raise SinkRefused(f"{self.url} has no conditional writes; exactly-once needs them.")
            self.get(path)
        finally:
            self.delete(path)
        with self._translated("list the uploads of", ""):
            self._client.list_multipart_uploads(Bucket=self.name, Prefix=self._prefix, MaxUploads=1)

    def _mine(self, path: str, request: str) -> str | None:
        """After a refusal: was it our own request, sent again because its answer got lost, that was first?"""
        head = self._head(path)
        return str(head["ETag"]) if head is not None and head["Metadata"].get(WRITTEN_BY) == request else None

    def _head(self, path: str) -> dict[str, Any] | None:
        with self._translated("read", path):
            try:
                head: dict[str, Any] = self._client.head_object(Bucket=self.name, Key=self._prefix + path)
                return head
            except self._client.exceptions.ClientError as error:
                if error_code(error) != "404":
                    raise
                return None

    @contextmanager
    def _translated(self, what: str, path: str) -> Iterator[None]:
        """What boto3 raises, in our own errors."""
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.url}/{path}" if path else self.url
        try:
            yield
        except ClientError as error:
            raise _refusal_or_failure(error, what, where, self.name) from error
        except BotoCoreError as error:
            raise _without_answer(error, what, where) from error


def _condition(replaced: str | None) -> dict[str, str]:
    return {"IfNoneMatch": "*"} if replaced is None else {"IfMatch": replaced}


def _is_conflict(error: Any, replaced: str | None) -> bool:
    """Was a condition not met? For an object that is to be replaced and is gone, S3 says that there is none."""
    code = error_code(error)
    return code in ("PreconditionFailed", "412") or (code == "NoSuchKey" and replaced is not None)


def _refusal_or_failure(error: Any, what: str, where: str, bucket: str) -> SinkRefused | SinkUnavailable:
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"Cannot {what} {where}: S3 says {code} ({status})."
    if code == "NoSuchBucket":
        return SinkRefused(f"There is no bucket {bucket}. Create it, or correct `path` of this sink.")
    if code in _CREDENTIALS:
        return SinkRefused(f"{said} Renew the credentials.")
    if code in _ELSEWHERE:
        return SinkRefused(f"{said} The bucket is in another region: set AWS_REGION to it.")
    if code in _LATER or status >= 500 or status == 429:
        if status == 501:
            return SinkRefused(f"{said} This store has no conditional writes; exactly-once needs them.")
        return SinkUnavailable(f"{said} Nothing is lost.")
    if status == 403:
        return SinkRefused(f"{said} The role needs {_PERMISSIONS}.")
    return SinkRefused(f"{said} Correct `path` of this sink, or the settings of the bucket.")


def _without_answer(error: Exception, what: str, where: str) -> SinkRefused | SinkUnavailable:
    from botocore import exceptions

    wrong = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
        exceptions.ParamValidationError,
        exceptions.UnauthorizedSSOTokenError,
    )
    said = f"Cannot {what} {where}: {str(error).rstrip('.')}."
    if isinstance(error, wrong):
        return SinkRefused(f"{said} Set up credentials as for the AWS CLI.")
    return SinkUnavailable(f"{said} Nothing is lost.")
