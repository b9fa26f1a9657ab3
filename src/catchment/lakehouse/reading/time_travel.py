"""The lake as it was at a moment of the source's clock: views that hide what was committed later.

Rows come from bronze, replayed up to that moment, as long as bronze has all changes; else from the table's history;
else from the nearest kept snapshot of its silver table, brought forward by what bronze still has. Each table's
`Account` says which. What nobody can know, such as a table's rows before it was first read, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from catchment.errors import ConfigError
from catchment.lakehouse.properties import BRONZE_SINCE, key_of
from catchment.lakehouse.reading import bronze, views
from catchment.lakehouse.reading import history as history_view
from catchment.lakehouse.reading.bronze import Unreadable
from catchment.lakehouse.reading.current import replay_of, row_type
from catchment.lakehouse.reading.past_changes import BRONZE_TIME, VERSIONS_TIME, PastChanges, spelled
from catchment.lakehouse.sql import identifier, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from catchment.lakehouse.reading.moment import LakeReader, TableSnapshot


def parse_moment(text: str) -> datetime:
    """An ISO 8601 moment, such as 2026-11-20T10:00; without an offset it is UTC. Raises ConfigError."""
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise ConfigError(
            f"{text!r} is no moment: write 2026-11-20T10:00 for UTC, or with an offset, 2026-11-20T10:00+01:00."
        ) from None


def in_utc(moment: datetime | str) -> datetime:
    """The moment in UTC; without a time zone it is taken to be so. A text as `parse_moment` takes it."""
    if isinstance(moment, str):
        return parse_moment(moment)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Account:
    """Where a view's rows come from. name: `silver.orders`. read_from: bronze, history, snapshot or nothing."""

    name: str
    read_from: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Rows:
    """A table's rows as of the moment, in silver's columns, and where they come from."""

    read_from: str
    detail: str
    select: str


class _NotKept(Exception):
    """This way does not reach back so far; another may."""


class _NotKnown(Exception):
    """Nobody can know."""


