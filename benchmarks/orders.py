"""The table and the four workloads: large transactions, one-row transactions, one huge one, a full table.

Values come from arithmetic on the row's number, not from `random()`, so that every run and every peer gets
the same bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

CREATE = """
create table if not exists orders (
    order_id     bigint primary key,
    user_id      bigint not null,
    product_id   int not null,
    quantity     int not null,
    unit_price   numeric(10, 2) not null,
    total_amount numeric(12, 2) not null,
    status       text not null,
    city         text not null,
    created_at   timestamptz not null,
    updated_at   timestamptz not null
)
"""

_CITIES = (
    "Lisbon,Porto,Madrid,Barcelona,Paris,Lyon,Berlin,Hamburg,Munich,Vienna,Zurich,Geneva,Rome,Milan,"
    "Amsterdam,Rotterdam,Brussels,Copenhagen,Stockholm,Oslo,Helsinki,Warsaw,Prague,Budapest"
)

# 2654435761 is Knuth's multiplicative hash: neighbouring rows get unlike values.
_ROW = f"""
    g,
    1 + (g * 2654435761) % 1000000,
    (1 + (g * 40503) % 20000)::int,
    (1 + g % 9)::int,
    ((100 + (g * 7919) % 99900) / 100.0)::numeric(10, 2),
    ((1 + g % 9) * (100 + (g * 7919) % 99900) / 100.0)::numeric(12, 2),
    (array['PENDING', 'SHIPPED', 'DELIVERED', 'CANCELLED'])[1 + (g * 31) % 4],
    (string_to_array('{_CITIES}', ','))[1 + (g * 97) % 24],
    timestamptz '2026-01-01 00:00:00+00' + g * interval '1.234567 s',
    timestamptz '2026-01-01 00:00:00+00' + g * interval '1.234567 s'
"""

_UPDATE = "update orders set status = 'SHIPPED', updated_at = updated_at + interval '1.000001 s' where "

_ONE_BY_ONE = f"""
create or replace procedure one_row_transactions(first bigint, changes bigint) language plpgsql as $$
begin
    for i in 0 .. changes - 1 loop
        if i % 3 = 2 then
            {_UPDATE} order_id = first + i - 2;
        else
            insert into orders select {_ROW} from (select first + i as g) as one;
        end if;
        commit;
    end loop;
end $$
"""


INSERTS, UPDATES, DELETES = 10, 75, 15
"""Of a hundred mixed changes."""

# Rows are numbered in the order in which they are deleted; the rows of the beginning go in an order of their own.
# So every row that is updated is there: `number` of those that are left, each as likely as the others.
_MIXED = f"""
create or replace function order_of(number bigint, filled bigint) returns bigint language sql immutable as $$
    select case when number < filled then 1 + (number * 2654435761) % filled else number + 1 end
$$;
create or replace procedure mixed_transactions(
    filled bigint, transactions bigint, hundreds bigint, inout changes bigint
) language plpgsql as $$
declare
    affected bigint;
    deleted  bigint := 0;
    made     bigint := filled;
begin
    changes := 0;
    for t in 0 .. transactions - 1 loop
        for h in t * hundreds .. (t + 1) * hundreds - 1 loop
            insert into orders select {_ROW} from generate_series(made + 1, made + {INSERTS}) as g;
            made := made + {INSERTS};
            {_UPDATE} order_id = any(array(
                select order_of(deleted + (hashint8extended(h * {UPDATES} + i, 7) & 9223372036854775807)
                    % (made - deleted), filled)
                from generate_series(1, {UPDATES}) as i
            ));
            get diagnostics affected = row_count;
            delete from orders where order_id = any(array(
                select order_of(deleted + i, filled) from generate_series(0, {DELETES} - 1) as i
            ));
            deleted := deleted + {DELETES};
            changes := changes + affected + {INSERTS + DELETES};
        end loop;
        commit;
    end loop;
end $$
"""

PLAIN_COLUMNS = "order_id, user_id, product_id, quantity, unit_price, total_amount, status, city"
"""The columns whose text is the same in every database."""


class Connects(Protocol):
    """Something that can be connected to."""

    def connect(self) -> psycopg.Connection[Any]:
        """A connection in autocommit mode."""
        ...


@dataclass(frozen=True, slots=True)
class Backlog:
    """Changes that wait in the WAL. end_lsn: where the last one's commit ends; rows: in the table now."""

    changes: int
    rows: int
    end_lsn: str


def create(connection: psycopg.Connection[Any]) -> None:
    """Make the table, empty, and a publication for it."""
    connection.execute("drop table if exists orders")
    connection.execute(CREATE)
    connection.execute(_ONE_BY_ONE)
    connection.execute(_MIXED)
    connection.execute("drop publication if exists orders")
    connection.execute("create publication orders for table orders")


