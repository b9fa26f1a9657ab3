"""What the lake missed: a table compared with the latest versions in the lake, and corrections put to Kinesis.

Between two streams of a table (disabled, enabled again), and when a stream was trimmed before it was read, changes are
in no stream. A correction is a change record that says what is in the table now. Any real change that comes later wins
over it: under a new stream's label it has the sequence number 0; under the label that the lake knows already, the
number after the one that the lake knows, which is at most that of the first change that was missed.

What the lake knows is read before the table is: what is changed meanwhile may be corrected needlessly, never wrongly.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catchment.aws.local.change_event import KeyPath, event_entry
from catchment.aws.local.change_table import ChangeTable
from catchment.aws.local.counters import Counters
from catchment.aws.local.kinesis_intake import identity_of, stream_name
from catchment.aws.local.lake_records import Known, LakeRecords, cleaner_of_environment, item_digest, key_text
from catchment.aws.local.ordered_put import CALL_RECORDS, Entry, OrderedPut
from catchment.aws_client import aws_client
from catchment.aws_errors import translated
from catchment.formats.clean_record import RecordCleaner
from catchment.formats.dynamodb_json import event_form

PRINCIPAL = "catchment.reconcile"
"""Who made a correction: its `userIdentity` names it."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was found. items: in the table; known: of them and of others, in the lake; the rest are corrections."""

    items: int
    known: int
    unreadable: int
    inserted: int
    modified: int
    removed: int

    def __str__(self) -> str:
        return (
            f"{self.items:,} items compared; corrections: {self.inserted:,} inserted, {self.modified:,} modified, "
            f"{self.removed:,} removed"
        )


class Reconciliation:
    """Compares one table with its lake, each time it is called; a `Pipe` may call it.

    bucket, prefix: where clean records lie. apart: prefixes that hold something else, such as the error output.
    timestamps: the handler's; without them those of TIMESTAMP_ATTRIBUTES in the environment.
    """

    def __init__(
        self,
        table: str,
        stream: str,
        bucket: str,
        prefix: str = "",
        *,
        apart: Sequence[str] = ("errors/", "processing-failed/"),
        timestamps: Sequence[str] | None = None,
        partition_key: str | None = None,
        dry_run: bool = False,
    ) -> None:
        self._table = table
        self._stream = stream_name(stream)
        self._bucket, self._prefix, self._apart = bucket, prefix, tuple(apart)
        self._cleaner = RecordCleaner(timestamps) if timestamps else cleaner_of_environment()
        self._partition_key = partition_key
        self._dry_run = dry_run
        self._dynamodb = aws_client("dynamodb", None)

    def __call__(self, stop: threading.Event) -> Reconciled:
        """Compare and correct. Raises `Retriable` when `stop` is set before it is done; it may simply be run again."""
        table = ChangeTable.described(self._table, self._dynamodb)
        identity_of(self._stream)
        lake = LakeRecords(table.keys, self._cleaner)
        lake.read_objects(self._bucket, self._prefix, self._apart, stop)
        lake.read_stream(self._stream, stop)
        path = KeyPath(self._partition_key) if self._partition_key else KeyPath.of_table(table.description)
        return _Comparison(table, lake, path, OrderedPut(self._stream, Counters()), self._dry_run).run(
            self._dynamodb, stop
        )


class _Comparison:
    """One comparison."""

    def __init__(self, table: ChangeTable, lake: LakeRecords, path: KeyPath, put: OrderedPut, dry_run: bool) -> None:
        self._table = table
        self._lake = lake
        self._path = path
        self._put = put
        self._dry_run = dry_run
        self._entries: list[Entry] = []
        self._counts = {"INSERT": 0, "MODIFY": 0, "REMOVE": 0}

    def run(self, dynamodb: Any, stop: threading.Event) -> Reconciled:
        known = len(self._lake.latest)
        items = 0
        for item in _scanned(dynamodb, self._table.name):
            items += 1
            keys = {name: item[name] for name in self._table.keys}
            found = self._lake.latest.pop(key_text(keys), None)
            if found is None or found.digest is None:
                self._correct("INSERT", keys, item, found, stop)
            elif found.digest != item_digest(item):
                self._correct("MODIFY", keys, item, found, stop)
        self._remove_the_rest(stop)
        self._flush(stop)
        return Reconciled(
            items, known, self._lake.unreadable, self._counts["INSERT"], self._counts["MODIFY"], self._counts["REMOVE"]
        )

    def _remove_the_rest(self, stop: threading.Event) -> None:
        for text, found in self._lake.latest.items():
            if found.digest is not None:
                self._correct("REMOVE", json.loads(text), None, found, stop)

    def _correct(
        self,
        kind: str,
        keys: Mapping[str, Any],
        item: Mapping[str, Any] | None,
        known: Known | None,
        stop: threading.Event,
    ) -> None:
        self._counts[kind] += 1
        number = known.number + 1 if known is not None and known.label == self._table.label else 0
        event = _correction(self._table, kind, keys, item, number)
        self._entries.append(event_entry(event, self._path))
        if len(self._entries) >= CALL_RECORDS:
            self._flush(stop)

    def _flush(self, stop: threading.Event) -> None:
        entries, self._entries = self._entries, []
        if not self._dry_run:
            self._put.put(entries, stop)


def _correction(
    table: ChangeTable, kind: str, keys: Mapping[str, Any], item: Mapping[str, Any] | None, number: int
) -> dict[str, Any]:
    """A change record; the same correction has the same event id, whoever finds it again."""
    content = "" if item is None else item_digest(item).hex()
    name = f"{table.stream_arn} {key_text(keys)} {kind} {number} {content}"
    change: dict[str, Any] = {
        "ApproximateCreationDateTime": int(time.time()),
        "Keys": keys,
        "SequenceNumber": str(number),
        "SizeBytes": 0,
        "StreamViewType": table.view or "NEW_AND_OLD_IMAGES",
    }
    if item is not None:
        change["NewImage"] = item
    return {
        "eventID": uuid.uuid5(uuid.NAMESPACE_URL, name).hex,
        "eventName": kind,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": table.region,
        "eventSourceARN": table.stream_arn,
        "dynamodb": change,
        "userIdentity": {"type": "Service", "principalId": PRINCIPAL},
    }


def _scanned(dynamodb: Any, table: str) -> Iterator[dict[str, Any]]:
    """All items, as typed values of an event."""
    more: dict[str, Any] = {}
    while True:
        with translated(f"scanning the table {table}"):
            answer = dynamodb.scan(TableName=table, ConsistentRead=True, **more)
        yield from (event_form(one) for one in answer["Items"])
        if not answer.get("LastEvaluatedKey"):
            return
        more = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
