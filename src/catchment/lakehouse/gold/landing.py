"""Gold tables kept up to date: models run by DuckDB when what they read has changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING

from catchment.errors import CatchmentError, ConfigError, Retriable
from catchment.lakehouse.gold.model import Model
from catchment.lakehouse.gold.table import GoldTable, check_key, digest
from catchment.lakehouse.gold.types import landable
from catchment.lakehouse.reading.connection import open_duckdb
from catchment.lakehouse.reading.moment import LakeReader, TableSnapshot
from catchment.lakehouse.reading.views import show
from catchment.lakehouse.sql import identifier
from catchment.telemetry import LOGGER

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyiceberg.catalog import Catalog

    from catchment.quality.gate import QualityGate

log = logging.getLogger(LOGGER)

MEMORY_LIMIT = "256MB"
"""What DuckDB may take while models run. Aggregates over a million changes need half of it."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """How a model is. error: of the last refresh; the table then has what it had before.

    rows: in the table, None when it was never landed by this process. refreshed_at, changed_at: epoch
    seconds of the last refresh and of the last that gave other rows. seconds: what the last one took.
    """

    rows: int | None = None
    refreshed_at: float | None = None
    changed_at: float | None = None
    seconds: float = 0.0
    error: str | None = None

    @property
    def changed(self) -> bool:
        """Did its last run give other rows than there were?"""
        return self.error is None and self.changed_at is not None and self.changed_at == self.refreshed_at


@dataclass
class _Landed:
    """What is known of a model's table between refreshes. inputs: None makes the model run."""

    table: GoldTable
    inputs: tuple[object, ...] | None = None
    digest: str | None = None
    again: bool = False
    told: str | None = None
    status: ModelStatus = field(default_factory=ModelStatus)


class _NotYet(ConfigError):
    """A model reads a table that is not there: most likely it has not been captured yet."""


class _Interrupted(ConfigError):
    """A refresh was broken off because capture ends: nothing is wrong with the model."""


