"""The tables whose changes are in a stream: each with a decoder of its own, made when its first record comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from catchment.formats.dynamodb_changes import ChangeDecoder
from catchment.formats.dynamodb_records import RecordReader, key_types, why_not
from catchment.formats.stream_record import PoisonRecord
from catchment.progress import Progress
from catchment.schema import TableId
from catchment.sources.attribute_types import AttributeTypes, arrow_types
from catchment.sources.base import DeadLetter, Event
from catchment.sources.dynamodb.table import NAMESPACE
from catchment.sources.known_attributes import keeping_attributes, known_attributes


class StreamedTables:
    """Decodes records of many tables. One thread calls it.

    A version is (when the table's stream was enabled, in seconds; the change's sequence number): a stream that was
    disabled and enabled again numbers anew, and what it says is later than all that the one before said.
    """

    def __init__(self, stream: str, types: AttributeTypes, held: Progress) -> None:
        self._stream = stream
        self._types = types
        self._held = held
        self._reader = RecordReader()
        self._decoders: dict[str, ChangeDecoder] = {}

    def decode(self, records: Sequence[bytes], *, lane: str, positions: Sequence[bytes]) -> list[Event]:
        """The changes that these records say, table by table, each table's in order."""
        events: list[Event] = []
        for source in self._reader.sources(records):
            mine = [records[row] for row in source.rows]
            at = [positions[row] for row in source.rows]
            decoder = self._decoder(source.table, mine)
            if source.table is None or decoder is None:
                reason = "it names no table" if source.table is None else "it does not say the key of its table"
                table = source.table or self._stream
                events += [
                    DeadLetter(table, lane, position, why_not(record) or reason)
                    for record, position in zip(mine, at, strict=True)
                ]
                continue
            decoder.generation = label_generation(source.label)
            events += decoder.decode(mine, lane=lane, positions=at)
        return events

    def known(self) -> Progress:
        """The first types of all attributes, to be kept."""
        progress = Progress()
        for decoder in self._decoders.values():
            progress = progress.join(keeping_attributes(decoder.table, decoder.known))
        return progress

    @property
    def names(self) -> list[str]:
        """The tables of which there were records."""
        return sorted(self._decoders)

    def _decoder(self, table: str | None, records: Sequence[bytes]) -> ChangeDecoder | None:
        if table is None or table in self._decoders:
            return self._decoders.get(table or "")
        key = _first_key(records)
        if key is None:
            return None
        identity = TableId(NAMESPACE, table)
        self._decoders[table] = decoder = ChangeDecoder(
            identity,
            key,
            declared=arrow_types(self._types.get(table, {})),
            known=known_attributes(identity, self._held),
        )
        return decoder


def _first_key(records: Sequence[bytes]) -> Mapping[str, str] | None:
    for record in records:
        try:
            return key_types(record)
        except PoisonRecord:
            continue
    return None


def label_generation(label: str | None) -> int:
    """The seconds since 1970 of a stream's label, such as 2026-11-21T10:00:00.123; 0 for none, or another text."""
    try:
        return int(datetime.fromisoformat(label or "").replace(tzinfo=UTC).timestamp())
    except (ValueError, OverflowError):
        return 0
