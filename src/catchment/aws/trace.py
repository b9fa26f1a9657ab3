"""A change's journey by its event id: where it is in each stage between DynamoDB and SQL, and how long it took.

Streams are read from their beginning, since they cannot be asked for a record; Kinesis from the change's own time,
where that is known. A journey names places, never a value of an item.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from catchment.aws.journey import Journey, Sighting, Stage
from catchment.aws.local.kinesis_intake import identity_of, stream_name
from catchment.aws.local.s3_place import S3Place
from catchment.aws.traced_objects import TracedObjects, prefixed
from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.errors import ConfigError, SourceRefused
from catchment.formats.stream_record import epoch_microseconds
from catchment.glue.gadgets import CHANGES, ORDERS
from catchment.lakehouse.sql import literal
from catchment.s3_address import is_address
from catchment.sources.dynamodb.stream import DynamoDbStream
from catchment.sources.kinesis.stream import KinesisStream
from catchment.sources.shard_reader import ShardReader
from catchment.sources.shards import Page, StreamClient, since

EARLIER = timedelta(minutes=5)
"""Nothing after DynamoDB is looked for that is older than the change by so much: clocks differ."""

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Trace:
    """Where to look; what is None is not looked at. errors: the prefix in the lake's bucket where failed records go."""

    table: str | None = None
    stream: str | None = None
    lake: str | None = None
    errors: str = "errors/"
    database: str | None = None

    def __call__(self, event_id: str) -> Journey:
        """Follow one change. Raises `ConfigError` for places that are none, `Retriable` when AWS does not answer."""
        if not event_id.strip() or not any((self.table, self.stream, self.lake, self.database)):
            raise ConfigError("Say which event to follow, and where: --table, --stream, --bucket, --database.")
        stages: list[Stage] = []
        if self.table is not None:
            stages.append(in_dynamodb(event_id, self.table))
        created = stages[0].at if stages else None
        if self.stream is not None:
            stages.append(in_kinesis(event_id, stream_name(self.stream), created))
        if self.lake is not None:
            stages += self._in_s3(event_id, self.lake, created)
        if self.database is not None:
            stages.append(in_sql(event_id, self.database))
        return Journey(event_id, tuple(stages))

    def _in_s3(self, event_id: str, lake: str, created: datetime | None) -> Iterator[Stage]:
        place = S3Place.of(lake if is_address(lake) else f"s3://{lake}/")
        errors = S3Place(place.bucket, self.errors)
        objects = TracedObjects(event_id, None if created is None else created - EARLIER)
        lines = objects.lines(place, apart=(errors.prefix,))
        yield Stage(
            "S3",
            prefixed(place),
            tuple(Sighting(one.where, one.at, {"line": one.line}) for one in lines),
            None if lines else "It may be in a buffer still, have been dropped by the transform, or lie under errors.",
        )
        failed = objects.failures(errors)
        yield Stage(
            "errors",
            prefixed(errors),
            tuple(Sighting(one.where, one.at, {"line": one.line, "code": one.code}) for one in failed),
            None if failed else "No failure of it lies there.",
        )


def in_dynamodb(event_id: str, table: str) -> Stage:
    """Where a change is in the table's streams: also in those that were disabled since, while DynamoDB keeps them."""
    client = aws_client("dynamodbstreams", None)
    with closing(client), translated(f"listing the streams of {table}"):
        arns = [one["StreamArn"] for one in client.list_streams(TableName=table)["Streams"]]
    for arn in sorted(arns, reverse=True):
        for page in _pages(DynamoDbStream(arn)):
            for record in page.records:
                if record["eventID"] == event_id:
                    return Stage("DynamoDB", table, (_in_shard(arn, page.shard, record),))
    why = "The table has no stream." if not arns else "A stream keeps its records for 24 hours."
    return Stage("DynamoDB", table, (), why)