class Past:
    """Turns a connection's views to one moment: `show`, then `accounts` and `files` say what came of it.

    files: data files of older snapshots, beside those of the tables themselves.
    """

    def __init__(
        self,
        connection: DuckDBPyConnection,
        reader: LakeReader,
        tables: Sequence[TableSnapshot],
        bronze_tables: Sequence[TableSnapshot],
        moment: datetime,
    ) -> None:
        """tables: those that are shown, in view as they are now. bronze_tables: all there are, as evidence."""
        self.accounts: list[Account] = []
        self.files: set[str] = set()
        self._connection = connection
        self._reader = reader
        self._tables = {(table.layer, table.name): table for table in tables}
        self._moment = moment
        self._text = moment.isoformat(timespec="auto").replace("+00:00", "Z")
        self._changes = PastChanges(connection, bronze_tables, moment)
        self._unknown: dict[str, str] = {}

    def show(self) -> None:
        """Replace the views. A table that cannot be known gets one that says why when it is queried."""
        for table in self._tables.values():
            if table.layer == "bronze":
                self._cut_off(table, BRONZE_TIME)
            elif history_view.history_name(table) is not None:
                self._cut_off(table, VERSIONS_TIME)
        for (layer, name), table in self._tables.items():
            if layer == "bronze":
                self._show_rows(name)
            elif layer == "gold":
                self._show_snapshot(table)

    def _cut_off(self, table: TableSnapshot, time: str) -> None:
        """Show a table's changes up to the moment; views that are made of it follow."""
        try:
            cut = self._changes.cut(table, time)
        except Unreadable as reason:
            # Its view refuses already.
            self._unknown[str(table)] = str(reason)
            return
        if cut.unknown is not None:
            self._unknown[str(table)] = cut.unknown
        select = f"SELECT * FROM ({bronze.relation(table)}) AS changes WHERE {cut.condition}"
        self._connection.execute(f"CREATE OR REPLACE VIEW {_at(str(table))} AS {select}")
        doubt = f"; {cut.unknown}" if cut.unknown is not None else ""
        self._account(
            str(table), "bronze" if table.layer == "bronze" else "history", f"changes until {self._text}{doubt}"
        )
        history = history_view.history_name(table)
        if history is not None:
            self._account(f"silver.{history}", "history", f"versions until {self._text}{doubt}")

    def _show_rows(self, name: str) -> None:
        """`current` and `silver` of one source table."""
        silver = self._tables.get(("silver", name))
        if silver is None and not key_of(self._tables["bronze", name].properties):
            return
        targets = [f"current.{name}", *([f"silver.{name}"] if silver is not None else [])]
        if ("silver", f"{name}_quarantine") in self._tables:
            reason = f"as of a moment rows in quarantine are not set apart: silver.{name} has every row"
            self._refuse(f"silver.{name}_quarantine", reason)
        try:
            rows = self._rows(name)
        except _NotKnown as reason:
            for target in targets:
                self._refuse(target, f"{target} as of {self._text}: {reason}")
            return
        if silver is not None:
            self._connection.execute(f"CREATE OR REPLACE VIEW {_at(f'silver.{name}')} AS {rows.select}")
            if rows.read_from != "bronze":
                plain = f"SELECT * EXCLUDE (_quality) FROM {_at(f'silver.{name}')}"
                self._connection.execute(f"CREATE OR REPLACE VIEW {_at(f'current.{name}')} AS {plain}")
        for target in targets:
            self._account(target, rows.read_from, rows.detail)

    def _rows(self, name: str) -> _Rows:
        ways: tuple[Callable[[str], _Rows], ...] = (self._from_bronze, self._from_history, self._from_snapshot)
        reasons = []
        for way in ways:
            try:
                return way(name)
            except _NotKept as reason:
                reasons.append(str(reason))
        raise _NotKnown("; ".join(reasons))

    def _from_bronze(self, name: str) -> _Rows:
        table = self._tables["bronze", name]
        gone = table.properties.get(BRONZE_SINCE)
        if gone is not None:
            raise _NotKept(f"bronze.{name} no longer has the changes from before {gone}")
        self._must_be_known(table)
        silver = self._tables.get(("silver", name))
        select = f"FROM {_at(f'current.{name}')}" if silver is None else self._as_silver(silver, _at(f"current.{name}"))
        return _Rows("bronze", f"bronze replayed until {self._text}", select)

    def _from_history(self, name: str) -> _Rows:
        versions, silver = (self._tables.get(("silver", f"{name}{end}")) for end in ("_versions", ""))
        history = f"{name}_history"
        if versions is None or silver is None or ("silver", history) in self._tables:
            raise _NotKept("its history is not kept")
        ours = {"_version", "_committed_at", "_unrepresentable", "_quality"}
        kept = {field.name for field in versions.schema.fields}
        if any(field.name not in kept | ours for field in silver.schema.fields):
            raise _NotKept("the history of some of its columns only is kept")
        self._must_be_known(versions)
        if not self._is_whole(name, versions):
            raise _NotKept("its history began when there were rows already")
        since, is_current = (f"_{one}" if one in kept else one for one in ("valid_from", "is_current"))
        select = self._as_silver(silver, _at(f"silver.{history}"), {"_committed_at": since}) + f" WHERE {is_current}"
        return _Rows("history", f"the versions in {versions} until {self._text}", select)

    def _from_snapshot(self, name: str) -> _Rows:
        silver = self._tables.get(("silver", name))
        if silver is None:
            raise _NotKept("it is not in silver")
        at, past = self._nearest(silver)
        selects = [self._relation(past)]
        quarantine = self._tables.get(("silver", f"{name}_quarantine"))
        if quarantine is not None and self._log(quarantine):
            selects.append(self._relation(self._nearest(quarantine)[1]))
        rows, detail = " UNION ALL BY NAME ".join(selects), f"snapshot {past.snapshot} of {spelled(at * 1000)}"
        made = min((then for then, snapshot in silver.log if snapshot == past.snapshot), default=at)
        result = self._brought_forward(name, rows, datetime.fromtimestamp(made / 1000, UTC))
        if result is None:
            return _Rows("snapshot", f"{detail}, the nearest: what was in the lake then", rows)
        return _Rows("snapshot", f"{detail}, and bronze from there until {self._text}", self._as_silver(silver, result))

    def _brought_forward(self, name: str, rows: str, made: datetime) -> str | None:
        """A view of what rows, as they were in silver at `made`, became by the changes that bronze has since.

        The rows stand for all changes before, as if a snapshot of the source had read them; by their versions the
        changes that they hold already are told apart. None where bronze does not reach back so far.
        """
        table = self._tables["bronze", name]
        since = table.properties.get(BRONZE_SINCE)
        if since is None or self._is_refused(table) or made < in_utc(datetime.fromisoformat(since)):
            return None
        # A snapshot of the source that silver holds is not read again: rows of it may be gone, and their deletes, too.
        dated = f"SELECT max(_version) AS _version FROM {_at(str(table))} WHERE _committed_at <= {_literal(made)}"
        held = self._connection.execute(f"SELECT max(_version) FROM ({rows} UNION ALL BY NAME {dated})").fetchall()
        if held[0][0] is None:
            return None
        after = row_type(table)
        there = {row[0] for row in self._connection.execute(f"DESCRIBE {rows}").fetchall()}
        values = ", ".join(
            f"{literal(one.name)}: {identifier(one.name) if one.name in there else 'NULL'}" for one in after.fields
        )
        changes, result = (f"{bronze.HIDDEN_SCHEMA}.{identifier(f'{what} of {name}')}" for what in ("changes", "rows"))
        self._connection.execute(f"""
            CREATE OR REPLACE VIEW {changes} AS
            FROM {_at(str(table))}
            WHERE _committed_at > {_literal(in_utc(datetime.fromisoformat(since)))}
                OR (_committed_at IS NULL AND _version > from_hex({literal(held[0][0].hex())}))
            UNION ALL BY NAME
            SELECT 'r' AS _op, '' AS _lane, _version AS _position, _version, _committed_at, _unrepresentable,
                CAST({{{values}}} AS {bronze.duck_type(after)}) AS after
            FROM ({rows}) AS rows""")
        self._connection.execute(f"CREATE OR REPLACE VIEW {result} AS {replay_of(table, changes)}")
        return result

    def _is_refused(self, table: TableSnapshot) -> bool:
        try:
            bronze.relation(table)
        except Unreadable:
            return True
        return False

    def _show_snapshot(self, table: TableSnapshot) -> None:
        """A table that is landed whole: its nearest snapshot."""
        name = str(table)
        try:
            at, past = self._nearest(table)
            select = self._relation(past)
        except (_NotKept, Unreadable) as reason:
            self._refuse(name, f"{name} as of {self._text}: {reason}")
            return
        self._connection.execute(f"CREATE OR REPLACE VIEW {_at(name)} AS {select}")
        detail = f"snapshot {past.snapshot} of {spelled(at * 1000)}, the nearest: what was in the lake then"
        self._account(name, "snapshot", detail)

    def _must_be_known(self, table: TableSnapshot) -> None:
        unknown = self._unknown.get(str(table))
        if unknown is not None:
            raise _NotKnown(unknown)

    def _is_whole(self, name: str, versions: TableSnapshot) -> bool:
        """Has the history a beginning of each row that there is or was? It may have been switched on late."""
        key = ", ".join(identifier(one) for one in key_of(versions.properties))
        every = bronze.relation(versions)
        # A row that came by a change of its key begins with the update that ended it under its old one.
        late, missing = self._connection.execute(f"""
            WITH every AS ({every}),
            firsts AS (
                SELECT {key}, _op, _version FROM every WHERE _op <> 't'
                QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY _version) = 1
            ),
            ends AS (SELECT _version FROM every WHERE _op = 'd')
            SELECT
                (SELECT count(*) FROM firsts
                    WHERE _op = 'd' OR (_op = 'u' AND _version NOT IN (SELECT _version FROM ends))),
                (SELECT count(*) FROM ({self._all_rows(name)}) AS there ANTI JOIN every USING ({key}))
            """).fetchall()[0]
        return not late and not missing

    def _all_rows(self, name: str) -> str:
        """Silver with its quarantine, as they are now."""
        tables = (self._tables.get(("silver", f"{name}{end}")) for end in ("", "_quarantine"))
        return " UNION ALL BY NAME ".join(f"({bronze.relation(one)})" for one in tables if one is not None)

    def _nearest(self, table: TableSnapshot) -> tuple[int, TableSnapshot]:
        """The table's last snapshot by the moment, and when that was, in milliseconds."""
        log = self._log(table)
        if not log:
            oldest = min((at for at, _ in table.log), default=None)
            kept = f"the oldest kept snapshot of {table} is of {spelled(oldest * 1000)}" if oldest else "there is none"
            raise _NotKept(kept)
        at, snapshot = log[-1]
        past = table if snapshot == table.snapshot else self._reader.past(table, snapshot)
        return at, past

    def _log(self, table: TableSnapshot) -> list[tuple[int, int]]:
        return [(at, snapshot) for at, snapshot in table.log if at <= self._moment.timestamp() * 1000]

    def _relation(self, past: TableSnapshot) -> str:
        self.files.update(past.files)
        if past.dead:
            views.load_dead_rows(self._connection, past)
        return f"({bronze.relation(past)})"

    def _as_silver(self, silver: TableSnapshot, source: str, instead: Mapping[str, str] | None = None) -> str:
        """What `source` has, in silver's columns; NULL where it has no such column."""
        there = {row[0] for row in self._connection.execute(f"DESCRIBE {source}").fetchall()}
        columns = []
        for field in silver.schema.fields:
            name = (instead or {}).get(field.name, field.name)
            value = identifier(name) if name in there else "NULL"
            columns.append(f"CAST({value} AS {bronze.duck_type(field.field_type)}) AS {identifier(field.name)}")
        return f"SELECT {', '.join(columns)} FROM {source}"

    def _columns(self, view: str) -> list[tuple[str, str]]:
        """Names and types of a view's columns."""
        return [row[:2] for row in self._connection.execute(f"DESCRIBE {_at(view)}").fetchall()]

    def _account(self, name: str, read_from: str, detail: str) -> None:
        self.accounts.append(Account(name, read_from, detail))

    def _refuse(self, name: str, reason: str) -> None:
        views.refuse(self._connection, _at(name), reason, lambda: self._columns(name))
        self._account(name, "nothing", reason)


def _at(name: str) -> str:
    schema, _, table = name.partition(".")
    return f"{identifier(schema)}.{identifier(table)}"


def _literal(moment: datetime) -> str:
    return f"TIMESTAMPTZ {literal(moment.isoformat(sep=' ', timespec='microseconds'))}"
