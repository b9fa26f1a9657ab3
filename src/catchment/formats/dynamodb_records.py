"""JSON change records of DynamoDB → Arrow: their members and images, many at once.

DuckDB reads the JSON; an image becomes a map from an attribute's name to its typed value's compact JSON text. Members
that are not needed are not looked at, of one that comes twice the first counts, and a comma too many at the end of an
object does no harm. A record that is not JSON leaves the others alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from catchment.errors import Fatal
from catchment.formats.stream_record import PoisonRecord, arn_parts, parse_record

_IMAGE = '"MAP(VARCHAR,JSON)"'
_RECORD = (
    '{"eventID":"JSON","eventName":"JSON","dynamodb":{"ApproximateCreationDateTime":"JSON","SequenceNumber":"JSON",'
    f'"Keys":{_IMAGE},"NewImage":{_IMAGE},"OldImage":{_IMAGE}}}}}'
)
_RECORDS = f"""
WITH parsed AS NOT MATERIALIZED (SELECT from_json(text, '{_RECORD}') AS r FROM texts)
SELECT r IS NOT NULL AS is_json, r.eventID AS event_id, r.eventName AS event_name,
    r.dynamodb.SequenceNumber AS sequence_number, r.dynamodb.ApproximateCreationDateTime AS created_at,
    r.dynamodb.NewImage AS new_image, r.dynamodb.OldImage AS old_image, r.dynamodb.Keys AS keys
FROM parsed
"""
_SOURCES = """
WITH parsed AS MATERIALIZED (SELECT from_json(text, '{"eventSourceARN":"JSON","tableName":"JSON"}') AS r FROM texts)
SELECT r.eventSourceARN AS arn, r.tableName AS name FROM parsed
"""
_ITEMS = f"SELECT from_json(text, '{_IMAGE}') AS item FROM texts"


@dataclass(frozen=True, slots=True)
class Records:
    """Change records, one row each. Members are JSON texts, images maps; NULL when a record does not have them.

    is_json: false where a record could not be read at all.
    """

    event_id: pa.Array
    event_name: pa.Array
    sequence_number: pa.Array
    created_at: pa.Array
    new_image: pa.MapArray
    old_image: pa.MapArray
    keys: pa.MapArray
    is_json: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SourceRecords:
    """Which of some records are of one table's stream.

    table: None for those that do not say. label: the tail of the stream's ARN, later for a stream that was enabled
    later; None when unknown. rows: the records' numbers, ascending.
    """

    table: str | None
    label: str | None
    rows: npt.NDArray[np.int64]


class RecordReader:
    """Reads change records and items. One thread calls it."""

    def __init__(self) -> None:
        # One thread: rows come out in order, and capture keeps the other cores.
        self._connection = duckdb.connect(":memory:", config={"threads": 1})

    def records(self, records: Sequence[bytes]) -> Records:
        """What these records say."""
        columns = self._read(_RECORDS, records)
        return Records(**columns | {"is_json": np.asarray(columns["is_json"])})

    def sources(self, records: Sequence[bytes]) -> list[SourceRecords]:
        """The tables and streams that these records are of, in the order of their first records."""
        if not records:
            return []
        columns = self._read(_SOURCES, records)
        by_arn, by_name = (columns[name].dictionary_encode(null_encoding="encode") for name in ("arn", "name"))
        names = by_name.dictionary.to_pylist()
        both = by_arn.indices.to_numpy().astype(np.int64) * len(names) + by_name.indices.to_numpy()
        found: dict[tuple[str | None, str | None], list[npt.NDArray[np.int64]]] = {}
        for pair in np.unique(both).tolist():
            arn, name = by_arn.dictionary[pair // len(names)].as_py(), names[pair % len(names)]
            table, label = arn_parts(_string(arn) or "")
            found.setdefault((table or _string(name), label), []).append(np.flatnonzero(both == pair))
        made = [SourceRecords(*which, np.sort(np.concatenate(rows))) for which, rows in found.items()]
        return sorted(made, key=lambda one: int(one.rows[0]))

    def items(self, items: Sequence[bytes]) -> pa.MapArray:
        """Items as DynamoDB JSON (`{"orderid":{"S":"7421"}}`); NULL where one is not a JSON object."""
        item: pa.MapArray = self._read(_ITEMS, items)["item"]
        return item

    def _read(self, query: str, texts: Sequence[bytes]) -> dict[str, pa.Array]:
        try:
            return self._query(query, _joined(texts))
        except (UnicodeDecodeError, duckdb.Error):
            # Of DuckDB's own message nothing is kept: it has the record in it.
            valid = self._only_json(texts)
        try:
            return self._query(query, valid)
        except (UnicodeDecodeError, duckdb.Error):
            raise Fatal("DuckDB cannot read records that it calls valid JSON. Please report this.") from None

    def _only_json(self, texts: Sequence[bytes]) -> pa.StringArray:
        """The texts, with `null` in place of what is not JSON."""
        decoded = pa.array([text if _is_utf8(text) else b"null" for text in texts], pa.string())
        valid = self._query("SELECT json_valid(text) AS valid FROM texts", decoded)["valid"]
        return pc.if_else(valid, decoded, "null")

    def _query(self, query: str, texts: pa.StringArray) -> dict[str, pa.Array]:
        self._connection.register("texts", pa.table({"text": texts}))
        try:
            found = self._connection.execute(query).to_arrow_table().combine_chunks()
        finally:
            self._connection.unregister("texts")
        return {name: found.column(name).chunk(0) for name in found.column_names}


def _joined(texts: Sequence[bytes]) -> pa.StringArray:
    """As `pa.array`, in a fraction of its time. Raises ValueError when it is 2 GB or more.

    That it is UTF-8 is left to the reader of the JSON, which checks it too.
    """
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    if ends[-1] >= 2**31:
        raise ValueError("More than 2 GB of records at once: hand over fewer.")
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    return pa.Array.from_buffers(pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))])


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _string(text: str | None) -> str | None:
    """What a JSON string says; None for anything else."""
    said = None if text is None else json.loads(text)
    return said if isinstance(said, str) else None


def key_types(record: bytes) -> dict[str, str]:
    """The key attributes of a change record with their types, S, N or B. Raises `PoisonRecord` when it does not say."""
    try:
        keys = parse_record(json.loads(record)).keys
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise PoisonRecord("the record is not JSON") from None
    found = {name: next(iter(value), "") for name, value in (keys or {}).items() if isinstance(value, dict)}
    if not found or len(found) != len(keys or {}) or not set(found.values()) <= set("SNB"):
        raise PoisonRecord("the record has no Keys with types S, N or B")
    return found


def why_not(record: bytes) -> str | None:
    """Why these bytes are no change record, without a value of it; None when they are one."""
    try:
        parse_record(json.loads(record))
    except PoisonRecord as error:
        return str(error)
    except (ValueError, RecursionError):
        return "the record is not JSON"
    return None