def large_transactions(connection: psycopg.Connection[Any], changes: int, per_transaction: int) -> Backlog:
    """Transactions of two thirds inserts and one third updates of the rows just inserted."""
    transactions = max(1, changes // per_transaction)
    inserts = per_transaction * 2 // 3
    updates = per_transaction - inserts
    for number in range(transactions):
        first = number * inserts + 1
        with connection.transaction():
            _insert(connection, first, inserts)
            connection.execute(f"{_UPDATE} order_id >= {first} and order_id < {first + updates}")
    return _backlog(connection, transactions * per_transaction)


def one_row_transactions(connect: Callable[[], psycopg.Connection[Any]], changes: int, writers: int = 2) -> Backlog:
    """One change a transaction, by several connections at once that do not wait for the disk."""
    share = changes // writers

    def write(number: int) -> None:
        with connect() as connection:
            connection.execute("set synchronous_commit = off")
            connection.execute(f"call one_row_transactions({1 + number * share}, {share})")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connect() as connection:
        return _backlog(connection, share * writers)


def one_transaction(connection: psycopg.Connection[Any], rows: int) -> Backlog:
    """All rows in one transaction."""
    _insert(connection, 1, rows)
    return _backlog(connection, rows)


def fill(connection: psycopg.Connection[Any], rows: int) -> None:
    """Rows that are there before anything else."""
    _insert(connection, 1, rows)
    # Hint bits are set by the first reader, and the planner must know that lookups go by the key.
    connection.execute("vacuum analyze orders")


def mixed_transactions(connection: psycopg.Connection[Any], filled: int, changes: int, per_transaction: int) -> Backlog:
    """10 % inserts, 75 % updates, 15 % deletes, of keys that are all as likely, on a table of `filled` rows.

    An update may meet a row twice, and then changes it once: the changes are a little fewer than asked for.
    """
    connection.execute("set synchronous_commit = off")
    hundreds = per_transaction // 100
    counted = connection.execute(
        f"call mixed_transactions({filled}, {changes // per_transaction}, {hundreds}, 0)"
    ).fetchone()
    connection.execute("set synchronous_commit = on")
    assert counted is not None
    return _backlog(connection, int(counted[0]))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How many rows, and the sum of their hashes, whatever their order. Of equal tables it is equal."""

    rows: int
    sum: str


def fingerprint(connection: psycopg.Connection[Any]) -> Fingerprint:
    """Of the table as it is now."""
    instants = ", ".join(f"(extract(epoch from {name}) * 1000000)::bigint" for name in ("created_at", "updated_at"))
    row = f"concat_ws('|', {PLAIN_COLUMNS}, {instants})"
    found = connection.execute(
        f"select count(*), sum(('x' || left(md5({row}), 15))::bit(60)::bigint)::text from orders"
    ).fetchone()
    assert found is not None
    return Fingerprint(int(found[0]), str(found[1]))


def warm_up(connection: psycopg.Connection[Any]) -> None:
    """One row, so that there is something to wait for."""
    _insert(connection, 0, 1)


def small_transaction(connection: psycopg.Connection[Any], number: int, changes: int) -> None:
    """The `number`th small transaction: two thirds inserts, the others updates of its own rows."""
    updates = changes // 3
    first = 1 + number * (changes - updates)
    with connection.transaction():
        _insert(connection, first, changes - updates)
        connection.execute(f"{_UPDATE} order_id >= {first} and order_id < {first + updates}")


def small_mixed_transaction(connection: psycopg.Connection[Any], number: int, filled: int, changes: int) -> None:
    """The `number`th small transaction of a tenth inserts, 75 % updates and 15 % deletes; each of another row."""
    inserts, deletes = changes // 10, deletes_of(number, changes)
    first = number * (changes - inserts)
    last = first + changes - inserts
    assert last <= filled, "the table has fewer rows than there are changes"
    with connection.transaction():
        _insert(connection, filled + 1 + number * inserts, inserts)
        connection.execute(f"{_UPDATE} {_numbered(first, last - deletes, filled)}")
        connection.execute(f"delete from orders where {_numbered(last - deletes, last, filled)}")


def deletes_of(number: int, changes: int) -> int:
    """How many rows the `number`th small mixed transaction deletes: 15 % of its changes, over two of them."""
    return changes * DELETES // 100 + (number % 2) * (changes * DELETES % 100 > 0)


def _numbered(first: int, end: int, filled: int) -> str:
    return f"order_id = any(array(select order_of(n, {filled}) from generate_series({first}, {end - 1}) as n))"


def _insert(connection: psycopg.Connection[Any], first: int, rows: int) -> None:
    connection.execute(
        f"insert into orders select {_ROW} from generate_series({first}::bigint, {first + rows - 1}) as g"
    )


def _backlog(connection: psycopg.Connection[Any], changes: int) -> Backlog:
    """Note where the backlog ends, then write one change more: readers stop at it without waiting.

    A decoder says nothing of where it is until the next transaction or keepalive; the extra change makes
    every reader's end prompt, and is not counted. Its commit waits for the disk, and so for all before it.
    """
    end = _one(connection, "select pg_current_wal_insert_lsn()::text")
    connection.execute(f"insert into orders select {_ROW} from (select 0::bigint as g) as last")
    counted = _one(connection, "select count(*)::text from orders")
    return Backlog(changes, int(counted), end)


def _one(connection: psycopg.Connection[Any], query: str) -> str:
    row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])