class GoldLayer:
    """The gold tables of some models, refreshed when asked. One thread at a time, except `interrupt`.

    A model runs when one of its inputs has a new snapshot, and commits when its rows have changed. gate: while it is
    closed, every model keeps its rows.
    """

    def __init__(
        self,
        models: Sequence[Model],
        catalog: Catalog,
        *,
        memory_limit: str = MEMORY_LIMIT,
        gate: QualityGate | None = None,
    ) -> None:
        self._models = tuple(models)
        self._gate = gate
        self._reader = LakeReader(catalog)
        self._memory_limit = memory_limit
        self._landed = {model.name: _Landed(GoldTable(catalog, model)) for model in models}
        judged = gate.stored if gate is not None else frozenset()
        self._wanted = judged | {at for model in models for reference in model.references for at in reference.stored}
        self._layers = tuple(sorted({layer for layer, _ in self._wanted} | {"gold"}))
        self._seen: dict[tuple[str, str], str] | None = None
        self._connection: DuckDBPyConnection | None = None

    def status(self) -> dict[str, ModelStatus]:
        """Each model's state after the last refresh."""
        return {name: landed.status for name, landed in self._landed.items()}

    @property
    def failed_for_now(self) -> bool:
        """Did a model fail in the last refresh for a reason that may be over: it was landed by two at once?"""
        return any(landed.again for landed in self._landed.values())

    def stale(self) -> bool:
        """Has a table that the models read, or one of their own, another state than the last refresh saw or left?

        Cheap with a SQL catalog. True after a landing that failed.
        """
        if self.failed_for_now:
            return True
        return self._seen != self._watched(self._reader.versions(self._layers))

    def refresh(self, stopping: Event | None = None) -> dict[str, ModelStatus]:
        """Bring every model up to date with the snapshots of this moment; no further one once `stopping` is set.

        A model's error is kept in its status and stops no other model. Raises `Retriable` when the lake
        itself cannot be read.
        """
        wanted = self._wanted | {("gold", model.name) for model in self._models}
        tables = {(table.layer, table.name): table for table in self._reader.tables(self._layers, wanted)}
        self._notice_other_writers(tables)
        self._connection = open_duckdb(threads=1, memory_limit=self._memory_limit)
        try:
            self._connection.execute("SET enable_external_file_cache = false")
            show(self._connection, [table for at, table in tables.items() if at in self._wanted])
            versions = {at: table.version for at, table in tables.items()}
            closed = self._gate.judge(self._connection, versions) if self._gate is not None else None
            for model in self._models:
                if closed is not None:
                    self._hold(model, closed.message)
                    continue
                if stopping is not None and stopping.is_set():
                    return self.status()
                self._refresh_model(self._connection, model, tables)
        finally:
            connection, self._connection = self._connection, None
            connection.close()
        seen = {at: table.version for at, table in tables.items()}
        seen |= {("gold", name): at for name, one in self._landed.items() if (at := one.table.version) is not None}
        self._seen = self._watched(seen)
        return self.status()

    def _hold(self, model: Model, reason: str) -> None:
        """Leave a model's rows as they are; it runs once the gate is open and an input has changed."""
        landed = self._landed[model.name]
        landed.inputs = None
        landed.status = replace(landed.status, error=reason, refreshed_at=time.time())

    def interrupt(self) -> None:
        """Break off the query that runs now; its model fails. May be called from any thread."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()

    def _watched(self, versions: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
        mine = {("gold", model.name) for model in self._models}
        return {at: version for at, version in versions.items() if at in self._wanted or at in mine}

    def _notice_other_writers(self, tables: Mapping[tuple[str, str], TableSnapshot]) -> None:
        """A table that is not as this process left it is landed anew: it may have got older rows."""
        for model in self._models:
            landed, there = self._landed[model.name], tables.get(("gold", model.name))
            if landed.table.version is not None and (there is None or there.version != landed.table.version):
                landed.table.forget()
                landed.inputs = None

    def _refresh_model(
        self, connection: DuckDBPyConnection, model: Model, tables: Mapping[tuple[str, str], TableSnapshot]
    ) -> None:
        landed = self._landed[model.name]
        started = time.monotonic()
        try:
            inputs = self._inputs(model, tables)
            if inputs == landed.inputs:
                return
            rows, changed = self._run(connection, model, landed)
        except CatchmentError as error:
            landed.table.forget()
            self._tell(model, landed, error)
            landed.inputs, landed.again = None, isinstance(error, Retriable)
            message = str(error)
            landed.status = replace(landed.status, error=message, refreshed_at=time.time())
            return
        landed.inputs, landed.again, landed.told = inputs, False, None
        now = time.time()
        landed.status = ModelStatus(
            rows=rows,
            refreshed_at=now,
            changed_at=now if changed else landed.status.changed_at,
            seconds=time.monotonic() - started,
        )

    def _tell(self, model: Model, landed: _Landed, error: CatchmentError) -> None:
        """Each error once. What comes with time, or is over at the second attempt, is nobody's concern."""
        passing = isinstance(error, _NotYet | _Interrupted) or (isinstance(error, Retriable) and not landed.again)
        if passing:
            log.debug("Gold model %s keeps its last rows: %s", model.name, error)
        elif landed.told != str(error):
            log.warning("Gold model %s keeps its last rows: %s", model.name, error)
            landed.told = str(error)

    def _inputs(self, model: Model, tables: Mapping[tuple[str, str], TableSnapshot]) -> tuple[object, ...]:
        """What the model's rows depend on: equal inputs give equal rows."""
        versions: list[object] = [model.sql]
        for reference in model.references:
            table = next((tables[at] for at in reference.stored if at in tables), None)
            upstream = self._landed.get(reference.table) if reference.layer == "gold" else None
            if upstream is not None and upstream.digest is not None:
                versions.append(upstream.digest)
            elif table is not None:
                versions.append(table.version)
            else:
                raise _NotYet(
                    f"{model.file.name}:{reference.line}: there is no table {reference} yet. If it is not about to "
                    "come, correct the name."
                )
        return tuple(versions)

    def _run(self, connection: DuckDBPyConnection, model: Model, landed: _Landed) -> tuple[int, bool]:
        relation = f"main.{identifier(model.name)}"
        with _sql_errors(model):
            columns = landable(connection, model.sql)
            connection.execute(f"CREATE TABLE {relation} AS SELECT {columns} FROM ({model.sql}\n) AS model")
            check_key(connection, relation, model)
            found = digest(connection, relation, model)
            changed = landed.table.land(connection, relation, found)
            if self._is_read(model):
                connection.execute(f"CREATE OR REPLACE VIEW gold.{identifier(model.name)} AS FROM {relation}")
            else:
                connection.execute(f"DROP TABLE {relation}")
        landed.digest = found.unordered
        return found.rows, changed

    def _is_read(self, model: Model) -> bool:
        return any(("gold", model.name) in reference.stored for one in self._models for reference in one.references)


@contextmanager
def _sql_errors(model: Model) -> Iterator[None]:
    """DuckDB's errors as ConfigError. Messages about data may hold values of rows: those are left out."""
    import duckdb

    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException) as error:
        # The first line says what is wrong; the others repeat the statement.
        raise ConfigError(f"{model.file.name}: {str(error).partition(chr(10))[0]}") from None
    except duckdb.InterruptException:
        raise _Interrupted(f"{model.file.name}: was interrupted.") from None
    except duckdb.OutOfMemoryException:
        raise ConfigError(
            f"{model.file.name}: needs more memory or disk than gold models may take. Make it smaller: aggregate "
            "earlier, select fewer columns."
        ) from None
    except duckdb.Error as error:
        raise ConfigError(
            f"{model.file.name}: DuckDB stopped with {type(error).__name__}. Its message may hold values of rows; to "
            "see it, run the SELECT with `catchment query`."
        ) from None
