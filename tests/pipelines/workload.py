"""A random workload on two tables: key updates, swaps, large values, deletes, rollbacks, truncates."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field

import psycopg

SETUP = """
CREATE TABLE accounts (id bigint PRIMARY KEY, name text, balance numeric(12,2), note text);
CREATE TABLE events (account bigint, number int, at timestamptz, body text, PRIMARY KEY (account, number));
ALTER TABLE accounts ALTER note SET STORAGE EXTERNAL;
ALTER TABLE events ALTER body SET STORAGE EXTERNAL;
"""
TABLES = {"accounts": ("id",), "events": ("account", "number")}


def set_up(dsn: str, rows: int = 200) -> None:
    """The tables, with some rows for the snapshot, a few of them large."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(SETUP)
        connection.execute(
            "INSERT INTO accounts SELECT g, 'name '||g, g, CASE WHEN g %% 7 = 0 THEN repeat('n', 3000) END"
            " FROM generate_series(1, %s) g",
            (rows,),
        )
        connection.execute(
            "INSERT INTO events SELECT g, 0, now(), repeat('e', 10 * g) FROM generate_series(1, %s) g", (rows,)
        )


@dataclass
class Workload:
    """Writes until stopped, reproducibly by seed; counts the changes of committed transactions."""

    dsn: str
    seed: int
    stop: threading.Event = field(default_factory=threading.Event)
    changes: int = 0
    transactions: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Workload:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            with psycopg.connect(self.dsn) as connection:
                while not self.stop.is_set():
                    self.transact(connection)
                    # A few hundred transactions a second: enough to be in the middle of one.
                    self.stop.wait(0.002)
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that owns this one
            self._failure = error

    def transact(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        """One transaction of one to eight statements, one in ten taken back."""
        made = sum(self._statement(connection) for _ in range(self._chance.randint(1, 8)))
        if self._chance.random() < 0.1:
            connection.rollback()
            return
        connection.commit()
        self.changes += made
        self.transactions += 1

    def _statement(self, connection: psycopg.Connection[tuple[object, ...]]) -> int:
        chance = self._chance
        one, other = chance.randint(1, 400), chance.randint(1, 400)
        large = "x" * chance.choice([0, 10, 3000])
        kind = chance.random()
        if kind < 0.3:
            query = (
                "INSERT INTO accounts VALUES (%s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET balance = excluded.balance"
            )
            return connection.execute(query, (one, f"name {one}", chance.random(), large)).rowcount
        if kind < 0.5:
            return connection.execute("UPDATE accounts SET balance = balance + 1 WHERE id = %s", (one,)).rowcount
        if kind < 0.6:
            return connection.execute("UPDATE accounts SET note = %s WHERE id = %s", (large, one)).rowcount
        if kind < 0.7:
            query = "UPDATE accounts SET id = %s WHERE id = %s AND NOT EXISTS (SELECT FROM accounts WHERE id = %s)"
            return connection.execute(query, (other, one, other)).rowcount
        if kind < 0.75:
            return self._swap(connection, one, other)
        if kind < 0.85:
            return connection.execute("DELETE FROM accounts WHERE id = %s", (one,)).rowcount
        if kind < 0.93:
            query = "INSERT INTO events VALUES (%s, %s, now(), %s) ON CONFLICT DO NOTHING"
            return connection.execute(query, (one, chance.randint(1, 5), large)).rowcount
        if kind < 0.999:
            query = "UPDATE events SET at = now(), account = account WHERE account = %s"
            return connection.execute(query, (one,)).rowcount
        connection.execute("TRUNCATE events")
        return 1

    def _swap(self, connection: psycopg.Connection[tuple[object, ...]], one: int, other: int) -> int:
        if one == other:
            return 0
        move = "UPDATE accounts SET id = %s WHERE id = %s"
        return sum(connection.execute(move, pair).rowcount for pair in ((-1, one), (one, other), (other, -1)))
