"""Asked from outside: can the stream be read, what is in it, what does it keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.errors import CatchmentError, SourceRefused
from catchment.finding import Finding, error, ok, warning
from catchment.sources.administration import Removal, Retention
from catchment.sources.kinesis.config import KinesisSourceConfig


def describe_stream(client: Any, name: str) -> dict[str, Any]:
    """StreamDescriptionSummary. Raises SourceRefused when there is no such stream, or it cannot be read yet."""

    def known(code: str, message: str) -> CatchmentError | None:
        if code != "ResourceNotFoundException":
            return None
        return SourceRefused(
            f"There is no stream {name} in region {client.meta.region_name} of this account. Check `source.stream` and "
            f"`source.region`, or make it: aws kinesis create-stream --stream-name {name}"
        )

    with translated(f"describing stream {name}", known):
        told: dict[str, Any] = client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    if told["StreamStatus"] == "DELETING":
        raise SourceRefused(f"Stream {name} is being deleted. Make it anew before it is read.")
    return told


def check(config: KinesisSourceConfig) -> list[Finding]:
    """The stream, and whether there is anything in it."""
    subject = f"stream {config.stream}"
    try:
        told = describe_stream(aws_client("kinesis", config.region), config.stream)
    except SourceRefused as refused:
        return [error(subject, str(refused))]
    said = f"{told['OpenShardCount']} open shards; keeps records for {told['RetentionPeriodHours']} hours."
    if told["StreamStatus"] == "CREATING":
        return [warning(subject, f"It is still being made. {said}")]
    return [ok(subject, said)]


def columns(config: KinesisSourceConfig) -> Mapping[str, Sequence[str]]:
    """The declared attributes: a stream says nothing of what is in it."""
    return {f"dynamodb.{table}": list(declared) for table, declared in config.column_types.items()}


def removal(table: str | None) -> Removal:
    """Nothing: a reader leaves nothing at Kinesis."""
    notes = ["The pipeline left nothing at Kinesis: a stream knows no readers. What was captured stays in the lake."]
    if table is not None:
        notes.append(f"Records of {table} are read as long as they are put into the stream.")
    return Removal([], notes, list)


def retention(config: KinesisSourceConfig) -> Retention:
    """How the stream is; what it keeps does not depend on us."""
    told = describe_stream(aws_client("kinesis", config.region), config.stream)
    hours = told["RetentionPeriodHours"]
    note = f"Kinesis keeps records for {hours} hours, whether they were read or not."
    return Retention("ready", position=f"stream {config.stream}", notes=[note])
