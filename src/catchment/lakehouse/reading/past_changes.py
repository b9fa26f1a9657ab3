"""Which of a table's changes were there at a moment of the source's clock, and whether that is all of them.

A change has its commit time. Rows that a snapshot of the source gave have none, only the position at which they were
read: they count once something proves that this position had been reached, a later change that was committed by
then, or the arrival of the rows themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from catchment.lakehouse.properties import TABLE
from catchment.lakehouse.reading.bronze import Unreadable, relation
from catchment.lakehouse.sql import literal, literals

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.reading.moment import TableSnapshot

BRONZE_TIME, VERSIONS_TIME = "_committed_at", "_valid_from"
"""The columns that hold a change's commit time."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The changes of a table up to a moment. condition: which, in SQL. unknown: why they are not all there is."""

    condition: str
    unknown: str | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    """Rows that one snapshot of the source gave. anew: all earlier rows end there. landed: when they were here.

    stream: the lane of the changes that follow them; None where that cannot be told from their own.
    """

    version: bytes
    anew: bool
    landed: int
    lane: str
    stream: str | None


class PastChanges:
    """Cuts changes off at a moment. bronze: every bronze table that may tell how far the source was then."""

    def __init__(self, connection: DuckDBPyConnection, bronze: Iterable[TableSnapshot], moment: datetime) -> None:
        self._connection = connection
        self._dated = tuple(one for one in bronze if one.files and _is_readable(one))
        self._micros = int((moment - _EPOCH).total_seconds()) * 1_000_000 + moment.microsecond
        self._literal = f"TIMESTAMPTZ {literal(moment.astimezone(UTC).isoformat(sep=' ', timespec='microseconds'))}"
        self._reached: dict[str, list[tuple[str, bytes]]] = {}

    def cut(self, table: TableSnapshot, time: str) -> Cut:
        """The changes of a table of changes, whose commit times are in the column `time`.

        Raises `Unreadable` for a table that DuckDB cannot read.
        """
        relation(table)
        if not table.files:
            return Cut("false", f"{table} has no changes yet")
        newest, first = self._newest(table, time)
        readings = self._readings(table, time)
        there = max((n for n, one in enumerate(readings, 1) if self._was_there(one, newest, table)), default=0)
        dated = f"{time} <= {self._literal}"
        if there:
            last = readings[there - 1].version.hex()
            dated = f"({dated} OR ({time} IS NULL AND _version <= from_hex({literal(last)})))"
        unknown = _unknown(table, readings, there, newest, first) or self._lost(readings, there)
        return Cut(dated, unknown)

    def _lost(self, readings: Sequence[_Reading], there: int) -> str | None:
        """Why changes are missing: the lane that the rows came by ended before the moment, and another came later."""
        lane = readings[there - 1].stream if there else None
        if lane is None or there == len(readings) or readings[there].stream == lane:
            return None
        last = max((at for one in self._dated for at in self._ends(one, lane)), default=0)
        if self._micros <= last:
            return None
        return (
            f"the changes after {spelled(last)} were not captured: its slot was lost then, and the table was read anew "
            "later"
        )

    def _ends(self, table: TableSnapshot, lane: str) -> list[int]:
        """When the last change came by a lane; nothing if none did."""
        query = f"SELECT epoch_us(max({BRONZE_TIME})) FROM {_files(table)} WHERE _lane = {literal(lane)}"
        return [row[0] for row in self._connection.execute(query).fetchall() if row[0] is not None]

    def _newest(self, table: TableSnapshot, time: str) -> tuple[bytes | None, int | None]:
        """The highest version committed by the moment, and the time of the first change of all."""
        found = self._connection.execute(
            f"SELECT max(_version) FILTER ({time} <= {self._literal}), epoch_us(min({time})) FROM {_files(table)}"
        ).fetchall()[0]
        return found[0], found[1]

    def _readings(self, table: TableSnapshot, time: str) -> list[_Reading]:
        found = self._connection.execute(
            f"SELECT _version, bool_or(_op = 't'), list(DISTINCT file_index), min(_lane) FROM {_files(table)} "
            f"WHERE {time} IS NULL GROUP BY _version ORDER BY _version"
        ).fetchall()
        return [
            _Reading(version, anew, min(table.landed[file] for file in files), lane, _stream(lane, table))
            for version, anew, files, lane in found
        ]

    def _was_there(self, reading: _Reading, newest: bytes | None, table: TableSnapshot) -> bool:
        if newest is not None and newest >= reading.version:
            return True
        if self._micros >= reading.landed * 1000:
            return True
        return any(
            version >= reading.version and reading.lane.startswith(f"{lane}/")
            for other in self._dated
            if other is not table
            for lane, version in self._lanes(other)
        )

    def _lanes(self, table: TableSnapshot) -> Sequence[tuple[str, bytes]]:
        """How far each of a table's lanes was."""
        known = self._reached.get(str(table))
        if known is None:
            known = self._connection.execute(
                f"SELECT _lane, max(_version) FROM {_files(table)} "
                f"WHERE {BRONZE_TIME} <= {self._literal} GROUP BY _lane"
            ).fetchall()
            self._reached[str(table)] = known
        return known


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _stream(lane: str, table: TableSnapshot) -> str | None:
    # The lane of a chunk: `<the stream's>/<table>/<chunk>`.
    source = table.properties.get(TABLE)
    stream, found, _ = lane.partition(f"/{source}/") if source else (lane, "", "")
    return stream if found else None


def _unknown(
    table: TableSnapshot, readings: Sequence[_Reading], there: int, newest: bytes | None, first: int | None
) -> str | None:
    if there < len(readings) and there and not readings[there].anew:
        return f"{table} was just being read from the source then, and not all of its rows had come"
    if there or (newest is not None and not readings):
        return None
    known = [reading.landed * 1000 for reading in readings[:1]] + ([first] if first is not None else [])
    return f"nothing is known of {table} before it was first read; its first rows came by {spelled(min(known))}"


def spelled(micros: int) -> str:
    """Microseconds since 1970 as people write a moment."""
    return f"{datetime.fromtimestamp(micros / 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _is_readable(table: TableSnapshot) -> bool:
    try:
        relation(table)
    except Unreadable:
        return False
    return True


def _files(table: TableSnapshot) -> str:
    """The files themselves: their columns of a change are in all of them, and there are no dead rows."""
    return f"read_parquet({literals(table.files)}, hive_partitioning = false)"
