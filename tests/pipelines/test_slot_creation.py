"""While a slot is made, which waits for every open transaction."""

from __future__ import annotations

import threading

import psycopg
import pytest

from catchment.errors import SourceUnavailable
from pipelines.capture import capturing
from waiting import wait_for

Connection = psycopg.Connection[tuple[object, ...]]

_CUT = (
    "SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity "
    "WHERE application_name = 'catchment test' AND backend_type = 'client backend' AND datname = current_database()"
)
_WAITS = (
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'catchment test' "
    "AND backend_type = 'walsender' AND wait_event_type = 'Lock' AND datname = current_database())"
)


def test_a_session_that_is_cut_meanwhile_is_an_outage(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as sql, psycopg.connect(database) as open_transaction:
        sql.execute("CREATE TABLE t (id int PRIMARY KEY)")
        open_transaction.execute("INSERT INTO t VALUES (1)")
        ended: list[BaseException | None] = []

        def capture() -> None:
            try:
                with capturing(database):
                    ended.append(None)
            except Exception as error:  # noqa: BLE001 - which one is what is asked
                ended.append(error)

        thread = threading.Thread(target=capture, daemon=True)
        thread.start()
        wait_for(lambda: _true(sql, _WAITS), "waiting for the open transaction", 30)
        assert _true(sql, _CUT)
        thread.join(timeout=30)
        assert not thread.is_alive()
        with pytest.raises(SourceUnavailable):
            _raise(ended[0])


def _true(connection: Connection, query: str) -> bool:
    row = connection.execute(query).fetchone()
    return row is not None and bool(row[0])


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error
