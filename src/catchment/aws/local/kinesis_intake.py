"""Records of a Kinesis stream, as a Firehose takes them in."""

from __future__ import annotations

from collections.abc import Mapping

from catchment.aws.local.counters import Counters
from catchment.aws.local.intake import IncomingPage, IncomingRecord
from catchment.aws.local.patience import now_ms
from catchment.aws.local.shard_pages import ShardPages
from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.errors import ConfigError
from catchment.sources.kinesis.stream import KinesisStream
from catchment.sources.shards import TRIM_HORIZON


class KinesisIntake:
    """The intake of a stream that reads Kinesis. stream: its name or ARN. start: TRIM_HORIZON or LATEST at first."""

    def __init__(self, stream: str, start: str) -> None:
        self._name = stream_name(stream)
        self._start = start
        self._identity, self.arn = identity_of(self._name)
        self._pages: ShardPages | None = None
        self._begun = False

    @property
    def identity(self) -> str:
        return self._identity

    def open(self, places: Mapping[str, str] | None, counters: Counters) -> None:
        start = self._start if places is None else TRIM_HORIZON
        self._pages = ShardPages(KinesisStream(self._name), places, counters, start=start)

    def next(self, timeout: float) -> IncomingPage | None:
        assert self._pages is not None, "open first"  # noqa: S101
        page = self._pages.next(timeout)
        if page is None:
            return self._beginning()
        self._begun = True
        records = [
            IncomingRecord(
                bytes(one["Data"]),
                int(one["ApproximateArrivalTimestamp"].timestamp() * 1000)
                if "ApproximateArrivalTimestamp" in one
                else now_ms(),
                page.shard,
                one["PartitionKey"],
                one["SequenceNumber"],
            )
            for one in page.records
        ]
        return IncomingPage(records, self._pages.places())

    def _beginning(self) -> IncomingPage | None:
        """Where reading began, once: so that a run that got no record leaves no gap after LATEST."""
        assert self._pages is not None, "open first"  # noqa: S101
        places = self._pages.places()
        if self._begun or not places:
            return None
        self._begun = True
        return IncomingPage([], places)

    def caught_up(self, since: float) -> bool:
        return self._pages is not None and (self._pages.over or self._pages.caught_up(since))

    def settled(self, places: Mapping[str, str]) -> None:
        """Kinesis lets go of records by itself."""

    def close(self) -> None:
        if self._pages is not None:
            self._pages.close()


def stream_name(stream: str) -> str:
    """The name of a data stream, of its name or ARN. Raises `ConfigError` for another ARN."""
    if not stream.startswith("arn:"):
        return stream
    kind, _, name = stream.rpartition(":")[2].partition("/")
    if kind != "stream" or not name:
        raise ConfigError(f"{stream} is no Kinesis stream. Give the name or the ARN of one.")
    return name


def identity_of(name: str) -> tuple[str, str]:
    """What tells a stream from another that had its name before, and its ARN.

    Raises `SourceRefused` or `SourceUnavailable`; `ConfigError` when there is no such stream.
    """
    client = aws_client("kinesis", None)

    def missing(code: str, message: str) -> ConfigError | None:
        if code != "ResourceNotFoundException":
            return None
        return ConfigError(f"There is no Kinesis stream {name} in this account and region. Create it first.")

    with translated(f"describing the stream {name}", missing):
        summary = client.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
    return f"{summary['StreamARN']} of {summary['StreamCreationTimestamp'].timestamp():.3f}", summary["StreamARN"]
