"""Athena's API: a question sent, waited for, and its answer as Arrow, page by page with Athena's types."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from catchment.aws_errors import error_code
from catchment.errors import ConfigError, SourceRefused, SourceUnavailable
from catchment.glue.session import Client, asking, client

_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 1.0
_SYSTEM_ERROR = 1
"""Athena's category of errors that are its own."""

_PLAIN: Mapping[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "real": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "varbinary": pa.binary(),
}


@dataclass(frozen=True)
class Answer:
    """An answer of Athena's: its id, and its rows, fetched as they are read."""

    query_id: str
    rows: pa.RecordBatchReader


def ask(
    sql: str,
    database: str,
    *,
    workgroup: str | None = None,
    output_location: str | None = None,
    started: Callable[[str], None] | None = None,
) -> Answer:
    """Run a statement in Athena and wait for it. started: hears the query's id. Interrupted, it stops the query.

    Raises ConfigError when Athena refuses the statement or it fails for a reason of its own, SourceUnavailable when
    Athena fails. Source: StartQueryExecution, GetQueryExecution, GetQueryResults.
    """
    athena = client("athena")
    query = _start(athena, sql, database, workgroup, output_location)
    if started is not None:
        started(query)
    try:
        execution = _wait(athena, query)
    except KeyboardInterrupt:
        with suppress(Exception):
            athena.stop_query_execution(QueryExecutionId=query)
        raise
    return Answer(query, _rows(athena, query, has_header=execution.get("StatementType") == "DML"))


def _start(athena: Client, sql: str, database: str, workgroup: str | None, output_location: str | None) -> str:
    request: dict[str, Any] = {"QueryString": sql, "QueryExecutionContext": {"Database": database}}
    if workgroup is not None:
        request["WorkGroup"] = workgroup
    if output_location is not None:
        request["ResultConfiguration"] = {"OutputLocation": output_location}
    with asking("starting a query in Athena"):
        try:
            return str(athena.start_query_execution(**request)["QueryExecutionId"])
        except athena.exceptions.InvalidRequestException as error:
            raise ConfigError(
                f"Athena refuses the query: {_message(error)} A place for results is given by --workgroup or "
                "--output-location."
            ) from error


def _wait(athena: Client, query: str) -> Mapping[str, Any]:
    wait = _FIRST_WAIT_SECONDS
    while True:
        with asking(f"waiting for Athena's query {query}"):
            execution: Mapping[str, Any] = athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]
        status = execution["Status"]
        if status["State"] == "SUCCEEDED":
            return execution
        if status["State"] in ("FAILED", "CANCELLED"):
            raise _failure(query, status)
        time.sleep(wait)
        wait = min(wait * 1.5, _LONGEST_WAIT_SECONDS)


def _failure(query: str, status: Mapping[str, Any]) -> Exception:
    reason = status.get("StateChangeReason") or "no reason given"
    if status["State"] == "CANCELLED":
        return ConfigError(f"Athena's query {query} was cancelled: {reason}")
    error = status.get("AthenaError") or {}
    if error.get("ErrorCategory") == _SYSTEM_ERROR or error.get("Retryable"):
        return SourceUnavailable(f"Athena's query {query} failed: {reason} Try again.")
    return ConfigError(f"Athena's query {query} failed: {reason}")


def _message(error: Exception) -> str:
    response: Any = getattr(error, "response", {})
    return f"{response.get('Error', {}).get('Message', error_code(error))}".rstrip(". ") + "."


def _rows(athena: Client, query: str, *, has_header: bool) -> pa.RecordBatchReader:
    pages = _pages(athena, query)
    first = next(pages)
    columns = first["ResultSetMetadata"]["ColumnInfo"]
    texts = _texts(first["Rows"][1 if has_header else 0 :], len(columns))
    arrays = [typed(values, column) for values, column in zip(texts, columns, strict=True)]
    schema = pa.schema([(column["Name"], array.type) for column, array in zip(columns, arrays, strict=True)])

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
        for page in pages:
            yield _batch(_texts(page["Rows"], len(columns)), schema, query)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _pages(athena: Client, query: str) -> Iterator[Mapping[str, Any]]:
    with asking(f"fetching the answer of Athena's query {query}"):
        for page in athena.get_paginator("get_query_results").paginate(QueryExecutionId=query):
            yield page["ResultSet"]


def _texts(rows: Sequence[Mapping[str, Any]], width: int) -> list[list[str | None]]:
    """The values by column; NULL has no text."""
    columns: list[list[str | None]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row["Data"], strict=True):
            column.append(value.get("VarCharValue"))
    return columns


def _batch(texts: Sequence[Sequence[str | None]], schema: pa.Schema, query: str) -> pa.RecordBatch:
    try:
        arrays = [_cast(values, field.type) for values, field in zip(texts, schema, strict=True)]
    except (pa.ArrowException, ValueError) as error:
        raise SourceRefused(
            f"The answer of Athena's query {query} changed its types on the way. The file "
            "in the output location is whole."
        ) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def typed(values: Sequence[str | None], column: Mapping[str, Any]) -> pa.Array:
    """The values with the type that Athena tells; as text where it has another one, or they do not fit it."""
    name = column["Type"]
    kind = _PLAIN.get(name, pa.string())
    if name == "decimal":
        kind = pa.decimal128(min(max(column.get("Precision", 38), 1), 38), column.get("Scale", 0))
    try:
        return _cast(values, kind)
    except (pa.ArrowException, ValueError):
        return pa.array(values, pa.string())


def _cast(values: Sequence[str | None], kind: pa.DataType) -> pa.Array:
    if pa.types.is_binary(kind):  # bytes are written `6f 72`
        return pa.array([None if one is None else bytes.fromhex(one) for one in values], kind)
    return pc.cast(pa.array(values, pa.string()), kind)