def _in_shard(arn: str, shard: str, record: Mapping[str, Any]) -> Sighting:
    change = record["dynamodb"]
    at = change.get("ApproximateCreationDateTime")
    return Sighting(
        f"{arn.partition('/stream/')[2] or arn}/{shard}",
        None if at is None else datetime.fromtimestamp(epoch_microseconds(at) / 1e6, UTC),
        {"sequence_number": change["SequenceNumber"], "event_type": record["eventName"]},
    )


def in_kinesis(event_id: str, stream: str, created: datetime | None) -> Stage:
    """Where a change is in a data stream; more than once when it was put more than once."""
    identity_of(stream)  # a stream that is not there is said so
    found = []
    for page in _pages(KinesisStream(stream), created):
        for record in page.records:
            if _is_event(bytes(record["Data"]), event_id):
                at = record.get("ApproximateArrivalTimestamp")
                details = {"sequence_number": record["SequenceNumber"]}
                found.append(Sighting(page.shard, None if at is None else at.astimezone(UTC), details))
    if found:
        return Stage("Kinesis", stream, tuple(sorted(found, key=lambda one: one.at or _NEVER)))
    hours = _retention_hours(stream)
    why = f"The stream keeps records for {hours} hours; or the pipe has not put it yet."
    return Stage("Kinesis", stream, (), why)


def _retention_hours(stream: str) -> int:
    client = aws_client("kinesis", None)
    with closing(client), translated(f"describing {stream}"):
        described = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    return int(described["RetentionPeriodHours"])


def _is_event(data: bytes, event_id: str) -> bool:
    if event_id.encode() not in data:
        return False
    try:
        document = json.loads(data)
    except ValueError:
        return False
    return isinstance(document, dict) and event_id in (document.get("eventID"), document.get("event_id"))


def _pages(client: StreamClient, created: datetime | None = None) -> Iterator[Page]:
    """All that the stream has now, from a change's own time on where a stream can be asked by time."""
    places = None
    if created is not None:
        begin = since((created - EARLIER).timestamp())
        places = {shard.id: begin for shard in client.shards()}
    reader = ShardReader(client, places)
    began = time.monotonic()
    try:
        reader.open()
        while True:
            page = reader.next(0.1)
            if page is not None:
                yield page
            elif reader.over or reader.read_until() >= began:
                return
            else:
                reader.hurry()
    finally:
        reader.close()


def in_sql(event_id: str, database: str) -> Stage:
    """Is the change a row of the table of changes, and is it its order's latest version?"""
    from catchment.glue import connect

    with connect(database) as lake:
        rows = lake.execute(
            f"SELECT orderid, event_type FROM {CHANGES} WHERE event_id = {literal(event_id)}"
        ).fetchall()
        if not rows:
            why = "Its partition may not be in the table: `catchment catalog sync` finds new ones."
            return Stage("SQL", f"{database}.{CHANGES}", (), why)
        order = literal(str(rows[0][0]))
        (latest,) = lake.execute(
            f"SELECT event_id FROM {CHANGES} WHERE orderid = {order} ORDER BY coalesce(stream_label, '') DESC, "
            "lpad(coalesce(sequence_number, ''), 40, '0') DESC, event_time DESC LIMIT 1"
        ).fetchone() or (None,)
        shown = _shown(lake, order)
    is_latest = latest == event_id
    details: dict[str, str | int | bool] = {"rows": len(rows), "event_type": rows[0][1], "latest": is_latest}
    if not is_latest and latest is not None:
        details["superseded_by"] = latest
    if shown is not None:
        details[f"in_{ORDERS}"] = shown and is_latest
    return Stage("SQL", f"{database}.{CHANGES}", (Sighting(CHANGES, None, details),))


def _shown(lake: Any, order: str) -> bool | None:
    """Does the view of latest versions have the order? None when there is no such view."""
    try:
        return bool(lake.execute(f"SELECT 1 FROM {ORDERS} WHERE orderid = {order}").fetchone())
    except SourceRefused:
        return None
