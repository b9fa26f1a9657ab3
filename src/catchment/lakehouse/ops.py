"""What a pipeline knows of itself: progress, lease, reports, schema versions, dead letters, requests.

With a SQL catalog these are plain tables in the catalog's own database, so that progress moves in the same
transaction as the tables. With any other catalog the truth about progress is the Iceberg table
`ops.progress` (see `committers`), and these tables live in `.catchment/ops.db` beside the pipeline file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from catchment.errors import LeaseLost, SinkUnavailable
from catchment.lakehouse.catalog import catalog_properties, is_sql, open_engine, sqlite_file
from catchment.lakehouse.config import LakehouseConfig
from catchment.progress import Progress
from catchment.schema import TableSchema
from catchment.sources.base import DeadLetter
from catchment.telemetry import LOGGER, Report

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(LOGGER)

LETTERS_AT_ONCE = 500
"""Of dead letters, in one statement: databases limit a statement's parameters."""

REPORTS_KEPT = 3_600
"""Reports kept for each pipeline: an hour of them, at one a second."""

MAINTENANCE_KEPT = 5_000
"""Pieces of maintenance kept for each pipeline."""

_metadata = MetaData()
_name = String(255)

progress_table = Table(
    "ops_progress",
    _metadata,
    Column("pipeline", _name, primary_key=True),
    Column("sink", _name, primary_key=True),
    Column("progress", Text, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("updated_at", Float, nullable=False),
)
lease_table = Table(
    "ops_lease",
    _metadata,
    Column("pipeline", _name, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("holder", Text, nullable=False),
    Column("acquired_at", Float, nullable=False),
)
metrics_table = Table(
    "ops_metrics",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("pipeline", _name, nullable=False, index=True),
    Column("reported_at", Float, nullable=False),
    Column("report", Text, nullable=False),
)
schema_versions_table = Table(
    "ops_schema_versions",
    _metadata,
    Column("pipeline", _name, primary_key=True),
    Column("table", _name, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("schema", Text, nullable=False),
    Column("updated_at", Float, nullable=False),
)
dead_letters_table = Table(
    "ops_dead_letters",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("pipeline", _name, nullable=False, index=True),
    Column("table", _name, nullable=False),
    Column("lane", Text, nullable=False),
    Column("position", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("set_aside_at", Float, nullable=False),
)
requests_table = Table(
    "ops_requests",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("pipeline", _name, nullable=False, index=True),
    Column("kind", _name, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("state", _name, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("note", Text),
    Column("outcome", Text),
    Column("error", Text),
    Column("requested_by", Text, nullable=False),
    Column("requested_at", Float, nullable=False),
    Column("awaited_at", Float, nullable=False),
    Column("taken_at", Float),
    Column("ended_at", Float),
)
"""What commands asked of the process that runs the pipeline; see `requests`."""
maintenance_table = Table(
    "ops_maintenance",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("pipeline", _name, nullable=False, index=True),
    Column("done_at", Float, nullable=False),
    Column("table", _name, nullable=False),
    Column("kind", _name, nullable=False),
    Column("files_before", Integer, nullable=False),
    Column("files_after", Integer, nullable=False),
    Column("bytes_before", Integer, nullable=False),
    Column("bytes_after", Integer, nullable=False),
    Column("row_count", Integer, nullable=False),
    Column("dead_rows", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
)
quality_results_table = Table(
    "ops_quality_results",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("pipeline", _name, nullable=False, index=True),
    Column("judged_at", Float, nullable=False),
    Column("judged_by", _name, nullable=False),
    Column("table", _name, nullable=False),
    Column("rule", _name, nullable=False),
    Column("type", _name, nullable=False),
    Column("severity", _name, nullable=False),
    Column("status", _name, nullable=False),
    Column("row_count", Integer),
    Column("broken", Integer),
    Column("quarantined", Integer, nullable=False),
    Column("said", Text, nullable=False),
)
"""What suites of quality rules found; see `quality.results`."""


class OpsStore:
    """The operations data of a lake. Methods may be called from any thread."""

    def __init__(self, uri: str) -> None:
        self._engine = open_engine(uri)
        self._reports = open_engine(uri, durable=False)
        self._reported = 0
        if self._engine.dialect.name == "sqlite":
            _begin_as_asked(self._engine)
            _begin_as_asked(self._reports)
        with ops_errors("The operations tables could not be made"), self.writing() as connection:
            _metadata.create_all(connection)

    @classmethod
    def open(cls, lakehouse: LakehouseConfig, directory: Path) -> OpsStore:
        """The operations data of the lake that `lakehouse` describes; made if there is none."""
        if is_sql(lakehouse.catalog):
            uri = catalog_properties(lakehouse.catalog, directory).get("uri")
            if uri is not None:
                return cls(uri)
        return cls(f"sqlite:///{_beside(directory)}")

    @classmethod
    def existing(cls, lakehouse: LakehouseConfig, directory: Path) -> OpsStore | None:
        """The same, for who only looks: None while no run has made them."""
        file: Path | None = _beside(directory)
        if is_sql(lakehouse.catalog):
            file = sqlite_file(catalog_properties(lakehouse.catalog, directory).get("uri"))
        return cls.open(lakehouse, directory) if file is None or file.exists() else None

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()
        self._reports.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that holds the database's write lock from its start; commits at the end."""
        with self._engine.connect().execution_options(catchment_writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that only reads, at one moment of the database."""
        with self._engine.connect() as connection:
            yield connection

    # Progress and lease

    def progress(self, pipeline: str) -> dict[str, Progress]:
        """What each sink of a pipeline holds durably."""
        query = select(progress_table.c.sink, progress_table.c.progress).where(progress_table.c.pipeline == pipeline)
        with ops_errors(f"The progress of {pipeline} could not be read"), self._engine.connect() as connection:
            return {sink: Progress.from_json(text) for sink, text in connection.execute(query)}

    def next_epoch(self, pipeline: str, holder: str) -> int:
        """Begin a new epoch: whoever held the last one can no longer commit."""
        with ops_errors(f"The lease of {pipeline} could not be taken"), self.writing() as connection:
            epoch = self._epoch(connection, pipeline) + 1
            values = {"epoch": epoch, "holder": holder, "acquired_at": time.time()}
            _upsert(connection, lease_table, {"pipeline": pipeline}, values)
            return epoch

    def check_epoch(self, connection: Connection, pipeline: str, epoch: int) -> None:
        """Raise `LeaseLost` unless `epoch` is still the pipeline's, inside the caller's transaction."""
        found = self._epoch(connection, pipeline)
        if found != epoch:
            raise LeaseLost(
                f"Another process took pipeline {pipeline} over (epoch {found}, ours was {epoch}). This one stops; "
                f"what it had not committed, the other captures."
            )

    def _epoch(self, connection: Connection, pipeline: str) -> int:
        query = select(lease_table.c.epoch).where(lease_table.c.pipeline == pipeline)
        return int(connection.execute(query).scalar() or 0)

    def keep_progress(self, connection: Connection, pipeline: str, sink: str, progress: Progress, epoch: int) -> None:
        """Store what a sink holds, inside the caller's transaction."""
        values = {"progress": progress.to_json(), "epoch": epoch, "updated_at": time.time()}
        _upsert(connection, progress_table, {"pipeline": pipeline, "sink": sink}, values)

    # Reports

    def record_report(self, pipeline: str, report: Report) -> None:
        """Keep a report, the last `REPORTS_KEPT` of them. Raises SQLAlchemyError; see `OpsReporter`."""
        with self._reports.connect().execution_options(catchment_writes=True) as connection, connection.begin():
            connection.execute(
                insert(metrics_table).values(pipeline=pipeline, reported_at=report.at, report=report.to_json())
            )
            if self._reported % 60 == 0:
                _trim(connection, pipeline)
            self._reported += 1

    def record_maintenance(self, pipeline: str, work: Sequence[Mapping[str, Any]]) -> None:
        """Keep pieces of maintenance, by the table's columns; the last `MAINTENANCE_KEPT` of them stay."""
        at = maintenance_table.c
        with ops_errors("What was maintained could not be kept"), self.writing() as connection:
            connection.execute(insert(maintenance_table), [{"pipeline": pipeline, **one} for one in work])
            newest = select(at.id).where(at.pipeline == pipeline).order_by(at.id.desc())
            last = connection.execute(newest.offset(MAINTENANCE_KEPT).limit(1)).scalar()
            if last is not None:
                connection.execute(delete(maintenance_table).where(at.pipeline == pipeline, at.id <= last))

    def latest_report(self, pipeline: str) -> Report | None:
        """The last report of a pipeline, from whichever process; None when it never ran."""
        mine = metrics_table.c.pipeline == pipeline
        query = select(metrics_table.c.report).where(mine).order_by(metrics_table.c.id.desc()).limit(1)
        with ops_errors(f"The reports of {pipeline} could not be read"), self._engine.connect() as connection:
            text = connection.execute(query).scalar()
        return Report.from_json(text) if text is not None else None

    # Schema versions and dead letters

    def keep_schemas(self, connection: Connection, pipeline: str, schemas: Sequence[TableSchema]) -> None:
        """Store versions of tables' schemas, inside the caller's transaction."""
        for schema in schemas:
            where = {"pipeline": pipeline, "table": str(schema.table), "version": schema.version}
            _upsert(connection, schema_versions_table, where, {"schema": _columns(schema), "updated_at": time.time()})

    def set_aside(self, pipeline: str, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters durably; one that comes again, in a replay, is kept once."""
        given = {(one.lane, one.position.hex()): one for one in letters}
        with ops_errors("Dead letters could not be kept"), self.writing() as connection:
            places = list(given)
            for first in range(0, len(places), LETTERS_AT_ONCE):
                some = places[first : first + LETTERS_AT_ONCE]
                kept = _kept_letters(connection, pipeline, some)
                rows = [_letter_row(pipeline, given[place]) for place in some if place not in kept]
                if rows:
                    connection.execute(insert(dead_letters_table), rows)

    def dead_letters(self, pipeline: str) -> int:
        """How many records of a pipeline were set aside."""
        query = select(func.count()).where(dead_letters_table.c.pipeline == pipeline)
        with ops_errors(f"The dead letters of {pipeline} could not be counted"), self._engine.connect() as connection:
            return int(connection.execute(query).scalar() or 0)

    def tables(self) -> dict[str, pa.Table]:
        """All of it as Arrow, by the names it has for people: progress, lease, metrics, ..."""
        import pyarrow as pa

        result = {}
        with ops_errors("The operations data could not be read"), self._engine.connect() as connection:
            for table in _metadata.sorted_tables:
                rows = connection.execute(select(table)).all()
                types = [_arrow_type(column.type) for column in table.columns]
                arrays = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(types)]
                names = [column.name for column in table.columns]
                result[table.name.removeprefix("ops_")] = pa.Table.from_arrays(arrays, names=names)
        return result


def _beside(directory: Path) -> Path:
    return (directory / ".catchment" / "ops.db").resolve()


class OpsReporter:
    """Keeps a pipeline's reports in the operations data. A report that cannot be kept is told of once."""

    def __init__(self, store: OpsStore, pipeline: str) -> None:
        self._store = store
        self._pipeline = pipeline
        self._failing = False

    def report(self, report: Report) -> None:
        """Keep one report; never raises."""
        try:
            self._store.record_report(self._pipeline, report)
        except SQLAlchemyError as error:
            if not self._failing:
                reason = getattr(error, "orig", None) or type(error).__name__
                log.warning("%s: reports cannot be kept now (%s). Capture goes on.", self._pipeline, reason)
            self._failing = True
        else:
            self._failing = False


@contextmanager
def ops_errors(what: str) -> Iterator[None]:
    """Turn the database's errors into `SinkUnavailable`, without the statement and its values."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or type(error).__name__
        raise SinkUnavailable(f"{what}: {reason}. Trying again may help.") from error


def _begin_as_asked(engine: Engine) -> None:
    """SQLite: a writer takes the lock at BEGIN; one that upgrades later can be refused without waiting."""

    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("catchment_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begin)
    engine.dispose()


def _upsert(connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Update the row, or insert it: in words that every database knows."""
    where = [table.c[name] == value for name, value in key.items()]
    if connection.execute(update(table).where(*where).values(**values)).rowcount == 0:
        connection.execute(insert(table).values(**key, **values))


def _trim(connection: Connection, pipeline: str) -> None:
    mine = metrics_table.c.pipeline == pipeline
    newest = select(func.max(metrics_table.c.id)).where(mine).scalar_subquery()
    oldest = select(metrics_table.c.id).where(mine).order_by(metrics_table.c.id.desc())
    last = connection.execute(oldest.offset(REPORTS_KEPT).limit(1)).scalar()
    if last is not None:
        connection.execute(delete(metrics_table).where(mine, metrics_table.c.id <= last, metrics_table.c.id < newest))


def _kept_letters(connection: Connection, pipeline: str, places: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these (lane, position) are there already, and perhaps others."""
    columns = dead_letters_table.c
    query = select(columns.lane, columns.position).where(
        columns.pipeline == pipeline, columns.position.in_({position for _, position in places})
    )
    return {(lane, position) for lane, position in connection.execute(query)}


def _letter_row(pipeline: str, letter: DeadLetter) -> dict[str, Any]:
    return {
        "pipeline": pipeline,
        "table": letter.table,
        "lane": letter.lane,
        "position": letter.position.hex(),
        "reason": letter.reason,
        "set_aside_at": time.time(),
    }


def _columns(schema: TableSchema) -> str:
    columns = [
        {"name": c.name, "type": str(c.type), "source_type": c.source_type, "key": c.key} for c in schema.columns
    ]
    return json.dumps(columns)


def _arrow_type(kind: Any) -> pa.DataType:
    import pyarrow as pa

    if isinstance(kind, Integer):
        return pa.int64()
    return pa.float64() if isinstance(kind, Float) else pa.string()
