"""What a Firehose delivery stream is told to do: from a file, from options, or as AWS describes one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from catchment.aws.local.object_name import Prefix, error_prefix
from catchment.aws_client import aws_client
from catchment.document import read
from catchment.document_errors import sentences
from catchment.errors import ConfigError

MIB = 1024 * 1024
_APPEND_DELIMITER = "AppendDelimiterToRecord"


class DeliveryStreamConfig(BaseModel):
    """A delivery stream into S3: the keys of `--config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Its name; objects are named by it."""
    bucket: str
    """Where objects go."""
    stream: str | None = None
    """The Kinesis stream it reads, by name or ARN. Without one it takes Direct PUT."""
    prefix: str = ""
    """Before each object's name, with expressions; without any, `yyyy/MM/dd/HH/` is added."""
    error_prefix: str | None = None
    """The same for records that could not be processed. Treat it as personal data."""
    time_zone: str = "UTC"
    """The zone of timestamps in prefixes."""
    buffer_mib: float = Field(default=5, gt=0, le=128)
    """An object is written when so much is there, before compression."""
    buffer_seconds: float = Field(default=1, ge=0, le=900)
    """An object is written at the latest after so long. AWS's own default is 300."""
    compression: Literal["UNCOMPRESSED", "GZIP"] = "UNCOMPRESSED"
    """GZIP adds `.gz` and `Content-Encoding: gzip`."""
    file_extension: str | None = Field(default=None, pattern=r"^\.[0-9a-z!\-_.*'()]+$")
    """Instead of the extension that follows from the compression."""
    function: str | None = None
    """The transform: `module:name` is called in this process, a function's name or ARN is invoked."""
    function_buffer_mib: float = Field(default=1, ge=0.2, le=3)
    """The transform is given so much at a time."""
    function_buffer_seconds: float = Field(default=0, ge=0, le=900)
    """Or whatever came in so long. AWS's own default is 60."""
    dynamic_partitioning: bool = False
    """Records go apart by the partition keys that the transform gives."""
    active_partitions: int = Field(default=500, ge=1, le=5_000)
    """More at once go to the error prefix, as `activePartitionExceeded`."""
    append_delimiter: str = ""
    """Put after each record; the handlers of Catchment end theirs with a newline themselves."""
    version: str = "1"
    """The configuration's version, part of each object's name."""
    arn: str | None = None
    """What the transform is told; made up when not given."""

    @model_validator(mode="after")
    def _prefixes_fit(self) -> Self:
        prefix, errors = self.delivery_prefix, self.failure_prefix
        if prefix.has_expressions and not (self.error_prefix and errors.names_error_type):
            raise ConfigError(
                "A prefix with expressions needs an error prefix with !{firehose:error-output-type} in it, "
                "such as errors/!{firehose:error-output-type}/."
            )
        if prefix.names_error_type:
            raise ConfigError("!{firehose:error-output-type} belongs into the error prefix, not into the prefix.")
        if errors.partition_keys:
            raise ConfigError("The error prefix cannot have partition keys: a record that failed has none.")
        if self.dynamic_partitioning != bool(prefix.partition_keys):
            raise ConfigError(
                "Dynamic partitioning and !{partitionKeyFromLambda:…} in the prefix go together: give both, or neither."
            )
        if self.dynamic_partitioning and self.function is None:
            raise ConfigError("Dynamic partitioning needs a function that gives the partition keys.")
        return self

    @property
    def delivery_prefix(self) -> Prefix:
        """The prefix, to evaluate."""
        return Prefix(self.prefix, self.time_zone)

    @property
    def failure_prefix(self) -> Prefix:
        """The error prefix, to evaluate."""
        return error_prefix(self.error_prefix, self.time_zone)

    @property
    def extension(self) -> str:
        """What an object's name ends with."""
        return self.file_extension or (".gz" if self.compression == "GZIP" else "")

    @classmethod
    def checked(cls, values: Mapping[str, Any], where: str) -> Self:
        """From plain values. Raises `ConfigError` that names `where` and each key that is wrong, without its value."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            found = sentences(error, lambda place: () if place else tuple(cls.model_fields))
            raise ConfigError(f"{where}: {' '.join(found)}") from None
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def read(cls, path: Path, changes: Mapping[str, Any] | None = None) -> Self:
        """From a YAML or JSON file. Raises `ConfigError`."""
        document = read(path, os.environ, expected="a delivery stream is a mapping of keys such as `name: …`.")
        return cls.checked({**document.values, **(changes or {})}, str(path))

    @classmethod
    def described(cls, name: str, changes: Mapping[str, Any] | None = None) -> Self:
        """As DescribeDeliveryStream tells of one that exists. Raises `ConfigError` for what is not played here."""
        from botocore.exceptions import ClientError

        try:
            answer = aws_client("firehose").describe_delivery_stream(DeliveryStreamName=name)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            raise ConfigError(f"The delivery stream {name} cannot be described: {code}. Is it there?") from error
        values = _described(answer["DeliveryStreamDescription"])
        return cls.checked({**values, **(changes or {})}, f"delivery stream {name}")


def _described(description: Mapping[str, Any]) -> dict[str, Any]:
    name = description["DeliveryStreamName"]
    destinations = description.get("Destinations") or [{}]
    s3 = destinations[0].get("ExtendedS3DestinationDescription") or destinations[0].get("S3DestinationDescription")
    if s3 is None:
        raise ConfigError(f"delivery stream {name}: only S3 destinations are played here.")
    if (s3.get("DataFormatConversionConfiguration") or {}).get("Enabled"):
        raise ConfigError(f"delivery stream {name}: conversion to Parquet or ORC is not played here; only AWS has it.")
    hints = s3.get("BufferingHints") or {}
    source = (description.get("Source") or {}).get("KinesisStreamSourceDescription") or {}
    values = {
        "name": name,
        "arn": description.get("DeliveryStreamARN"),
        "version": str(description.get("VersionId") or "1"),
        "bucket": s3["BucketARN"].rpartition(":")[2],
        "stream": source.get("KinesisStreamARN"),
        "prefix": s3.get("Prefix") or "",
        "error_prefix": s3.get("ErrorOutputPrefix") or None,
        "time_zone": s3.get("CustomTimeZone") or "UTC",
        "buffer_mib": hints.get("SizeInMBs") or 5,
        "buffer_seconds": hints.get("IntervalInSeconds", 300),
        "compression": s3.get("CompressionFormat") or "UNCOMPRESSED",
        "file_extension": s3.get("FileExtension") or None,
        "dynamic_partitioning": bool((s3.get("DynamicPartitioningConfiguration") or {}).get("Enabled")),
        "function_buffer_seconds": 60,
    }
    processing = s3.get("ProcessingConfiguration") or {}
    # Without `Enabled` AWS stores false, and then no processor runs.
    for processor in (processing.get("Processors") or ()) if processing.get("Enabled") else ():
        values.update(_processor(name, processor))
    return values


def _processor(stream: str, processor: Mapping[str, Any]) -> dict[str, Any]:
    given = {one["ParameterName"]: one["ParameterValue"] for one in processor.get("Parameters") or ()}
    if processor["Type"] == "Lambda":
        return {
            "function": given["LambdaArn"],
            "function_buffer_mib": float(given.get("BufferSizeInMBs", 1)),
            "function_buffer_seconds": float(given.get("BufferIntervalInSeconds", 60)),
        }
    if processor["Type"] == _APPEND_DELIMITER:
        return {"append_delimiter": given.get("Delimiter", "\\n").encode().decode("unicode_escape")}
    raise ConfigError(
        f"delivery stream {stream}: the processor {processor['Type']} is not played here; only AWS has it."
    )
