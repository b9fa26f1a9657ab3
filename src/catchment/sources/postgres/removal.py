"""Taking a pipeline off a server: its slot and its publications, or one table."""

from __future__ import annotations

from catchment.errors import ConfigError, LeaseHeld
from catchment.schema import TableId
from catchment.sources.administration import Removal
from catchment.sources.postgres.config import PostgresSourceConfig
from catchment.sources.postgres.connection import connect, conninfo, translated
from catchment.sources.postgres.publication import Publications, selected
from catchment.sources.postgres.slot import Connection, current_lsn, drop_slot, find_slot


def plan_removal(config: PostgresSourceConfig, pipeline: str, table: str | None) -> Removal:
    """What would be removed. Raises LeaseHeld while somebody reads from the slot."""
    info = conninfo(config.dsn.get_secret_value(), f"catchment {pipeline}")
    publications = Publications(config.publication_name(pipeline))
    with connect(info) as connection:
        if table is not None:
            return _plan_table(connection, config, info, publications, _table_id(table))
        return _plan_all(connection, info, publications, config.slot_name(pipeline))


def _plan_all(connection: Connection, info: str, publications: Publications, slot: str) -> Removal:
    steps = []
    found = find_slot(connection, slot)
    if found is not None:
        if found.active_pid is not None:
            raise LeaseHeld(
                f"The server's process {found.active_pid} reads from the replication slot {slot}: the pipeline runs, "
                "perhaps on another machine. Stop it first, then remove."
            )
        kept = current_lsn(connection) - found.restart_lsn if found.restart_lsn is not None else 0
        steps.append(f"drop the replication slot {slot}, for which the server keeps {kept / 1e6:,.1f} MB of WAL")
    steps += [f"drop the publication {name}" for name in publications.names if _exists(connection, name)]
    notes = ["What was captured stays in the lake. `catchment run --resnapshot` would begin anew."] if steps else []

    def carry_out() -> list[str]:
        done = []
        with connect(info) as again:
            # The slot first: a slot whose publication is gone fails, and keeps WAL all the same.
            if drop_slot(again, slot):
                done.append(f"dropped the replication slot {slot}")
            done += [f"dropped the publication {name}" for name in publications.drop(again)]
        return done

    return Removal(steps, notes, carry_out)


def _plan_table(
    connection: Connection, config: PostgresSourceConfig, info: str, publications: Publications, table: TableId
) -> Removal:
    with translated("reading the publications"):
        rows = connection.execute(
            "SELECT pubname::text FROM pg_publication_tables WHERE pubname = ANY(%s) AND schemaname = %s"
            " AND tablename = %s",
            (list(publications.names), table.namespace, table.name),
        ).fetchall()
    steps = [f"take {table} out of the publication {name}" for (name,) in rows]
    notes = []
    if steps:
        notes.append(f"What was captured of {table} stays in the lake.")
    if selected(str(table), config.tables, config.exclude):
        notes.append(
            f"The pipeline file still selects {table}: add it to `source.exclude`, or the next start publishes it "
            "again."
        )

    def carry_out() -> list[str]:
        with connect(info) as again:
            return [f"took {table} out of the publication {name}" for name in publications.remove(again, table)]

    return Removal(steps, notes, carry_out)


def _table_id(table: str) -> TableId:
    namespace, dot, name = table.partition(".")
    if not (namespace and dot and name):
        raise ConfigError(f"--table wants schema.table, such as public.orders; `{table}` names no schema.")
    return TableId(namespace, name)


def _exists(connection: Connection, publication: str) -> bool:
    with translated("reading the publications"):
        found = connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (publication,)).fetchone()
    return found is not None
